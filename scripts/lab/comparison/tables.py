"""The tables of a comparison, from its results and from what others have published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from comparison.store import Result, config_of, modes_of, settings_of
from diffpolicy.config.commands import EvaluateConfig
from text_tables import PERCENT, interval, markdown

PUBLISHED_FILE = Path(__file__).resolve().parents[1] / "configs" / "published.yaml"
SCORE = "score"
"""The main metric of Push-T and of what was published of it."""

PUBLISHED, MEAN = "published", "mean"
NOTHING = "Nothing is measured yet."

_RUN = "policy | demonstrations | seed"
_SCORES = "score | final coverage | success"
_MODES = "starts | success | modes: demonstrations | rollouts | distance"
_COSTS = "calls / actions | chunk, ms"
_MEASURED = f"{_RUN} | {_SCORES} | validation: best, mean of last | {_COSTS} | training, min | parameters | protocol"
_FORMS = {"score": "{:.3f}", "final_coverage": "{:.3f}", "success": PERCENT}
HEADLINE = (
    ("flow", "fresh"),
    ("flow", "pictures"),
    ("mean_flow", "calls_2"),
    ("mean_flow", "fresh"),
    ("ddpm", "fresh"),
    ("flow_before", "fresh"),
    ("two_step", "fresh"),
    ("regression", "fresh"),
)
"""Trainings and evaluations that stand in README.md."""

_TRANSFORMS = {"mirror": "mirrored", "align": "aligned"}


@dataclass(frozen=True)
class Line:
    """A line of a table; `kind` is "" for one result, `MEAN` for the mean of several, or `PUBLISHED`."""

    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title, an explanation, and the names of its columns, "a | b | c"."""

    title: str
    says: str
    header: str
    lines: Sequence[Line]

    def markdown(self) -> str:
        """Return it as Markdown: means in bold, published figures in italics."""
        if not self.lines:
            return NOTHING
        marks = {"": "", MEAN: "**", PUBLISHED: "*"}
        cells = [[f"{marks[line.kind]}{c}{marks[line.kind]}" if c else "" for c in line.cells] for line in self.lines]
        return markdown(self.header, cells)


def published() -> list[dict[str, Any]]:
    """Return what others have published of Push-T, see configs/published.yaml."""
    return yaml.safe_load(PUBLISHED_FILE.read_text())["rows"]


def is_plain(result: Result) -> bool:
    """Whether a policy was evaluated as it was trained to be: no other sampler, horizon or execution."""
    return modes_of(result) is None and not changed(result)


def is_fresh(result: Result) -> bool:
    """Whether the initial states were fresh seeds, neither the paper's nor ones that chose a checkpoint."""
    return modes_of(result) is None and not isinstance(settings_of(result).seeds, str)


def main_metric(results: Sequence[Result]) -> str:
    """Return the metric that plots show: the score where there is one, else the first metric of a result."""
    if not results or any(SCORE in one for one in results):
        return SCORE
    return next(name for name in results[0]["episodes"] if name in results[0])


def changed(result: Result) -> dict[str, Any]:
    """Return the settings by which an evaluation changed the policy."""
    settings, default = settings_of(result), EvaluateConfig()
    names = ("solver", "steps", "grid", "action_horizon", "weights")
    now, before = ({name: vars(one)[name] for name in names} for one in (settings, default))
    now |= {**settings.solver_options, **settings.execution}
    before |= default.execution
    told = {"estimator": result["estimator"]["training"]} if "estimator" in result else {}
    return told | {name: value for name, value in now.items() if value != before.get(name)}


def _as_typed(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def tables(results: Sequence[Result]) -> dict[str, Table]:
    """Return all tables of results that are not of a suite, by the names of their markers in docs/comparison.md."""
    results = [one for one in results if "task" not in one]
    plain = [one for one in results if is_plain(one)]
    others = [one for one in results if modes_of(one) is None and not is_plain(one)]
    return {
        "comparison": _measured(
            "Policies, on fresh initial states",
            "95% intervals over episodes; means over training seeds with their lowest and highest.",
            [one for one in plain if is_fresh(one)],
            "fresh",
        ),
        "comparison_paper": _measured(
            "Policies, on the paper's 50 initial states",
            "Reset as in the paper, to be read beside what was published; 50 episodes leave wide intervals.",
            [one for one in plain if not is_fresh(one)],
            "paper",
        ),
        "comparison_settings": Table(
            "The same policies with other samplers and execution",
            "Solver steps, the action horizon, and temporal consistency between chunks.",
            f"{_RUN} | evaluation | settings | {_SCORES} | {_COSTS}",
            [line for group in _groups(others) for line in _with_settings(group)],
        ),
        "comparison_differences": Table(
            "Paired differences",
            "First minus second, on the same initial states, with 95% bootstrap intervals.",
            "first | second | episodes | score | final coverage | success",
            list(_differences(results)),
        ),
        "comparison_modes": Table(
            "Tasks with several modes",
            "Fractions of the modes among rollouts, and their total variation distance from the demonstrations'.",
            f"{_RUN} | {_MODES} | {_COSTS}",
            [Line([*_of(one), *cells, *_cost(one)]) for one, cells in _modes(results)],
        ),
    }


def summary(results: Sequence[Result]) -> str:
    """Return a Markdown table of the policies on fresh initial states: means over training seeds, with their range.

    Other samplers and execution are included where several training seeds were evaluated with them.
    """
    cells = []
    for group in _groups([one for one in results if is_fresh(one)]):
        if len(group) == 1 and not is_plain(group[0]):
            continue
        policy, demonstrations, _ = _of(group[0])
        own = [", ".join([policy, *_as_typed(changed(group[0]))]), demonstrations, str(len(group))]
        scores = _spreads(group) if len(group) > 1 else _scores(group[0])
        cells.append([*own, *scores, calls(group[0]), f"{_minutes(group):.1f}"])
    return markdown(f"policy | demonstrations | training seeds | {_SCORES} | calls / actions | training, min", cells)


def headline(results: Sequence[Result]) -> str:
    """Return the Markdown table of README.md: the methods of `HEADLINE`, trained on all human demonstrations."""
    cells = []
    for training, evaluation in HEADLINE:
        group = [
            one
            for one in results
            if (one["training"], one["demonstrations"]["name"], one["evaluation"]) == (training, "206", evaluation)
        ]
        name = ", ".join([training, *_as_typed(changed(group[0]))])
        scores = dict(zip(_FORMS, _spreads(group) if len(group) > 1 else _scores(group[0]), strict=True))
        count, minutes = str(group[0]["network_calls"]), f"{_minutes(group):.0f}"
        cells.append([f"`{name}`", count, scores["score"], scores["success"], minutes])
    return markdown("method | network calls | score | success | training, min of one core", cells)


def modes_summary(results: Sequence[Result]) -> str:
    """Return a Markdown table of the tasks with several modes."""
    lines = [[one["training"].replace("_", ", ", 1), *cells] for one, cells in _modes(results)]
    return markdown(f"task, policy | {_MODES}", lines)


def _groups(results: Sequence[Result]) -> Iterable[list[Result]]:
    """The results that differ by the training seed alone."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one["training"], one["demonstrations"]["name"], one["evaluation"]), []).append(one)
    return groups.values()


def _spreads(group: Sequence[Result]) -> Iterator[str]:
    """Mean and range of each metric over training seeds; empty for a metric that they do not all have."""
    for name, form in _FORMS.items():
        if not all(name in one for one in group):
            yield ""
            continue
        means = [one[name]["mean"] for one in group]
        mean, low, high = (form.format(value) for value in (fmean(means), min(means), max(means)))
        yield f"{mean} ({low} to {high})"


def _measured(title: str, says: str, results: Sequence[Result], beside: str) -> Table:
    lines = []
    for group in _groups(results):
        lines += [Line([*_of(one), *_scores(one), _validation(one), *_cost(one), *_training(one)]) for one in group]
        if len(group) > 1:
            lines.append(_mean(group))
    if lines:
        lines += [_published_line(entry) for entry in published() if entry["beside"] == beside]
    return Table(title, says, _MEASURED, lines)


def _with_settings(group: Sequence[Result]) -> Iterator[Line]:
    """The lines of an evaluation that changed something of the policy, and the mean of several training seeds."""
    how = [group[0]["evaluation"], ", ".join(_as_typed(changed(group[0])))]
    for one in group:
        yield Line([*_of(one), *how, *_scores(one), *_cost(one)])
    if len(group) > 1:
        own = [*_of(group[0])[:2], f"mean of {len(group)}"]
        yield Line([*own, *how, *_spreads(group), calls(group[0]), ""], MEAN)


def _of(one: Result) -> list[str]:
    count, data = one["demonstrations"], config_of(one).dataset
    words = [word for name, word in _TRANSFORMS.items() if name in data.transforms]
    words += ["weighted"] if data.time_to_success else []
    return [
        one["training"],
        ", ".join([f"{count['trained']} (+{count['held_out']} held out)", *words]),
        str(one["seed"]),
    ]


def _scores(one: Result) -> list[str]:
    return [interval(one[name], form) if name in one else "" for name, form in _FORMS.items()]


def _validation(one: Result) -> str:
    found = one["train"]["validation"]
    return f"{found['best']:.3f}, {found['last']:.3f} (of {found['of_last']})"


def _cost(one: Result) -> list[str]:
    return [calls(one), f"{1e3 * one['latency']['median']:.1f}"]


def calls(one: Result) -> str:
    """Return network calls per chunk, and how many of its actions are executed, "10 / 8"."""
    executed = settings_of(one).action_horizon or config_of(one).policy.action_horizon
    return f"{one['network_calls']} / {executed}"


def _training(one: Result) -> list[str]:
    return [f"{one['train']['minutes']:.1f}", f"{one['parameters'] / 1e6:.2f} M", one["protocol"]]


def _minutes(group: Sequence[Result]) -> float:
    """Of training, the estimator's included."""
    return fmean(one["train"]["minutes"] + one.get("estimator", {}).get("minutes", 0) for one in group)


def _mean(group: Sequence[Result]) -> Line:
    """Of training seeds: not an interval, but the range of the runs."""
    validation = [fmean(one["train"]["validation"][name] for one in group) for name in ("best", "last")]
    own = [*_of(group[0])[:2], f"mean of {len(group)}", *_spreads(group), "{:.3f}, {:.3f}".format(*validation)]
    return Line([*own, calls(group[0]), "", f"{_minutes(group):.1f}", "", ""], MEAN)


def _published_line(entry: Mapping[str, Any]) -> Line:
    """A line of published figures; what was not published stays empty."""

    def text(name: str, form: str = "{}") -> str:
        value = entry.get(name)
        if value is None:
            return ""
        return "–".join(form.format(v) for v in (value if isinstance(value, list) else [value]))

    policy = f"{entry['policy']}, {entry['observations']}"
    scores = [text("score", "{:.3f}" if entry.get("digits") == 3 else "{:.2f}"), "", text("success", PERCENT)]
    last = f"last: {entry['last']:.2f}" if "last" in entry else ""
    cells = [policy, text("demonstrations"), text("seeds"), *scores, last, text("network_calls"), "", text("minutes")]
    return Line([*cells, "", f"{entry['protocol']}; {entry['source']}"], PUBLISHED)


def _differences(results: Sequence[Result]) -> Iterator[Line]:
    signed = {"score": "{:+.3f}", "final_coverage": "{:+.3f}", "success": "{:+.1%}"}
    for one in results:
        for other, found in one["differences"].items():
            values = [interval(found[name], form) if name in found else "" for name, form in signed.items()]
            yield Line([one["row"], other, str(found["episodes"]), *values])


def _modes(results: Sequence[Result]) -> Iterator[tuple[Result, list[str]]]:
    """The results that measured mode coverage, each twice, with cells for `_MODES`."""
    for one in results:
        for where, starts in (("all_starts", "all"), ("fixed_start", "one")):
            if (found := (modes_of(one) or {}).get(where)) is None:
                continue
            fractions = [_fractions(found[who]) for who in ("demonstrations", "rollouts")]
            success = interval(found["success"], PERCENT)
            yield one, [starts, success, *fractions, f"{found['total_variation']:.3f}"]


def _fractions(found: Mapping[str, Any]) -> str:
    fractions = found.get("fractions") or found["shares"]  # of earlier releases
    return ", ".join(f"{mode} {part:.0%}" for mode, part in fractions.items() if mode != "none" or part)
