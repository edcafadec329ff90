"""How what a policy observes follows its actions: as its environment declares, fitted to its recording."""

from __future__ import annotations

import numpy as np

from diffpolicy.config import RunConfig
from diffpolicy.datasets import load_demonstrations
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.motion import Motion
from diffpolicy.policies.policy import Policy
from diffpolicy.util.errors import require


def motion_of(task: TaskSpec, config: RunConfig, policy: Policy) -> Motion | None:
    """Return how what a policy observes follows its actions, as far as its execution needs to know.

    Raises:
        ValueError: `execution.roll_forward`, and the environment does not declare what follows.
        OSError: the recording is missing, to which it is fitted.
    """
    if not policy.execution.roll_forward:
        return Motion(tuple(task.follows)) if task.follows else None
    given = "execution.roll_forward in an environment that does not say which numbers follow the action"
    require(task.follows, given, 'one that declares "follows" in its task', "leave it out")
    require(not policy.observation.images, "execution.roll_forward of pictures", "vectors alone", "leave it out")
    recorded, keys = load_demonstrations(config), config.observation.vectors
    vectors = np.concatenate([recorded[key].reshape(recorded.n_steps, -1) for key in keys], axis=1)
    actions = recorded[config.dataset.action_key]
    return Motion.fit(task.follows, [(vectors[part], actions[part]) for part in recorded.episode_slices()])
