"""An actor that sees: image encoders before any other actor, trained together with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.policies.actors import Actor
from diffpolicy.policies.execution import FROM_NOISE, Plan


@final
class VisionActor(Actor):
    """Gives `actor` as its condition, step by step, (numbers, features of camera 1, features of camera 2, ...).

    In training the pictures are cropped at random, by the generator of the loss.

    Its batches and conditions are mappings: "cond" (B, C) the normalised numbers, and under the name of each camera
    its pictures (B, T_o, H, W, C), uint8.

    Args:
        actor: takes a condition of C and all cameras' T_o·F numbers.
        encoders: camera -> module from its pictures to (B, T_o·F); cameras may share one, which is kept, and stands
            in checkpoints, under the name of the first, its dots as slashes.

    Raises:
        ValueError: a camera by a name that something else here has.
    """

    def __init__(self, actor: Actor, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.actor = actor
        if taken := [camera for camera in encoders if camera in ("data", "cond") or hasattr(nn.ModuleDict, camera)]:
            raise ValueError(f"no camera can be called {taken[0]!r} here: give its array another name")
        first: dict[nn.Module, str] = {}
        self._encoder_of = {
            camera: first.setdefault(encoder, camera.replace(".", "/")) for camera, encoder in encoders.items()
        }
        self.encoders = nn.ModuleDict({name: encoder for encoder, name in first.items()})

    def networks(self) -> list[nn.Module]:
        return [*self.encoders.values(), *self.actor.networks()]

    @property
    def shape(self) -> tuple[int, int]:
        return self.actor.shape

    @property
    def calls(self) -> int:
        return self.actor.calls

    @calls.setter
    def calls(self, number: int) -> None:
        self.actor.calls = number

    @property
    def takes(self) -> frozenset[str]:
        return self.actor.takes

    @property
    def sampler(self) -> dict[str, Any]:
        return self.actor.sampler

    def configure(
        self, solver: str | None, steps: int | None, grid: str | None, options: Mapping[str, Any] | None
    ) -> None:
        self.actor.configure(solver, steps, grid, options)

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        places: dict[str, Tensor] = {}
        if self.training:
            shape, device = (len(batch["data"]), 2), batch["data"].device
            places = {name: rand(shape, generator, dtype=torch.float32, device=device) for name in self._encoder_of}
        return self.actor.loss({"data": batch["data"], "cond": self._encoded(batch, places)}, generator)

    def act(
        self, cond: Mapping[str, Tensor], generators: Sequence[torch.Generator], plan: Plan = FROM_NOISE
    ) -> Tensor:
        with torch.no_grad():
            encoded = self._encoded(cond, {})
        return self.actor.act(encoded, generators, plan)

    def _encoded(self, observed: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensor:
        features = [self.encoders[of](observed[name], places.get(name)) for name, of in self._encoder_of.items()]
        steps = next(observed[name] for name in self._encoder_of).shape[1]
        parts = [part.unflatten(1, (steps, -1)) for part in (observed["cond"], *features)]
        return torch.cat(parts, dim=2).flatten(1)
