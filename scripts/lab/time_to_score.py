"""How long it takes from the command to a policy, everything included, and how good it is on fresh seeds:

python scripts/lab/time_to_score.py --steps 1500 --seeds 0 1 2 --out docs/results/time_to_score.json

Trains on the 206 human demonstrations as they were recorded, all alike, once for each seed, each time with nothing
compiled beforehand, and then evaluates the last checkpoint. Let nothing else run meanwhile.
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


def _run(command: str, *settings: str, **environment: str) -> float:
    """Seconds of a console command of this package, in a process of its own."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "diffpolicy", command, *settings], check=True, env={**os.environ, **environment}
    )
    return time.perf_counter() - began


def measure(seed: int, steps: int, episodes: int, folder: Path) -> dict[str, Any]:
    """Seconds of the training command, and the score of what it left."""
    run = folder / f"seed_{seed}"
    training = [f"training.steps={steps}", f"training.evaluate_from={steps}", f"seed={seed}", f"run_dir={run}"]
    seconds = _run(
        "train",
        "task=pusht",
        "dataset.time_to_success=null",
        "dataset.transforms=[mirror]",
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
    parser.add_argument("--out", type=Path, required=True, help="where to write the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(seed, arguments.steps, arguments.episodes, Path(folder)) for seed in arguments.seeds]
    median = {
        "seconds": float(np.median([row["seconds"] for row in rows])),
        "score": float(np.median([row["score"]["mean"] for row in rows])),
    }
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, {"median": median, "runs": rows, "settings": settings, **provenance()})
    for row in rows:
        score = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row["score"])
        print(f"seed {row['seed']}: {row['seconds']:.0f} s ({row['speed']}), score {score}")
    print(f"median: {median['seconds']:.0f} s, score {median['score']:.3f}")


if __name__ == "__main__":
    main()
