"""A data source of one's own."""

import numpy as np

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource


class ReachDemonstrations(DemonstrationSource):
    """Straight lines from a start to a goal, made up instead of read."""

    summary = "a point reaches a goal"
    rate = 10.0  # frames per second
    units = {"position": "m", "goal": "m"}

    def recorded(self):
        """Return all arrays as they were recorded."""
        rng = np.random.default_rng(0)
        return ReplayBuffer.from_episodes(self._episode(*rng.uniform(-1, 1, (2, 2))) for _ in range(20))

    def _episode(self, position, goal):
        frames = []
        for _ in range(30):
            action = 0.2 * (goal - position)
            frames.append((position, goal, action))
            position = position + action
        arrays = np.float32(frames).swapaxes(0, 1)
        return dict(zip(("position", "goal", "action"), arrays, strict=True))
