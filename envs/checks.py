"""Checks of what comes from outside; the environments import nothing of diffpolicy, so these are their own."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

Bounds = tuple[float, float]
ANY: Bounds = (-sys.float_info.max, sys.float_info.max)
"""Bounds of a number that may have any finite value, such as an angle."""


def require(
    holds: object, given: str, expected: str, cure: str | None = None, error: type[Exception] = ValueError
) -> None:
    """Raise `error` with the message "given; expected …; cure" unless `holds`."""
    if not holds:
        raise error(f"{given}; expected {expected}" + (f"; {cure}" if cure else ""))


def check_choice(kind: str, name: object, choices: Iterable[str]) -> None:
    """Raise ValueError, with the closest names, unless `name` is one of `choices`.

    Args:
        kind: what is chosen, for example "reset option".
        name: what was given.
        choices: the names that exist.
    """
    names = list(choices)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), names, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"unknown {kind} {name!r}{meant}; choose from {', '.join(names)}")


def numbers(kind: str, value: ArrayLike, names: Sequence[str], bounds: Sequence[Bounds]) -> list[float]:
    """Return `value` as a list of one finite number for each name, inside its bounds.

    Args:
        kind: what the numbers are, for example "state".
        value: what was given.
        names: of the numbers, in order.
        bounds: smallest and largest value of each number.

    Raises:
        ValueError: says which number is wrong.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(math.nan)
    if array.shape != (len(names),):
        shape = f" of shape {np.shape(array)}" if array.shape else ""
        raise ValueError(f"{kind}={value!r}{shape}; expected {len(names)} numbers [{', '.join(names)}]")
    values = array.tolist()
    for name, number, (low, high) in zip(names, values, bounds, strict=True):
        if not low <= number <= high:
            between = "a finite number" if (low, high) == ANY else f"a number in [{low:g}, {high:g}]"
            raise ValueError(f"{kind} with {name} {number:g}; expected {between}")
    return values
