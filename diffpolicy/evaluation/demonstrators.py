"""Who is recorded: an environment's own expert, one that a person names, or a trained policy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import gymnasium as gym

from diffpolicy import checkpoint
from diffpolicy.config import EnvConfig, load_config
from diffpolicy.evaluation.adapters import OBS_MODE, EnvFactory, make_env, policy_env
from diffpolicy.evaluation.experts import PROTOCOL, ExpertAgent
from diffpolicy.policies.agent import Agent
from diffpolicy.policies.controller import Controller
from diffpolicy.policies.io import load_policy
from diffpolicy.util import hub
from diffpolicy.util.errors import explain, require
from diffpolicy.util.imports import import_named, is_import_path

STATE, OBS = "state", "obs"
"""Names of a plain observation in a recording: of the state as an environment shows it, and of another mode."""


@final
@dataclass(frozen=True)
class Demonstrator:
    """Who acts, and where.

    Args:
        agent: acts.
        env: the environment's settings.
        make_env: makes the environment.
        facts: what a recording says of who acts, as plain data.
        obs_key: name of a plain observation in a recording.
        who: what messages call who acts.
    """

    agent: Controller
    env: EnvConfig
    make_env: EnvFactory
    facts: Mapping[str, Any]
    obs_key: str
    who: str


def find_demonstrator(expert: str | None, env: EnvConfig) -> Demonstrator:
    """Return who acts by the settings of a recording.

    Args:
        expert: see `RecordConfig`.
        env: where; without id and factory, a policy acts in the environment that it was trained for.

    Raises:
        ValueError: no such expert or environment, or one that does not fit the other.
        ImportError: a module that cannot be imported.
        CheckpointError: a missing or damaged checkpoint.
    """
    if expert is None:
        return _expert(env, None)
    if is_import_path(expert):
        return _expert(env, expert)
    there = Path(expert).is_dir() or hub.is_address(expert)
    require(there, f"expert={expert}: no such folder", f"a checkpoint's folder, or module:make, {PROTOCOL}")
    return _policy(expert, env)


def find_expert_agent(path: str | None, make: EnvFactory) -> ExpertAgent:
    """Return who drives the experts of an environment.

    Args:
        path: "module:make"; None takes the environment's own.
        make: makes the environment.

    Raises:
        ValueError: no such expert, or an environment whose actions are no Box.
        ImportError: a module that cannot be imported.
    """
    made = None if path is None else import_named(path, "expert")
    require(made is None or callable(made), f"expert={path} is no function", PROTOCOL)
    name = None if path is None else f"expert={path}"
    agent = ExpertAgent(make.id, make.kwargs, made, name=name)  # refuses before anything is made
    with closing(make()) as one:
        agent.action_shape = _box(make.id, one.action_space).shape
    return agent


def _expert(env: EnvConfig, path: str | None) -> Demonstrator:
    make = make_env(env)
    agent = find_expert_agent(path, make)
    key = STATE if env.kwargs.get(OBS_MODE, STATE) == STATE and env.estimator is None else OBS
    facts = agent.settings if path is None else {"make": path, **agent.settings}
    return Demonstrator(agent, env, make, facts, key, "the expert")


def _policy(path: str, env: EnvConfig) -> Demonstrator:
    policy, saved = load_policy(path, block=1), checkpoint.read(path)
    make = policy_env(load_config(saved.config), given=env, line=f"diffpolicy record expert={path}")
    with closing(make()) as one:
        shown, taken = one.observation_space, _box(make.id, one.action_space)
        policy.observation.check_space(shown, taken, policy.action_dim, f"{make.id} with {make.kwargs}")
    facts = {"step": saved.step, "sha256": saved.sha256}  # a path says nothing elsewhere, and may name a person
    vectors = list(policy.observation.vectors)
    key = vectors[0] if len(vectors) == 1 else OBS
    return Demonstrator(Agent(policy), make.config, make, facts, key, "the policy")


def _box(env_id: str, space: gym.Space[Any]) -> gym.spaces.Box:
    if isinstance(space, gym.spaces.Box):
        return space
    raise ValueError(explain(f"{env_id} takes actions {space}", "a Box, numbers that a policy can learn"))
