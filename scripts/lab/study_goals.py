"""How well Push-T is done with a goal drawn for every episode, and what hindsight adds, by demonstrations.

python scripts/lab/study_goals.py goals.zarr --runs runs
python scripts/lab/study_goals.py goals.zarr --runs runs --steps 8000     # goes on to more steps, and adds rows

Trains `task=pusht_told` on the recording with and without `dataset.transforms=[hindsight]`, or goes on with the runs
that are there, and evaluates on fresh seeds. Results of other numbers of steps stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.stats import bootstrap, wilson
from runs import evaluated, gain, kept, seconds, trained
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "goals.json"
HINDSIGHT = {"hindsight": "[hindsight]", "plain": "[]"}


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of goals.json."""
    lines, plain = [], {(row["demonstrations"], row["steps"]): row for row in found["rows"] if not row["hindsight"]}
    for row in found["rows"]:
        episodes, other = row["episodes"], plain.get((row["demonstrations"], row["steps"]))
        other = other if row["hindsight"] else None
        lines.append(
            [
                str(row["demonstrations"]),
                "yes" if row["hindsight"] else "no",
                f"{row['steps']:,}",
                interval(bootstrap([one["score"] for one in episodes])),
                interval(wilson(sum(one["success"] for one in episodes), len(episodes)), PERCENT),
                interval(gain("score", episodes, other["episodes"]), "{:+.3f}") if other else "",
                interval(gain("success", episodes, other["episodes"]), "{:+.1%}") if other else "",
                f"{row['seconds'] / 60:.0f}",
            ]
        )
    return markdown("demonstrations | hindsight | steps | score | success | its gain | in success | minutes", lines)


def _of(row: Mapping[str, Any]) -> tuple[int, int, bool]:
    return row["demonstrations"], row["steps"], row["hindsight"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[600])
    parser.add_argument("--hindsight", nargs="+", choices=HINDSIGHT, default=["plain", "hindsight"])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--settings", nargs="*", default=[], help="of the training, as `diffpolicy train` takes them")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = []
    for count in options.demonstrations:
        for name in options.hindsight:
            run = options.runs / f"goals_{count}_{name}"
            told = [f"dataset.path={options.recording}", f"dataset.episodes={count}"]
            told.append(f"dataset.transforms={HINDSIGHT[name]}")
            saved = trained(run, ["task=pusht_told", *told, f"training.steps={options.steps}", *options.settings])
            found = evaluated(saved, run / f"fresh_{options.steps}", options.episodes, options.workers)
            row = {"demonstrations": count, "hindsight": name == "hindsight", "steps": options.steps}
            row |= {"seconds": seconds(run), "policy": saved.sha256["ema.safetensors"]}
            rows.append(row | {"episodes": kept(found, "score", "success")})
    before = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    of = {_of(row) for row in rows}
    rows = sorted([*rows, *(row for row in before if _of(row) not in of)], key=_of)
    found = {"of": {"settings": options.settings}, "rows": rows, **provenance()}
    files.write_json(options.out, found)
    print(table(found))


if __name__ == "__main__":
    main()
