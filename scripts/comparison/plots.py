"""What a comparison shows as plots: score against network calls, and against training minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from diffpolicy.scripts.comparison.store import Measured
from diffpolicy.scripts.comparison.tables import is_plain, published

GREY = "0.6"
_COLORS = matplotlib.colormaps["tab20"].colors
_MARKERS = "Ds^vPX<>"  # of what was published
_LINES = ("-", "--", ":", "-.")  # by demonstrations


def draw_calls(path: Path, rows: Sequence[Measured]) -> None:
    """Score against network calls: a line for each run that makes any, of what changes the sampler alone."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    own = [row for row in rows if _on_fresh(row) and _executed_plainly(row["settings"]) and row["network_calls"]]
    style = _Style(own)
    for name in dict.fromkeys(row["run"] for row in own):
        line = sorted((row for row in own if row["run"] == name), key=lambda row: row["network_calls"])
        means = [row["score"]["mean"] for row in line]
        below = [max(0.0, row["score"]["mean"] - row["score"]["low"]) for row in line]
        above = [max(0.0, row["score"]["high"] - row["score"]["mean"]) for row in line]
        how = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
        axes.errorbar([row["network_calls"] for row in line], means, [below, above], **how, **style.of(line[0]))
    _show_published(axes, "network_calls")
    axes.set(xscale="log", xlabel="network calls a chunk", ylabel="score, fresh initial states")
    _finish(figure, axes)
    figure.savefig(path, dpi=110)


def draw_minutes(path: Path, rows: Sequence[Measured]) -> None:
    """Score against training minutes: points, with the validation scores on the way there as thin lines."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    own = [row for row in rows if _on_fresh(row) and is_plain(row) and row["parameters"]]  # that were trained
    style = _Style(own)
    for row in own:
        look = style.of(row)
        axes.plot(row["train"]["minutes"], row["score"]["mean"], marker="o", **{**look, "linestyle": ""})
        _, minutes, scores = zip(*row["train"]["validation"]["curve"], strict=True)
        axes.plot(minutes, scores, linewidth=0.8, alpha=0.6, color=look["color"], linestyle=look["linestyle"])
    _show_published(axes, "minutes")
    axes.set(xscale="log", xlabel="training, minutes", ylabel="score (lines: validation, 50 seeds)")
    _finish(figure, axes)
    figure.savefig(path, dpi=110)


class _Style:
    """A colour for each training and a line for each set of demonstrations, each named once."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        self._trainings = list(dict.fromkeys(row["training"] for row in rows))
        self._demonstrations = list(dict.fromkeys(row["demonstrations"]["name"] for row in rows))
        self._named: set[str] = set()

    def of(self, row: Measured) -> dict[str, Any]:
        training, data = row["training"], row["demonstrations"]["name"]
        label = f"{training}, {data}"
        look = {
            "color": _COLORS[self._trainings.index(training) % len(_COLORS)],
            "linestyle": _LINES[self._demonstrations.index(data) % len(_LINES)],
            "markerfacecolor": None if data == self._demonstrations[0] else "white",
            "label": "_" if label in self._named else label,
        }
        self._named.add(label)
        return look


def _on_fresh(row: Measured) -> bool:
    return row["command"] == "evaluate" and row["settings"]["seeds"] != "paper"


def _executed_plainly(settings: Mapping[str, Any]) -> bool:
    bound = {key: value for key, value in settings["execution"].items() if value not in (None, "random")}
    return settings["action_horizon"] is None and not bound


def _show_published(axes: Axes, name: str) -> None:
    """Grey points, of the rows that say what the axis shows."""
    shown = [row for row in published() if name in row and not isinstance(row["score"], list)]
    for marker, row in zip(_MARKERS, shown, strict=False):
        label = f"{row['policy']}, {row['observations']}"
        axes.plot(row[name], row["score"], marker=marker, color=GREY, linestyle="", zorder=1, label=label)


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if any(not label.startswith("_") for label in axes.get_legend_handles_labels()[1]):
        figure.legend(loc="outside right upper", fontsize=7)
