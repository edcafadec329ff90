"""The encoder stage: normalized vectors, images of cameras, texts and goals -> the condition of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.datasets.spec import Field
from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.nets.text import TextEncoder, Told
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
    """A chunk model behind encoders of cameras, texts and goals, trained together with it.

    The condition's vector is, step by step, (vectors, features of camera 1, features of camera 2, …), and then what
    texts and goals say; its tokens are those of the texts, where the network attends to them. In training the images
    are cropped, and texts and goals left out, at random, by the generator of the loss.

    Args:
        actor: a model for a condition of the vectors and all cameras' features of T_o steps. (Its name, and that of
            `encoders`, stand in checkpoints.)
        encoders: camera -> module from its images to (B, T_o·F). Cameras may share one, which is kept under the name
            of the first, its dots replaced by slashes.
        instructed: text or goal -> its encoder, see `nets.text` and `nets.goal`.
        dropout: text or goal -> the share of training that is not told it.

    Raises:
        ValueError: a camera, a text or a goal with a reserved name.
    """

    def __init__(
        self,
        actor: ChunkModel,
        encoders: Mapping[str, nn.Module],
        instructed: Mapping[str, nn.Module] | None = None,
        dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(actor.spec)
        self.actor = actor
        instructed = instructed or {}
        reserved = [key for key in (*encoders, *instructed) if key in _RESERVED]
        require(not reserved, f"an observation called {reserved[:1]}", "another name, since this one is reserved")
        self.instructed = nn.ModuleDict({_name(key): one for key, one in instructed.items()})
        self.dropout = {key: float((dropout or {}).get(key, 0)) for key in instructed}
        first: dict[nn.Module, str] = {}
        self._encoder_of = {camera: first.setdefault(encoder, _name(camera)) for camera, encoder in encoders.items()}
        self.encoders = nn.ModuleDict({name: encoder for encoder, name in first.items()})
        self.supported_execution, self.bound = actor.supported_execution, actor.bound
        self.half_precisions, self.drops_history = actor.half_precisions, actor.drops_history
        self.attends = actor.spec.token_dim > 0

    def networks(self) -> list[nn.Module]:
        return [*self.encoders.values(), *self.actor.networks()]

    def read(self, key: str, values: np.ndarray) -> np.ndarray:
        """Return texts (B,) as the ids (B, L) that `condition` takes; goals (B, G) as they are.

        An empty text and a goal of NaN say nothing, which a model takes whose training left some out.

        Raises:
            ValueError: texts that the encoder refuses, goals that are not finite, or nothing said to a model that was
                always told something.
        """
        encoder, able = self.instructed[_name(key)], self.dropout[key] > 0
        text = isinstance(encoder, TextEncoder)
        silent = values == "" if text else np.isnan(values).all(1)
        cure = f"say what to do, or train with policy.condition_dropout.{key}=0.1"
        require(able or not silent.any(), f"nothing said as {key!r} to a policy that was always told", cure=cure)
        if not text:
            require(np.isfinite(values[~silent]).all(), f"obs[{key!r}] holds NaN or infinity", "finite numbers")
            return values
        ids = encoder.ids([encoder.example if none else str(one) for one, none in zip(values, silent, strict=True)])
        return torch.where(torch.from_numpy(silent)[:, None], encoder.null(ids), ids).numpy()

    @property
    def examples(self) -> dict[str, str]:
        """A text that each encoder knows, by key."""
        encoders = {key: self.instructed[_name(key)] for key in self.dropout}
        return {key: one.example for key, one in encoders.items() if isinstance(one, TextEncoder)}

    def untold(self, observed: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
        """Return what is observed without one text or goal."""
        return {**observed, key: self.instructed[_name(key)].null(observed[key])}

    def condition(self, observed: Mapping[str, Tensor], generator: Generators = None) -> Condition:
        """Return the condition of a batch.

        Args:
            observed: vectors "obs" (B, T_o, D); by camera, images (B, T_o, H, W, C); by text, ids (B, L); by goal,
                normalized numbers (B, G).
            generator: of what is random in training.
        """
        vectors, places = observed["obs"], {}
        if self.training:
            kind = {"dtype": torch.float32, "device": vectors.device}
            places = {camera: rand((len(vectors), 2), generator, **kind) for camera in self._encoder_of}
        features = [
            self.encoders[of](observed[camera], places.get(camera)) for camera, of in self._encoder_of.items()
        ]
        steps = [part.unflatten(1, (self.spec.obs_horizon, -1)) for part in features]
        numbers = [torch.cat([vectors, *steps], dim=2).flatten(1)]
        tokens, masks = [], []
        for key, share in self.dropout.items():
            encoder, given = self.instructed[_name(key)], observed[key]
            if self.training and isinstance(encoder, TextEncoder):
                given = encoder.thinned(given, generator)
            if self.training and share:
                untold = rand((len(given), 1), generator, dtype=torch.float32, device=given.device) < share
                given = torch.where(untold, encoder.null(given), given)
            told = encoder(given)
            numbers.append(told.vector if isinstance(told, Told) else told)
            if isinstance(told, Told):
                tokens.append(told.tokens)
                masks.append(told.mask)
        found = self.actor.told(torch.cat(numbers, dim=1) if len(numbers) > 1 else numbers[0])
        return found._replace(tokens=torch.cat(tokens, 1), mask=torch.cat(masks, 1)) if self.attends else found

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


def _name(key: str) -> str:
    return key.replace(".", "/")  # as modules may be called


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
