"""Mode coverage: in which modes a task was done, by demonstrations and by a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffpolicy.util.errors import require

NONE = "none"
"""The fraction of episodes in none of the modes."""


def mode_fractions(found: Sequence[str | None], modes: Sequence[str]) -> dict[str, Any]:
    """Return the fraction of each mode among episodes, and the entropy of these fractions.

    Args:
        found: each episode's mode; None or "" for an episode in none, which counts as one of its own.
        modes: all modes of the task.

    Returns:
        "episodes", "fractions" (mode -> fraction, `NONE` included) and "entropy" in bits, -Σ p log₂ p.

    Raises:
        ValueError: no episodes, no modes, or a mode that is none of them.
    """
    require(found and modes, f"{len(found)} episodes and the modes {list(modes)}", "some of both")
    counted = [mode or NONE for mode in found]
    names = [*modes, NONE]
    strange = sorted(set(counted) - set(names))
    require(not strange, f"unknown modes {strange}", f"some of {list(modes)}")
    fractions = {name: counted.count(name) / len(counted) for name in names}
    entropy = -sum(fraction * math.log2(fraction) for fraction in fractions.values() if fraction)
    return {"episodes": len(counted), "fractions": fractions, "entropy": abs(entropy)}


def total_variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return ½ Σ |p - q| of two distributions over the same names, from 0 (equal) to 1 (nothing in common).

    Raises:
        ValueError: other names, or fractions that do not sum to 1.
    """
    for one in (first, second):
        proper = one.keys() == first.keys() and abs(sum(one.values()) - 1.0) <= 1e-9
        require(proper, f"{dict(first)} and {dict(second)}", "fractions of the same names that sum to 1")
    return sum(abs(first[name] - second[name]) for name in first) / 2


def compare_modes(
    demonstrated: Sequence[str | None], rolled_out: Sequence[str | None], modes: Sequence[str]
) -> dict[str, Any]:
    """Return `mode_fractions` of demonstrations and of rollouts, and the total variation between them."""
    there, here = mode_fractions(demonstrated, modes), mode_fractions(rolled_out, modes)
    distance = total_variation(there["fractions"], here["fractions"])
    return {"demonstrations": there, "rollouts": here, "total_variation": distance}
