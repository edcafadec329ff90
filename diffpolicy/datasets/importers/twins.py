"""Numbers that a recording holds more than once: where they are equal but for one frame, one was changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import final

import numpy as np

_FRAMES = 8  # of an episode, below which two equal columns may be chance
_WITNESSES = 5  # other episodes
_AGAINST = 4  # of them, for each one that speaks against it
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
            differs = (values != others) & ~(np.isnan(values) & np.isnan(others))
            if differs.sum() == 1:
                at = int(np.argmax(differs))
                pair = f"{values[at]:.7g} and {others[at]:.7g}"
                return f"{name} and {twin} are equal but at frame {at}, {pair}: one of them was changed"
    return ""


@final
class Stills:
    """Finds numbers that stand still but for one frame, in columns that stand still in most other episodes.

    A goal, or the place of what does not move, is stored again in every frame. A gripper or a flag may well change
    for one frame, and does so in other episodes too.
    """

    def __init__(self) -> None:
        self._still: dict[str, np.ndarray] = {}  # name -> (D,) episodes in which the column stands still
        self._moves: dict[str, np.ndarray] = {}
        self._waiting: list[tuple[str, int, str, str]] = []  # for other episodes: name, column, where, what

    def look(self, where: str, arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
        """Return what is found, with the episode in which it is: this one, or one before.

        Whole numbers are not looked at, nor are first and last frames.

        Args:
            where: the episode.
            arrays: of the episode, name -> (L, ...), without what was commanded.
        """
        for name, values in arrays.items():
            if values.dtype in (np.float32, np.float64) and len(values) >= _FRAMES:
                self._count(where, name, values.reshape(len(values), -1))
        found = [one for one in self._waiting if self._witnesses(*one[:2]) >= _WITNESSES]
        self._waiting = [one for one in self._waiting if one not in found]
        return [(there, says) for *_, there, says in found]

    def _count(self, where: str, name: str, columns: np.ndarray) -> None:
        kept = np.where(columns[0] == columns[-1], columns[0], np.nan)
        differs = columns != kept
        changed = differs.sum(axis=0)
        odd = (changed == 1) & (kept != np.round(kept))
        none = np.zeros(columns.shape[1], int)
        self._still[name] = self._still.get(name, none) + (changed == 0)
        self._moves[name] = self._moves.get(name, none) + ((changed > 0) & ~odd)
        for i in np.flatnonzero(odd):
            at = int(np.argmax(differs[:, i]))
            alone = f"{columns[at, i]:.7g} at frame {at} alone: that may be damaged"
            self._waiting.append((name, int(i), where, f"{name!r}[{i}] is {kept[i]:.7g}, and {alone}"))

    def _witnesses(self, name: str, column: int) -> int:
        """Episodes in which a column stands still, less four for each other one in which it moves or is odd."""
        odd = sum(one[:2] == (name, column) for one in self._waiting) - 1
        return int(self._still[name][column]) - _AGAINST * (int(self._moves[name][column]) + odd)


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
