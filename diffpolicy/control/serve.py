"""What `diffpolicy serve` does: a policy from its checkpoint, and a server until it is interrupted."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import ExecutionConfig, RunConfig, SamplerConfig, load_config, typed
from diffpolicy.config.commands import ServeConfig
from diffpolicy.control.guard import Limits
from diffpolicy.control.local import LocalPlanner
from diffpolicy.datasets import load_demonstrations
from diffpolicy.evaluation import policy_env
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.following import motion_of
from diffpolicy.policies import load_policy
from diffpolicy.util.errors import Interrupted
from diffpolicy.util.optional import optional

TOKEN = "DIFFPOLICY_TOKEN"
"""The environment variable that holds a server's token."""


def make_planner(config: ServeConfig) -> LocalPlanner:
    """Return the planner of a checkpoint.

    Raises:
        ValueError: settings that the policy cannot use, or that a planner does not take, see `LocalPlanner`.
        CheckpointError: a missing or damaged checkpoint.
    """
    execution = typed(ExecutionConfig, config.execution, "execution")
    saved = checkpoints.read(config.checkpoint)
    policy = load_policy(
        saved.path,
        SamplerConfig(config.solver, config.steps, config.grid, config.solver_options or None),
        action_horizon=config.action_horizon,
        weights=config.weights,
        device=config.device,
        execution=execution,
        freeze=execution.guide is None or not execution.guide_jacobian,  # a frozen network has no derivative
    )
    trained, fps = load_config(saved.config), None
    if trained.env.id is not None or trained.env.factory is not None:
        make_env = policy_env(trained)
        task = check_policy(policy, make_env)
        policy.motion, fps = motion_of(task, make_env.config, trained, policy), task.fps
    return LocalPlanner(policy, fps, _limits(trained))


def _limits(trained: RunConfig) -> Limits | None:
    """The ranges of the recording that the policy learned from, if it is here."""
    try:
        recorded = load_demonstrations(trained)
    except (OSError, ValueError) as error:
        why = f"since the recording is not here ({type(error).__name__})"
        print(f"no limits of actions for robots, {why}", file=sys.stderr)
        return None
    actions = recorded[trained.dataset.action_key]
    return Limits.of([actions[part] for part in recorded.episode_slices()])


def serve(config: ServeConfig) -> None:
    """Serve a checkpoint until it is interrupted.

    Raises:
        ImportError: the extra "control" is not installed.
        OSError: the port is taken.
    """
    server_module: Any = optional("diffpolicy.control.server", "control", "a server")
    token = config.token or os.environ.get(TOKEN) or None
    planner = make_planner(config)
    server = server_module.PolicyServer(planner, config.host, config.port, token, config.batch)
    try:
        asyncio.run(_until_interrupted(server, config))
    except KeyboardInterrupt as stopped:
        raise Interrupted(f"stopped after {server.counts.chunks} chunks", 130) from stopped


async def _until_interrupted(server: Any, config: ServeConfig) -> None:
    ready = asyncio.Event()
    serving = asyncio.create_task(server.run(ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        where = f"ws://{config.host}:{server.port}"
        print(f"{config.checkpoint} at {where}, health and metrics at http://{config.host}:{server.port}", flush=True)
        if server.token is None and config.host not in ("127.0.0.1", "localhost", "::1"):
            print("everybody who reaches this address may ask: set a token", flush=True)
    await serving
