"""What the reference benchmark shows as pictures: quality against network calls, and against the guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MEASURES = {
    "frechet": ("Fréchet distance to test digits", lambda row: row["frechet"]),
    "accuracy": ("accuracy of the digit asked for", lambda row: row["accuracy"]),
    "diversity": ("diversity, 1 as real digits", lambda row: {"mean": row["diversity"]["mean"]}),
}
_MARKERS = "os^vDPX"


def draw_benchmark(out: Path, result: Mapping[str, Any]) -> None:
    """Write `calls.png` and `guidance.png` from the contents of `benchmark.json`."""
    _draw_calls(out / "calls.png", result)
    _draw_guidance(out / "guidance.png", result)


def _draw_calls(path: Path, result: Mapping[str, Any]) -> None:
    rows = [row for row in result["rows"] if row["run"] == "own" and row["guidance"] == 3]
    if not rows:
        return
    fewest = min(row["samples"] for row in rows)
    rows = [row for row in rows if row["samples"] == fewest]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (name, (label, of)) in zip(figure.subplots(1, 3), _MEASURES.items(), strict=True):
        for marker, sampler in zip(_MARKERS, dict.fromkeys(row["sampler"] for row in rows), strict=False):
            own = sorted((r for r in rows if r["sampler"] == sampler), key=lambda row: row["network_calls"])
            calls, means = [row["network_calls"] for row in own], [of(row)["mean"] for row in own]
            axes.plot(calls, means, marker=marker, label=sampler)
        axes.set(xscale="log", xlabel="network calls (two per guided evaluation)", ylabel=label)
        _finish(axes, name, of(result["floors"][str(fewest)])["mean"])
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"w = 3, {fewest} digits a point")
    figure.savefig(path, dpi=110)


def _draw_guidance(path: Path, result: Mapping[str, Any]) -> None:
    most = max(row["samples"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["samples"] == most]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, (name, (label, of)) in zip(figure.subplots(1, 3), _MEASURES.items(), strict=True):
        for marker, run in zip(_MARKERS, dict.fromkeys(row["run"] for row in rows), strict=False):
            best: dict[float, Mapping[str, Any]] = {}
            for row in sorted((r for r in rows if r["run"] == run), key=lambda r: -r["frechet"]["mean"]):
                best[row["guidance"]] = row
            scales = sorted(best)
            values = [of(best[scale]) for scale in scales]
            means = [value["mean"] for value in values]
            # Not below 0: Wilson's interval of all or nothing ends there but for rounding.
            below = [max(0.0, value["mean"] - value.get("low", value["mean"])) for value in values]
            above = [max(0.0, value.get("high", value["mean"]) - value["mean"]) for value in values]
            axes.errorbar(scales, means, [below, above], marker=marker, capsize=3, label=run)
        axes.set(xlabel="guidance scale w", ylabel=label)
        _finish(axes, name, of(result["floors"][str(most)])["mean"])
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"{most} digits a draw, by the solver and number of calls with the least distance")
    figure.savefig(path, dpi=110)


def _finish(axes: Axes, name: str, floor: float) -> None:
    """What both pictures show beside the rows: what real digits reach."""
    axes.axhline(floor, color="0.6", linestyle="--", label="other test digits")
    axes.grid(alpha=0.25)
    if name == "frechet":
        axes.set_yscale("log")
