"""An environment of one's own."""

import gymnasium as gym
import numpy as np


class ReachEnv(gym.Env):
    """A point moves over a square towards a goal; an action is its step, at most 0.2 in each direction."""

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,  # control steps per second
        "task": {
            "success_key": "success",
            "success_description": "episodes in which the point came within 0.1 of the goal",
            "metrics": {
                "closeness": {"key": "reward", "reducer": "max", "description": "1 at the goal, 0 far away"},
                "final_distance": {"key": "distance", "reducer": "last", "description": "at the last step"},
            },
        },
    }

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        square = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"position": square, "goal": square})
        self.action_space = gym.spaces.Box(-0.2, 0.2, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        return self._observation(), self._info()

    def step(self, action):
        self.position = np.clip(self.position + np.clip(action, -0.2, 0.2), -1, 1)
        info = self._info()
        return self._observation(), float(np.exp(-info["distance"])), info["success"], False, info

    def render(self):
        image = np.full((64, 64, 3), 255, np.uint8)
        for point, color in ((self.goal, (0, 160, 0)), (self.position, (0, 0, 200))):
            x, y = np.round(32 + 29 * point).astype(int)
            image[y - 2 : y + 3, x - 2 : x + 3] = color
        return image

    def _observation(self):
        return {"position": self.position.astype(np.float32), "goal": self.goal.astype(np.float32)}

    def _info(self):
        distance = float(np.linalg.norm(self.goal - self.position))
        return {"distance": distance, "success": distance < 0.1, "position": self.position, "goal": self.goal}


def reach(**options):
    """Return the environment with its time limit."""
    return gym.wrappers.TimeLimit(ReachEnv(**options), max_episode_steps=40)
