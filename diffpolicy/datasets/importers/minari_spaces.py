"""The spaces of Minari's metadata: which arrays a nested observation or action consists of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from diffpolicy.util.errors import explain, require

_NESTED = ("Dict", "Tuple")
_SLACK = 1e-5  # of a bound: bounds are often of single precision
_WHOLE = {"Discrete": np.int64, "MultiDiscrete": np.int64, "MultiBinary": np.int8}


@final
@dataclass(frozen=True)
class Leaf:
    """One array of a space.

    Args:
        path: names and numbers that lead to it; empty if the space is no Dict or Tuple.
        kind: "Box", "Discrete", "MultiDiscrete", "MultiBinary" or "Text".
        shape: of one frame.
        dtype: that the space states.
        bounds: lowest and highest numbers, (2, *shape); None where the space states none.
    """

    path: tuple[str | int, ...]
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    bounds: np.ndarray | None = field(default=None, compare=False)

    @property
    def is_image(self) -> bool:
        """Whether Minari may have stored it as JPEG."""
        return self.kind == "Box" and len(self.shape) == 3 and self.dtype == np.uint8

    def name(self, alone: str) -> str:
        """Return its name: the path joined by "_", or `alone` without one."""
        return "_".join(map(str, self.path)) or alone

    def outside(self, values: np.ndarray, name: str) -> str:
        """Return which number of (L, *shape) is beyond the bounds, in words; empty if none is."""
        if self.bounds is None or values.dtype.kind not in "iuf" or values.shape[1:] != self.shape:
            return ""
        slack = _SLACK * np.where(np.isfinite(self.bounds), np.abs(self.bounds), 0)
        low, high = self.bounds[0] - slack[0], self.bounds[1] + slack[1]
        off = (values < low) | (values > high)
        if not off.any():
            return ""
        at, *dims = (int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
        lowest, highest = self.bounds[(0, *dims)], self.bounds[(1, *dims)]
        which = f" in dimension {', '.join(map(str, dims))}" if dims else ""
        number = f"{values[(at, *dims)]:.5g}"
        return f"{name!r} is {number}{which} at frame {at}, and its space goes from {lowest:g} to {highest:g}"


def leaves(text: object, what: str) -> list[Leaf]:
    """Return the arrays of a space in its order.

    Args:
        text: the JSON that Minari writes of a space.
        what: the space is of, for the message.

    Raises:
        ValueError: no space of the kinds that hold numbers.
    """
    try:
        return _leaves(json.loads(text) if isinstance(text, str) else {}, ())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            explain(f"{what} of metadata.json cannot be read ({error})", cure="copy it again")
        ) from error


def joined(parts: Sequence[Leaf]) -> Leaf:
    """Return one array of all numbers of several, in order; one alone is what it is."""
    if len(parts) == 1:
        return parts[0]
    size = sum(int(np.prod(part.shape)) for part in parts)
    unbounded = np.array([-np.inf, np.inf])
    bounds = [
        np.broadcast_to(unbounded[:, None], (2, int(np.prod(part.shape)))) if part.bounds is None else part.bounds
        for part in parts
    ]
    dtype = np.result_type(*(part.dtype for part in parts))
    return Leaf((), "Box", (size,), dtype, np.concatenate([one.reshape(2, -1) for one in bounds], axis=1))


def _leaves(space: Mapping[str, Any], path: tuple[str | int, ...]) -> list[Leaf]:
    kind = space["type"]
    if kind in _NESTED:
        below = space["subspaces"]
        pairs = below.items() if kind == "Dict" else enumerate(below)
        return [leaf for key, one in pairs for leaf in _leaves(one, (*path, key))]
    if kind == "Text":
        return [Leaf(path, kind, (), np.dtype(object))]
    require(kind == "Box" or kind in _WHOLE, f"a space of type {kind}", "Dict, Tuple, Box, Text or whole numbers")
    if kind == "Box":
        shape = tuple(map(int, space["shape"]))
        return [
            Leaf(path, kind, shape, np.dtype(space["dtype"]), _bounds(space.get("low"), space.get("high"), shape))
        ]
    count, start = space.get("nvec") if kind == "MultiDiscrete" else space.get("n"), space.get("start", 0)
    shape = {"Discrete": (), "MultiDiscrete": np.shape(count), "MultiBinary": _shape(count)}[kind]
    last = np.ones(shape) if kind == "MultiBinary" else np.add(start, count) - 1
    dtype = np.dtype(space.get("dtype", _WHOLE[kind]))
    return [Leaf(path, kind, tuple(map(int, shape)), dtype, _bounds(start, last, shape))]


def _bounds(low: Any, high: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Both bounds, of one number or of one for each; None where there are none for a frame of this shape."""
    try:
        return np.stack([np.broadcast_to(np.asarray(one, np.float64), shape) for one in (low, high)])
    except (ValueError, TypeError):
        return None


def _shape(n: Any) -> tuple[int, ...]:
    return tuple(n) if isinstance(n, list) else (int(n),)
