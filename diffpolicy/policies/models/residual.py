"""A small network, learned from rollouts, changes what a policy does within bounds; the policy stays as it is.

It changes either the actions of each chunk ("residual policy learning", Silver et al. 2018; Ankile et al. 2024) or
the noise that sampling starts from, so that every chunk stays one of the policy's own (Wagenmaker et al. 2025, DSRL).
In both cases it learns off-policy, by TD3 (Fujimoto et al. 2018) over chunks: two critics Q(o, z) of what was taken,
fitted to R + γ^n·min Q(o', z'), and an actor that climbs their mean.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.around import AroundModel, perceptron
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.util import names
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator as keyed

PLACES = ("actions", "noise")


@final
class ResidualModel(AroundModel):
    """Draws z + bound·a(o, z) in place of z, where z is what the base proposes, and a the actor, in [-1, 1].

    Args:
        spec: what it is built for.
        base: the method that draws chunks, {"name": …, options}; its weights stay as they are.
        actions: T_a, actions of a chunk that are executed.
        place: what z is: the "actions" of a chunk that are executed, or the "noise" that the base starts from.
        bound: the most that is added to a number of z, in normalized units or in standard deviations of noise.
        width: units of the two hidden layers of actor and critics.
        warmup: steps of training in which the critics learn alone.
        keep: weight of the mean of a², which holds the actor at what the base proposes.
        smoothing: standard deviation of what is added to the next a in the critics' target.
        rate: by how much of the way the critics' slow copies follow them at every step.
    """

    command = "diffpolicy improve method=residual or method=steering"
    explore: float = 0.0
    """Standard deviation of what is added to a, as a part of its bound; set for rollouts from which to learn."""

    def __init__(
        self,
        spec: ModelSpec,
        base: Mapping[str, Any],
        actions: int,
        place: str = "actions",
        bound: float = 0.1,
        width: int = 256,
        warmup: int = 1000,
        keep: float = 0.03,
        smoothing: float = 0.1,
        rate: float = 0.005,
    ) -> None:
        super().__init__(spec, base, actions)
        names.check("place", place, PLACES)
        given = f"bound={bound}, width={width}, warmup={warmup}, keep={keep}, smoothing={smoothing}, rate={rate}"
        fits = bound > 0 and width >= 1 and min(warmup, keep, smoothing) >= 0 and 0 < rate <= 1
        require(fits, given, "bound > 0, width >= 1, rate in (0, 1], the others >= 0")
        draws = place != "noise" or "noise" in self.supported_execution
        require(draws, f"place=noise around {type(self.base).__name__}, which starts from none", "place=actions")
        self.place, self.limit, self.warmup = place, bound, warmup
        self.keep, self.smoothing, self.rate = keep, smoothing, rate
        size = spec.horizon * spec.action_dim if place == "noise" else actions * spec.action_dim
        self.actor = perceptron(self.told_dim + size, width, size)
        nn.init.zeros_(self.actor[-1].weight)  # it starts as the base
        nn.init.zeros_(self.actor[-1].bias)
        self.critics = nn.ModuleList(perceptron(self.told_dim + size, width) for _ in range(2))
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def act(self, told: Tensor, proposed: Tensor) -> Tensor:
        """Return a (B, n) in [-1, 1], for what is told (B, C) and what the base proposes (B, n)."""
        return torch.tanh(self.actor(torch.cat([told, proposed], dim=1)))

    def taken(self, told: Tensor, proposed: Tensor, generators: Sequence[torch.Generator] = ()) -> Tensor:
        """Return z + bound·a (B, n), with `explore` added to a if there are generators for it."""
        change = self.act(told, proposed)
        if self.explore and generators:
            own = [keyed("explore", one.initial_seed()) for one in generators]
            noise = randn(change.shape, own, dtype=change.dtype, device=change.device)
            change = (change + self.explore * noise).clamp(-1, 1)
        return proposed + self.limit * change

    def proposed_noise(self, generators: Sequence[torch.Generator], temperature: float, like: Tensor) -> Tensor:
        """Return the noise (B, T_p·A) that the base would start from."""
        shape = (len(generators), *self.shape)
        return temperature * randn(shape, generators, dtype=like.dtype, device=like.device).flatten(1)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        told = cond.vector.to(self.steps.device)
        if self.place == "noise":
            noise = self.proposed_noise(generators, context.temperature, told)
            taken = self.taken(told, noise, generators).unflatten(1, self.shape)
            return self.base.sample(cond, generators, replace(context, noise=taken))
        chunks, calls = self.base.sample(cond, generators, context)
        taken = self.taken(told, self.executed(chunks), generators)
        changed = chunks.clone()
        changed[:, self.start : self.start + self.actions] = taken.unflatten(1, (self.actions, -1))
        return Sample(changed, calls)

    def loss(self, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the losses of critics and actor together, (B,), and move the critics' slow copies.

        Args:
            batch: normalized, "obs" (B, T_o, D), "proposed" (B, n), "taken" (B, n); "reward" (B,), the discounted
                sum over the chunk; "discount" (B,), of what comes after it, 0 at an end; "next_obs", "next_proposed".
            generator: of the smoothing.
        """
        told, following = (self.condition({"obs": batch[name]}).vector for name in ("obs", "next_obs"))
        with torch.no_grad():
            noise = randn(batch["taken"].shape, generator, dtype=told.dtype, device=told.device)
            noise = (self.smoothing * noise).clamp(-2 * self.smoothing, 2 * self.smoothing)
            change = (self.act(following, batch["next_proposed"]) + noise).clamp(-1, 1)
            after = _judged(self.slow, following, batch["next_proposed"] + self.limit * change).min(0).values
            target = batch["reward"] + batch["discount"] * after
        fit = (_judged(self.critics, told, batch["taken"]) - target).square().sum(0)
        change = self.act(told, batch["proposed"])
        held = {name: weight.detach() for name, weight in self.critics.named_parameters()}
        taken = torch.cat([told, batch["proposed"] + self.limit * change], dim=1)
        climb = torch.stack([_held(critic, held, str(i))(taken)[:, 0] for i, critic in enumerate(self.critics)]).mean(
            0
        )
        moves = (self.steps >= self.warmup).to(told.dtype)
        if self.training:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.slow.parameters()), list(self.critics.parameters()), self.rate)
                self.steps += 1
        return fit + moves * (self.keep * change.square().mean(1) - climb)


def _judged(critics: nn.ModuleList, told: Tensor, taken: Tensor) -> Tensor:
    """(critics, B)."""
    seen = torch.cat([told, taken], dim=1)
    return torch.stack([critic(seen)[:, 0] for critic in critics])


def _held(critic: nn.Module, weights: Mapping[str, Tensor], name: str) -> Any:
    """The critic with weights that get no gradient, though its inputs do."""
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    return lambda x: functional_call(critic, own, (x,))
