"""Trainings and evaluations of studies: made where there are none yet, else read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy import checkpoint, evaluate_policy, train_policy
from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.config.compose import compose
from diffpolicy.util.errors import require
from diffpolicy.util.stats import Interval, bootstrap

Row = Mapping[str, Any]


def trained(run: Path, settings: Sequence[str]) -> checkpoint.Checkpoint:
    """Return the last checkpoint of a run, after training what is left of it.

    Args:
        run: folder of the run.
        settings: as `diffpolicy train` takes them.

    Raises:
        ValueError: the run there is of other settings or data.
    """
    train_policy(replace(compose([*settings, f"run_dir={run}"]), resume=True))
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
        ValueError: the evaluation there is of another checkpoint, or of other settings.
    """
    file, of = folder / "evaluation.json", {"episodes": episodes, "seeds": REPORT_SEED}
    if not file.exists():
        return evaluate_policy(saved.path, folder, workers=workers, videos=0, **of, **how)
    found: dict[str, Any] = json.loads(file.read_text())
    same = found["checkpoint"]["sha256"]["ema.safetensors"] == saved.sha256["ema.safetensors"]
    cure = f"remove {folder}"
    require(same, f"{folder} is of another checkpoint than {saved.path}", cure=cure)
    for name in ("execution", "env"):
        of |= {name: how[name]} if name in how else {}
    require(_says(found["settings"], of), f"{folder} is of other settings", str(of), cure)
    return found


def _says(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is found, which may hold more."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(name in found and _says(found[name], one) for name, one in wanted.items())
    return bool(found == wanted)


def kept(found: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Return what an evaluation's episodes say under these names, and their seeds."""
    return [{name: one[name] for name in ("seed", *names)} for one in found["episodes"]]


def gain(name: str, episodes: Sequence[Row], others: Sequence[Row]) -> Interval:
    """Return by how much the first have more under a name than the others on the seeds that both have."""
    mine, theirs = ({one["seed"]: float(one[name]) for one in rows} for rows in (episodes, others))
    return bootstrap(np.array([mine[seed] - theirs[seed] for seed in mine if seed in theirs]))


def seconds(run: Path) -> float:
    """Return how long a run has trained, s."""
    *_, last = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return float(last["seconds"])
