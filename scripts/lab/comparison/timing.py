"""How long one robot waits for a chunk of actions from a checkpoint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig, RunConfig, SamplerConfig
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.evaluation import TaskSpec, episode_resets, policy_env, time_chunks
from diffpolicy.evaluation.following import motion_of
from diffpolicy.policies import Agent

CHUNKS, SECONDS = 50, 5.0  # at most


def chunk_seconds(path: Path, settings: EvaluateConfig, config: RunConfig) -> dict[str, Any]:
    """Return the seconds of a chunk at batch 1, on one thread, with frozen weights, while acting.

    Args:
        path: of the checkpoint.
        settings: which sampler, horizon, execution and initial states.
        config: what the policy was trained with.

    Returns:
        "median" and "p95" in seconds, the number of "chunks" timed, "threads" and "frozen".
    """
    policy = load_policy(
        path,
        SamplerConfig(settings.solver, settings.steps, settings.grid, settings.solver_options or None),
        action_horizon=settings.action_horizon,
        freeze=True,
        execution=ExecutionConfig(**settings.execution),
    )
    make_env = policy_env(config)
    with closing(make_env()) as env:
        task = TaskSpec.of(env)
    policy.motion = motion_of(task, make_env.config, config, policy)
    resets = episode_resets(settings.seeds, settings.episodes, task)
    return time_chunks(Agent(policy), make_env, resets, chunks=CHUNKS, seconds=SECONDS) | {"frozen": True}
