"""The fan of chunks: what several policies draw in one state in which they can go several ways."""

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
from diffpolicy.datasets.spec import Observation
from diffpolicy.evaluation import VALIDATION_EPISODES, VALIDATION_SEED, TaskSpec, make_env
from diffpolicy.evaluation.report import draw_chunks
from diffpolicy.policies import PlanRequest, Policy, stack
from diffpolicy.util import files

CHUNKS = 64
_SEARCHED = 16  # chunks in each state that is looked at


def draw(results: Path, runs: Mapping[str, Path]) -> str:
    """Draw the chunks of `runs`, name -> folder, in the state that the first of them chooses; says what became of it.

    The state is that reset, of the validation seeds, in which the chooser's chunks end furthest apart: the trace of
    the covariance of their last actions is largest. At least one run is needed.
    """
    file, picture = results / PLOTS / FAN, results / PLOTS / "fan.png"
    bests = {name: run / "checkpoints" / "best" for name, run in runs.items()}
    if missing := [name for name, best in bests.items() if not best.exists()]:
        return f"the picture of chunks is left as it is, without {', '.join(missing)}"
    saved = {name: checkpoint.read(best) for name, best in bests.items()}
    of = {name: found.sha256["ema.safetensors"] for name, found in saved.items()}
    if file.exists() and json.loads(file.read_text())["of"] == of:
        return f"the picture of chunks, as before: {picture}"
    policies = {name: load_policy(best) for name, best in bests.items()}
    chooser = next(iter(runs))
    seed = _most_open(policies[chooser], saved[chooser].config["env"])
    figure = Figure(figsize=(4.4 * len(runs), 4.8), layout="constrained")
    for axes, (name, policy) in zip(figure.subplots(1, len(runs), squeeze=False)[0], policies.items(), strict=True):
        obs, frame, task = _first_sight(saved[name].config["env"], seed, "rgb_array")
        draw_chunks(axes, frame, chunks(policy, obs, seed, CHUNKS), task)
        axes.set_title(name)
    says = (
        f"{CHUNKS} chunks of each policy in one state, early actions dark: of {VALIDATION_EPISODES} resets by the "
        f"validation seeds, the one in which the chunks of {chooser} end furthest apart (seed {seed})."
    )
    with lock(results):
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, dpi=110)
        files.write_json(file, {"of": of, "seed": seed, "says": says})
    return f"the picture of chunks: {picture}"


def chunks(policy: Policy, obs: Observation, seed: int, count: int) -> np.ndarray:
    """`count` chunks (count, T, A) drawn on seeing `obs` at the start of episodes, the actions from now on."""
    seen = stack([stack([obs] * policy.obs_horizon)] * count)
    return policy.plan(PlanRequest(seen, seed)).trajectory[:, policy.obs_horizon - 1 :]


def _most_open(policy: Policy, env: Mapping[str, Any]) -> int:
    def spread(seed: int) -> float:
        ends = chunks(policy, _first_sight(env, seed)[0], seed, _SEARCHED)[:, -1]
        return float(ends.var(0).sum())

    return max(range(VALIDATION_SEED, VALIDATION_SEED + VALIDATION_EPISODES), key=spread)


def _first_sight(env: Mapping[str, Any], seed: int, render: str | None = None) -> tuple[Observation, Any, TaskSpec]:
    """The observation at a reset, its frame, and the task."""
    with closing(make_env(env["id"], env["options"], render_mode=render)()) as made:
        obs, _ = made.reset(seed=seed)
        return obs, made.render() if render else None, TaskSpec.of(made)
