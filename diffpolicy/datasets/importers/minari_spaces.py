"""The spaces of Minari's metadata: which arrays a nested observation or action consists of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffpolicy.util.errors import explain, require

_NESTED = ("Dict", "Tuple")
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
    """

    path: tuple[str | int, ...]
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_image(self) -> bool:
        """Whether Minari may have stored it as JPEG."""
        return self.kind == "Box" and len(self.shape) == 3 and self.dtype == np.uint8

    def name(self, alone: str) -> str:
        """Return its name: the path joined by "_", or `alone` without one."""
        return "_".join(map(str, self.path)) or alone


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
        return [Leaf(path, kind, tuple(map(int, space["shape"])), np.dtype(space["dtype"]))]
    shape = {"Discrete": (), "MultiDiscrete": np.shape(space.get("nvec")), "MultiBinary": _shape(space.get("n"))}[
        kind
    ]
    return [Leaf(path, kind, tuple(map(int, shape)), np.dtype(space.get("dtype", _WHOLE[kind])))]


def _shape(n: Any) -> tuple[int, ...]:
    return tuple(n) if isinstance(n, list) else (int(n),)
