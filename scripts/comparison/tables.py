"""The tables of a comparison, from its rows and the published figures: as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from statistics import fmean
from typing import Any

import yaml

from diffpolicy.scripts.comparison.store import Measured
from diffpolicy.scripts.image_tables import interval, markdown

_RUN = "policy | demonstrations | seed"
_SCORES = "score | final coverage | success"
_WAYS = "starts | success | ways: demonstrations | rollouts | distance"
_COSTS = "calls / actions | chunk, ms"
_MEASURED = f"{_RUN} | {_SCORES} | validation: best, mean of last | {_COSTS} | training, min | parameters | protocol"
PUBLISHED, MEAN = "published", "mean"
NAMES = ("comparison", "comparison_paper", "comparison_settings", "comparison_differences", "comparison_ways")


@dataclass(frozen=True)
class Line:
    """A line of a table; `kind` is "" for a measured row, `MEAN` of several of them, or `PUBLISHED`."""

    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its header given as "a | b | c"."""

    title: str
    says: str
    header: str
    lines: Sequence[Line]

    def markdown(self) -> str:
        """What was published in italics; a table without lines says so."""
        if not self.lines:
            return "Nothing is measured yet."
        marks = {"": "", MEAN: "**", PUBLISHED: "*"}
        cells = [[f"{marks[line.kind]}{c}{marks[line.kind]}" if c else "" for c in line.cells] for line in self.lines]
        return markdown(self.header, cells)

    def html(self) -> str:
        """What was published in grey."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header.split(" | "))
        lines = [
            f'<tr class="{line.kind}">{"".join(f"<td>{escape(cell)}</td>" for cell in line.cells)}</tr>'
            for line in self.lines
        ]
        table = f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
        return f'<h2>{escape(self.title)}</h2><p class="small">{escape(self.says)}</p>{table}'


def published() -> list[dict[str, Any]]:
    """What others have published of Push-T, see configs/published.yaml."""
    return yaml.safe_load((files("diffpolicy.configs") / "published.yaml").read_text())["rows"]


def is_plain(row: Measured) -> bool:
    """Whether a policy was evaluated as it was trained to be: no other sampler, horizon or execution."""
    return row["command"] == "evaluate" and not _changed(row["settings"])


def _changed(settings: Mapping[str, Any]) -> list[str]:
    """What an evaluation changed of the policy, as "name=value"."""
    flat = {key: settings.get(key) for key in ("solver", "steps", "grid", "action_horizon", "weights")}
    flat |= settings.get("solver_options", {}) | settings["execution"]
    default = {None, "random", "ema"}
    return [f"{key}={value}" for key, value in flat.items() if isinstance(value, list) or value not in default]


def tables(rows: Sequence[Measured]) -> dict[str, Table]:
    """All tables by `NAMES`, which are those of their markers in docs/comparison.md."""
    plain = [row for row in rows if is_plain(row)]
    fresh = [row for row in plain if row["settings"]["seeds"] != "paper"]
    paper = [row for row in plain if row["settings"]["seeds"] == "paper"]
    others = [row for row in rows if row["command"] == "evaluate" and not is_plain(row)]
    made = (
        _measured(
            "Policies, on fresh initial states",
            "95% intervals over episodes; the mean of several training seeds with their lowest and highest.",
            fresh,
            "fresh",
        ),
        _measured(
            "Policies, on the paper's 50 initial states",
            "Set in the paper's way, to be read beside what was published; 50 episodes leave wide intervals.",
            paper,
            "paper",
        ),
        Table(
            "The same policies, sampled and executed otherwise",
            "Solver steps, the action horizon and what binds a chunk to those before it.",
            f"{_RUN} | evaluation | settings | {_SCORES} | {_COSTS}",
            [line for group in _groups(others) for line in _otherwise(group)],
        ),
        Table(
            "Paired differences",
            "Row minus other row, on the same initial states, with 95% bootstrap intervals.",
            "row | other row | episodes | score | final coverage | success",
            list(_differences(rows)),
        ),
        Table(
            "Tasks with several right answers",
            "Shares of the ways among rollouts, and their total variation from the demonstrations'.",
            f"{_RUN} | {_WAYS} | {_COSTS}",
            [Line([*_of(row), *cells, *_cost(row)]) for row, cells in _ways(rows)],
        ),
    )
    return dict(zip(NAMES, made, strict=True))


def summary(rows: Sequence[Measured]) -> str:
    """A Markdown table of the policies on fresh initial states; of several training seeds their mean and range.

    With what else was evaluated of several training seeds.
    """
    fresh = [row for row in rows if row["command"] == "evaluate" and row["settings"]["seeds"] != "paper"]
    cells = []
    for group in _groups(fresh):
        if len(group) == 1 and not is_plain(group[0]):
            continue
        policy, demonstrations, _ = _of(group[0])
        own = [", ".join([policy, *_changed(group[0]["settings"])]), demonstrations, str(len(group))]
        scores = _spreads(group) if len(group) > 1 else _scores(group[0])
        minutes = fmean(row["train"]["minutes"] for row in group)
        cells.append([*own, *scores, _calls(group[0]), f"{minutes:.1f}"])
    return markdown(f"policy | demonstrations | training seeds | {_SCORES} | calls / actions | training, min", cells)


def ways_summary(rows: Sequence[Measured]) -> str:
    """A Markdown table of the tasks with several right answers."""
    return markdown(
        f"task, policy | {_WAYS}", [[row["training"].replace("_", ", ", 1), *c] for row, c in _ways(rows)]
    )


def _groups(rows: Sequence[Measured]) -> Iterable[list[Measured]]:
    """The rows that differ by the training seed alone."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for row in rows:
        groups.setdefault((row["training"], row["demonstrations"]["name"], row["evaluation"]), []).append(row)
    return groups.values()


def _spreads(group: Sequence[Measured]) -> Iterable[str]:
    """Mean and range of each score over training seeds."""
    for name, form in (("score", "{:.3f}"), ("final_coverage", "{:.3f}"), ("success", "{:.1%}")):
        means = [row[name]["mean"] for row in group]
        mean, low, high = (form.format(value) for value in (fmean(means), min(means), max(means)))
        yield f"{mean} ({low} to {high})"


def _measured(title: str, says: str, rows: Sequence[Measured], beside: str) -> Table:
    lines = []
    for group in _groups(rows):
        lines += [Line([*_of(row), *_scores(row), _validation(row), *_cost(row), *_training(row)]) for row in group]
        if len(group) > 1:
            lines.append(_mean(group))
    if lines:
        lines += [_line(row) for row in published() if row["beside"] == beside]
    return Table(title, says, _MEASURED, lines)


def _otherwise(group: Sequence[Measured]) -> Iterable[Line]:
    """Of an evaluation that changed something of the policy: its rows, and the mean of several training seeds."""
    how = [group[0]["evaluation"], ", ".join(_changed(group[0]["settings"]))]
    for row in group:
        yield Line([*_of(row), *how, *_scores(row), *_cost(row)])
    if len(group) > 1:
        own = [*_of(group[0])[:2], f"mean of {len(group)}"]
        yield Line([*own, *how, *_spreads(group), _calls(group[0]), ""], MEAN)


def _of(row: Measured) -> list[str]:
    data, config = row["demonstrations"], row["config"]["dataset"]
    count = f"{data['trained']} (+{data['held_out']} held out)"
    for name, how in (("mirror", "mirrored"), ("align", "aligned"), ("pace", "by pace")):
        count += f", {how}" if config.get(name) else ""
    return [row["training"], count, str(row["seed"])]


def _scores(row: Measured) -> list[str]:
    return [interval(row["score"]), interval(row["final_coverage"]), interval(row["success"], percent=True, digits=1)]


def _validation(row: Measured) -> str:
    found = row["train"]["validation"]
    return f"{found['best']:.3f}, {found['last']:.3f} (of {found['of_last']})"


def _cost(row: Measured) -> list[str]:
    return [_calls(row), f"{1e3 * row['latency']['median']:.1f}"]


def _calls(row: Measured) -> str:
    """Network calls for a chunk, and how many actions of it are executed."""
    return (
        f"{row['network_calls']} / {row['settings']['action_horizon'] or row['config']['policy']['action_horizon']}"
    )


def _training(row: Measured) -> list[str]:
    return [f"{row['train']['minutes']:.1f}", f"{row['parameters'] / 1e6:.2f} M", row["protocol"]]


def _mean(group: Sequence[Measured]) -> Line:
    """Of training seeds: not an interval, but the range of the runs."""
    validation = [fmean(row["train"]["validation"][name] for row in group) for name in ("best", "last")]
    minutes = fmean(row["train"]["minutes"] for row in group)
    own = [*_of(group[0])[:2], f"mean of {len(group)}", *_spreads(group), "{:.3f}, {:.3f}".format(*validation)]
    return Line([*own, _calls(group[0]), "", f"{minutes:.1f}", "", ""], MEAN)


def _line(row: Mapping[str, Any]) -> Line:
    """A published row; what was not published stays empty."""

    def text(name: str, form: str = "{}") -> str:
        value = row.get(name)
        return (
            "" if value is None else "–".join(form.format(v) for v in (value if isinstance(value, list) else [value]))
        )

    policy = f"{row['policy']}, {row['observations']}"
    scores = [text("score", "{:.3f}" if row.get("digits") == 3 else "{:.2f}"), "", text("success", "{:.1%}")]
    last = f"last: {row['last']:.2f}" if "last" in row else ""
    cells = [policy, text("demonstrations"), text("seeds"), *scores, last, text("network_calls"), "", text("minutes")]
    return Line([*cells, "", f"{row['protocol']}; {row['source']}"], PUBLISHED)


def _differences(rows: Sequence[Measured]) -> Iterable[Line]:
    for row in rows:
        for other, found in row["differences"].items():
            values = [_signed(found[name]) for name in ("score", "final_coverage")]
            yield Line([row["row"], other, str(found["episodes"]), *values, _signed(found["success"], percent=True)])


def _signed(value: Mapping[str, float], percent: bool = False) -> str:
    form = "{:+.1%}" if percent else "{:+.3f}"
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _ways(rows: Sequence[Measured]) -> Iterable[tuple[Measured, list[str]]]:
    """The rows that measured ways, each twice, with cells for `_WAYS`."""
    for row in rows:
        for where, starts in (("all_starts", "all"), ("fixed_start", "one")):
            if (found := row.get("ways", {}).get(where)) is None:
                continue
            shares = [_shares(found[who]["shares"]) for who in ("demonstrations", "rollouts")]
            success = interval(found["success"], percent=True, digits=1)
            yield row, [starts, success, *shares, f"{found['total_variation']:.3f}"]


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{way} {share:.0%}" for way, share in shares.items() if way != "none" or share)
