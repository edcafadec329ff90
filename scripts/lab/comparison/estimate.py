"""How long what is left of a comparison will take, from what the stored results took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

from comparison.plan import Measurement, Run
from comparison.store import Result, episode_count


def training_minutes(run: Run, stored: Mapping[str, Result]) -> float | None:
    """Return the minutes of a training by those of the same name, or else of all; None if nothing is stored."""
    trained = [one for one in stored.values() if one["train"]["steps"]]
    per_step = _mean(trained, lambda one: one["training"] == run.training, _minutes_per_step)
    return None if per_step is None else per_step * run.config.training.steps


def evaluation_minutes(wanted: Measurement, stored: Mapping[str, Result]) -> float | None:
    """Return the minutes of an evaluation by those of the same name, or else of all; None if nothing is stored."""
    timed = [one for one in stored.values() if "evaluation_minutes" in one]
    per_episode = _mean(timed, lambda one: one["evaluation"] == wanted.evaluation, _minutes_per_episode)
    return None if per_episode is None else per_episode * wanted.config.episodes


def recording_minutes(stored: Mapping[str, Result]) -> float | None:
    """Return the minutes of the recording of a task's demonstrations by all; None if nothing is stored."""
    notes = [one["recording"] for one in stored.values() if "recording" in one]
    minutes = {note["sha256"]: note["minutes"] for note in notes if note["minutes"] is not None}
    return fmean(minutes.values()) if minutes else None


def in_words(minutes: Iterable[float | None]) -> str:
    """Return the sum of what is known."""
    minutes = list(minutes)
    known = [value for value in minutes if value is not None]
    if not known:
        return "the first results will tell for how long" if minutes else "nothing is left to do"
    hours, rest = divmod(round(sum(known)), 60)
    return f"about {hours} h {rest:02d} min by the stored results"


def _minutes_per_step(one: Result) -> float:
    return one["train"]["minutes"] / one["train"]["steps"]


def _minutes_per_episode(one: Result) -> float:
    return one["evaluation_minutes"] / episode_count(one)


def _mean(results: Iterable[Any], like: Callable[[Any], bool], value: Callable[[Any], float]) -> float | None:
    results = list(results)
    near = [one for one in results if like(one)] or results
    return fmean(map(value, near)) if near else None
