"""A gymnasium environment as a robot: each action is carried out for one period of the control loop's clock."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from diffpolicy.evaluation.contract import Place
from diffpolicy.evaluation.episode import Episode, Reset


@final
class EnvRobot:
    """Steps an environment whenever it is told to act; after the episode's end nothing happens any more.

    Args:
        place: the environment.
        how: the episode starts.

    Raises:
        BrokenEnvironment: what `Place.start` and `Place.step` raise.
    """

    def __init__(self, place: Place, how: Reset) -> None:
        self.episode = Episode(how.seed)
        self.done = False
        self._place = place
        self._obs, _ = place.start(self.episode, how)

    def observe(self) -> Any:
        """Return what the environment showed last."""
        return self._obs

    def act(self, action: np.ndarray) -> None:
        """Step the environment."""
        if self.done:
            return
        self._obs, _, self.done, _ = self._place.step(action)

    def end(self) -> Episode:
        """Return the result of the episode, which ends here at the latest."""
        self._place.end()
        return self.episode
