"""Statistics of an array of numbers, fed an episode at a time, in memory that does not grow with the recording."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from diffpolicy.datasets.importers import Array

WIDE = 512
"""Numbers in a frame above which only the range is measured: such arrays are maps or pictures, not joints."""

KEPT = 16
"""Frames that are remembered of each dimension as the most conspicuous ones."""

_SAMPLED = 2**21  # numbers kept of an array for quantiles, 8 to 16 MB
_NEIGHBORS = (-2, -1, 1, 2)


class Place(NamedTuple):
    """A frame, by the number of its episode and its own number in it."""

    episode: int
    frame: int

    def __str__(self) -> str:
        return f"frame {self.frame} of episode {self.episode}"


class Extreme(NamedTuple):
    """A conspicuous frame of one dimension."""

    place: Place
    dim: int
    score: float


@final
class Sample:
    """Frames spread evenly over all that were added: every one while they fit, then every second, fourth, ….

    Args:
        dims: numbers in a frame.
    """

    def __init__(self, dims: int) -> None:
        self._limit = max(1024, _SAMPLED // max(dims, 1))
        self._every, self._seen, self._count = 1, 0, 0
        self._kept: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Add frames (L, D)."""
        self._kept.append(values[-self._seen % self._every :: self._every].copy())
        self._seen += len(values)
        self._count += len(self._kept[-1])
        while self._count > self._limit:
            self._kept = [np.concatenate(self._kept)[::2].copy()]
            self._count = len(self._kept[0])
            self._every *= 2

    @property
    def values(self) -> np.ndarray:
        """(n, D), in their order."""
        self._kept = [np.concatenate(self._kept)]
        return self._kept[0]

    @property
    def exact(self) -> bool:
        """Whether it holds every frame that was added."""
        return self._every == 1


@final
class Largest:
    """The frames of the largest scores, in every dimension.

    Args:
        dims: number of dimensions.
    """

    def __init__(self, dims: int) -> None:
        self._scores = np.empty((0, dims))
        self._places = np.empty((0, dims, 2), np.int64)

    def add(self, scores: np.ndarray, episode: int) -> None:
        """Add the scores (L, D) of an episode, from its first frame on."""
        if not scores.size:
            return
        count = min(KEPT, len(scores))
        frames = np.argpartition(-scores, count - 1, axis=0)[:count]
        places = np.stack([np.full_like(frames, episode), frames], axis=-1)
        scores = np.concatenate([self._scores, np.take_along_axis(scores, frames, 0)])
        places = np.concatenate([self._places, places])
        order = np.argsort(-scores, axis=0, kind="stable")[:KEPT]
        self._scores = np.take_along_axis(scores, order, 0)
        self._places = np.take_along_axis(places, order[..., None], 0)

    def above(self, bound: np.ndarray) -> list[Extreme]:
        """Return the frames whose scores exceed the bounds (D,), the largest relative to its bound first."""
        found = [
            (score / bound[dim] if bound[dim] else np.inf, Extreme(Place(*place), dim, float(score)))
            for dim in range(self._scores.shape[1])
            for score, place in zip(self._scores[:, dim], self._places[:, dim].tolist(), strict=True)
            if score > bound[dim]
        ]
        return [extreme for _, extreme in sorted(found, key=lambda pair: -pair[0])]


@final
class Numbers:
    """What is measured of one array.

    Args:
        name: of the array.
        array: what the recording says of it.
    """

    def __init__(self, name: str, array: Array) -> None:
        self.name, self.array = name, array
        self.dims = int(np.prod(array.shape))
        self.wide = self.dims > WIDE
        self.count = 0
        self.low = np.full(self.dims, np.inf)
        self.high = np.full(self.dims, -np.inf)
        measured = 0 if self.wide else self.dims
        self._values, self._steps = Sample(measured), Sample(measured)
        self._deviations, self._largest_steps = Largest(measured), Largest(measured)

    def add(self, values: np.ndarray, episode: int) -> None:
        """Add the frames (L, D) of an episode, float64 unless `wide`."""
        self.count += len(values)
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))
        if self.wide:
            return
        steps = np.abs(np.diff(values, axis=0))
        self._values.add(values)
        self._steps.add(steps)
        self._largest_steps.add(steps, episode)
        self._deviations.add(_deviations(values), episode)

    @property
    def sample(self) -> np.ndarray:
        """(n, D) frames for quantiles and histograms."""
        return self._values.values

    @property
    def exact(self) -> bool:
        """Whether quantiles come from every frame."""
        return self._values.exact

    @property
    def range(self) -> np.ndarray:
        """(D,) largest minus smallest value."""
        return self.high - self.low

    @property
    def constant(self) -> np.ndarray:
        """(D,) whether a dimension never changes."""
        return self.low == self.high

    def quantiles(self, *wanted: float) -> np.ndarray:
        """Return quantiles (len(wanted), D)."""
        return np.quantile(self.sample, wanted, axis=0)

    @property
    def inner_range(self) -> np.ndarray:
        """(D,) range of the middle 98% of the frames, which single outliers do not change."""
        low, high = self.quantiles(0.01, 0.99)
        return high - low

    def usual_step(self, quantile: float = 0.99) -> np.ndarray:
        """Return (D,) the change from frame to frame that so many changes do not exceed."""
        steps = self._steps.values
        return np.quantile(steps, quantile, axis=0) if len(steps) else np.zeros(self.dims)

    def steps_above(self, bound: np.ndarray) -> list[Extreme]:
        """Return changes above the bounds (D,), each at the frame before it, the largest first."""
        return self._largest_steps.above(bound)

    def deviations_above(self, bound: np.ndarray) -> list[Extreme]:
        """Return frames farther than the bounds (D,) from the median of their neighbors, the farthest first."""
        return self._deviations.above(bound)

    def label(self, dim: int) -> str:
        """Return how messages call a dimension: the array's name, and the dimension's number or its own name."""
        own = f" ({self.array.names[dim]})" if self.array.names and len(self.array.names) == self.dims else ""
        return f"{self.name}[{dim}]{own}" if self.array.shape else self.name


def _deviations(values: np.ndarray) -> np.ndarray:
    """How far each number (L, D) is from the median of the two before and the two behind it; mirrored at the ends."""
    length = len(values)
    if length <= len(_NEIGHBORS):
        return np.zeros_like(values)
    frames = np.arange(length)
    neighbors = []
    for offset in _NEIGHBORS:
        there = frames + offset
        mirrored = frames - offset
        neighbors.append(values[np.where((there < 0) | (there >= length), mirrored, there)])
    stacked = np.stack(neighbors)
    median = (stacked.sum(0) - stacked.min(0) - stacked.max(0)) / 2
    return np.abs(values - median)
