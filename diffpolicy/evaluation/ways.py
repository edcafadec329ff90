"""Multimodality, measured: in which ways a task was done, by demonstrations and by a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "none"
"""The share of episodes that took none of the ways."""


def way_shares(taken: Sequence[str | None], known: Sequence[str]) -> dict[str, Any]:
    """The share of each way among episodes, and the entropy of these shares.

    Args:
        taken: each episode's way; None or "" for an episode that took none, which counts as one of its own.
        known: all the ways there are.

    Returns:
        "episodes", "shares" (way -> share, `NONE` included) and "entropy" in bits, -Σ p log₂ p.

    Raises:
        ValueError: no episodes, no known ways, or a way that is none of them.
    """
    if not taken or not known:
        raise ValueError(f"need episodes and known ways; given {len(taken)} episodes and the ways {list(known)}")
    counted = [way or NONE for way in taken]
    names = [*known, NONE]
    if strange := sorted(set(counted) - set(names)):
        raise ValueError(f"unknown ways {strange}; this task has {list(known)}")
    shares = {name: counted.count(name) / len(counted) for name in names}
    entropy = -sum(share * math.log2(share) for share in shares.values() if share)
    return {"episodes": len(counted), "shares": shares, "entropy": abs(entropy)}


def total_variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """½ Σ |p - q| of two distributions over the same names, from 0 (equal) to 1 (nothing in common).

    Raises:
        ValueError: other names, or shares that do not sum to 1.
    """
    for shares in (first, second):
        if shares.keys() != first.keys() or abs(sum(shares.values()) - 1.0) > 1e-9:
            raise ValueError(f"need shares of the same names that sum to 1; given {dict(first)} and {dict(second)}")
    return sum(abs(first[name] - second[name]) for name in first) / 2


def compare_ways(
    demonstrated: Sequence[str | None], rolled_out: Sequence[str | None], known: Sequence[str]
) -> dict[str, Any]:
    """`way_shares` of both, and the total variation between them."""
    there, here = way_shares(demonstrated, known), way_shares(rolled_out, known)
    distance = total_variation(there["shares"], here["shares"])
    return {"demonstrations": there, "rollouts": here, "total_variation": distance}
