"""Rotations among the numbers of an array: quaternions by their norm, rotation vectors by their name."""

from __future__ import annotations

import re
from typing import final

import numpy as np

from diffpolicy.datasets.inspection.numbers import Extreme, Largest

UNIT = 1e-3
"""Distance of a quaternion's norm from 1; float32 and rounding to four digits stay below."""

NAMED = re.compile(r"axis_?angle|rot(ation)?_?vec|(^|_)(rot|ori|orn|orientation|rotation)(_|$)", re.IGNORECASE)
"""Names of three numbers that are a rotation vector."""

EULER = re.compile(r"rpy|euler|roll", re.IGNORECASE)
"""Names of three numbers that are Euler angles."""

_FLIP = 0.5  # cosine between neighbors below minus this: half a turn of the quaternion, no motion
_MOVING = 3  # numbers of a quaternion that change; two that do are the sine and the cosine of an angle


@final
class Rotations:
    """What is measured of an array to tell whether it holds rotations.

    Args:
        dims: numbers in a frame.
    """

    def __init__(self, dims: int) -> None:
        self._blocks = max(dims - 3, 0)
        self._low, self._high = np.full(self._blocks, np.inf), np.zeros(self._blocks)
        self._flips, self._turns = Largest(self._blocks), Largest(1 if dims == 3 else 0)
        self._flip_count = np.zeros(self._blocks, int)
        self._dims, self._longest = dims, 0.0

    def add(self, values: np.ndarray, episode: int) -> None:
        """Add the frames (L, D) of an episode."""
        if self._blocks:
            norms = _sliding(values * values)
            self._low, self._high = np.minimum(self._low, norms.min(0)), np.maximum(self._high, norms.max(0))
            opposite = -_sliding(values[1:] * values[:-1])
            self._flip_count += (opposite > _FLIP).sum(0)
            self._flips.add(opposite, episode)
        if self._dims == 3:
            self._longest = max(self._longest, float(np.linalg.norm(values, axis=1).max()))
            self._turns.add(np.linalg.norm(np.diff(values, axis=0), axis=1)[:, None], episode)

    def quaternions(self, constant: np.ndarray) -> list[int]:
        """Return the first dimension of each quaternion.

        Args:
            constant: (D,) whether a dimension never changes.
        """
        unit = (np.abs(np.sqrt(self._low) - 1) < UNIT) & (np.abs(np.sqrt(self._high) - 1) < UNIT)
        found: list[int] = []
        for start in np.flatnonzero(unit).tolist():
            apart = not found or start >= found[-1] + 4
            if apart and (~constant[start : start + 4]).sum() >= _MOVING:
                found.append(start)
        return found

    def flips(self, start: int) -> tuple[int, Extreme | None]:
        """Return how often the sign of the quaternion from dimension `start` on flips, and where it does first."""
        bound = np.full(self._blocks, np.inf)
        bound[start] = _FLIP
        found = self._flips.above(bound)
        return int(self._flip_count[start]), min(found, key=lambda one: one.place, default=None)

    def turns(self) -> list[Extreme]:
        """Return where three numbers, as a rotation vector, jump by more than half a turn, the largest first."""
        return self._turns.above(np.full(1, np.pi)) if self._dims == 3 else []

    @property
    def is_within_half_turn(self) -> bool:
        """Whether three numbers are never longer than π, as rotation vectors are."""
        return self._dims == 3 and 0 < self._longest <= np.pi + UNIT


def _sliding(values: np.ndarray) -> np.ndarray:
    """Sums (L, D - 3) of every four neighboring dimensions."""
    return values[:, :-3] + values[:, 1:-2] + values[:, 2:-1] + values[:, 3:]
