"""What each way of improving a policy is worth: success before and after, and what it cost.

python scripts/lab/study_improvement.py runs/pusht_s0 runs/pusht_s1 --variants filtered best_of_16
python scripts/lab/study_improvement.py runs/pusht_s0 --variants filtered --settings episodes=2000

Every run is evaluated, improved by every variant, and evaluated again, on seeds from which nothing learned. Variants
of a run share their rollouts, where they roll out the same episodes; each counts what these cost. What is measured is
kept in --out, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint, evaluate_policy, train_policy
from diffpolicy.config import load_config
from diffpolicy.config.commands import ImproveConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation import compare
from diffpolicy.evaluation.report import provenance
from diffpolicy.improvement.base import trained
from diffpolicy.improvement.improve import improve
from diffpolicy.util import files, names
from diffpolicy.util.errors import require

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "improvement.json"
FIRST_SEED = 400_000
KEPT = ("score", "final_coverage", "success", "second_difference")
FILTERED, BEST_OF, CORRECTIONS = "method=filtered", "method=best_of", "method=corrections"
OFF_POLICY = ("rounds=6", "episodes=250", "training.steps=5000", "training.lr=3e-4")
LONG = ("episodes=1200", "options.expert_steps=80000", "training.steps=6000", "training.lr=5e-4")
BEYOND = "options.steps_after_success=16"
VARIANTS: dict[str, tuple[str, ...]] = {
    "filtered": (FILTERED,),
    "filtered_fastest": (FILTERED, "options.fastest=0.5"),
    "filtered_retries": (FILTERED, "options.retries=4", "options.retry_temperature=1.0"),
    "filtered_beyond": (FILTERED, BEYOND),
    "filtered_retries_beyond": (FILTERED, "options.retries=4", BEYOND),
    "best_of_4": (BEST_OF, "options.candidates=4"),
    "best_of_16": (BEST_OF,),
    "corrections": (CORRECTIONS,),
    "corrections_of_failures": (CORRECTIONS, "options.of_failures=8"),
    "corrections_of_failures_beyond": (CORRECTIONS, "options.of_failures=8", BEYOND),
    "corrections_long": (CORRECTIONS, *LONG),
    "corrections_of_failures_long": (CORRECTIONS, *LONG, "options.of_failures=8"),
    "corrections_alone": (CORRECTIONS, *LONG, "options.demonstrations=false"),
    "residual": ("method=residual", *OFF_POLICY),
    "steering": ("method=steering", *OFF_POLICY),
    "policy_gradient": (
        "method=policy_gradient",
        "rounds=8",
        "episodes=256",
        "training.steps=300",
        "training.lr=3e-5",
    ),
}
"""Name -> settings of `diffpolicy improve`."""
LONGER = "longer"
"""The variant that trains on for as many steps, with the demonstrations alone."""


def evaluated(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a checkpoint on seeds from which nothing learned."""
    how = {"episodes": arguments.episodes, "seeds": FIRST_SEED, "workers": arguments.workers, "videos": 0}
    return evaluate_policy(path, **how)


def kept(result: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is stored of an evaluation, with the paired difference to the one before."""
    found = {name: result[name] for name in KEPT} | {"network_calls": result["network_calls"]}
    found["episodes"] = [{"seed": one["seed"], **{k: one[k] for k in KEPT}} for one in result["episodes"]]
    if before is not None:
        found["difference"] = {name: value for name, value in compare(result, before).items() if name in KEPT}
    return found


def improved(run: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the contents of a variant's improvement.json, made with the rollouts of a variant that has the same."""
    if name == LONGER:
        return trained_longer(run, arguments)
    folder, settings = arguments.runs_dir / run.name, [*VARIANTS[name], *arguments.settings]
    alike = [other for other, given in VARIANTS.items() if rolled_out(VARIANTS[name]) == rolled_out(given)]
    there = next((folder / other for other in alike if (folder / other / "round_1" / "rollouts").is_dir()), None)
    shared = [] if there is None else [f"rollouts={there}"]
    given = [*settings, *shared, f"checkpoint={run}", f"run_dir={folder / name}"]
    given += [] if arguments.workers is None else [f"workers={arguments.workers}"]
    return improve(compose(given, "improve", ImproveConfig), train_policy)


def trained_longer(run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what improving returns, of a policy that was trained on without any rollouts."""
    asked = compose([*arguments.settings, f"checkpoint={run}", f"run_dir={run}"], "improve", ImproveConfig)
    folder, of = arguments.runs_dir / run.name / LONGER, load_config(checkpoint.read(run).config)
    how = {"seed": asked.seed, "resume": True, "init_from": str(run), "training": asked.training}
    config = replace(of, run_dir=str(folder), evaluation_workers=arguments.workers, **how)
    path, seconds = trained(folder, asked.training.steps, lambda: train_policy(config))
    costs = {"environment_steps": 0, "rollout_seconds": 0.0, "training_seconds": seconds}
    return {"rounds": [], "total": costs, "checkpoint": path}


def rolled_out(settings: Sequence[str]) -> Sequence[str]:
    """Return the settings of a variant on which the episodes of its first round depend."""
    told = " ".join(settings)
    of_the_policy = "rounds=" not in told and (CORRECTIONS not in settings or "of_failures" in told)
    return [one for one in settings if one == BEYOND or one.startswith("episodes=")] if of_the_policy else settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    known = (LONGER, *VARIANTS)
    parser.add_argument("--variants", nargs="+", default=list(known))
    parser.add_argument("--settings", nargs="*", default=[], help="of diffpolicy improve, for all variants")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/improvement"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    for name in arguments.variants:
        names.check("variant", name, known)
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for run in arguments.runs:
        saved = checkpoint.read(run)
        of = {"policy": saved.sha256["ema.safetensors"], "episodes": arguments.episodes, "first_seed": FIRST_SEED}
        found = stored.setdefault("runs", {}).setdefault(run.name, {"of": of, "config": saved.config, "variants": {}})
        given = f"{arguments.out} has {run.name} with {found['of']}"
        require(found["of"] == of, given, str(of), "rename the run, or take another --out")
        for name, one in found["variants"].items():
            other = name in arguments.variants and one["settings"] != [*VARIANTS.get(name, ()), *arguments.settings]
            given = f"{arguments.out} has {name} of {run.name} with {one['settings']}"
            require(not other, given, cure="take another --out and --runs-dir")
        missing = [name for name in arguments.variants if name not in found["variants"]]
        before = evaluated(run, arguments) if missing else {}
        if before:
            found["before"] = kept(before, None)
        for name in missing:
            result = improved(run, name, arguments)
            after = evaluated(Path(result["checkpoint"]), arguments)
            one = {
                "settings": [*VARIANTS.get(name, ()), *arguments.settings],
                "rounds": result["rounds"],
                "total": result["total"],
            }
            found["variants"][name] = {**one, **kept(after, before)}
            stored |= provenance()
            files.write_text(arguments.out, json.dumps(stored) + "\n")
            gain = "{mean:+.1%} [{low:+.1%}, {high:+.1%}]".format(**found["variants"][name]["difference"]["success"])
            print(f"{run.name}: {name} {after['success']['mean']:.1%}, {gain}")


if __name__ == "__main__":
    main()
