"""An expert of one's own environment."""

import numpy as np


class ReachExpert:
    """Goes towards the goal, a fifth of the way per step.

    Args:
        seed: of its choices, of which it has none.
        options: of the environment.
    """

    settings = {"gain": 0.2}  # what a recording says about its expert

    def __init__(self, seed, options=None):
        pass

    def reset(self, obs, info):
        """Start an episode."""

    def act(self, obs, info):
        """Return the next action."""
        return np.float32(0.2 * (info["goal"] - info["position"]))
