"""`comparison.json`: a list of measured rows, one a line, and the paired differences between them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpolicy.evaluation import compare

FILE = "comparison.json"

Measured = dict[str, Any]  # a row of the file


def read_rows(results: Path) -> dict[str, Measured]:
    """The rows of `results/comparison.json` by name, none where there is no file.

    Raises:
        ValueError: a file that is no list of rows.
    """
    file = results / FILE
    if not file.exists():
        return {}
    try:
        return {row["row"]: row for row in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no list of rows ({error}); restore it or move it away") from None


@contextmanager
def locked(results: Path) -> Iterator[None]:
    """Others who want to write there wait meanwhile, so that two comparisons can go on side by side."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def changing(results: Path, planned: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Measured]]:
    """The rows, to be added to; written when the block ends, with their paired differences.

    Args:
        planned: the plan's rows in its order, each with the names of those it is against. Rows of the file that are
            not among them stay, at its end.
    """
    with locked(results):
        rows = read_rows(results)
        yield rows
        place = {name: i for i, name in enumerate(planned)}
        ordered = sorted(rows.values(), key=lambda row: place.get(row["row"], len(place)))
        for row in ordered:
            row["against"] = list(planned.get(row["row"], row["against"]))
            row["differences"] = _differences(row, rows)
        lines = ",\n".join(json.dumps(row) for row in ordered)
        partial = results / f"{FILE}.partial"
        partial.write_text(f"[\n{lines}\n]\n")
        partial.replace(results / FILE)


def _differences(row: Measured, rows: Mapping[str, Measured]) -> dict[str, Any]:
    """The paired differences to the rows it is against, of those there are; kept where both are as they were."""
    found, before = {}, row.get("differences", {})
    for name in row["against"]:
        if name in rows and _seeds(row) & _seeds(rows[name]):  # not of one that is to be measured anew
            of = [row["episodes"]["sha256"], rows[name]["episodes"]["sha256"]]
            kept = before.get(name, {})
            found[name] = kept if kept.get("of") == of else {"of": of, **paired_difference(row, rows[name])}
    return found


def _seeds(row: Measured) -> set[tuple[bool, int]]:
    """The initial states of a row: whether they are the paper's, and the seeds."""
    kept = row["episodes"]
    seeds = range(kept["first_seed"], kept["first_seed"] + len(kept["score"]))
    return {(row["settings"]["seeds"] == "paper", seed) for seed in seeds}


def paired_difference(first: Measured, second: Measured) -> dict[str, Any]:
    """`evaluation.compare` of two rows: differences first - second on the seeds that both have.

    Raises:
        ValueError: they have no seeds in common.
    """
    return compare(*map(_evaluation, (first, second)))


def _evaluation(row: Measured) -> dict[str, Any]:
    """What of a row's `evaluation.json` it was kept of."""
    checkpoint = {"config": {"env": row["config"]["env"]}}
    return {"settings": row["settings"], "checkpoint": checkpoint, "episodes": list(episodes_of(row))}


def episodes_of(row: Measured) -> Iterator[dict[str, Any]]:
    """The episodes of a row as those of `evaluation.json`, rounded as they are kept."""
    kept = row["episodes"]
    values = zip(kept["score"], kept["final_coverage"], kept["success"], strict=True)
    for i, (score, final, success) in enumerate(values):
        yield {
            "seed": kept["first_seed"] + i,
            "score": score,
            "final_coverage": final,
            "success": success == "1",
        }
