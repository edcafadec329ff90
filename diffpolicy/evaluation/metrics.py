"""Means with 95% intervals, and the paired comparison of two evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffpolicy.util.stats import Interval, bootstrap, wilson

_SHOWN = ("obs_mode", "render_mode", "render_size")  # options that change nothing of what happens


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
