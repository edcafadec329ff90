"""Which checkpoint of a run is to be taken: all of them, on seeds that choose nothing, and what each criterion picks.

for seed in 0 1 2; do diffpolicy train task=pusht seed=$seed run_dir=RUNS/$seed training.keep_best=100; done
python scripts/lab/study_choosing.py RUNS/0 RUNS/1 RUNS/2 --episodes 500

The runs are of Push-T. Criteria see what a training logs, its rollouts on the validation seeds. `mean_of_3` and
`mean_of_5` take the mean of the weights of the last checkpoints. The regret of a criterion is how much more the best
of the run's checkpoints succeeds. What is measured is kept in --out, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffpolicy import checkpoint, evaluate_policy
from diffpolicy.evaluation.report import provenance
from diffpolicy.training.log import read_metrics
from diffpolicy.util import files
from diffpolicy.util.errors import require

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "choosing.json"
FIRST_SEED = 300_000
AVERAGED = (3, 5)
KEPT = ("score", "final_coverage", "success", "second_difference")
Validated = Mapping[str, Mapping[str, float]]

CRITERIA: dict[str, Callable[[Validated], str]] = {
    "last": lambda steps: max(steps, key=int),
    "score": lambda steps: max(steps, key=lambda step: (steps[step]["score"], int(step))),
    "success": lambda steps: max(steps, key=lambda step: (steps[step]["success"], int(step))),
    "success_then_coverage": lambda steps: max(
        steps, key=lambda step: (steps[step]["success"], steps[step]["final_coverage"], int(step))
    ),
    **{f"mean_of_{count}": lambda steps, count=count: f"mean_of_{count}" for count in AVERAGED},
}
"""Name -> picks, from what was found on the validation seeds by step, a step or an average."""


def evaluated(path: Path, episodes: int) -> dict[str, Any]:
    """Return the metrics of a checkpoint on seeds that choose nothing, and which episodes succeeded."""
    with tempfile.TemporaryDirectory() as out:
        result = evaluate_policy(path, out, episodes=episodes, seeds=FIRST_SEED, videos=0)
    succeeded = "".join(str(int(episode["success"])) for episode in result["episodes"])
    return {**{name: result[name] for name in KEPT}, "succeeded": succeeded}


def averaged(paths: Sequence[Path], folder: Path) -> Path:
    """Write a checkpoint with the mean of the averaged weights of others, for acting, and return its path."""
    saved = [checkpoint.read(path) for path in paths]
    tensors = [one.tensors("ema") for one in saved]
    mean = {
        name: torch.stack([one[name].double() for one in tensors]).mean(0).to(tensors[0][name]) for name in tensors[0]
    }
    groups = {"ema": mean, "normalizer": saved[-1].tensors("normalizer")}
    return checkpoint.write(folder, saved[-1].step, groups, saved[-1].config, saved[-1].state)


def study(run: Path, episodes: int, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """Measure what is not in `found` yet of a run: its checkpoints, and the averages of its last ones.

    Args:
        run: with the checkpoints of all its evaluations.
        episodes: how many for each.
        found: gets "validation", what the training logged by step, and "candidates", the metrics of every checkpoint
            and average.
        keep: called after each.
    """
    log = read_metrics(run / "metrics.jsonl")
    rolled_out = [entry for entry in log if "evaluation/score" in entry]
    folders = {str(entry["step"]): run / "checkpoints" / checkpoint.step_name(entry["step"]) for entry in rolled_out}
    missing = [step for step, folder in folders.items() if not folder.exists()]
    require(not missing, f"{run} lacks its checkpoints of {missing}", cure="train with training.keep_best=100")
    says = f"{run} rolled out at {len(folders)} steps"
    require(len(folders) >= max(AVERAGED), says, f"at least {max(AVERAGED)}", "lower training.evaluate_every")
    found["validation"] = {
        str(entry["step"]): {name: entry[f"evaluation/{name}"] for name in KEPT if f"evaluation/{name}" in entry}
        for entry in rolled_out
    }
    candidates = found.setdefault("candidates", {})
    for step, folder in folders.items():
        if step not in candidates:
            candidates[step] = evaluated(folder, episodes)
            keep()
    for count in AVERAGED:
        if (name := f"mean_of_{count}") not in candidates:
            with tempfile.TemporaryDirectory() as folder:
                candidates[name] = evaluated(averaged(list(folders.values())[-count:], Path(folder)), episodes)
            keep()


def judged(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each criterion what it picks, its success and its regret against the best of the checkpoints."""
    rate = {name: np.mean([int(c) for c in one["succeeded"]]) for name, one in found["candidates"].items()}
    best = max(value for name, value in rate.items() if name.isdigit())
    picks = {name: pick(found["validation"]) for name, pick in CRITERIA.items()}
    return {
        name: {"picks": step, "success": round(rate[step], 4), "regret": round(best - rate[step], 4)}
        for name, step in picks.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    runs = stored.setdefault("runs", {})

    def keep() -> None:
        files.write_text(arguments.out, json.dumps(stored, indent=1) + "\n")

    for run in arguments.runs:
        last = checkpoint.read(run / "checkpoints" / "last")
        name, of = run.resolve().name, {"last": last.sha256["ema.safetensors"], "episodes": arguments.episodes}
        found = runs.setdefault(name, {**of, "seeds": FIRST_SEED, "config": last.config})
        now = {key: found[key] for key in of}
        require(now == of, f"{arguments.out} has {name} with {now}", str(of), "rename the run, or take another --out")
        study(run, arguments.episodes, found, keep)
        found["criteria"] = judged(found)
        stored |= provenance()
        keep()
        for criterion, one in found["criteria"].items():
            print(f"{name}: {criterion} picks {one['picks']}: {one['success']:.1%}, regret {one['regret']:+.1%}")


if __name__ == "__main__":
    main()
