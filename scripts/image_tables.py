"""Markdown tables of the image benchmark's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RECIPES = {"notes": "the notes'", "own": "our own"}
_QUALITY = "accuracy | Fréchet distance | diversity | least varied"


def markdown(header: str, rows: Sequence[Sequence[str]]) -> str:
    """A table, its header given as "a | b | c"."""
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|" + "---|" * columns, *("| " + " | ".join(row) + " |" for row in rows)])


def interval(value: Mapping[str, Any], percent: bool = False, digits: int = 0) -> str:
    """ "mean [low, high]"."""
    form = f"{{:.{digits}%}}" if percent else "{:.3f}"
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def recipes(found: Mapping[str, Any]) -> str:
    """The two recipes by guidance scale, and what real digits reach, from `benchmark.json`."""
    most = max(row["samples"] for row in found["rows"])
    rows = []
    for row in sorted(found["rows"], key=lambda row: (row["run"], row["guidance"], row["network_calls"])):
        if row["samples"] == most:
            minutes = f"{found['training'][row['run']]['minutes']:.0f}"
            how = [RECIPES[row["run"]], minutes, f"{row['guidance']:g}", row["sampler"], f"{row['network_calls']}"]
            rows.append([*how, f"{row['seeds']} × {most}", *_quality(row)])
    rows.append(["other test digits", "", "", "", "", str(most), *_quality(found["floors"][str(most)])])
    return markdown(f"recipe | training, min | w | solver | network calls | digits | {_QUALITY}", rows)


def grid(found: Mapping[str, Any]) -> str:
    """Guidance scale × solver × network calls, of our own recipe, from `benchmark.json`."""
    fewest = min(row["samples"] for row in found["rows"])
    chosen = [row for row in found["rows"] if row["samples"] == fewest and row["run"] == "own"]
    order = {name: i for i, name in enumerate(dict.fromkeys(row["sampler"] for row in chosen))}
    chosen.sort(key=lambda row: (row["guidance"], order[row["sampler"]], row["network_calls"]))
    rows = [[f"{row['guidance']:g}", row["sampler"], str(row["network_calls"]), *_quality(row)] for row in chosen]
    rows.append(["", "other test digits", "", *_quality(found["floors"][str(fewest)])])
    return markdown(f"w | solver | network calls | {_QUALITY}", rows)


def ablation(found: Mapping[str, Any]) -> str:
    """Short trainings by parts of our recipe, from `ablation.json`."""
    rows = [[row["run"].replace("_", " "), str(row["steps"]), *_quality(row)[:2]] for row in found["rows"]]
    return markdown("short training | steps | accuracy | Fréchet distance", rows)


def likelihood(found: Mapping[str, Any]) -> str:
    """Bits per dimension, from what `bits_per_dimension` says of each run."""
    rows = []
    for run, row in found.items():
        flow, bound = row["flow"], row["ddpm_bound"]
        through = f"{flow['mean']:.3f} ± {flow['standard_error']:.3f} ({flow['hutchinson']:.3f})"
        rows.append(
            [RECIPES[run], str(row["images"]), through, f"{bound['mean']:.3f} ± {bound['standard_error']:.3f}"]
        )
    return markdown("recipe | test digits | through the flow, bits/dim | DDPM's bound, bits/dim", rows)


def _quality(row: Mapping[str, Any]) -> list[str]:
    distance, varied = row["frechet"], row["diversity"]
    spread = "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**distance)
    return [
        interval(row["accuracy"], percent=True, digits=2),
        spread,
        f"{varied['mean']:.2f}",
        f"{varied['min']:.2f}",
    ]
