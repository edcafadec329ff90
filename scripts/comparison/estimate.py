"""How long what is left of a comparison will take, from what the measured rows took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

from diffpolicy.scripts.comparison.plan import Row, Run
from diffpolicy.scripts.comparison.store import Measured


def training_minutes(run: Run, rows: Mapping[str, Measured]) -> float | None:
    """Minutes of a training by those of the same kind, or else of all; None where nothing was measured."""
    steps = run.config["training"]["steps"]
    own = [row for row in rows.values() if row["train"]["steps"]]
    each = _mean(own, lambda row: row["training"] == run.training, lambda row: row["train"]["minutes"] / _steps(row))
    return None if each is None else each * steps


def evaluation_minutes(row: Row, rows: Mapping[str, Measured]) -> float | None:
    """Minutes of an evaluation by those of the same name, or else of all; None where nothing was measured."""
    timed = [found for found in rows.values() if "evaluation_minutes" in found]
    each = _mean(
        timed,
        lambda found: found["evaluation"] == row.evaluation,
        lambda found: found["evaluation_minutes"] / len(found["episodes"]["score"]),
    )
    return None if each is None else each * row.config["episodes"]


def _steps(row: Measured) -> int:
    return row["train"]["steps"]


def _mean(rows: Iterable[Any], like: Callable[[Any], bool], value: Callable[[Any], float]) -> float | None:
    rows = list(rows)
    near = [row for row in rows if like(row)] or rows
    return fmean(map(value, near)) if near else None


def in_words(minutes: Iterable[float | None]) -> str:
    """The sum, as far as it is known."""
    minutes = list(minutes)
    known = [value for value in minutes if value is not None]
    if not known:
        return "for how long, the first measured rows will tell" if minutes else "nothing is left to do"
    hours, rest = divmod(round(sum(known)), 60)
    return f"about {hours} h {rest:02d} min by what was measured so far"
