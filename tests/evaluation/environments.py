"""Small environments of many kinds, as people write them."""

from __future__ import annotations

import random

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    """Places in the plane; an action (2,) float64 is a step of at most 0.5. Every kind changes one thing of it."""

    def __init__(self):
        self.action_space = spaces.Box(-0.5, 0.5, (2,), np.float64)
        self.observation_space = self.space()
        self.actions = []

    def space(self):
        return spaces.Box(0.0, 0.0, (2,), np.float64)  # bounds that are not true

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.1, 0.1, 2)
        return self.see(), {}

    def step(self, action):
        self.actions.append(action)
        self.place = self.place + action
        return self.see(), float(self.place[0]), False, False, self.info()

    def see(self):
        return self.place

    def info(self):
        return {"is_success": bool(self.place[0] > 1.0), "place": float(self.place[0])}


class Goals(Walk):
    """A goal environment."""

    def space(self):
        one = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        return spaces.Dict({"observation": one, "achieved_goal": one, "desired_goal": one})

    def see(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": np.ones(2)}


class Nested(Walk):
    """A nested dict: pictures of two cameras, one with its channels first, a place, a number and a goal."""

    def space(self):
        pixels = {"top": spaces.Box(0, 255, (9, 8, 3), np.uint8), "wrist": spaces.Box(0, 255, (3, 8, 9), np.uint8)}
        state = {"place": spaces.Box(-9, 9, (2,), np.float32), "rooms": spaces.Discrete(3)}
        goal = {"achieved_goal": spaces.Dict({"door": spaces.Box(-9, 9, (1, 2), np.float64)})}
        return spaces.Dict({"pixels": spaces.Dict(pixels), "state": spaces.Dict(state), **goal})

    def see(self):
        wrist = np.zeros((3, 8, 9), np.uint8)
        wrist[1] = 7
        pixels = {"wrist": wrist, "top": np.full((9, 8, 3), 5, np.uint8)}
        state = {"rooms": 2, "place": self.place.astype(np.float32)}
        return {"state": state, "pixels": pixels, "achieved_goal": {"door": self.place[None]}}


class Pictures(Walk):
    """A picture in numbers from -1 to 1, with its channels first, and depth."""

    def space(self):
        picture = spaces.Box(-1.0, 1.0, (3, 8, 9), np.float64)
        return spaces.Dict({"camera": picture, "depth": spaces.Box(0, 65535, (8, 9), np.uint16)})

    def see(self):
        picture = np.full((3, 8, 9), -1.0)
        picture[0], picture[1, 0, 0] = 1.0, 0.0
        return {"camera": picture, "depth": np.full((8, 9), 1000, np.uint16)}


class Screen(Walk):
    """A picture is all that it shows."""

    def space(self):
        return spaces.Box(0, 255, (9, 8, 3), np.uint8)

    def see(self):
        return np.full((9, 8, 3), 5, np.uint8)


class Reused(Walk):
    """Shows the same array at every step."""

    def see(self):
        self.shown = np.zeros(2) if not hasattr(self, "shown") else self.shown
        self.shown[:] = self.place
        return self.shown


class Globals(Walk):
    """Draws from the generators of the process, at every reset and step."""

    def reset(self, *, seed=None, options=None):
        self.place = np.random.uniform(-0.1, 0.1, 2)  # noqa: NPY002  what this is about
        return self.see(), {}

    def step(self, action):
        return super().step(action + np.array([np.random.normal(), random.random()]))  # noqa: NPY002


class DrawsWhenMade(Globals):
    """Draws when it is made, too."""

    def __init__(self):
        super().__init__()
        self.drawn = np.random.uniform()  # noqa: NPY002


class Remembers(Walk):
    """Starts where the last episode of the instance ended."""

    place = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.place = self.place + self.np_random.uniform(-0.1, 0.1, 2)
        return self.see(), {}


class Arrows(Walk):
    """Takes one of four directions, which is no vector."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(4)


class Whole(Walk):
    """Takes whole numbers of steps."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-3, 3, (2,), np.int64)


class OtherApi:
    """A simulation of another API: its reset takes nothing, its step returns four values."""

    def reset(self):
        self.place = np.zeros(2)
        return self.place

    def step(self, action):
        self.place = self.place + action
        return self.place, float(self.place[0]), False, {"is_success": bool(self.place[0] > 1.0)}


class Bridge(gym.Env):
    """Such a simulation behind gymnasium's API, with no metadata and the simulation itself as `unwrapped`."""

    def __init__(self):
        self.simulation, self.metadata = OtherApi(), None
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-0.5, 0.5, (2,), np.float64)

    @property
    def unwrapped(self):
        return self.simulation

    def reset(self, seed=None, options=None):
        return self.simulation.reset(), {}

    def step(self, action):
        obs, reward, done, info = self.simulation.step(action)
        return obs, reward, done, False, info


def beyond(info):
    """Return whether the place is beyond 2.2."""
    return info["place"] > 2.2
