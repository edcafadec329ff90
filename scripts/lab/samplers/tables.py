"""The table of samplers on learned fields, from what scripts/lab/study_samplers.py found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_tables import PERCENT, interval, markdown

SHOWN = (
    ("euler", "uniform", (1, 2, 4, 9, 10, 20)),
    ("heun", "quadratic", (2, 3, 5, 10)),
    ("heun", "uniform", (5,)),
    ("rk4", "quadratic", (2, 3, 5)),
    ("rk4", "uniform", (3,)),
    ("dpmpp_2m", "uniform", (5, 10, 20)),
    ("dpmpp_2m", "log_snr", (10,)),
    ("dpmpp_3m", "uniform", (5, 10, 20)),
)
"""Solver, grid and steps of the table's lines: what the docs recommend, and what they advise against."""

FIELDS = ("points", "policy", "digits")


def samplers(folder: Path) -> str:
    """Return the Markdown table of the fields that were measured.

    Args:
        folder: with points.json, policy.json and digits.json, as far as they are there.
    """
    files = {name: folder / f"{name}.json" for name in FIELDS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    rolled_out = found.get("policy", {}).get("rolled_out", [])
    header = ["sampler", "calls", *(f"{name}: distance" for name in found), "second difference", "score", "success"]
    lines = []
    for solver, grid, counts in SHOWN:
        for steps in counts:
            setting = {"solver": solver, "grid": grid, "steps": steps}
            rows = {name: _row(one["rows"], setting) for name, one in found.items()}
            calls = next((str(row["calls"]) for row in rows.values() if row), "")
            distances = [f"{row['distance']:.3g}" if row else "" for row in rows.values()]
            chunk, played = rows.get("policy"), _row(rolled_out, setting)
            bends = f"{chunk['unsteadiness']:.1f}" if chunk else ""
            scores = [interval(played["score"]), interval(played["success"], PERCENT)] if played else ["", ""]
            lines.append([f"`solver={solver} grid={grid} steps={steps}`", calls, *distances, bends, *scores])
    fine = found.get("policy", {}).get("fine", {}).get("unsteadiness")
    ends = ["0" for _ in found]
    lines.append(["*fine solution*", "500", *ends, "" if fine is None else f"{fine:.1f}", "", ""])
    return markdown(" | ".join(header), lines)


def _row(rows: list[Mapping[str, Any]], setting: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((row for row in rows if all(row[name] == value for name, value in setting.items())), None)
