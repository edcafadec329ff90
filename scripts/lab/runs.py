"""Trainings and evaluations of studies: made where there are none yet, else read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint, evaluate_policy, train_policy
from diffpolicy.config.compose import compose
from diffpolicy.util.errors import require

FIRST_SEED = 200_000


def trained(run: Path, settings: Sequence[str]) -> checkpoint.Checkpoint:
    """Return the last checkpoint of a run, after training what is left of it.

    Args:
        run: folder of the run.
        settings: as `diffpolicy train` takes them.
    """
    config = compose([*settings, f"run_dir={run}"])
    last = checkpoint.latest(run / "checkpoints")
    if last is None or last.step < config.training.steps:
        train_policy(replace(config, resume=True))
    return checkpoint.read(run / "checkpoints" / "last")


def evaluated(saved: checkpoint.Checkpoint, folder: Path, episodes: int, workers: int, **how: Any) -> dict[str, Any]:
    """Return what evaluation.json holds, evaluating on fresh seeds where there is none.

    Args:
        saved: what is evaluated.
        folder: of the evaluation.
        episodes: how many.
        workers: processes.
        how: other arguments of `evaluate_policy`.

    Raises:
        ValueError: the evaluation there is of another checkpoint, or of other seeds.
    """
    file = folder / "evaluation.json"
    if not file.exists():
        return evaluate_policy(saved.path, folder, episodes=episodes, workers=workers, videos=0, **how)
    found: dict[str, Any] = json.loads(file.read_text())
    same = found["checkpoint"]["sha256"]["ema.safetensors"] == saved.sha256["ema.safetensors"]
    same = same and len(found["episodes"]) == episodes and found["settings"]["seeds"] == FIRST_SEED
    require(same, f"{folder} is of another checkpoint or other seeds", cure="take another folder for evaluations")
    return found


def kept(found: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Return what an evaluation's episodes say under these names, and their seeds."""
    return [{name: one[name] for name in ("seed", *names)} for one in found["episodes"]]


def seconds(run: Path) -> float:
    """Return how long a run has trained, s."""
    *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return float(last["seconds"])
