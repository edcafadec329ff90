"""Measure how long it takes from the command to a policy, everything included, and how good it is on fresh seeds.

python scripts/lab/time_to_score.py --steps 1500 --seeds 0 1 2 --out docs/results/time_to_score.json

Trains on the 206 human demonstrations as they were recorded, once per seed, each time with nothing compiled
beforehand, and evaluates the last checkpoint. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy import checkpoint
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json
from text_tables import interval


def _run(command: str, *settings: str, **environment: str) -> float:
    """Run a command of `diffpolicy` in a process of its own and return its seconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "diffpolicy", command, *settings], check=True, env={**os.environ, **environment}
    )
    return time.perf_counter() - began


def measure(seed: int, steps: int, episodes: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of the training command, and the metrics of its last checkpoint."""
    run = folder / f"seed_{seed}"
    training = [f"training.steps={steps}", f"training.evaluate_from={steps}", f"seed={seed}", f"run_dir={run}"]
    seconds = _run(
        "train",
        "task=pusht",
        "dataset.time_to_success=null",
        "dataset.transforms=[mirror]",
        "policy.temperature=1.0",
        "policy.history_dropout=0.0",
        *training,
        TORCHINDUCTOR_CACHE_DIR=str(folder / f"cache_{seed}"),
    )
    last = run / "checkpoints" / "last"
    _run("evaluate", f"checkpoint={last}", f"episodes={episodes}", "videos=0", f"out={run / 'fresh'}")
    result = json.loads((run / "fresh" / "evaluation.json").read_text())
    return {
        "seed": seed,
        "seconds": seconds,
        "speed": checkpoint.read(last).state["speed"],
        **{name: result[name] for name in ("score", "final_coverage", "success")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of training (default 1500)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (default 0 1 2)")
    parser.add_argument("--episodes", type=int, default=200, help="fresh ones, from seed 200000 (default 200)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(seed, arguments.steps, arguments.episodes, Path(folder)) for seed in arguments.seeds]
    median = {
        "seconds": float(np.median([one["seconds"] for one in runs])),
        "score": float(np.median([one["score"]["mean"] for one in runs])),
    }
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    write_json(arguments.out, {"median": median, "runs": runs, "settings": settings, **provenance()})
    for one in runs:
        print(f"seed {one['seed']}: {one['seconds']:.0f} s ({one['speed']}), score {interval(one['score'])}")
    print(f"median: {median['seconds']:.0f} s, score {median['score']:.3f}")


if __name__ == "__main__":
    main()
