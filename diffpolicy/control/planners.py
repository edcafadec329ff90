"""A planner from settings: a policy's checkpoint, and how it acts."""

from __future__ import annotations

import sys

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import EnvConfig, ExecutionConfig, RunConfig, SamplerConfig, load_config, typed
from diffpolicy.config.control import DriveConfig, ServeConfig
from diffpolicy.control.guard import Limits
from diffpolicy.control.local import LocalPlanner
from diffpolicy.datasets import load_demonstrations
from diffpolicy.evaluation import policy_env
from diffpolicy.evaluation.adapters import names_env
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.following import motion_of
from diffpolicy.policies import load_policy


def make_planner(config: ServeConfig | DriveConfig, env: EnvConfig | None = None) -> LocalPlanner:
    """Return the planner of a checkpoint.

    Args:
        config: which checkpoint, and how it is sampled.
        env: what is asked of its environment; None asks for nothing.

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
        compile=config.compile,
    )
    trained, fps = load_config(saved.config), None
    if names_env(trained.env) or (env is not None and names_env(env)):
        make_env = policy_env(trained, given=env)
        task = check_policy(policy, make_env)
        policy.motion, fps = motion_of(task, make_env.config, trained, policy), task.fps
    return LocalPlanner(policy, fps, _limits(trained))


def _limits(trained: RunConfig) -> Limits | None:
    """The ranges of what the policy learned from; for earlier checkpoints the recording tells, if it is here."""
    if trained.found.limits is not None:
        return Limits.from_plain(trained.found.limits)
    try:
        recorded = load_demonstrations(trained)
    except (OSError, ValueError) as error:
        why = f"since the recording is not here ({type(error).__name__})"
        print(f"no limits of actions for robots, {why}", file=sys.stderr)
        return None
    actions = recorded[trained.dataset.action_key]
    return Limits.of([actions[part] for part in recorded.episode_slices()])
