"""One policy for ten tasks of Meta-World, told in words which, beside a policy for each.

python scripts/lab/study_metaworld_told.py ten.zarr --runs runs

Records 50 demonstrations of each task on average, as the comparison on Meta-World does for each (docs/metaworld.md),
trains `task=metaworld_told` where RUNS has no such run yet, and evaluates it on the first seeds of that comparison,
whose results of `flow` stand beside. Needs the extra metaworld.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy.config.commands import RecordConfig
from diffpolicy.config.compose import compose
from diffpolicy.envs.suites.metaworld_told import TEXTS
from diffpolicy.evaluation.record import record
from diffpolicy.evaluation.report import provenance
from diffpolicy.util import files
from diffpolicy.util.stats import wilson
from runs import evaluated, kept, seconds, trained
from text_tables import PERCENT, interval, markdown

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SINGLE = RESULTS / "metaworld" / "comparison.json"
RECORDING = [
    "env.id=diffpolicy/MetaWorldTold-v0",
    "env.stop_on_success=true",
    "episodes=500",
    "steps_after_success=20",
    "noise=[0.15,0.15,0.15,0]",
]


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of metaworld_told.json."""
    alone = {row["task"]: row for row in json.loads(SINGLE.read_text()) if row["training"] == "flow"}
    lines, sums = [], [0, 0]
    for row in found["rows"]:
        count, own = len(row["episodes"]), alone[row["task"]]["episodes"]  # of the same seeds, the first first
        counts = [sum(one["success"] for one in row["episodes"]), own["success"][:count].count("1")]
        sums = [total + part for total, part in zip(sums, counts, strict=True)]
        lines.append([row["task"], *(interval(wilson(part, count), PERCENT) for part in counts)])
    total = sum(len(row["episodes"]) for row in found["rows"])
    lines.append(["**all**", *(interval(wilson(part, total), PERCENT) for part in sums)])
    return markdown("task | one policy for ten | its own", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=50, help="of each task")
    parser.add_argument("--settings", nargs="*", default=[], help="of the training, as `diffpolicy train` takes them")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "metaworld_told.json")
    options = parser.parse_args()
    if not options.recording.exists():
        record(compose([*RECORDING, f"out={options.recording}"], "record", RecordConfig))
    run, rows = options.runs / "metaworld_told", []
    saved = trained(run, ["task=metaworld_told", f"dataset.path={options.recording}", *options.settings])
    for task in TEXTS:
        how = {"env": {"kwargs": {"task": task}}, "envs": 16}
        found = evaluated(saved, run / task, options.episodes, options.workers, **how)
        rows.append({"task": task, "episodes": kept(found, "success", "success_at_end")})
    of = {"policy": saved.sha256["ema.safetensors"], "config": saved.config, "seconds": seconds(run)}
    files.write_json(options.out, {"of": of, "rows": rows, **provenance()})
    print(table({"rows": rows}))


if __name__ == "__main__":
    main()
