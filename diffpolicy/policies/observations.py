"""What a policy observes: numbers, or a mapping of numbers and pictures by name, as gymnasium's Dict spaces give it.

A batch of observations has rows on axis 0, histories time on axis 1, and the same holds for every entry of a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from diffpolicy.registry import near

Observation = np.ndarray | Mapping[str, np.ndarray]


def stack(observations: Sequence[Observation]) -> Observation:
    """Observations of one kind along a new axis 0, as copies."""
    if isinstance(observations[0], Mapping):
        return {name: np.stack([each[name] for each in observations]) for name in observations[0]}
    return np.stack(observations)


@final
@dataclass(frozen=True)
class Cameras:
    """What an observation with pictures is made of.

    Args:
        shapes: name -> (H, W, C) of its pictures, uint8.
        numbers: the names of the arrays of numbers, in the order in which they make up D numbers.
    """

    shapes: Mapping[str, Sequence[int]]
    numbers: Sequence[str]

    def split(self, obs: Observation, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The numbers (B, steps, D) and pictures (B, steps, H, W, C) of a mapping, which may hold more.

        Raises:
            TypeError: no mapping, or pictures that are not uint8.
            ValueError: an entry that is missing or of another shape.
        """
        names = [*self.numbers, *self.shapes]
        if not isinstance(obs, Mapping):
            raise TypeError(f"this policy sees pictures: give a mapping with {names}, not {type(obs).__name__}")
        for name in names:
            if name not in obs:
                raise ValueError(f"obs lacks {name!r}{near(name, obs)}; this policy takes {names}")
        pictures = {name: np.asarray(obs[name]) for name in self.shapes}
        rows = len(next(iter(pictures.values())))
        for name, values in pictures.items():
            if values.dtype != np.uint8:
                raise TypeError(f"obs[{name!r}] is {values.dtype}; pictures are uint8, 0 to 255")
            if values.shape != (expected := (rows, steps, *self.shapes[name])):
                raise ValueError(f"obs[{name!r}] has shape {values.shape}; expected (B, T_o, H, W, C) = {expected}")
        numbers = [np.asarray(obs[name]) for name in self.numbers]
        for name, values in zip(self.numbers, numbers, strict=True):
            if values.shape[:2] != (rows, steps):
                raise ValueError(f"obs[{name!r}] has shape {values.shape}; expected (B, T_o, ...), {(rows, steps)}")
        return np.concatenate([values.reshape(rows, steps, -1) for values in numbers], axis=2), pictures
