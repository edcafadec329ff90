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
from runs import evaluated, gain, kept, seconds, trained
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
    lines, one, own = [], [], []
    for number, row in enumerate(found["rows"]):
        single = alone[row["task"]]["episodes"]
        of_seed = dict(enumerate(map(int, single["success"]), single["first_seed"]))
        both = [(episode, of_seed[episode["seed"]]) for episode in row["episodes"] if episode["seed"] in of_seed]
        mine = [{"seed": (number, episode["seed"]), "success": episode["success"]} for episode, _ in both]
        theirs = [{"seed": (number, episode["seed"]), "success": flag} for episode, flag in both]
        lines.append([row["task"], *_shares(mine, theirs)])
        one, own = one + mine, own + theirs
    lines.append(["**all**", *_shares(one, own)])
    return markdown("task | one policy for ten | its own, same seeds | difference", lines)


def _shares(one: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[str]:
    """How often either succeeds, and by how much more often the first."""
    shares = [interval(wilson(sum(e["success"] for e in part), len(part)), PERCENT) for part in (one, own)]
    return [*shares, interval(gain("success", one, own), "{:+.1%}")]


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
        rows.append({"task": task, "episodes": kept(found, "success")})
    of = {"policy": saved.sha256["ema.safetensors"], "settings": options.settings, "seconds": seconds(run)}
    files.write_json(options.out, {"of": of, "rows": rows, **provenance()})
    print(table({"rows": rows}))


if __name__ == "__main__":
    main()
