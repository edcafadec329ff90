"""A run by the wall clock as one page to open in a browser: its clock, its chunks, its actions, its film."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffpolicy.control.runner import Report
from diffpolicy.evaluation.report import image_section, write_document
from diffpolicy.util.pages import embedded

_DPI = 110
_MOST = 8  # numbers of an action that are drawn
_CAPTION = (
    "Above, how long each step took from its start to the next one. In the middle, of every chunk, how many steps "
    "passed before it took effect, and for how many it was planned. Below, the actions as they were carried out: a "
    "line where a chunk took over, gray where the robot held, a dot where the guard changed an action."
)

_LEGEND = (
    "chunks: planned; late: of which none of the actions was left when they came; holds: steps without an action, "
    "those before the first chunk among them; over_budget: steps that took longer than their period; stops: by the "
    "watchdog; interventions: of the guard, by what they mended."
)


def draw_run(path: Path, report: Report) -> None:
    """Draw periods, delays and actions of a run against the step.

    Args:
        path: of the PNG file.
        report: of a run of at least one step.
    """
    actions = np.array(report.actions)
    shown = min(actions.shape[1], _MOST)
    figure = Figure(figsize=(11, 3.6 + 1.5 * shown), layout="constrained")
    panels = figure.subplots(2 + shown, 1, sharex=True, height_ratios=[1.2, 1, *[1.3] * shown])
    periods = 1e3 * np.diff(report.starts)
    panels[0].plot(np.arange(len(periods)), periods, color="slategray", linewidth=0.8)
    panels[0].axhline(1e3 / report.rate, color="tab:green", linewidth=0.8)
    panels[0].set_ylabel("period, ms")
    panels[0].set_ylim(0, max(2e3 / report.rate, 1.05 * max(periods, default=0)))
    panels[1].plot(report.arrivals, report.delays, ".", color="tab:blue", label="took")
    panels[1].step(report.asked, report.planned, where="post", color="tab:orange", linewidth=0.9, label="planned")
    panels[1].yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[1].set_ylabel("delay, steps")
    panels[1].legend(loc="upper right", fontsize=8)
    for number, axes in enumerate(panels[2:]):
        _draw_action(axes, report, actions[:, number])
        axes.set_ylabel(f"action[{number}]")
    panels[-1].set_xlabel("step")
    figure.savefig(path, dpi=_DPI)


def _draw_action(axes: Axes, report: Report, values: np.ndarray) -> None:
    for step in report.held:
        axes.axvspan(step - 0.5, step + 0.5, color="0.8", linewidth=0)
    for step in report.borders:
        axes.axvline(step, color="tab:blue", linewidth=0.4, alpha=0.6)
    axes.plot(np.arange(len(values)), values, color="black", linewidth=0.9)
    axes.plot(report.changed, values[report.changed], ".", color="tab:red", markersize=4)


def write_page(path: Path, result: Mapping[str, Any], drawn: Path, film: Path | None, no_film: str | None) -> None:
    """Write the page of a run.

    Args:
        path: of the HTML file.
        result: contents of drive.json.
        drawn: what `draw_run` drew.
        film: of the first episode; None if there is none.
        no_film: why not.
    """
    runs, jitter = result["runs"], result["jitter_ms"]
    done = [run["success"] for run in runs if run.get("success") is not None]
    rates = [run["rate"] for run in runs if run["rate"]]
    figures = {
        "Hz, true rate": f"{np.mean(rates):.2f}" if rates else "—",
        "ms, period off by, p99": f"{jitter['p99']:.2f}" if jitter else "—",
        "steps, delay of a chunk": _range(result["delays"]),
        "holds after the first chunk": str(result["holds_after_the_first_chunk"]),
        "guard's changes": str(sum(run["changed"] for run in runs)),
        "successes": f"{sum(done)} of {len(done)}" if done else "—",
    }
    settings = result["settings"]
    who = settings["server"] or settings["checkpoint"]
    env = result["env"]["id"] or result["env"]["factory"]
    asked = f"{who}, {env}, {result['rate']:g} steps a second, seeds from {settings['seed']} on"
    columns = ["seed", "success", "steps", "rate", "chunks", "late", "holds", "over_budget", "stops", "interventions"]
    parts = [
        Markup("<h1>{}</h1><p>{}</p>").format("Driven by the wall clock", asked),
        Markup('<div class="figures">{}</div>').format(Markup("").join(_figure(*one) for one in figures.items())),
        _film(film, no_film),
        image_section("The first episode", drawn, _CAPTION),
        Markup("<h2>All episodes</h2><table>{}{}</table>").format(
            _row(columns), Markup("").join(_row([_said(run.get(name)) for name in columns]) for run in runs)
        ),
        Markup('<p class="small">{}</p>').format(_LEGEND),
        Markup('<p class="small">{}, {}, commit {}</p>').format(
            result["processor"], ", ".join(f"{k} {v}" for k, v in result["versions"].items()), result["commit"]
        ),
    ]
    write_document(path, f"{env} by the wall clock", parts)


def _figure(says: str, value: str) -> Markup:
    return Markup('<div class="figure"><b>{}</b>{}</div>').format(value, says)


def _film(film: Path | None, why_not: str | None) -> Markup:
    if film is None:
        return Markup("<p>No film: {}.</p>").format((why_not or "").rstrip("."))
    says = "The first episode; its actions were carried out once more for the film, so that drawing slowed no step."
    video = '<figure><video controls loop muted src="{}"></video><figcaption>{}</figcaption></figure>'
    return Markup(f'<div class="videos">{video}</div>').format(embedded(film, "video/mp4"), says)


def _row(values: list[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(one) for one in values))


def _range(delays: Mapping[str, int]) -> str:
    steps = [int(one) for one in delays]
    return "—" if not steps else f"{min(steps)}" if len(steps) == 1 else f"{min(steps)} to {max(steps)}"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} × {what}" for what, count in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.2f}"
    return {True: "yes", False: "no", None: "—"}[value] if isinstance(value, bool | None) else str(value)
