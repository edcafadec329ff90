"""How what a policy observes follows its actions: as its environment declares, fitted to its recording."""

from __future__ import annotations

import numpy as np

from diffpolicy.config import EnvConfig, RunConfig
from diffpolicy.datasets import load_demonstrations
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.motion import Motion
from diffpolicy.policies.policy import Policy
from diffpolicy.util.errors import require


def motion_of(task: TaskSpec, env: EnvConfig, config: RunConfig, policy: Policy) -> Motion | None:
    """Return how what a policy observes follows its actions, as far as its execution needs to know.

    An environment declares it of its own vector: where an estimator stands between, or some keys are left out, it is
    not known.

    Args:
        task: of the environment.
        env: its settings.
        config: of the policy's training.
        policy: whose execution it is.

    Raises:
        ValueError: `execution.roll_forward`, and the environment does not declare what follows.
        OSError: the recording is missing, to which it is fitted.
    """
    follows = tuple(task.follows) if env.estimator is None and not env.obs_keys else ()
    numbers = policy.obs_dim
    fits = len(follows) == policy.action_dim and all(0 <= one < numbers for one in follows)
    given = f'metadata["task"]["follows"]={list(follows)}'
    require(fits or not follows, given, f"{policy.action_dim} of the {numbers} numbers that are observed")
    if not policy.execution.roll_forward:
        return Motion(follows) if follows else None
    given = "execution.roll_forward where it is not known which numbers follow the action"
    require(follows, given, 'an environment that declares "follows" in its task', "leave it out")
    others = [*policy.observation.images, *policy.observation.told]
    given = f"execution.roll_forward of a policy that observes {', '.join(others)}"
    require(not others, given, "vectors alone", "leave it out")
    recorded, keys = load_demonstrations(config), config.observation.vectors
    vectors = np.concatenate([recorded[key].reshape(recorded.n_steps, -1) for key in keys], axis=1)
    actions = recorded[config.dataset.action_key]
    return Motion.fit(task.follows, [(vectors[part], actions[part]) for part in recorded.episode_slices()])
