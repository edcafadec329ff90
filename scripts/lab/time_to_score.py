"""Measure how long it takes from the command to a policy, everything included, and how good it is on fresh seeds.

python scripts/lab/time_to_score.py now:1500 before:4000 --seeds 0 1 2 --out docs/results/time_to_score.json

Each RECIPE:STEPS is trained on the 206 human demonstrations, once per seed, each time with nothing compiled
beforehand, and its checkpoint is evaluated. What the file holds already is not measured again. Let nothing else run,
or the same all the time.
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

from diffpolicy import checkpoint
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.errors import require
from diffpolicy.util.files import write_json
from text_tables import PERCENT, interval

BEFORE = ("training.choose=score", "policy.temperature=1.0", "policy.history_dropout=0.0")
RECIPES = {
    "now": lambda steps: [f"training.evaluate_from={steps}"],
    "before": lambda steps: [*BEFORE, "training.evaluate_every=250", f"training.evaluate_from={min(2500, steps)}"],
}
"""Settings beside `task=pusht`, by the number of steps: of the recipe as it is, which rolls out once, at its end, and
of the one that chose its checkpoint by rollouts."""


def _run(command: str, *settings: str, **environment: str) -> float:
    """Run a command of `diffpolicy` in a process of its own and return its seconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "diffpolicy", command, *settings], check=True, env={**os.environ, **environment}
    )
    return time.perf_counter() - began


def measure(recipe: str, steps: int, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the seconds of the training command, and the metrics of the checkpoint that it chose."""
    run, workers = folder / f"{recipe}_{steps}_{seed}", options.workers
    settings = [*RECIPES[recipe](steps), f"training.steps={steps}", f"evaluation_workers={workers}"]
    cache = str(folder / f"{run.name}_cache")
    seconds = _run("train", "task=pusht", *settings, f"seed={seed}", f"run_dir={run}", TORCHINDUCTOR_CACHE_DIR=cache)
    best, out = run / "checkpoints" / "best", run / "fresh"
    episodes = [f"episodes={options.episodes}", "seeds=200000", f"workers={workers}", "videos=0"]
    _run("evaluate", f"checkpoint={best}", *episodes, f"out={out}")
    result = json.loads((out / "evaluation.json").read_text())
    return {
        "recipe": recipe,
        "steps": steps,
        "seed": seed,
        "seconds": seconds,
        "speed": checkpoint.read(best).state["speed"],
        "settings": settings,
        **{name: result[name] for name in ("score", "final_coverage", "success")},
        **provenance(),
    }


def _trial(text: str) -> tuple[str, int]:
    recipe, _, steps = text.partition(":")
    if recipe not in RECIPES or not steps.isdigit():
        raise argparse.ArgumentTypeError(f"{text}; expected RECIPE:STEPS, of {', '.join(RECIPES)}")
    return recipe, int(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=_trial, nargs="+", metavar="RECIPE:STEPS", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (default 0 1 2)")
    parser.add_argument("--episodes", type=int, default=500, help="fresh ones, from seed 200000 (default 500)")
    parser.add_argument("--workers", type=int, default=2, help="processes that roll out (default 2)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write, or to complete")
    options = parser.parse_args()
    stored = (
        json.loads(options.out.read_text()) if options.out.exists() else {"runs": [], "episodes": options.episodes}
    )
    given = f"{options.out} holds runs of {stored['episodes']} episodes"
    require(stored["episodes"] == options.episodes, given, str(options.episodes), "take another --out")
    runs = stored["runs"]
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:  # recipes in turn
            for recipe, steps in options.trials:
                if any((one["recipe"], one["steps"], one["seed"]) == (recipe, steps, seed) for one in runs):
                    continue
                runs.append(measure(recipe, steps, seed, options, Path(folder)))
                write_json(options.out, {"episodes": options.episodes, "runs": runs})
                one = runs[-1]
                success = interval(one["success"], PERCENT)
                print(f"{recipe}:{steps}, seed {seed}: {one['seconds']:.0f} s ({one['speed']}), success {success}")


if __name__ == "__main__":
    main()
