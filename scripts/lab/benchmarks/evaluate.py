"""500 Push-T episodes sharded over the machine's cores, beside the same in one process.

Fails unless the two are equal episode by episode. The policy has the default size and random weights, so that nearly
all episodes run to their end. A turn takes minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.paired import paired
from diffpolicy.config import RunConfig
from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import INFERENCE_BLOCK, episode_resets, make_env, rollout
from diffpolicy.evaluation.shards import usable_cores
from diffpolicy.policies import Agent, Policy, build_model, build_policy
from diffpolicy.util.errors import require

EPISODES = 500
OBS, ACTION = 20, 2  # numbers of a keypoint observation and of an action
NET = {"name": "unet1d", "widths": [64, 128, 256]}


def _policy() -> Policy:
    method = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "solver": "euler"}
    config, spec = RunConfig(method=method, net=NET), ObservationSpec({"obs": Field("vector", (OBS,))})
    model = build_model(config, spec, ACTION).eval().requires_grad_(False)
    scene = np.stack([np.zeros(OBS), np.full(OBS, 512.0)])
    normalizer = Normalizer.fit({"obs": scene, "action": scene[:, :ACTION]})
    return build_policy(config, spec, model, normalizer, block=INFERENCE_BLOCK)


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Return the seconds of both, with the ratio.

    Raises:
        RuntimeError: an episode came out differently.
    """
    torch.manual_seed(seed)
    policy, cores = _policy(), usable_cores()
    made = make_env("diffpolicy/PushT-v0", {"obs_mode": "keypoints"})
    resets = episode_resets(REPORT_SEED, EPISODES)
    first: list[dict[str, Any]] = []

    def evaluate(workers: int) -> None:
        found = [one.row() for one in rollout(Agent(policy), made, resets, workers=workers, progress=True)]
        first.extend(found[len(first) :])
        differing = [one["seed"] for one, other in zip(found, first, strict=True) if one != other]
        require(not differing, f"{workers=}: other episodes than in the first turn: {differing}", error=RuntimeError)

    timed = paired(lambda: evaluate(cores), lambda: evaluate(0), rounds, warm_up=0)
    return {f"{EPISODES} episodes, {cores} cores": timed | {"equal_episodes": len(first)}}
