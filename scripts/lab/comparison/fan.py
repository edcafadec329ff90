"""The fan of chunks: what several policies draw in one state in which several modes are open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from comparison.page import FAN, PLOTS
from comparison.store import lock
from diffpolicy import checkpoint, load_policy
from diffpolicy.config import RunConfig, load_config
from diffpolicy.datasets.spec import Observation, stack
from diffpolicy.evaluation import VALIDATION_EPISODES, VALIDATION_SEED, TaskSpec, policy_env
from diffpolicy.evaluation.report import draw_chunks
from diffpolicy.policies import PlanRequest, Policy
from diffpolicy.util import files

CHUNKS = 64
_SEARCHED = 16  # chunks in each state that is looked at


def draw(folder: Path, runs: Mapping[str, Path]) -> str:
    """Draw the chunks of several runs in the state that the first of them chooses, and return what was done.

    The state is that reset of the validation seeds in which the chooser's chunks end furthest apart: the trace of the
    covariance of their last actions is largest.

    Args:
        folder: of the results.
        runs: name -> folder of the run; at least one.
    """
    file, image = folder / PLOTS / FAN, folder / PLOTS / "fan.png"
    bests = {name: run / "checkpoints" / "best" for name, run in runs.items()}
    if missing := [name for name, best in bests.items() if not best.exists()]:
        return f"the plot of chunks stays as it is: {', '.join(missing)} has no checkpoint here"
    saved = {name: checkpoint.read(best) for name, best in bests.items()}
    of = {name: found.sha256["ema.safetensors"] for name, found in saved.items()}
    if file.exists() and json.loads(file.read_text())["of"] == of:
        return f"the plot of chunks, as before: {image}"
    policies = {name: load_policy(best) for name, best in bests.items()}
    configs = {name: load_config(found.config) for name, found in saved.items()}
    chooser = next(iter(runs))
    seed = _most_open(policies[chooser], configs[chooser])
    figure = Figure(figsize=(4.4 * len(runs), 4.8), layout="constrained")
    for axes, (name, policy) in zip(figure.subplots(1, len(runs), squeeze=False)[0], policies.items(), strict=True):
        obs, frame, task = _first_sight(configs[name], seed, "rgb_array")
        draw_chunks(axes, frame, chunks(policy, obs, seed, CHUNKS), task)
        axes.set_title(name)
    says = (
        f"{CHUNKS} chunks of each policy in one state, early actions dark: of {VALIDATION_EPISODES} resets by the "
        f"validation seeds, the one in which the chunks of {chooser} end furthest apart (seed {seed})."
    )
    with lock(folder):
        image.parent.mkdir(exist_ok=True)
        figure.savefig(image, dpi=110)
        files.write_json(file, {"of": of, "seed": seed, "says": says})
    return f"the plot of chunks: {image}"


def chunks(policy: Policy, obs: Observation, seed: int, count: int) -> np.ndarray:
    """Return chunks (count, T, A) for an observation at the start of an episode, without actions of the past."""
    seen = stack([stack([obs] * policy.obs_horizon)] * count)
    return policy.plan(PlanRequest(seen, seed)).trajectory[:, policy.obs_horizon - 1 :]


def _most_open(policy: Policy, config: RunConfig) -> int:
    def spread(seed: int) -> float:
        ends = chunks(policy, _first_sight(config, seed)[0], seed, _SEARCHED)[:, -1]
        return float(ends.var(0).sum())

    return max(range(VALIDATION_SEED, VALIDATION_SEED + VALIDATION_EPISODES), key=spread)


def _first_sight(config: RunConfig, seed: int, render: str | None = None) -> tuple[Observation, Any, TaskSpec]:
    """The observation at a reset, its frame, and the task."""
    with closing(policy_env(config, render)()) as env:
        obs, _ = env.reset(seed=seed)
        return obs, env.render() if render else None, TaskSpec.of(env)
