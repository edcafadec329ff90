"""What a policy observes: numbers, or a mapping of numbers and pictures by name, as gymnasium's Dict spaces give it.

A batch of observations has rows on axis 0, histories time on axis 1, and the same holds for every entry of a mapping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from diffpolicy.util.names import suggest

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

    def split(self, obs: Observation, steps: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The numbers (B, steps, D) and pictures (B, steps, H, W, C) of a mapping, which may hold more.

        Args:
            steps: T_o, or None for observations of one moment, which have no axis of time and get one of length 1.

        Raises:
            TypeError: no mapping, or pictures that are not uint8.
            ValueError: an entry that is missing or of another shape.
        """
        if not isinstance(obs, Mapping):
            raise TypeError(
                f"this policy sees pictures: give a mapping with the {self._trained()}, not {described(obs)}"
            )
        for name in [*self.shapes, *self.numbers]:
            if name not in obs:
                raise ValueError(
                    f"obs lacks {name!r}{suggest(name, obs)}; the policy was trained with the {self._trained()}, and "
                    f"given are {list(obs)}"
                )
        arrays = {name: np.asarray(obs[name]) for name in [*self.shapes, *self.numbers]}
        first = arrays[next(iter(self.shapes))]
        rows = len(first) if first.ndim else 0
        leading, axes = ((rows,), "B") if steps is None else ((rows, steps), "B, T_o")
        for name, shape in self.shapes.items():
            values, expected = arrays[name], (*leading, *shape)
            if values.dtype != np.uint8:
                raise TypeError(f"obs[{name!r}] is {values.dtype}; pictures are uint8, 0 to 255{_as_uint8(values)}")
            if values.shape != expected:
                raise ValueError(
                    f"obs[{name!r}] has shape {values.shape}; expected ({axes}, H, W, C) = {expected}: the policy "
                    f"was trained with pictures of {tuple(shape)}{_cure(values.shape, expected, len(leading))}"
                )
        for name in self.numbers:
            if arrays[name].shape[: len(leading)] != leading:
                raise ValueError(f"obs[{name!r}] has shape {arrays[name].shape}; expected ({axes}, ...), {leading}")
        numbers = [
            arrays[name].reshape(rows, steps or 1, math.prod(arrays[name].shape[len(leading) :]))
            for name in self.numbers
        ]
        pictures = {name: arrays[name].reshape(rows, steps or 1, *shape) for name, shape in self.shapes.items()}
        return np.concatenate(numbers, axis=2), pictures

    def _trained(self) -> str:
        pictures = ", ".join(f"{name!r} {tuple(shape)}" for name, shape in self.shapes.items())
        return f"pictures {pictures} and numbers {', '.join(map(repr, self.numbers))}"


def described(obs: object) -> str:
    """What was given as an observation, for an error's text."""
    if isinstance(obs, Mapping):
        return f"a mapping with {list(obs)}"
    shape = getattr(obs, "shape", None)
    return type(obs).__name__ if shape is None else f"an array of shape {tuple(shape)}"


def _as_uint8(values: np.ndarray) -> str:
    """How to make pictures of `values`, by the range that they look to have."""
    if not (np.issubdtype(values.dtype, np.number) and values.size):
        return ""
    low, high = float(values.min()), float(values.max())
    whole = np.issubdtype(values.dtype, np.integer)
    if low >= 0 and high <= 1 and not whole:
        range_, cure = "0 to 1", "(x * 255).round().astype(np.uint8)"
    elif -1 <= low < 0 and high <= 1 and not whole:
        range_, cure = "-1 to 1", "((x + 1) * 127.5).round().astype(np.uint8)"
    elif low >= 0 and high <= 255:
        range_, cure = "0 to 255", "x.astype(np.uint8)" if whole else "x.round().astype(np.uint8)"
    else:
        return f"; these run from {low:g} to {high:g}, which is no known range of pictures"
    return f"; these look like {range_}: give {cure}"


def _cure(shape: tuple[int, ...], expected: tuple[int, ...], leading: int) -> str:
    """What to do about pictures of another shape than expected, of which `leading` axes are rows and time."""
    if shape == expected[1:]:
        return "; add the batch axis with obs[None]"
    channels_first = (*expected[:leading], expected[-1], *expected[leading:-1])
    if shape == channels_first:
        return "; the channels come last: give np.moveaxis(x, -3, -1)"
    if len(shape) == len(expected) and shape[:leading] == expected[:leading]:
        return "; scale or crop them to these"
    return ""
