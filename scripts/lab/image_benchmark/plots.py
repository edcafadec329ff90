"""The plots of the image benchmark: quality against network calls, and against the guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpolicy.util.stats import Interval

_MEASURES = {
    "frechet": "Fréchet distance to test digits",
    "accuracy": "accuracy of the digit asked for",
    "diversity": "diversity, 1 as real digits",
}
_MARKERS = "os^vDPX"


def draw_benchmark(out: Path, result: Mapping[str, Any]) -> None:
    """Write calls.png and guidance.png from the contents of benchmark.json."""
    _draw_calls(out / "calls.png", result)
    _draw_guidance(out / "guidance.png", result)


def _draw_calls(path: Path, result: Mapping[str, Any]) -> None:
    found = [one for one in result["rows"] if one["run"] == "own" and one["guidance"] == 3]
    if not found:
        return
    fewest = min(one["samples"] for one in found)
    found = [one for one in found if one["samples"] == fewest]
    figure, panels = _canvas()
    for name, axes in panels.items():
        for marker, sampler in zip(_MARKERS, dict.fromkeys(one["sampler"] for one in found), strict=False):
            own = sorted((one for one in found if one["sampler"] == sampler), key=lambda one: one["network_calls"])
            means = [_value(one, name)["mean"] for one in own]
            axes.plot([one["network_calls"] for one in own], means, marker=marker, label=sampler)
        axes.set(xscale="log", xlabel="network calls (two per guided evaluation)")
        _finish(axes, name, result["floors"][str(fewest)])
    _save(figure, path, f"w = 3, {fewest} digits per point")


def _draw_guidance(path: Path, result: Mapping[str, Any]) -> None:
    most = max(one["samples"] for one in result["rows"])
    found = [one for one in result["rows"] if one["samples"] == most]
    figure, panels = _canvas()
    for name, axes in panels.items():
        for marker, run in zip(_MARKERS, dict.fromkeys(one["run"] for one in found), strict=False):
            best: dict[float, Mapping[str, Any]] = {}
            for one in sorted((one for one in found if one["run"] == run), key=lambda one: -one["frechet"]["mean"]):
                best[one["guidance"]] = one
            scales = sorted(best)
            values = [_value(best[scale], name) for scale in scales]
            # Not below 0: by rounding, Wilson's interval of all or nothing may end beyond the mean.
            below = [max(0.0, value["mean"] - value.get("low", value["mean"])) for value in values]
            above = [max(0.0, value.get("high", value["mean"]) - value["mean"]) for value in values]
            means = [value["mean"] for value in values]
            axes.errorbar(scales, means, [below, above], marker=marker, capsize=3, label=run)
        axes.set(xlabel="guidance scale w")
        _finish(axes, name, result["floors"][str(most)])
    _save(figure, path, f"{most} digits per draw, by the solver and number of calls with the least distance")


def _canvas() -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    return figure, dict(zip(_MEASURES, figure.subplots(1, len(_MEASURES)), strict=True))


def _value(one: Mapping[str, Any], name: str) -> Interval:
    return {"mean": one[name]["mean"]} if name == "diversity" else one[name]


def _finish(axes: Axes, name: str, floor: Mapping[str, Any]) -> None:
    axes.axhline(_value(floor, name)["mean"], color="0.6", linestyle="--", label="other test digits")
    axes.set(ylabel=_MEASURES[name])
    axes.grid(alpha=0.25)
    if name == "frechet":
        axes.set_yscale("log")


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
