"""A result of the comparison, from what training and evaluation left in a run's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from comparison.plan import Measurement, Run
from comparison.store import Result, compact, digest
from comparison.timing import chunk_seconds
from diffpolicy import checkpoint
from diffpolicy.config import LAST, RunConfig, effective, load_config
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.datasets import load_demonstrations, select_episodes
from diffpolicy.evaluation import VALIDATION_EPISODES, VALIDATION_SEED
from diffpolicy.evaluation.metrics import metric_names
from diffpolicy.training.log import read_metrics
from diffpolicy.util.errors import require

EVALUATION = "evaluation.json"
OF_LAST = 5  # checkpoints whose mean score stands beside the best one's


def make_result(
    one: Measurement,
    run_dir: Path,
    out: Path,
    commands: Mapping[str, str],
    data_root: str | None,
    recording: Mapping[str, Any] | None = None,
    estimator_dir: Path | None = None,
) -> Result:
    """Return the result of the evaluation in `out`, of the run in `run_dir`; times its chunks on this machine.

    Args:
        one: what was measured.
        run_dir: folder of the run.
        out: folder of the evaluation.
        commands: by which it was made, as they are typed.
        data_root: folder of the downloaded data sets.
        recording: what is noted of the demonstrations, where the comparison made them.
        estimator_dir: folder of the estimator's run, where there is one.

    Raises:
        ValueError: it is of another checkpoint than the run's best one, or the environment broke episodes off.
    """
    evaluated = json.loads((out / EVALUATION).read_text())
    best = checkpoint.read(run_dir / "checkpoints" / "best")
    require(
        evaluated["checkpoint"]["sha256"] == best.sha256,
        f"{out} evaluates another checkpoint than {best.path}",
        cure=f"delete {out} to evaluate anew",
    )
    told_by = None if one.estimator is None else _estimator(one.estimator, estimator_dir)
    same = told_by is None or evaluated["estimator"]["sha256"]["ema.safetensors"] == told_by["sha256"]
    require(same, f"{out} observes by another estimator than {estimator_dir}", cure=f"delete {out} to evaluate anew")
    errors, cure = evaluated.get("errors"), f"delete {out} to evaluate anew"
    require(not errors, f"{out}: {len(errors or ())} episodes broken off by the environment", cure=cure)
    config = dataclasses.replace(load_config(best.config), data_root=data_root)
    return {
        "row": one.name,
        "run": one.run.name,
        **({"task": one.run.task} if one.run.task else {}),
        "training": one.run.training,
        "evaluation": one.evaluation,
        "commands": dict(commands),
        "against": list(one.against),
        "demonstrations": {"name": one.run.demonstrations, **_demonstrations(config)},
        **({} if recording is None else {"recording": dict(recording)}),
        "seed": one.run.seed,
        "protocol": protocol(one),
        **{name: evaluated[name] for name in metric_names(evaluated["episodes"])},
        **({"modes": evaluated["modes"]} if one.config.modes else {}),
        "episodes": compact(evaluated["episodes"]),
        "evaluation_minutes": evaluated["minutes"],
        "network_calls": evaluated["network_calls"],
        "latency": chunk_seconds(best.path, one.config, config),
        "parameters": sum(weights.numel() for weights in best.tensors("ema").values()),
        "train": _training(run_dir, best),
        **({} if told_by is None else {"estimator": told_by}),
        "checkpoint": {"step": best.step, "sha256": best.sha256["ema.safetensors"]},
        "config": stored_config(config),
        "settings": stored_settings(one.config),
        **{name: evaluated[name] for name in ("processor", "threads", "versions", "commit")},
    }


def stored_config(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a training that affect its result, with the version of their schema."""
    return {**effective(config), "version": config.version}


def stored_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings of an evaluation that affect its result."""
    settings = effective(config)
    del settings["checkpoint"]  # told by its digest
    return settings


def evaluation_digest(evaluated: Mapping[str, Any]) -> str:
    """Return the digest of the episodes of an evaluation.json."""
    return digest(evaluated["episodes"])


def protocol(one: Measurement) -> str:
    """Return in words how a measurement is evaluated."""
    config, last, seeds = one.config, VALIDATION_SEED + VALIDATION_EPISODES - 1, one.config.seeds
    states = f"the {seeds}'s initial states" if isinstance(seeds, str) else f"initial states from seed {seeds}"
    choose = one.run.config.training.choose
    chosen = f"checkpoint chosen by its {choose.replace('_', ' ')} on seeds {VALIDATION_SEED} to {last}"
    if choose == LAST:
        chosen = "the last checkpoint"
    return f"{config.episodes} episodes, {states}; {chosen}"


def _demonstrations(config: RunConfig) -> dict[str, int]:
    """How many demonstrations were trained on and held out."""
    data = config.dataset
    count = load_demonstrations(config).n_episodes
    chosen, held_out = select_episodes(count, data.episodes, data.seed, data.validation)
    return {"trained": len(chosen), "held_out": len(held_out)}


def _training(run_dir: Path, best: checkpoint.Checkpoint) -> dict[str, Any]:
    """Minutes and steps by the training's own log, and its scores on the validation seeds."""
    log = read_metrics(run_dir / "metrics.jsonl")
    rated = [entry for entry in log if "evaluation/score" in entry]
    scores = [entry["evaluation/score"] for entry in rated]
    return {
        "minutes": max(entry["seconds"] for entry in log) / 60,
        "steps": checkpoint.read(run_dir / "checkpoints" / "last").step,
        "speed": best.state["speed"],
        "validation": {
            "best": next(entry["evaluation/score"] for entry in rated if entry["step"] == best.step),
            "best_step": best.step,
            "last": float(np.mean(scores[-OF_LAST:])),
            "of_last": len(scores[-OF_LAST:]),
            "curve": [
                [entry["step"], round(entry["seconds"] / 60, 2), round(entry["evaluation/score"], 4)]
                for entry in rated
            ],
        },
    }


def _estimator(run: Run, run_dir: Path) -> dict[str, Any]:
    """What told a policy its observations, and how long it was trained."""
    best = checkpoint.read(run_dir / "checkpoints" / "best")
    minutes = max(entry["seconds"] for entry in read_metrics(run_dir / "metrics.jsonl")) / 60
    told_by = {"training": run.training, "run": run.name, "minutes": minutes}
    return {**told_by, "step": best.step, "sha256": best.sha256["ema.safetensors"]}


def is_finished(saved: checkpoint.Checkpoint | None, run: Run) -> bool:
    """Whether a run's last checkpoint is its last step's; of a method without weights the only one, at step 0."""
    if saved is None:
        return False
    return saved.step >= run.config.training.steps or bool(saved.step == 0 and saved.state["best"])
