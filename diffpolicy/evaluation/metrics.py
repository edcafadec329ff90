"""Summaries of episodes with 95% intervals, and the paired comparison of two evaluations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from diffpolicy.config import EnvConfig
from diffpolicy.evaluation.adapters import bare_id, declared_task
from diffpolicy.util.errors import explain, require
from diffpolicy.util.stats import Interval, bootstrap, wilson

SUCCESS = "success"
PROPORTIONS = (SUCCESS, "success_at_end")
"""Metrics that are true or false of an episode: done at some step, and done at the last one."""

_SHOWN = ("obs_keys", "image_range", "estimator", "timeout")
"""Settings of an environment that change no outcome of given actions."""

_NOT_METRICS = ("seed", "steps", "mode", "way")  # of an episode's plain data; older releases wrote "way" for "mode"


def metric_names(episodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics of episodes as plain data, in order; "success" among them if all episodes have it."""
    return [name for name in episodes[0] if name not in _NOT_METRICS and all(name in one for one in episodes)]


def summarize(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """Return the mean of every metric of episodes (`Episode.row`) with its interval.

    Raises:
        ValueError: no episodes.
    """
    require(episodes, "no episodes", "at least one")
    return {
        name: wilson(sum(bool(one[name]) for one in episodes), len(episodes))
        if name in PROPORTIONS
        else bootstrap([one[name] for one in episodes])
        for name in metric_names(episodes)
    }


def evaluated_env(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the environment of an evaluation as plain data of an `EnvConfig`.

    Args:
        result: contents of its evaluation.json, which in earlier releases names that of the training alone.
    """
    return result.get("env") or result["checkpoint"]["config"]["env"]


def is_same_task(env: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two environments, as plain data of an `EnvConfig`, differ at most in what they show.

    Evaluations of earlier releases call `kwargs` "options", which is read too; settings that they lack are at their
    defaults.
    """
    task = declared_task(env["id"])
    hidden = {"render_mode", *(task.display_options if task else ())}
    return _task(env, hidden) == _task(other, hidden)


def _task(env: Mapping[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    """What the task is, without the keyword arguments that change only what is shown."""
    kwargs = env["kwargs"] if "kwargs" in env else env["options"]
    kept = {name: value for name, value in kwargs.items() if name not in hidden}
    others = {name: env.get(name, default) for name, default in vars(EnvConfig()).items() if name not in _SHOWN}
    return {**others, "id": bare_id(env["id"]), "kwargs": kept}


def check_comparable(
    seeds: str | int, planned: Iterable[int], env: Mapping[str, Any], other: Mapping[str, Any]
) -> list[int]:
    """Return the seeds that an evaluation has in common with another one.

    Args:
        seeds: first seed, or name of the task's seed set, of the evaluation.
        planned: its seeds.
        env: its environment, as plain data of an `EnvConfig`.
        other: contents of the other evaluation.json.

    Raises:
        ValueError: none in common, another task, or `other` is no evaluation.
    """
    try:
        their_env = evaluated_env(other)
        same_task = is_same_task(env, their_env)
        same_kind = _seed_set(seeds) == _seed_set(other["settings"]["seeds"])
        common = sorted(set(planned) & {one["seed"] for one in other["episodes"]})
    except (KeyError, TypeError):
        raise ValueError(explain("what is to be compared with is no evaluation.json of this project")) from None
    require(same_task, f"the two evaluations are of different tasks, {dict(env)} and {their_env}")
    cure = "evaluate both with the same seeds and episodes"
    require(same_kind and common, "the two evaluations have no initial states in common", cure=cure)
    return common


def _seed_set(seeds: str | int) -> str | None:
    """The name of a set of seeds; None for consecutive seeds of the environment's own."""
    return None if str(seeds).isdigit() else str(seeds)


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the differences first - second, with intervals, over the seeds that two evaluations have in common.

    Pairing removes what both have in common, the difficulty of each initial state.

    Args:
        first: contents of an evaluation.json.
        second: contents of another one.

    Raises:
        ValueError: they are of different tasks, were reset differently or have no seeds in common.
    """
    a, b = ({one["seed"]: one for one in evaluation["episodes"]} for evaluation in (first, second))
    common = check_comparable(first["settings"]["seeds"], a, evaluated_env(first), second)
    both = metric_names([*a.values(), *b.values()])
    return {
        "episodes": len(common),
        **{name: bootstrap([float(a[seed][name]) - float(b[seed][name]) for seed in common]) for name in both},
    }
