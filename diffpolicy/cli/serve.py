"""Serve a policy to robots on other machines, over WebSocket.

diffpolicy serve checkpoint=RUN port=8765
"""

from __future__ import annotations

from diffpolicy.config.control import ServeConfig

SCHEMA, GROUPS, POSITIONAL = ServeConfig, (), ("checkpoint",)


def run(config: ServeConfig) -> None:
    from diffpolicy.control.serve import serve

    serve(config)
