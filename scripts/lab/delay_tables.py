"""What the study of delays found, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from text_tables import PERCENT, interval, markdown

Rows = Sequence[Mapping[str, Any]]

NOTHING = "nothing"


def _kept(rows: Rows, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _remedies(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["remedy"] for row in rows))


def delays(found: Mapping[str, Any]) -> str:
    """Return the table of success and score by remedy, a column for each delay, without errors of the actions."""
    rows = _kept(found["rows"], noise=0.0)
    columns = sorted({row["delay"] for row in rows})
    lines = []
    for remedy in _remedies(rows):
        own = {row["delay"]: row for row in _kept(rows, remedy=remedy)}
        cells = [
            "{:.1%}, {:.3f}".format(*(own[d][name]["mean"] for name in ("success", "score"))) if d in own else "—"
            for d in columns
        ]
        lines.append([f"`{remedy}`", *cells])
    return markdown(" | ".join(["remedy", *(f"delay {delay}" for delay in columns)]), lines)


def one_delay(found: Mapping[str, Any], delay: int = 4) -> str:
    """Return the table of everything that was measured at one delay, beside no delay at all."""
    lines = []
    for row in found["rows"]:
        if row["delay"] not in (0, delay):
            continue
        gain, forms = row.get("difference"), {"success": "{:+.1%}", "score": "{:+.3f}"}
        gains = ["—" if gain is None else interval(gain[name], form) for name, form in forms.items()]
        smooth = [f"{row[name]['mean']:.1f}" for name in ("third_difference", "jump")]
        judged = [interval(row["success"], PERCENT), interval(row["score"])]
        where = [f"`{row['remedy']}`", str(row["delay"]), f"{row['noise']:g}"]
        lines.append([*where, *judged, *gains, *smooth, str(row["network_calls"])])
    header = "remedy | delay | error of actions, px | success | score | success, difference | score, difference | "
    return markdown(header + "third difference, px | jump, px | calls", lines)


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Draw success and score against the delay, a line for each remedy."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    rows = _kept(found["rows"], noise=0.0)
    start = _kept(rows, remedy=NOTHING, delay=0)
    for axes, name in zip(panels, ("success", "score"), strict=True):
        for remedy in _remedies(rows):
            own = _kept(rows, remedy=remedy)
            line = sorted(
                own if any(not row["delay"] for row in own) else [*start, *own], key=lambda row: row["delay"]
            )
            at, means = [row["delay"] for row in line], [row[name]["mean"] for row in line]
            ends = [[abs(row[name][end] - row[name]["mean"]) for row in line] for end in ("low", "high")]
            axes.errorbar(at, means, ends, marker="o", markersize=3, capsize=2, linewidth=1.2, label=remedy)
        axes.set_xlabel("delay, control steps")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
