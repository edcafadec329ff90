"""The encoder stage: normalized vectors and images of cameras -> the condition of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.datasets.spec import Field
from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.nets.vision import CameraEncoder
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ChunkModel, Sample
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import located, require

_STAGE = ("weights", "frozen", "shared")  # settings of the section `encoder` that are not the encoder's own
_RESERVED = ("obs", "action", "weight", *dir(nn.ModuleDict))


@final
class EncodedModel(ChunkModel):
    """A chunk model behind encoders of cameras, trained together with it.

    The condition's vector is, step by step, (vectors, features of camera 1, features of camera 2, …). In training the
    images are cropped at random, by the generator of the loss.

    Args:
        actor: a model for a condition of the vectors and all cameras' features of T_o steps. (Its name, and that of
            `encoders`, stand in checkpoints.)
        encoders: camera -> module from its images to (B, T_o·F). Cameras may share one, which is kept under the name
            of the first, its dots replaced by slashes.

    Raises:
        ValueError: a camera with a reserved name.
    """

    def __init__(self, actor: ChunkModel, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__(actor.spec)
        self.actor = actor
        reserved = [camera for camera in encoders if camera in _RESERVED]
        require(not reserved, f"a camera called {reserved[:1]}", "another name, since this one is reserved")
        first: dict[nn.Module, str] = {}
        self._encoder_of = {
            camera: first.setdefault(encoder, camera.replace(".", "/")) for camera, encoder in encoders.items()
        }
        self.encoders = nn.ModuleDict({name: encoder for encoder, name in first.items()})
        self.supported_execution, self.bound = actor.supported_execution, actor.bound
        self.half_precisions, self.drops_history = actor.half_precisions, actor.drops_history

    def networks(self) -> list[nn.Module]:
        return [*self.encoders.values(), *self.actor.networks()]

    def condition(self, observed: Mapping[str, Tensor], generator: Generators = None) -> Condition:
        """Return the condition of vectors "obs" (B, T_o, D) and, by camera, images (B, T_o, H, W, C)."""
        vectors, places = observed["obs"], {}
        if self.training:
            kind = {"dtype": torch.float32, "device": vectors.device}
            places = {camera: rand((len(vectors), 2), generator, **kind) for camera in self._encoder_of}
        features = [
            self.encoders[of](observed[camera], places.get(camera)) for camera, of in self._encoder_of.items()
        ]
        steps = [part.unflatten(1, (self.spec.obs_horizon, -1)) for part in features]
        return self.actor.told(torch.cat([vectors, *steps], dim=2).flatten(1))

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return self.actor.chunk_loss(data, cond, generator)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        return self.actor.sample(cond, generators, context)

    @property
    def sampler(self) -> dict[str, Any]:
        return self.actor.sampler

    def configure(self, config: SamplerConfig) -> None:
        self.actor.configure(config)


def build_encoders(section: Mapping[str, Any], cameras: Mapping[str, Field]) -> dict[str, CameraEncoder]:
    """Return camera -> its encoder, the same one where cameras share it.

    Args:
        section: `encoder` of a run's config: name and options for the registry, and beside them

            weights: where training starts, see `load_pretrained`;
            frozen: whether the trunk keeps these weights; its last layer, the spatial softmax, is trained;
            shared: whether there is one encoder for all cameras, whose images must have one shape.

        cameras: camera -> what its images are.

    Raises:
        ValueError: unknown names or options, or sizes that do not fit together.
    """
    spec = {key: value for key, value in section.items() if key not in _STAGE}
    shapes = {camera: (field.shape, field.range) for camera, field in cameras.items()}
    shared, frozen = section.get("shared"), section.get("frozen")
    fits = not shared or len(set(shapes.values())) <= 1
    says = ", ".join(f"{camera} {field.shape} {field.range or ''}".rstrip() for camera, field in cameras.items())
    require(fits, f"encoder.shared=true for images of {says}", "one shape and range", "take encoder.shared=false")
    given = "encoder.frozen=true without encoder.weights"
    require(not frozen or section.get("weights"), given, "pretrained weights to keep")
    encoders: dict[str, CameraEncoder] = {}
    for camera, field in cameras.items():
        if shared and encoders:
            encoders[camera] = next(iter(encoders.values()))
            continue
        with located(f"camera {camera!r}"):
            # Only depth has a range, which encoders of other packages need not know.
            depth = {} if field.range is None else {"depth": field.range}
            encoders[camera] = build("encoder", spec, shape=field.shape, **depth)
        encoders[camera].trunk.requires_grad_(not frozen)
    return encoders
