"""Robot action generation by flow matching and diffusion: from recorded demonstrations to a policy that acts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import diffpolicy.envs  # registers the environments with gymnasium
from diffpolicy.registry import register as _register

if TYPE_CHECKING:
    from diffpolicy.api import evaluate_policy, improve_policy, train_policy
    from diffpolicy.datasets import ReplayBuffer
    from diffpolicy.evaluation import make_env, rollout
    from diffpolicy.policies import Agent, load_policy

__version__ = "0.2.0"
__all__ = [
    "Agent",
    "ReplayBuffer",
    "__version__",
    "evaluate_policy",
    "improve_policy",
    "load_policy",
    "make_env",
    "rollout",
    "train_policy",
]

_HOMES = {
    "Agent": "diffpolicy.policies",
    "ReplayBuffer": "diffpolicy.datasets",
    "evaluate_policy": "diffpolicy.api",
    "improve_policy": "diffpolicy.api",
    "load_policy": "diffpolicy.policies",
    "make_env": "diffpolicy.evaluation",
    "rollout": "diffpolicy.evaluation",
    "train_policy": "diffpolicy.api",
}

for _id, _where in diffpolicy.envs.EXPERTS:
    _register("expert", _id, f"diffpolicy.envs.{_where}")
for _id, _where in diffpolicy.envs.DRAWINGS:
    _register("drawing", _id, f"diffpolicy.envs.{_where}")


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the environments alone need no torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
