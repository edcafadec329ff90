"""Each action is changed when it is carried out, by what is observed then; the chunks are another method's.

A chunk is old by the time that its last actions are carried out, and older still where it was waited for. A small
network that looks at every step costs next to nothing ("A2C2", Sendai et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.around import AroundModel, perceptron
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.util.condition import Condition


@final
class CorrectedModel(AroundModel, Corrects):
    """Draws the base's chunks, and adds to an action what a perceptron makes of the newest observation.

    Args:
        spec: what it is built for.
        base: the method that draws chunks, {"name": …, options}; its weights stay as they are.
        actions: T_a, actions of a chunk that are executed.
        width: units of the two hidden layers.
    """

    command = "diffpolicy improve method=corrector"
    takes_instructions = False  # the perceptron reads observations alone

    def __init__(self, spec: ModelSpec, base: Mapping[str, Any], actions: int, width: int = 256) -> None:
        super().__init__(spec, base, actions)
        numbers = spec.cond_dim // spec.obs_horizon
        self.corrector = perceptron(numbers + spec.action_dim + spec.horizon, width, spec.action_dim)
        nn.init.zeros_(self.corrector[-1].weight)  # it starts as the base
        nn.init.zeros_(self.corrector[-1].bias)

    def corrected(self, obs: Tensor, planned: Tensor, place: Tensor) -> Tensor:
        where = F.one_hot(place, self.spec.horizon).to(planned.dtype)
        seen = torch.cat([obs, planned, where], dim=1).to(next(self.corrector.parameters()).dtype)
        return planned + self.corrector(seen).to(planned.dtype)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        return self.base.sample(cond, generators, context)

    def loss(self, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the squared error of corrected actions, (B,).

        Args:
            batch: normalized, "obs" (B, D) at the step of the action, "planned" (B, A) and "demonstrated" (B, A); and
                "place" (B,) int64, of the action in its chunk.
            generator: unused.
        """
        found = self.corrected(batch["obs"], batch["planned"], batch["place"])
        return (found - batch["demonstrated"]).square().mean(1)
