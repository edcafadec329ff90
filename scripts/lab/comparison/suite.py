"""The tables of a suite: tasks × methods, and what each method reaches on the whole suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from comparison.store import Result, episodes_of
from comparison.tables import MEAN, Line, Table, calls
from diffpolicy.util.stats import Interval, stratified_bootstrap, wilson
from text_tables import PERCENT, interval

ANY, END = "success", "success_at_end"

_POINTS = "{:+.1%}"
_SAYS = (
    "Success at any step, in percent of the episodes, with Wilson's 95% intervals. The mean gives every task equal "
    "weight; its interval is by stratified bootstrap, over the episodes of each task. Expert: how many of its own "
    "episodes succeeded when the demonstrations were recorded."
)


@dataclass(frozen=True)
class Cell:
    """What a method reaches on a task.

    Args:
        episodes: seed of training and seed of the episode -> the episode as plain data.
        results: of which they are; several where there are several seeds of training.
    """

    episodes: Mapping[tuple[int, int], Mapping[str, Any]]
    results: Sequence[Result]

    def values(self, name: str = ANY) -> list[float]:
        """Return a kind of success of all episodes; at the end it is success itself where no episode went on."""
        return [float(one.get(name, one[ANY])) for one in self.episodes.values() if ANY in one]


class Suite:
    """The results that name a task, by task and method.

    A method is a training, with its demonstrations and evaluation where a suite has several of them.

    Args:
        results: of a comparison; those without a task are left out.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        found = [one for one in results if "task" in one]
        self.tasks = list(dict.fromkeys(one["task"] for one in found))
        parts = (lambda one: one["demonstrations"]["name"], lambda one: one["evaluation"])
        told = [part for part in parts if len({part(one) for one in found}) > 1]
        groups: dict[str, dict[str, list[Result]]] = {}
        for one in found:
            method = ", ".join([one["training"], *(part(one) for part in told)])
            groups.setdefault(method, {}).setdefault(one["task"], []).append(one)
        self.methods = {name: {task: _cell(of) for task, of in tasks.items()} for name, tasks in groups.items()}

    def expert(self, task: str) -> Interval | None:
        """Return how often the expert succeeds on a task; None where the demonstrations are not the comparison's."""
        notes = (
            one["recording"]
            for cells in self.methods.values()
            for one in (cells[task].results if task in cells else ())
            if "recording" in one
        )
        return next((note["expert"] for note in notes), None)

    def mean(self, method: str, metric: str = ANY) -> Interval | None:
        """Return the mean over a method's tasks, with its stratified bootstrap interval; None without the metric."""
        strata = [values for cell in self.methods[method].values() if (values := cell.values(metric))]
        return stratified_bootstrap(strata) if strata else None

    def difference(self, first: str, second: str) -> Interval | None:
        """Return the mean paired difference first - second, on the tasks and episodes of both; None without any."""
        ours, theirs = self.methods[first], self.methods[second]
        strata = []
        for task in [task for task in ours if task in theirs]:
            a, b = ours[task].episodes, theirs[task].episodes
            if common := [key for key in a if key in b and ANY in a[key]]:
                strata.append([float(a[key][ANY]) - float(b[key][ANY]) for key in common])
        return stratified_bootstrap(strata) if strata else None


def tables(results: Sequence[Result]) -> dict[str, Table]:
    """Return the tables of a suite: its mean by method, and every task by method, at any step and at the end."""
    suite = Suite(results)
    methods = "".join(f" | {name}" for name in suite.methods)
    first = next(iter(suite.methods), "")
    return {
        "suite": Table(
            "The whole suite",
            "Means over tasks of equal weight, with 95% intervals by stratified bootstrap over the episodes of each "
            "task. Difference: paired, on the same initial states. They speak of these tasks and trainings, not of "
            "others.",
            f"method | tasks | success at any step | at the end | points above {first} | calls / actions | chunk, ms"
            " | training, min a task",
            [Line(_summed_up(suite, name, first)) for name in suite.methods],
        ),
        "suite_tasks": Table(f"{len(suite.tasks)} tasks", _SAYS, f"task | expert{methods}", _by_task(suite, ANY)),
        "suite_at_end": Table(
            "The same at the last step",
            "Success at the last step of an episode.",
            f"task{methods}",
            _by_task(suite, END) if any(END in one["episodes"] for one in results if "task" in one) else [],
        ),
    }


def _cell(results: Sequence[Result]) -> Cell:
    episodes = {(one["seed"], episode["seed"]): episode for one in results for episode in episodes_of(one)}
    return Cell(episodes, results)


def _summed_up(suite: Suite, name: str, first: str) -> list[str]:
    results = [one for cell in suite.methods[name].values() for one in cell.results]
    difference = None if name == first else suite.difference(name, first)
    latency = float(np.median([one["latency"]["median"] for one in results]))
    return [
        name,
        f"{len(suite.methods[name])} of {len(suite.tasks)}",
        _text(suite.mean(name)),
        _text(suite.mean(name, END)),
        _text(difference, _POINTS),
        calls(results[0]),
        f"{1e3 * latency:.1f}",
        f"{fmean(one['train']['minutes'] for one in results):.1f}",
    ]


def _by_task(suite: Suite, metric: str) -> list[Line]:
    """A line for each task, and the mean; none if no episode says whether it succeeded."""
    with_expert = metric == ANY
    lines = []
    for task in suite.tasks:
        expert = [_text(suite.expert(task))] if with_expert else []
        cells = [_of_cell(cells[task].values(metric)) if task in cells else "" for cells in suite.methods.values()]
        if any(cells):
            lines.append(Line([task, *expert, *cells]))
    if not lines:
        return []
    experts = [found["mean"] for task in suite.tasks if (found := suite.expert(task))]
    expert = [PERCENT.format(fmean(experts)) if len(experts) == len(suite.tasks) else ""] if with_expert else []
    return [*lines, Line(["mean", *expert, *(_text(suite.mean(name, metric)) for name in suite.methods)], MEAN)]


def _of_cell(values: Sequence[float]) -> str:
    return _text(wilson(round(sum(values)), len(values))) if values else ""


def _text(found: Interval | None, form: str = PERCENT) -> str:
    return "" if found is None else interval(found, form)
