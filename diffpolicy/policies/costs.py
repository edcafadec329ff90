"""Costs of a chunk's actions: to keep out of a region, stay within bounds, move slowly or smoothly, reach a point.

While a chunk is sampled, each estimate of it takes a step down the gradient of every cost, and the noise is made to
fit: guidance without the network's Jacobian (He et al. 2024, "Manifold preserving guided diffusion"), which takes no
further network calls. A cost is half the square of a violation, in the units of the actions. Steps are divided by the
largest curvature, so that a weight of 1 undoes a violation of one action at once, and never overshoots.

A `hard` cost is met by projection, after the others: exactly in what is sampled, where the policy is given actions as
they are recorded. It says nothing about what happens to actions later, by a residual or a robot's guard, and a number
that never varied in the recording does not move.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.shapes import expand
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.execution import is_number
from diffpolicy.registry import build
from diffpolicy.util.errors import require


@dataclass(frozen=True)
class Cost(ABC):
    """A cost of the actions from now on.

    Args:
        dims: which numbers of an action it is about; None takes all.
        weight: how much of a violation a step undoes, in (0, 2).
        start: time in [0, 1) of sampling from which it counts, 0 being noise. It always counts for the last estimate.

    Raises:
        ValueError: numbers out of range, or of another type.
    """

    _: KW_ONLY
    dims: Sequence[int] | None = None
    weight: float = 1.0
    start: float = 0.0
    curvature: ClassVar[float] = 1.0
    """Largest eigenvalue of the second derivative, by which steps are divided."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        stable = is_number(self.weight) and 0 < self.weight < 2
        require(stable, f"weight={self.weight!r} of {name}", "a number above 0 and below 2, where steps diverge")
        require(is_number(self.start) and 0 <= self.start < 1, f"start={self.start!r} of {name}", "a time in [0, 1)")

    def check(self, action_dim: int) -> None:
        """Raise ValueError unless it fits actions of so many numbers."""
        dims: Any = range(action_dim) if self.dims is None else self.dims
        known = isinstance(dims, Sequence) and all(type(i) is int and 0 <= i < action_dim for i in dims)
        known = known and 0 < len(dims) == len(set(dims))
        shown = dims if isinstance(dims, int) else list(dims)
        require(known, f"dims={shown} of {type(self).__name__}", f"different integers from 0 to {action_dim - 1}")

    def part(self, actions: Tensor) -> Tensor:
        """Return the numbers of actions (B, T, A) that it is about, (B, T, n)."""
        return actions if self.dims is None else actions[..., list(self.dims)]

    @abstractmethod
    def value(self, actions: Tensor) -> Tensor:
        """Return the cost (B,) of actions (B, T, A)."""

    def lowered(self, actions: Tensor) -> Tensor:
        """Return actions (B, T, A) after a step down the gradient.

        Raises:
            ValueError: a cost that is not finite, that is not (B,), or that does not depend on the actions.
        """
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
        return actions - self.weight / self.curvature * grad


@dataclass(frozen=True)
class Limit(Cost):
    """A cost that can also be met by projection.

    Args:
        hard: project, and take no step down the gradient.
    """

    _: KW_ONLY
    hard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.hard, bool), f"hard={self.hard!r} of {type(self).__name__}", "true or false")

    @abstractmethod
    def projected(self, part: Tensor) -> Tensor:
        """Return places (B, T, n) that cost nothing, near the given ones."""

    def lowered(self, actions: Tensor) -> Tensor:
        if not self.hard:
            return super().lowered(actions)
        changed = actions.clone()
        changed[..., slice(None) if self.dims is None else list(self.dims)] = self.projected(self.part(actions))
        return changed


@final
@dataclass(frozen=True)
class KeepOut(Limit):
    """Stay out of a ball: ½·max(0, radius − |a − center|)² at every step.

    Args:
        center: of the ball, a number for each of `dims`.
        radius: > 0.
    """

    center: Sequence[float]
    radius: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_number(self.radius) and self.radius > 0, f"radius={self.radius!r}", "a finite number above 0")

    def check(self, action_dim: int) -> None:
        super().check(action_dim)
        _check_point("center", self.center, action_dim if self.dims is None else len(self.dims))

    def value(self, actions: Tensor) -> Tensor:
        return 0.5 * (self.radius - self._away(self.part(actions))[1]).clamp(min=0).square().flatten(1).sum(1)

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
class Box(Limit):
    """Stay within bounds: ½·Σ (what lies outside)².

    Args:
        low: of each of `dims`.
        high: of each of `dims`.
    """

    low: Sequence[float]
    high: Sequence[float]

    def check(self, action_dim: int) -> None:
        super().check(action_dim)
        count = action_dim if self.dims is None else len(self.dims)
        for name, point in (("low", self.low), ("high", self.high)):
            _check_point(name, point, count)
        given = f"low={list(self.low)} and high={list(self.high)}"
        require(all(a < b for a, b in zip(self.low, self.high, strict=True)), given, "low < high")

    def value(self, actions: Tensor) -> Tensor:
        part = self.part(actions)
        return 0.5 * (part - self.projected(part)).square().flatten(1).sum(1)

    def projected(self, part: Tensor) -> Tensor:
        return part.clamp(part.new_tensor(self.low), part.new_tensor(self.high))


@final
@dataclass(frozen=True)
class Speed(Limit):
    """Move no farther than `limit` from one action of a chunk to the next: ½·max(0, |Δa| − limit)².

    Hard, each action gives way to the one before it. It knows nothing of the step from the last chunk to the first
    action; a robot's safety belongs to its guard (`control.guard`).

    Args:
        limit: of the length of a step, > 0.
    """

    limit: float
    curvature: ClassVar[float] = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_number(self.limit) and self.limit > 0, f"limit={self.limit!r}", "a finite number above 0")

    def value(self, actions: Tensor) -> Tensor:
        steps = self.part(actions).diff(dim=1)
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
    """Change speed little within a chunk: ½·Σ |a[k−1] − 2·a[k] + a[k+1]|²."""

    curvature: ClassVar[float] = 16.0

    def value(self, actions: Tensor) -> Tensor:
        return 0.5 * self.part(actions).diff(n=2, dim=1).square().flatten(1).sum(1)


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
        last = self.part(actions)[:, -1]
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
        return self.function(self.part(actions))


def make_costs(specs: Sequence[Mapping[str, Any] | Cost], action_dim: int) -> list[Cost]:
    """Return the costs of a config, or those given as they are, that fit actions of so many numbers; hard ones last.

    Raises:
        ValueError: an unknown cost or option, or one that does not fit.
    """
    for spec in specs:
        require(isinstance(spec, (Mapping, Cost)), f"costs of {spec!r}", "a mapping with a name, such as keep_out")
    costs = [spec if isinstance(spec, Cost) else build("cost", spec) for spec in specs]
    for cost in costs:
        cost.check(action_dim)
    return sorted(costs, key=lambda cost: isinstance(cost, Limit) and cost.hard)


def lowered(costs: Sequence[Cost], actions: Tensor, t: Tensor) -> Tensor:
    """Return actions (B, T, A), from now on, after a step down every cost that counts at t (B,)."""
    for cost in costs:
        counts = expand(t.to(actions.device) >= cost.start, actions)
        if bool(counts.any()):
            actions = torch.where(counts, cost.lowered(actions), actions)
    return actions


Change = Callable[[Tensor, Tensor], Tensor]


def with_costs(
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
        with torch.autocast(chunks.device.type, enabled=False):  # places finer than half a precision tells apart
            before = in_units(chunks.float(), obs)
            after = torch.cat([before[:, :now], lowered(costs, before[:, now:], t)], dim=1)
            # Only the difference, so that what costs nothing stays as it was drawn, off the manifold of angles too.
            moved = normalized(after, obs) - normalized(before, obs)
        changed = torch.cat([chunks[:, :now], (chunks + moved.to(chunks.dtype))[:, now:]], dim=1)
        return changed if context.held is None else torch.where(context.held, chunks, changed)

    return replace(context, change=change)


def _check_point(name: str, point: object, count: int) -> None:
    fits = isinstance(point, Sequence) and len(point) == count and all(map(is_number, point))
    require(fits, f"{name}={point!r}", f"{count} finite numbers, one per dimension")
