"""A row of the comparison, from what training and evaluation left in a run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.build import DatasetConfig, StreamConfig, load_buffer
from diffpolicy.datasets.replay_buffer import select_episodes
from diffpolicy.evaluation import (
    VALIDATION_EPISODES,
    VALIDATION_SEED,
    TaskSpec,
    episode_resets,
    make_env,
    time_chunks,
)
from diffpolicy.evaluation.timing import SECONDS
from diffpolicy.policies import Execution, Policy
from diffpolicy.policies.agent import Agent
from diffpolicy.scripts.comparison.plan import OURS, Row, Run
from diffpolicy.scripts.comparison.store import Measured
from diffpolicy.training.logging import read_metrics

RESULTS = {"evaluate": "evaluation.json", "measure_ways": "ways.json"}
LAST = 5  # checkpoints whose mean stands beside the best one
_DIGITS = 5  # of the scores that are kept: what differs less is the same
_MACHINES = ("run_dir", "device", "data_root", "resume", "max_minutes", "evaluation_workers", "speed")


def measure(row: Row, run_dir: Path, out: Path, commands: Mapping[str, str], data_root: str | None) -> Measured:
    """The row of an evaluation that stands in `out`, of the run in `run_dir`; times its chunks here.

    Raises:
        ValueError: it is of another checkpoint than the run's best one.
    """
    result = json.loads((out / RESULTS[row.command]).read_text())
    config = result["checkpoint"]["config"]
    best = checkpoint.read(run_dir / "checkpoints" / "best")
    if result["checkpoint"]["sha256"] != best.sha256:
        raise ValueError(f"{out} was evaluated on another checkpoint than {best.path}: delete it to evaluate anew")
    settings = {key: value for key, value in result["settings"].items() if key not in OURS}
    seconds, policy = chunk_seconds(best.path, settings, config["env"])
    if row.command == "evaluate":
        measured = {key: result[key] for key in ("score", "final_coverage", "success")}
        measured["episodes"] = compact(result["episodes"])
        measured["evaluation_minutes"] = result["minutes"]
    else:
        measured = {"success": result["all_starts"]["success"], "episodes": {"sha256": digest(row.command, result)}}
        measured["ways"] = {where: result[where] for where in ("all_starts", "fixed_start")}
    return {
        "row": row.name,
        "run": row.run.name,
        "training": row.run.training,
        "evaluation": row.evaluation,
        "command": row.command,
        "commands": dict(commands),
        "against": list(row.against),
        "demonstrations": {"name": row.run.demonstrations, **_demonstrations(config["dataset"], data_root)},
        "seed": row.run.seed,
        "protocol": protocol(row.config["seeds"], row.config["episodes"]),
        **measured,
        "network_calls": policy.calls,
        "latency": seconds,
        "parameters": sum(weights.numel() for weights in policy.actor.parameters()),
        "train": _training(run_dir, best),
        "checkpoint": {"step": best.step, "sha256": best.sha256["ema.safetensors"]},
        "config": {key: value for key, value in config.items() if key not in _MACHINES},
        "settings": settings,
        **{key: result[key] for key in ("processor", "threads", "versions", "commit")},
    }


def compact(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Episodes of consecutive seeds in a few lists, with a digest of all that is known of them."""
    seeds = [row["seed"] for row in episodes]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"the episodes' seeds are not consecutive: {seeds[:8]} …")
    return {
        "first_seed": seeds[0],
        "score": [round(row["score"], _DIGITS) for row in episodes],
        "final_coverage": [round(row["final_coverage"], _DIGITS) for row in episodes],
        "success": "".join("01"[row["success"]] for row in episodes),
        "sha256": _sha256(episodes),
    }


def digest(command: str, result: Mapping[str, Any]) -> str:
    """Of what was measured: two evaluations with the same one have the same episodes to the last bit."""
    if command == "evaluate":
        return _sha256(result["episodes"])
    return _sha256([result["all_starts"], result["fixed_start"]])


def _sha256(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def protocol(seeds: int | str, episodes: int) -> str:
    """How a row was evaluated, in words."""
    last = VALIDATION_SEED + VALIDATION_EPISODES - 1
    states = "the paper's initial states" if seeds == "paper" else f"initial states from seed {seeds}"
    return f"{episodes} episodes, {states}; checkpoint chosen on seeds {VALIDATION_SEED} to {last}"


def chunk_seconds(
    path: Path, settings: Mapping[str, Any], env: Mapping[str, Any], limit: float = SECONDS
) -> tuple[dict[str, Any], Policy]:
    """How long one robot waits for a chunk: seconds at batch 1, on one thread, with frozen weights, while acting.

    Returns:
        "median", "p95" in seconds, "chunks" timed, "threads"; and the policy that acted, with its `calls`.
    """
    sampler = [settings.get(key) for key in ("solver", "steps", "grid")]
    options = settings.get("solver_options") or None
    policy = load_policy(
        path, *sampler, options, settings["action_horizon"], freeze=True, execution=Execution(**settings["execution"])
    )
    made = make_env(env["id"], env["options"])
    with closing(made()) as one:
        resets = episode_resets(settings["seeds"], settings["episodes"], TaskSpec.of(one))
    return time_chunks(Agent(policy), made, resets, seconds=limit) | {"frozen": True}, policy


def _training(run_dir: Path, best: checkpoint.Checkpoint) -> dict[str, Any]:
    """Minutes and steps by the training's own log, and its scores on the validation seeds."""
    log = read_metrics(run_dir / "metrics.jsonl")
    last = checkpoint.read(run_dir / "checkpoints" / "last")
    rolled = [row for row in log if "evaluation/score" in row]
    scores = [row["evaluation/score"] for row in rolled]
    return {
        "minutes": max(row["seconds"] for row in log) / 60,
        "steps": last.step,
        "speed": best.state["speed"],
        "validation": {
            "best": max(scores),
            "best_step": best.step,
            "last": float(np.mean(scores[-LAST:])),
            "of_last": len(scores[-LAST:]),
            "curve": [
                [row["step"], round(row["seconds"] / 60, 2), round(row["evaluation/score"], 4)] for row in rolled
            ],
        },
    }


def _demonstrations(recorded: Mapping[str, Any], data_root: str | None) -> dict[str, Any]:
    """How many demonstrations were trained on and held out."""
    data = DatasetConfig(**{**recorded, "stream": StreamConfig(**recorded["stream"])})
    count = load_buffer(data, data_root).n_episodes
    chosen, held_out = select_episodes(count, data.episodes, data.seed, data.validation)
    return {"trained": len(chosen), "held_out": len(held_out)}


def finished(saved: checkpoint.Checkpoint | None, run: Run) -> bool:
    """Whether a run's last checkpoint is its last step's; a method without weights has but one, at step 0, rated."""
    if saved is None:
        return False
    return saved.step >= run.config["training"]["steps"] or bool(saved.step == 0 and saved.state["best"])
