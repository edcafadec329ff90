"""An inspection as one HTML page, and a sheet of trajectories; the pictures are inside the file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from diffpolicy.datasets.inspection.finding import SEVERITIES, plural
from diffpolicy.datasets.inspection.inspect import Inspection
from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.numbers import Numbers
from diffpolicy.datasets.inspection.relations import relations
from diffpolicy.datasets.inspection.text import extent, plain, related
from diffpolicy.util.errors import require
from diffpolicy.util.files import replacing, write_text
from diffpolicy.util.names import check
from diffpolicy.util.pages import embedded, template

_BINS = 40
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_DIMS = 128  # of an array in the tables
_COLUMNS, _LINES = 6, 4  # of a sheet


def write_page(file: Path, inspection: Inspection) -> None:
    """Write the page of an inspection.

    Args:
        file: of the page.
        inspection: what it shows.

    Raises:
        FileExistsError: `file` exists.
    """
    require_new([file])
    m = inspection.measured
    content = {
        "title": inspection.path,
        "seen": inspection.seen,
        "digest": inspection.digest,
        "figures": list(_figures(m)),
        "severities": SEVERITIES,
        "findings": inspection.findings,
        "lengths": _bars(np.histogram(m.lengths, bins=_BINS)[0]) if m.episodes else "",
        "length_range": (int(m.lengths.min()), int(m.lengths.max())) if m.episodes else None,
        "arrays": [_array(m, name) for name in m.arrays],
        "tables": [_table(m, one) for one in _tabled(m)],
        "related": list(related(m)),
        "relations": list(_relations(m)),
        "cameras": [_camera(m, name) for name in m.pictures],
        "sheets": [
            {"name": name, "picture": embedded(_sheet(m, name), "image/png")}
            for name in m.trajectories
            if m.arrays[name].role == "action"
        ],
        "attrs": {key: plain(value) for key, value in inspection.attrs.items()},
    }
    page = template(Path(__file__).parent / "templates", "inspection.html.j2").render(content)
    write_text(file, page)


def draw_sheet(file: Path, inspection: Inspection, key: str = "action") -> None:
    """Draw the first two numbers of an array over time, for episodes spread over a recording.

    Args:
        file: the image file to write.
        inspection: of the recording.
        key: the array.

    Raises:
        FileExistsError: `file` exists.
        KeyError: an array that the recording lacks.
        ValueError: an array of one number per frame, or of pictures.
    """
    require_new([file])
    m = inspection.measured
    check("key", key, m.arrays, KeyError)
    cure = "choose another key"
    require(key in m.numbers, f"{key} has pictures", "numbers to draw", cure)
    require(key in m.trajectories, f"{key} has one number per frame", "two to draw", cure)
    with replacing(file) as partial:
        partial.write_bytes(_sheet(m, key))


def require_new(files: Sequence[Path]) -> None:
    """Raise FileExistsError if a file is there: nothing is written over."""
    for file in files:
        require(not file.exists(), f"{file} exists", cure="choose another name", error=FileExistsError)


def _sheet(m: Measurements, key: str) -> bytes:
    drawn, one = m.trajectories[key], m.numbers[key]
    lines = max(1, min(_LINES, -(-len(drawn) // _COLUMNS)))
    height = 2.1 * lines + 0.4  # inches
    figure = Figure(figsize=(2 * _COLUMNS, height))
    figure.subplots_adjust(0.01, 0.05 / height, 0.99, 1 - 0.6 / height, wspace=0.05, hspace=0.15)
    low, high = one.low[:2], one.high[:2]
    low, high = np.where(low < high, low, low - 0.5), np.where(low < high, high, high + 0.5)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
    for axes, (number, values) in zip(grid, drawn, strict=False):
        x, y = values.T
        axes.plot(x, y, color="slategray", linewidth=0.6)
        axes.scatter(x, y, c=np.arange(len(x)), s=5, cmap="plasma")
        axes.set_title(f"episode {number}", fontsize=8)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    figure.suptitle(f"{key}: its first two numbers, early (dark) to late (light)", fontsize=10)
    return _png(figure)


def _over_time(m: Measurements, one: Numbers) -> bytes:
    """The numbers of some episodes against the frame, a line for each dimension."""
    traces = m.traces[one.name]
    figure = Figure(figsize=(2 * _COLUMNS, 2))
    figure.subplots_adjust(0.05, 0.12, 0.99, 0.9, wspace=0.04)
    panels = figure.subplots(1, len(traces), sharey=True, squeeze=False)[0]
    for axes, (number, frames, values) in zip(panels, traces, strict=True):
        axes.plot(frames, values, linewidth=0.8)
        axes.set_title(f"episode {number}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, max(int(frames[-1]), 1))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _figures(m: Measurements) -> Iterator[tuple[str, str]]:
    yield f"{len(m.episodes):,}", "episodes"
    yield f"{m.frames:,}", "frames"
    yield (f"{m.fps:g}", "frames per second") if m.fps else ("not stated", "frames per second")
    if m.fps:
        yield f"{m.frames / m.fps / 60:.3g}", "minutes"
    known = [one.episode.success for one in m.episodes if one.episode.success is not None]
    if known:
        yield f"{sum(known) / len(known):.0%}", f"success, of {plural(len(known), 'episode')}"
    idle = sum(sum(m.idle(one)) for one in m.episodes)
    if m.frames:
        yield f"{idle / m.frames:.1%}", "idle at heads and tails"


def _array(m: Measurements, name: str) -> dict[str, Any]:
    array, (low, high) = m.arrays[name], extent(m, name)
    return {
        "name": name,
        "shape": " × ".join(map(str, array.shape)) or "1",
        "dtype": array.dtype,
        "kind": "camera" if array.image else array.role,
        "unit": array.unit or "",
        "low": _number(low) if low <= high else "",
        "high": _number(high) if low <= high else "",
    }


def _tabled(m: Measurements) -> list[Numbers]:
    """The arrays that have a section of their own: actions first, then what is observed, then the rest."""
    roles = ("action", "observation", "other")
    found = [one for one in m.of_role(*roles) if one.count]
    return sorted(found, key=lambda one: roles.index(one.array.role))


def _table(m: Measurements, one: Numbers) -> dict[str, Any]:
    """A line for each dimension of an array, and a plot of some episodes."""
    quantiles = one.quantiles(*_QUANTILES)
    sample = one.sample
    lines = []
    for dim in range(min(one.dims, _DIMS)):
        if one.constant[dim]:
            lines.append({"label": one.label(dim), "constant": _number(one.low[dim])})
            continue
        values = [one.low[dim], *quantiles[:, dim], one.high[dim]]
        counts, _ = np.histogram(sample[:, dim], bins=_BINS, range=(one.low[dim], one.high[dim]))
        lines.append({"label": one.label(dim), "values": [_number(v) for v in values], "bars": _bars(counts)})
    more = one.dims - len(lines)
    drawn = one.array.role != "other" and one.name in m.traces
    plot = embedded(_over_time(m, one), "image/png") if drawn else None
    return {
        "name": one.name,
        "unit": one.array.unit,
        "plot": plot,
        "lines": lines,
        "more": more,
        "exact": one.exact,
    }


def _bars(counts: Sequence[int] | np.ndarray) -> Markup:
    """A histogram as a small drawing, the height as the root of the count, so that rare values are seen."""
    heights = np.sqrt(np.asarray(counts) / max(np.max(counts), 1))
    bars = "".join(
        f'<rect x="{4 * i}" y="{28 * (1 - h):.1f}" width="4" height="{28 * h:.1f}"/>'
        for i, h in enumerate(heights)
        if h
    )
    return Markup(f'<svg width="{4 * len(heights)}" height="28" fill="#2a7" role="img">{bars}</svg>')


def _relations(m: Measurements) -> Iterator[dict[str, Any]]:
    for name, moments in m.moments.items():
        for one in relations(moments) if m.episodes else ():
            yield {
                "action": m.numbers[name].label(one.dim),
                "state": m.numbers[one.state].label(one.state_dim),
                "words": one.words,
                "gain": f"{one.gain:.3f}",
                "r2": f"{one.r2:.4f}",
                "same": one.same,
            }


def _camera(m: Measurements, name: str) -> dict[str, Any]:
    camera = m.pictures[name]
    moving = sum(one.moving for one in camera.frozen)
    frozen = sum(one.frozen for one in camera.frozen)
    shown = [
        {
            "episode": episode,
            "pictures": [{"frame": one.place.frame, "source": embedded(one.png, "image/png")} for one in of_episode],
        }
        for episode, of_episode in groupby(camera.thumbnails, key=lambda one: one.place.episode)
    ]
    return {
        "name": name,
        "count": camera.count,
        "frozen": f"{frozen / moving:.1%}" if moving else "0%",
        "black": len(camera.black),
        "flat": len(camera.flat),
        "shown": shown,
    }


def _number(value: float) -> str:
    return f"{value:.4g}"
