"""What a comparison writes beside its rows: `comparison.html`, all in one file, and the plots it shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from diffpolicy.evaluation.report import image_section, write_document
from diffpolicy.scripts.comparison import plots
from diffpolicy.scripts.comparison.store import Measured, locked, read_rows
from diffpolicy.scripts.comparison.tables import tables

FILE = "comparison.html"
PICTURES = "comparison"  # the folder of the plots
FAN = "fan.json"  # what is said of the picture of chunks
_STYLE = """<style>
body { max-width: 90rem } .wide { overflow-x: auto } th { text-align: left; padding: .1rem 1rem .1rem 0 }
.published { color: #888 } .mean { font-weight: bold }
</style>"""
_TITLE = "Policies compared"
_HOW = (
    "Published figures, in grey, were measured by others with the protocol that stands beside them. Chunk times: "
    "median over chunks of one robot at batch 1, on one thread, with frozen weights, timed together with the row, "
    "beside whatever else ran then."
)


def write(results: Path) -> None:
    """Write the page and the plots anew from `comparison.json` alone."""
    with locked(results):
        rows = list(read_rows(results).values())
        folder = results / PICTURES
        folder.mkdir(exist_ok=True)
        plots.draw_calls(folder / "calls.png", rows)
        plots.draw_minutes(folder / "minutes.png", rows)
        shown = [
            (
                "Score against network calls",
                folder / "calls.png",
                "A line for each run that asks a network; published figures in grey.",
            ),
            (
                "Score against training minutes",
                folder / "minutes.png",
                "Points: fresh initial states, the checkpoint chosen on the validation seeds. Lines: the validation "
                "scores by which it was chosen, which are higher for having been chosen by.",
            ),
        ]
        if (folder / FAN).exists():
            shown.append(
                ("One state, many chunks", folder / "fan.png", json.loads((folder / FAN).read_text())["says"])
            )
        write_document(results / FILE, _TITLE, [_STYLE, *_parts(rows, shown)])


def _parts(rows: Sequence[Measured], shown: Sequence[tuple[str, Path, str]]) -> list[str]:
    filled = [table.html() for table in tables(rows).values() if table.lines]
    machines = ", ".join(dict.fromkeys(row["processor"] for row in rows))
    return [
        f"<h1>{_TITLE}</h1>",
        f'<p class="small">{len(rows)} rows, measured on {escape(machines)}. {_HOW}</p>',
        *filled,
        *(image_section(*picture) for picture in shown),
        "<h2>Any row again</h2>",
        *(_commands(row) for row in rows),
    ]


def _commands(row: Measured) -> str:
    typed = "\n".join(row["commands"].values())
    made = f"commit {row['commit']}, {row['processor']}, torch {row['versions']['torch']}"
    summary = f"<summary>{escape(row['row'])}</summary>"
    return f'<details>{summary}<pre>{escape(typed)}</pre><p class="small">{escape(made)}</p></details>'
