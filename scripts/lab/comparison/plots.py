"""The plots of a comparison: score against network calls and training minutes; of a suite, tasks × methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from comparison.store import Result
from comparison.suite import Suite
from comparison.tables import SCORE, changed, is_fresh, is_plain, main_metric, published
from diffpolicy.config.commands import EvaluateConfig

GRAY = "0.6"
_COLORS = matplotlib.colormaps["tab20"].colors
_MARKERS = "Ds^vPX<>"  # of what was published
_LINES = ("-", "--", ":", "-.")  # by demonstrations


def draw_calls(path: Path, results: Sequence[Result]) -> None:
    """Draw the main metric against network calls: a line for each run, over what changes the sampler alone."""
    figure, axes = _canvas()
    metric = main_metric(results)
    own = [one for one in results if is_fresh(one) and _executed_as_trained(one) and one["network_calls"]]
    own = [one for one in own if metric in one]
    style = _Style(own)
    for name in dict.fromkeys(one["run"] for one in own):
        line = sorted((one for one in own if one["run"] == name), key=lambda one: one["network_calls"])
        means = [one[metric]["mean"] for one in line]
        below = [max(0.0, one[metric]["mean"] - one[metric]["low"]) for one in line]
        above = [max(0.0, one[metric]["high"] - one[metric]["mean"]) for one in line]
        how = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
        axes.errorbar([one["network_calls"] for one in line], means, [below, above], **how, **style.of(line[0]))
    _show_published(axes, "network_calls", metric)
    axes.set(xscale="log", xlabel="network calls per chunk", ylabel=f"{metric}, fresh initial states")
    _finish(figure, axes, path)


def draw_minutes(path: Path, results: Sequence[Result]) -> None:
    """Draw the main metric against training minutes: points, and its validation on the way there as thin lines."""
    figure, axes = _canvas()
    metric = main_metric(results)
    own = [one for one in results if is_fresh(one) and is_plain(one) and one["parameters"]]  # that were trained
    own = [one for one in own if metric in one]
    style = _Style(own)
    for one in own:
        look = style.of(one)
        axes.plot(one["train"]["minutes"], one[metric]["mean"], marker="o", **{**look, "linestyle": ""})
        _, minutes, scores = zip(*one["train"]["validation"]["curve"], strict=True)
        axes.plot(minutes, scores, linewidth=0.8, alpha=0.6, color=look["color"], linestyle=look["linestyle"])
    _show_published(axes, "minutes", metric)
    axes.set(xscale="log", xlabel="training, minutes", ylabel=f"{metric} (lines: validation, 50 seeds)")
    _finish(figure, axes, path)


def draw_heat_map(path: Path, results: Sequence[Result]) -> None:
    """Draw success at any step as colors and in percent: tasks × methods, and below a gap their means."""
    suite = Suite(results)
    columns = list(suite.methods)
    shown = np.full((len(suite.tasks) + 2, len(columns)), np.nan)  # the gap, and the means
    for j, cells in enumerate(suite.methods.values()):
        for i, task in enumerate(suite.tasks):
            if task in cells and (values := cells[task].values()):
                shown[i, j] = np.mean(values)
        shown[-1, j] = np.nanmean(shown[:-2, j]) if np.isfinite(shown[:-2, j]).any() else np.nan
    figure = Figure(figsize=(3.2 + 1.1 * len(columns), 1.6 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            color = "black" if value > 0.5 else "white"
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=9)
    rows = [i for i in range(len(shown)) if i != len(suite.tasks)]
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_yticks(rows, [*suite.tasks, "mean"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="success at any step", format=PercentFormatter(1), fraction=0.05)
    figure.savefig(path, dpi=110)


class _Style:
    """A color for each training and a line style for each set of demonstrations, each in the legend once."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._trainings = list(dict.fromkeys(one["training"] for one in results))
        self._demonstrations = list(dict.fromkeys(one["demonstrations"]["name"] for one in results))
        self._named: set[str] = set()

    def of(self, one: Result) -> dict[str, Any]:
        training, data = one["training"], one["demonstrations"]["name"]
        label = f"{training}, {data}"
        look = {
            "color": _COLORS[self._trainings.index(training) % len(_COLORS)],
            "linestyle": _LINES[self._demonstrations.index(data) % len(_LINES)],
            "markerfacecolor": None if data == self._demonstrations[0] else "white",
            "label": "_" if label in self._named else label,
        }
        self._named.add(label)
        return look


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    return figure, figure.subplots()


def _executed_as_trained(one: Result) -> bool:
    return not {"action_horizon", *EvaluateConfig().execution} & set(changed(one))


def _show_published(axes: Axes, name: str, metric: str) -> None:
    """Gray points, of the publications that tell what the axis shows; they are scores."""
    if metric != SCORE:
        return
    shown = [entry for entry in published() if name in entry and not isinstance(entry["score"], list)]
    for marker, entry in zip(_MARKERS, shown, strict=False):
        label = f"{entry['policy']}, {entry['observations']}"
        axes.plot(entry[name], entry["score"], marker=marker, color=GRAY, linestyle="", zorder=1, label=label)


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if any(not label.startswith("_") for label in axes.get_legend_handles_labels()[1]):
        figure.legend(loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=110)
