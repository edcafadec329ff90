"""What a comparison writes beside its results: `comparison.html`, all in one file, and the plots it shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from comparison import plots, suite, tables
from comparison.store import Result, lock, read_results
from diffpolicy.util import files

FILE = "comparison.html"
PLOTS = "comparison"  # the folder of the plots
FAN = "fan.json"  # what is said of the plot of chunks
HEAT_MAP = "tasks.png"
_PAGE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_SHOWN = {
    "tasks": ("Tasks and methods", "Success at any step, in percent of the episodes of each task."),
    "calls": ("Score against network calls", "A line for each run that calls a network; published figures in gray."),
    "minutes": (
        "Score against training minutes",
        "Points: fresh initial states. Lines: scores on the validation seeds, which are higher where they chose the "
        "checkpoint.",
    ),
}


def write(folder: Path) -> None:
    """Write the page and the plots anew from comparison.json alone."""
    with lock(folder):
        results = list(read_results(folder).values())
        (folder / PLOTS).mkdir(exist_ok=True)
        shown = [_plot(folder, name, *_SHOWN[name]) for name in _draw(folder / PLOTS, results)]
        if (folder / PLOTS / FAN).exists():
            says = json.loads((folder / PLOTS / FAN).read_text())["says"]
            shown.append(_plot(folder, "fan", "One state, many chunks", says))
        page = _PAGE.get_template(f"{FILE}.j2").render(
            title="Policies compared",
            results=results,
            machines=", ".join(dict.fromkeys(one["processor"] for one in results)),
            tables=[*suite.tables(results).values(), *tables.tables(results).values()],
            plots=shown,
        )
        files.write_text(folder / FILE, page + "\n")


def _draw(folder: Path, results: Sequence[Result]) -> list[str]:
    """Draw the plots that results of these kinds have, and return their names."""
    alone = [one for one in results if "task" not in one]
    if len(alone) < len(results):
        plots.draw_heat_map(folder / HEAT_MAP, results)
    if alone:
        plots.draw_calls(folder / "calls.png", alone)
        plots.draw_minutes(folder / "minutes.png", alone)
    return [*(["tasks"] if len(alone) < len(results) else []), *(["calls", "minutes"] if alone else [])]


def _plot(folder: Path, name: str, title: str, says: str) -> dict[str, str]:
    data = base64.b64encode((folder / PLOTS / f"{name}.png").read_bytes()).decode()
    return {"title": title, "says": says, "data": data}
