"""Means with 95% intervals, and the paired comparison of two evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_Z = 1.959963984540054  # 97.5% quantile of the normal distribution
_RESAMPLES = 10_000
_SHOWN = ("obs_mode", "render_mode", "render_size")  # options that change nothing of what happens

Interval = dict[str, float]  # mean, low, high


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean with its percentile bootstrap interval (Efron 1979): 95% of 10,000 resampled means, seeded."""
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"need a list of at least one value; given shape {x.shape}")
    generator = np.random.default_rng(seed)
    means = np.array([x[generator.integers(len(x), size=len(x))].mean() for _ in range(_RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(x.mean()), "low": float(low), "high": float(high)}


def wilson(successes: int, trials: int) -> Interval:
    """Share with Wilson's score interval (Wilson 1927), which holds near 0 and 1 where the normal one fails."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"need 0 <= successes <= trials and trials > 0; given {successes} of {trials}")
    share = successes / trials
    shrink = 1 + _Z**2 / trials
    center = (share + _Z**2 / (2 * trials)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    return {"mean": share, "low": max(0.0, center - half), "high": min(1.0, center + half)}


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """Score and final coverage (bootstrap) and success (Wilson) of episode rows."""
    return {
        "score": bootstrap([row["score"] for row in rows]),
        "final_coverage": bootstrap([row["final_coverage"] for row in rows]),
        "success": wilson(sum(bool(row["success"]) for row in rows), len(rows)),
    }


def is_same_task(env: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two environments, {"id", "options"}, differ at most in what they show."""
    first, second = (
        (each["id"], {name: value for name, value in each["options"].items() if name not in _SHOWN})
        for each in (env, other)
    )
    return first == second


def check_comparable(
    seeds: Any, planned: Iterable[int], env: Mapping[str, Any], other: Mapping[str, Any]
) -> list[int]:
    """The seeds that an evaluation of `planned` seeds (of the kind `seeds` says) in `env` shares with another one.

    Raises:
        ValueError: none, another task, or `other` is no evaluation.
    """
    try:
        their_env = other["checkpoint"]["config"]["env"]
        same_task = is_same_task(env, their_env)
        same_kind = (seeds == "paper") == (other["settings"]["seeds"] == "paper")
        common = sorted(set(planned) & {row["seed"] for row in other["episodes"]})
    except (KeyError, TypeError):
        raise ValueError("what is to be compared with is no evaluation.json of this project") from None
    if not same_task:
        raise ValueError(f"the two evaluations are of different tasks, {dict(env)} and {their_env}")
    if not (same_kind and common):
        raise ValueError(
            "the two evaluations have no initial states in common; evaluate both with the same seeds and episodes"
        )
    return common


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The differences first - second over the seeds that two evaluations have in common, with intervals.

    Pairing removes what the two share, the difficulty of each initial state.

    Args:
        first, second: contents of two `evaluation.json`.

    Raises:
        ValueError: they are of different tasks, were reset differently or have no seeds in common.
    """
    a, b = ({row["seed"]: row for row in evaluation["episodes"]} for evaluation in (first, second))
    common = check_comparable(first["settings"]["seeds"], a, first["checkpoint"]["config"]["env"], second)
    return {
        "episodes": len(common),
        **{
            key: bootstrap([float(a[seed][key]) - float(b[seed][key]) for seed in common])
            for key in ("score", "final_coverage", "success")
        },
    }
