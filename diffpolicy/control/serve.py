"""What `diffpolicy serve` does: a policy from its checkpoint, and a server until it is interrupted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import load_config
from diffpolicy.config.control import ServeConfig
from diffpolicy.control.planners import make_planner
from diffpolicy.control.planning import warm
from diffpolicy.policies.io import method_class
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.util.errors import Interrupted, require
from diffpolicy.util.optional import optional

TOKEN = "DIFFPOLICY_TOKEN"
"""The environment variable that holds a server's token."""


def serve(config: ServeConfig) -> None:
    """Serve a checkpoint until it is interrupted.

    Raises:
        ValueError: see `make_planner`; or a policy that has to act on the robot itself.
        ImportError: the extra "control" is not installed.
        OSError: the port is taken.
    """
    server_module: Any = optional("diffpolicy.control.server", "control", "a server")
    token = config.token or os.environ.get(TOKEN) or None
    corrects = issubclass(method_class(load_config(checkpoints.read(config.checkpoint).config)), Corrects)
    given = f"{config.checkpoint}, whose actions are corrected at every step, on the robot itself"
    require(not corrects, given, cure="serve the policy that it was made of, or let the robot load this one")
    planner = make_planner(config)
    warm(planner)
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
