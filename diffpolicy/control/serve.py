"""What `diffpolicy serve` does: a policy from its checkpoint, and a server until it is interrupted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import ExecutionConfig, SamplerConfig, load_config, typed
from diffpolicy.config.commands import ServeConfig
from diffpolicy.control.local import LocalPlanner
from diffpolicy.evaluation import policy_env
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.following import motion_of
from diffpolicy.policies import load_policy
from diffpolicy.util.errors import Interrupted, require
from diffpolicy.util.optional import optional

TOKEN = "DIFFPOLICY_TOKEN"
"""The environment variable that holds a server's token."""


def make_planner(config: ServeConfig) -> LocalPlanner:
    """Return the planner of a checkpoint.

    Raises:
        ValueError: settings that the policy cannot use, or a delay, which is the robot's own.
        CheckpointError: a missing or damaged checkpoint.
    """
    execution = typed(ExecutionConfig, config.execution, "execution")
    given = f"execution.delay={execution.delay}, execution.action_noise={execution.action_noise} of a server"
    require(not execution.delay and not execution.action_noise, given, cure="leave both to the simulation")
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
        task = check_policy(policy, policy_env(trained))
        policy.motion, fps = motion_of(task, trained, policy), task.fps
    return LocalPlanner(policy, fps)


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
