"""The best of several chunks: a critic chooses among samples of a policy that stays as it is.

The critic is implicit Q-learning (Kostrikov et al. 2022) over chunks (Li et al. 2025, "Reinforcement learning with
action chunking"): Q(o, c) is fitted to R + γ^n·V(o'), where R is the discounted reward of the n actions that are
executed, and V(o) to an expectile of Q(o, c) over the chunks c that were executed in o (their equations 5 and 6).
Hansen-Estruch et al. 2023 (IDQL) choose so among samples of a diffusion policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.around import AroundModel, perceptron
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator as keyed


@final
class BestOfModel(AroundModel):
    """Draws `candidates` chunks and takes the one of which its critics expect most.

    Args:
        spec: what it is built for.
        base: the method that draws chunks, {"name": …, options}; its weights stay as they are.
        actions: T_a, actions of a chunk that the critics see: those that are executed.
        candidates: how many chunks are drawn; 1 is the base.
        width: units of the critics' two hidden layers.
        critics: how many there are; the lowest counts.
        expectile: of Q that V is fitted to, in [0.5, 1): 0.5 is the mean over what was done, more comes nearer to the
            best that was done.
    """

    command = "diffpolicy improve method=best_of"

    def __init__(
        self,
        spec: ModelSpec,
        base: Mapping[str, Any],
        actions: int,
        candidates: int = 16,
        width: int = 512,
        critics: int = 2,
        expectile: float = 0.7,
    ) -> None:
        super().__init__(spec, base, actions)
        given = f"candidates={candidates}, width={width}, critics={critics}"
        require(min(candidates, width, critics) >= 1, given, "at least 1 of each")
        require(0.5 <= expectile < 1, f"expectile={expectile}", "a number in [0.5, 1)")
        self.candidates, self.expectile = candidates, expectile
        self.supported_execution -= {"guide", "costs"}
        told = self.told_dim
        self.value = perceptron(told, width)
        self.critics = nn.ModuleList(perceptron(told + actions * spec.action_dim, width) for _ in range(critics))

    @property
    def sampler(self) -> dict[str, Any]:
        return {**self.base.sampler, "candidates": self.candidates}

    def loss(self, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the losses of V and of every Q together, (B,).

        Args:
            batch: normalized, "obs" (B, T_o, D), "action" (B, T_o - 1 + T_a, A), "next_obs" (B, T_o, D); "reward"
                (B,), the discounted sum over the chunk; "discount" (B,), of the value after it, 0 at an end.
            generator: unused.
        """
        now = self.condition({"obs": batch["obs"]}).vector
        chunk = self.executed(batch["action"])
        with torch.no_grad():
            after = self.value(self.condition({"obs": batch["next_obs"]}).vector)[:, 0]
            target = batch["reward"] + batch["discount"] * after
        qs = self._qs(now, chunk)
        beyond = qs.detach().min(0).values - self.value(now)[:, 0]
        weight = torch.where(beyond > 0, self.expectile, 1 - self.expectile)
        return weight * beyond.square() + (qs - target).square().sum(0)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        count, n = len(generators), self.candidates
        # The first candidate is what the base would draw; the noise of the others has keys of their own.
        draws = [
            one if k == 0 else keyed("candidates", one.initial_seed(), k) for one in generators for k in range(n)
        ]
        vector = cond.vector.repeat_interleave(n, dim=0)
        each = {"expected": context.expected, "held": context.held}
        repeated = {name: None if one is None else one.repeat_interleave(n, dim=0) for name, one in each.items()}
        chunks, calls = self.base.sample(Condition(vector), draws, replace(context, **repeated))
        scores = self._qs(vector, self.executed(chunks)).min(0).values
        best = scores.view(count, n).argmax(1)
        return Sample(chunks.unflatten(0, (count, n))[torch.arange(count, device=best.device), best], calls * n)

    def _qs(self, told: Tensor, chunk: Tensor) -> Tensor:
        """(critics, B)."""
        seen = torch.cat([told, chunk], dim=1).to(next(self.value.parameters()).dtype)
        return torch.stack([critic(seen)[:, 0] for critic in self.critics])
