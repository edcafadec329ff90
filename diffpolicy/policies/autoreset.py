"""Where episodes begin in gymnasium's vector environments, which reset their environments by themselves."""

from __future__ import annotations

from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from diffpolicy.util.errors import require


@final
class EpisodeStarts:
    """Tells after every step of a vector environment where the observation just returned is an episode's first.

        envs = gym.make_vec("diffpolicy/PushT-v0", num_envs=4, obs_mode="keypoints")
        agent, starts = Agent(policy), EpisodeStarts(envs)
        obs, infos = envs.reset(seed=0)
        agent.reset(range(envs.num_envs))
        while True:
            obs, rewards, terminated, truncated, infos = envs.step(agent.act(obs))
            agent.reset(starts(terminated, truncated))

    An agent that is reset there, and nowhere else, never sees two episodes as one. With next-step autoreset that is
    one step after the end: the last observation of an episode is acted on, and the action is ignored. Without
    autoreset it is where you have to reset the environments, too. Make a new one after `envs.reset()`.

    Args:
        envs: the vector environment.

    Raises:
        ValueError: it does not say when it resets.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        given = f"{type(envs).__name__}.metadata has autoreset_mode={mode!r}"
        known = [one for one in AutoresetMode if mode in (one, one.value, one.name)]
        require(known, given, ", ".join(str(one) for one in AutoresetMode))
        self.mode = known[0]
        self._ended = np.zeros(envs.num_envs, bool)

    def __call__(self, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """Return a mask (N,) of the environments in which an episode begins.

        Args:
            terminated: (N,) as `envs.step` returned it.
            truncated: (N,) as `envs.step` returned it.
        """
        ended = np.logical_or(terminated, truncated)
        before, self._ended = self._ended, ended
        return before if self.mode is AutoresetMode.NEXT_STEP else ended
