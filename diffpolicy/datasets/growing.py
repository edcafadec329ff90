"""Arrays that grow by whole episodes without a second copy of what they hold."""

from __future__ import annotations

import math
from typing import final

import numpy as np

_SPARE = 1 / 16
"""Fraction of an array by which it grows at least, so that many short episodes cost no more than few long ones."""


@final
class GrowingArray:
    """Frames of all episodes in one block of memory, which the system extends in place where it can."""

    def __init__(self) -> None:
        self._values: np.ndarray | None = None
        self._count = 0

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of a frame, as the first episode had it."""
        return () if self._values is None else self._values.shape[1:]

    def append(self, values: np.ndarray) -> None:
        """Add frames (L, ...) of the shape of those before; a wider dtype widens them all."""
        if self._values is None:
            self._values = values.copy()
            self._count = len(values)
            return
        dtype = np.result_type(self._values.dtype, values.dtype)
        if dtype != self._values.dtype:
            self._values = self._values.astype(dtype)
        needed = self._count + len(values)
        if needed > len(self._values):
            self._resize(max(needed, math.ceil(len(self._values) * (1 + _SPARE))))
        self._values[self._count : needed] = values
        self._count = needed

    def finished(self) -> np.ndarray:
        """Return all frames (N, ...); nothing more is added."""
        self._resize(self._count)
        return self._values if self._values is not None else np.empty(0)

    def _resize(self, count: int) -> None:
        # In place, by `realloc`, which moves pages and not bytes: joining a list would hold everything twice.
        if self._values is not None and count != len(self._values):
            self._values.resize((count, *self._values.shape[1:]), refcheck=False)
