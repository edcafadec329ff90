"""Wishes about a chunk's actions, as costs: what sampling keeps out of, smooths, slows down or draws to a point.

While a chunk is sampled, each estimate of it takes a step down the gradient of every cost, and the noise is made to
fit: guidance without the network's Jacobian (He et al. 2024, "Manifold preserving guided diffusion"), which takes no
further network calls. Costs are half the square of a violation, in the units of the actions, so that a weight of 1
undoes a single violation at once. A `hard` one is met exactly, by projection.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.shapes import expand
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.registry import build
from diffpolicy.util.errors import require


@dataclass(frozen=True)
class Cost(ABC):
    """A cost of the actions from now on.

    Args:
        dims: which numbers of an action it is about; None takes all.
        weight: step down the gradient, > 0; ignored where it is hard.
        start: time in [0, 1) of sampling from which it counts, 0 being noise.
        hard: meet it exactly, by projection, instead of a step down the gradient.

    Raises:
        ValueError: numbers out of range, or a hard cost that has no projection.
    """

    _: KW_ONLY
    dims: Sequence[int] | None = None
    weight: float = 1.0
    start: float = 0.0
    hard: bool = False
    projects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        require(0 < self.weight < math.inf, f"weight={self.weight} of {name}", "a finite number above 0")
        require(0 <= self.start < 1, f"start={self.start} of {name}", "a time in [0, 1)")
        require(self.projects or not self.hard, f"hard=true of {name}, which has no projection", cure="give a weight")

    def check(self, action_dim: int) -> None:
        """Raise ValueError unless it fits actions of so many numbers."""
        dims = range(action_dim) if self.dims is None else self.dims
        known = len(dims) > 0 and all(type(i) is int and 0 <= i < action_dim for i in dims)
        require(known, f"dims={list(dims)} of {type(self).__name__}", f"integers from 0 to {action_dim - 1}")

    def of(self, actions: Tensor) -> Tensor:
        """Return the numbers of actions (B, T, A) that it is about, (B, T, n)."""
        return actions if self.dims is None else actions[..., list(self.dims)]

    @abstractmethod
    def value(self, actions: Tensor) -> Tensor:
        """Return the cost (B,) of actions (B, T, A)."""

    def projected(self, part: Tensor) -> Tensor:
        """Return the nearest of what `of` returned that costs nothing, or one near."""
        raise NotImplementedError

    def improved(self, actions: Tensor) -> Tensor:
        """Return actions (B, T, A) after a step down the gradient, or the projection.

        Raises:
            ValueError: a cost that is not finite, that is not (B,), or that does not depend on the actions.
        """
        if self.hard:
            changed = actions.clone()
            part = self.projected(self.of(actions))
            changed[..., slice(None) if self.dims is None else list(self.dims)] = part
            return changed
        with torch.enable_grad():
            inner = actions.detach().requires_grad_(True)
            value, name = self.value(inner), type(self).__name__
            shape = f"{name} returned shape {tuple(value.shape)}"
            require(value.shape == actions.shape[:1], shape, f"({len(actions)},), one cost per chunk")
            require(value.requires_grad, f"{name} cannot be differentiated", cure="compute it by torch operations")
            (grad,) = torch.autograd.grad(value.sum(), inner, allow_unused=True)
        require(grad is not None, f"{name} does not depend on the actions", cure="leave it out")
        finite = bool(value.isfinite().all() and grad.isfinite().all())
        require(finite, f"{name} is not finite, or its gradient is not", cure="give a cost that is, for all actions")
        return actions - self.weight * grad


@final
@dataclass(frozen=True)
class KeepOut(Cost):
    """Stay out of a ball: ½·max(0, radius − |a − center|)² at every step.

    Args:
        center: of the ball, a number for each of `dims`.
        radius: > 0.
    """

    center: Sequence[float]
    radius: float
    projects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.radius < math.inf, f"radius={self.radius}", "a finite number above 0")

    def check(self, action_dim: int) -> None:
        super().check(action_dim)
        _check_point("center", self.center, action_dim if self.dims is None else len(self.dims))

    def value(self, actions: Tensor) -> Tensor:
        return 0.5 * (self.radius - self._away(self.of(actions))[1]).clamp(min=0).square().flatten(1).sum(1)

    def projected(self, part: Tensor) -> Tensor:
        away, distance = self._away(part)
        center = part.new_tensor(self.center)
        return torch.where(distance < self.radius, center + self.radius * away / distance, part)

    def _away(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Return what leads from the center to each place, and its length, which is never 0."""
        away = part - part.new_tensor(self.center)
        middle = (away == 0).all(-1, keepdim=True)  # of which any direction leads out
        away = torch.where(middle, torch.full_like(away, 1e-6), away)
        return away, away.norm(dim=-1, keepdim=True)


@final
@dataclass(frozen=True)
class Box(Cost):
    """Stay within bounds: ½·Σ (what lies outside)².

    Args:
        low: of each of `dims`.
        high: of each of `dims`.
    """

    low: Sequence[float]
    high: Sequence[float]
    projects: ClassVar[bool] = True

    def check(self, action_dim: int) -> None:
        super().check(action_dim)
        count = action_dim if self.dims is None else len(self.dims)
        for name, point in (("low", self.low), ("high", self.high)):
            _check_point(name, point, count)
        given = f"low={list(self.low)} and high={list(self.high)}"
        require(all(a < b for a, b in zip(self.low, self.high, strict=True)), given, "low < high")

    def value(self, actions: Tensor) -> Tensor:
        part = self.of(actions)
        return 0.5 * (part - self.projected(part)).square().flatten(1).sum(1)

    def projected(self, part: Tensor) -> Tensor:
        return part.clamp(part.new_tensor(self.low), part.new_tensor(self.high))


@final
@dataclass(frozen=True)
class Speed(Cost):
    """Move no farther than `limit` from one action to the next: ½·max(0, |Δa| − limit)². Hard, later ones give way.

    Args:
        limit: of the length of a step, > 0.
    """

    limit: float
    projects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.limit < math.inf, f"limit={self.limit}", "a finite number above 0")

    def value(self, actions: Tensor) -> Tensor:
        steps = self.of(actions).diff(dim=1)
        length = (steps.square().sum(-1) + 1e-12).sqrt()
        return 0.5 * (length - self.limit).clamp(min=0).square().sum(1)

    def projected(self, part: Tensor) -> Tensor:
        places = [part[:, 0]]
        for wanted in part[:, 1:].unbind(1):
            step = wanted - places[-1]
            length = step.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            places.append(places[-1] + step * (self.limit / length).clamp(max=1))
        return torch.stack(places, dim=1)


@final
@dataclass(frozen=True)
class Smooth(Cost):
    """Change speed little: ½·Σ |a[k−1] − 2·a[k] + a[k+1]|². Weights above 1/8 overshoot."""

    def value(self, actions: Tensor) -> Tensor:
        return 0.5 * self.of(actions).diff(n=2, dim=1).square().flatten(1).sum(1)


@final
@dataclass(frozen=True)
class Reach(Cost):
    """End the chunk at a point: ½·|a[last] − point|².

    Args:
        point: a number for each of `dims`.
    """

    point: Sequence[float]

    def check(self, action_dim: int) -> None:
        super().check(action_dim)
        _check_point("point", self.point, action_dim if self.dims is None else len(self.dims))

    def value(self, actions: Tensor) -> Tensor:
        last = self.of(actions)[:, -1]
        return 0.5 * (last - last.new_tensor(self.point)).square().sum(1)


@final
@dataclass(frozen=True)
class Custom(Cost):
    """A cost of one's own.

    Args:
        function: actions (B, T, A) in their units, from now on -> (B,), by torch operations.
    """

    function: Callable[[Tensor], Tensor]

    def value(self, actions: Tensor) -> Tensor:
        return self.function(self.of(actions))


def make_costs(specs: Sequence[Mapping[str, Any] | Cost], action_dim: int) -> list[Cost]:
    """Return the costs of a config, and those given as they are, that fit actions of so many numbers.

    Raises:
        ValueError: an unknown cost or option, or one that does not fit.
    """
    costs = [spec if isinstance(spec, Cost) else build("cost", spec) for spec in specs]
    for cost in costs:
        cost.check(action_dim)
    return costs


def improved(costs: Sequence[Cost], actions: Tensor, t: Tensor) -> Tensor:
    """Return actions (B, T, A), from now on, as all costs that count at t (B,) would have them."""
    for cost in costs:
        counts = expand(t.to(actions.device) >= cost.start, actions)
        if bool(counts.any()):
            actions = torch.where(counts, cost.improved(actions), actions)
    return actions


Change = Callable[[Tensor, Tensor], Tensor]


def wished(
    costs: Sequence[Cost], context: SamplingContext, obs: Tensor, in_units: Change, normalized: Change
) -> SamplingContext:
    """Return the context of sampling in which costs change every estimate of chunks, but for what is held.

    Args:
        costs: of actions in their units.
        context: of the sampling.
        obs: (B, T_o, D) as observed, beside which actions are told in units.
        in_units: (actions (B, T, A) as the model draws them, obs) -> in their units.
        normalized: the inverse.
    """
    if not costs:
        return context
    now = obs.shape[1] - 1

    def change(chunks: Tensor, t: Tensor) -> Tensor:
        actions = in_units(chunks, obs)
        actions = torch.cat([actions[:, :now], improved(costs, actions[:, now:], t)], dim=1)
        changed = torch.cat([chunks[:, :now], normalized(actions, obs)[:, now:].to(chunks.dtype)], dim=1)
        return changed if context.held is None else torch.where(context.held, chunks, changed)

    return replace(context, change=change)


def _check_point(name: str, point: Sequence[float], count: int) -> None:
    finite = all(isinstance(one, (int, float)) and math.isfinite(one) for one in point)
    require(finite and len(point) == count, f"{name}={list(point)}", f"{count} finite numbers, one per dimension")
