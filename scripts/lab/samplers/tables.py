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
    policy = found.get("policy", {})
    rolled_out = policy.get("rolled_out", [])
    played = [name for name in ("score", "success") if rolled_out and name in rolled_out[0]]
    header = ["sampler", "calls", *(f"distance, {name}" for name in found)]
    header += [*(["second difference"] if policy else []), *played]
    lines = []
    for solver, grid, counts in SHOWN:
        for steps in counts:
            setting = {"solver": solver, "grid": grid, "steps": steps}
            rows = [_row(one["rows"], setting) for one in found.values()]
            calls = next((str(row["calls"]) for row in rows if row), "")
            cells = [f"`solver={solver} grid={grid} steps={steps}`", calls]
            cells += [f"{row['distance']:.3f}" if row else "" for row in rows]
            if policy:
                chunk = _row(policy["rows"], setting)
                cells.append(f"{chunk['unsteadiness']:.1f}" if chunk else "")
            result = _row(rolled_out, setting)
            forms = {"score": "{:.3f}", "success": PERCENT}
            cells += [interval(result[name], forms[name]) if result else "" for name in played]
            lines.append(cells)
    return markdown(" | ".join(header), lines)


def _row(rows: list[Mapping[str, Any]], setting: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((row for row in rows if all(row[name] == value for name, value in setting.items())), None)
