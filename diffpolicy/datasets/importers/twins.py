"""Numbers that a recording holds more than once: where they are equal but for one frame, one was changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

_FRAMES = 8  # of an episode, below which two equal columns may be chance
_COLUMNS = 4096  # of one dtype, beyond which none are compared


def odd_twin(arrays: Mapping[str, np.ndarray]) -> str:
    """Return which two columns of numbers are equal in all frames of an episode but one, in words; empty if none are.

    Achieved goals are often part of the observation, and joints part of a simulator's state: both are equal, bit for
    bit, until one is damaged. Columns that stand still in half of the frames are not compared.

    Args:
        arrays: of one episode, name -> (L, ...).
    """
    by_dtype: dict[np.dtype, list[tuple[str, np.ndarray]]] = defaultdict(list)
    for name, values in arrays.items():
        if values.dtype in (np.float32, np.float64) and len(values) >= _FRAMES:
            by_dtype[values.dtype] += _moving(name, values.reshape(len(values), -1))
    for columns in by_dtype.values():
        for one, other in _pairs([values for _, values in columns]) if len(columns) <= _COLUMNS else ():
            (name, values), (twin, others) = columns[one], columns[other]
            differs = values != others
            if differs.sum() == 1:
                at = int(np.argmax(differs))
                pair = f"{values[at]:.7g} and {others[at]:.7g}"
                return f"{name} and {twin} are equal but at frame {at}, {pair}: one of them was changed"
    return ""


def odd_frame(arrays: Mapping[str, np.ndarray]) -> str:
    """Return which column of numbers keeps one value but for a single frame, in words; empty if none does.

    A goal, or the place of what does not move, is stored again in every frame. Whole numbers are not looked at, since
    flags do change for one frame, nor are first and last frames.

    Args:
        arrays: of one episode, name -> (L, ...), without what was commanded.
    """
    for name, values in arrays.items():
        if values.dtype not in (np.float32, np.float64) or len(values) < _FRAMES:
            continue
        columns = values.reshape(len(values), -1)
        kept = np.where(columns[0] == columns[-1], columns[0], np.nan)
        differs = columns != kept
        for i in np.flatnonzero((differs.sum(axis=0) == 1) & (kept != np.round(kept))):
            at = int(np.argmax(differs[:, i]))
            return (
                f"{name!r}[{i}] is {kept[i]:.7g}, and {columns[at, i]:.7g} at frame {at} alone: that may be damaged"
            )
    return ""


def _moving(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of (L, D) that change in most of their frames, with their names."""
    moves = 2 * (values[1:] != values[:-1]).sum(axis=0) > len(values)
    return ((f"{name!r}[{i}]", values[:, i]) for i in np.flatnonzero(moves))


def _pairs(columns: Sequence[np.ndarray]) -> set[tuple[int, int]]:
    """The columns that agree in two of three frames, in pairs with the first of them."""
    found: set[tuple[int, int]] = set()
    looked_at = [[float(values[len(values) * part // 4]) for part in (1, 2, 3)] for values in columns]
    for places in combinations(range(3), 2):
        alike: dict[tuple[float, ...], int] = {}
        for i, numbers in enumerate(looked_at):
            first = alike.setdefault(tuple(numbers[place] for place in places), i)
            found |= {(first, i)} if first != i else set()
    return found
