"""The parts that arrays are made of: plain numbers, rotations, angles, relative actions, poses, deltas, frames."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from diffpolicy.datasets import rotations
from diffpolicy.util.names import sliced


class Part(ABC):
    """Some numbers of an array, and the form in which a network sees them.

    Attributes:
        name: of the array or its part, for messages.
        width: numbers that the network sees.
    """

    expects: str = "any numbers"
    """What a recording has to hold, in words."""
    moves: ClassVar[bool] = False
    """Whether it depends on the observation of now."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width

    @abstractmethod
    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        """Return x (B, T, n) as the network sees it, (B, T, width), beside observations (B, T_o, D)."""

    @abstractmethod
    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        """Return what `apply` was given; the first of its steps is step `start` of the window."""

    def labels(self) -> list[str]:
        """Return a name for each number that the network sees."""
        return [f"{self.name} as {self.width} numbers, number {i}" for i in range(self.width)]

    def wrong(self, x: Tensor) -> Tensor:
        """Return (N,) bool: in which frames x (N, n) is not what was declared."""
        return torch.zeros(len(x), dtype=torch.bool)


@final
class Plain(Part):
    """Numbers as they are."""

    def __init__(self, name: str, first: int, width: int) -> None:
        super().__init__(name, width)
        self._first = first

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        return x

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        return y

    def labels(self) -> list[str]:
        return _each(self.name, self._first, self.width)


@final
class Rotation(Part):
    """A rotation as 6D."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, 6)
        self._kind, self.expects = kind, f"a rotation as {kind} in every frame"

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        return rotations.to_6d(rotations.to_matrix(self._kind, x))

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        return rotations.from_matrix(self._kind, rotations.from_6d(y))

    def wrong(self, x: Tensor) -> Tensor:
        return rotations.looks_wrong(self._kind, x)


@final
class Angle(Part):
    """Angles as their sines and then their cosines."""

    def __init__(self, name: str, count: int, positive: bool) -> None:
        super().__init__(name, 2 * count)
        self._positive = positive
        self.expects = f"angles in {'[0, 2π), or angle' if positive else '[-π, π), or angle_positive'} declared"

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        return torch.cat([x.sin(), x.cos()], -1)

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        sine, cosine = y.chunk(2, -1)
        angle = torch.atan2(sine, cosine)
        return torch.where(angle < 0, angle + 2 * math.pi, angle) if self._positive else angle

    def wrong(self, x: Tensor) -> Tensor:
        low = 0.0 if self._positive else -math.pi
        return ((x < low - 1e-3) | (x > low + 2 * math.pi + 1e-3)).any(-1)


class _FromState(Part):
    """Actions that are seen from the observed state, number by number."""

    moves = True

    def __init__(self, name: str, state: slice) -> None:
        super().__init__(name, state.stop - state.start)
        self._state = state

    def labels(self) -> list[str]:
        return _as_recorded(self)


@final
class Relative(_FromState):
    """Actions minus the state of now."""

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        return x - obs[:, -1:, self._state]

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        return y + obs[:, -1:, self._state]


@final
class Delta(_FromState):
    """Each action minus the one before it; up to now minus the state of its own step."""

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        states = obs[:, :, self._state]
        return x - torch.cat([states, x[:, states.shape[1] - 1 : -1]], 1)

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        states = obs[:, start:, self._state]
        past = states.shape[1] - 1  # steps before now
        return torch.cat([y[:, :past] + states[:, :past], states[:, past:] + y[:, past:].cumsum(1)], 1)


@final
class RelativePose(Part):
    """A position and a rotation in the frame of the pose of now: R⁻¹(p' − p), and R⁻¹R' as 6D."""

    moves = True

    def __init__(self, name: str, kind: str, position: slice, rotation: slice, rotation_kind: str) -> None:
        super().__init__(name, 9)
        self._kind, self._position, self._rotation, self._of_now = kind, position, rotation, rotation_kind
        self.expects = f"a position and a rotation as {kind} in every frame"

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        place, turn = self._now(obs)
        back = turn.transpose(-1, -2)
        seen = (back @ (x[..., :3] - place)[..., None])[..., 0]
        return torch.cat([seen, rotations.to_6d(back @ rotations.to_matrix(self._kind, x[..., 3:]))], -1)

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        place, turn = self._now(obs)
        position = (turn @ y[..., :3, None])[..., 0] + place
        return torch.cat([position, rotations.from_matrix(self._kind, turn @ rotations.from_6d(y[..., 3:]))], -1)

    def _now(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        now = obs[:, -1:]
        return now[..., self._position], rotations.to_matrix(self._of_now, now[..., self._rotation])

    def wrong(self, x: Tensor) -> Tensor:
        return rotations.looks_wrong(self._kind, x[:, 3:])


@final
class Frame(Part):
    """Points (x, y) of a plane as other points show them, which are observed now: Rᵀ(p − c).

    c is the mean of these, and R turns the x-axis into the direction from the first of them to the second; where
    these are one, R is 1. They should be the same within a window, as a goal is.
    """

    moves = True

    def __init__(self, name: str, size: int, points: slice) -> None:
        super().__init__(name, size)
        self._points, self.expects = points, "points x, y, …"

    def apply(self, x: Tensor, obs: Tensor) -> Tensor:
        center, turn = self._now(obs)
        return ((x.unflatten(-1, (-1, 2)) - center) @ turn).flatten(-2)

    def undo(self, y: Tensor, obs: Tensor, start: int) -> Tensor:
        center, turn = self._now(obs)
        return (y.unflatten(-1, (-1, 2)) @ turn.transpose(-1, -2) + center).flatten(-2)

    def labels(self) -> list[str]:
        return _as_recorded(self)

    def _now(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The center (B, 1, 1, 2), and R (B, 1, 2, 2)."""
        points = obs[:, -1:, self._points].unflatten(-1, (-1, 2))
        x, y = (points[..., 1, :] - points[..., 0, :]).unbind(-1)
        size = (x.square() + y.square()).sqrt()
        x, y = (torch.where(size > 0, part / size, whole) for part, whole in ((x, 1.0), (y, 0.0)))
        return points.mean(-2, keepdim=True), torch.stack([x, -y, y, x], -1).unflatten(-1, (2, 2))


def _as_recorded(part: Part) -> list[str]:
    key, numbers = sliced(part.name)
    return _each(key, numbers.start if numbers else 0, part.width)


def _each(key: str, first: int, count: int) -> list[str]:
    return [f"{key}[{first + i}]" for i in range(count)]
