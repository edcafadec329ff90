"""What watches a rollout and keeps something of it: video, states, observations, recordings, timing.

An observer keeps what it sees of an episode in `episode.observed[observer.name]`, so that it also comes back from
worker processes, into which observers are copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.episode import Episode, Step
from diffpolicy.evaluation.wrappers import EXECUTED, within
from diffpolicy.util.errors import require

ACTION = "action"
"""Name of the actions in a recording."""


class Observer(ABC):
    """Base of observers.

    Args:
        first: watch the episodes of the first so many resets; None watches all.
    """

    name: str
    """Key of what is kept in `Episode.observed`."""

    def __init__(self, first: int | None = None) -> None:
        self.first = first

    def watches(self, episode: Episode) -> bool:
        """Return whether this observer is called for an episode."""
        return self.first is None or episode.number < self.first

    def on_reset(self, episode: Episode, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> None:
        """Take note of the start of an episode; at first nothing is kept."""
        episode.observed[self.name] = []

    @abstractmethod
    def on_step(self, step: Step) -> None:
        """Take note of a control step."""

    def on_end(self, episode: Episode) -> None:  # noqa: B027  a hook
        """Turn what was kept of an episode into what is to be returned."""


class _Sequence(Observer):
    """Keeps one thing per observation: at the reset and after every step."""

    @abstractmethod
    def see(self, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> Any:
        """Return what to keep."""

    def on_reset(self, episode: Episode, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> None:
        episode.observed[self.name] = [self.see(env, obs, info)]

    def on_step(self, step: Step) -> None:
        step.episode.observed[self.name].append(self.see(step.env, step.next_obs, step.info))


class Video(_Sequence):
    """Keeps the rendered frames (H, W, 3) uint8, one per observation, as the list `observed["video"]`."""

    name = "video"

    def see(self, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> np.ndarray:
        frame = env.render()
        given = f"render() returned a {type(frame).__name__}"
        require(isinstance(frame, np.ndarray), given, "a frame", "make the environment with render_mode='rgb_array'")
        return frame


class Observations(_Sequence):
    """Keeps the observations, one at the reset and one per step, as the list `observed["observations"]`."""

    name = "observations"

    def see(self, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> Any:
        return obs


class States(_Sequence):
    """Keeps `info[key]`, one at the reset and one per step, as an array `observed["states"]` (steps + 1, ...).

    Args:
        key: of `info`.
        first: see `Observer`.
    """

    name = "states"

    def __init__(self, key: str = "state", first: int | None = None) -> None:
        super().__init__(first)
        self.key = key

    def see(self, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> np.ndarray:
        require(
            self.key in info, f"info has no {self.key!r}", "the key of the states to keep", "give its name as key="
        )
        return np.array(info[self.key])

    def on_end(self, episode: Episode) -> None:
        episode.observed[self.name] = np.array(episode.observed[self.name])


class Recorder(Observer):
    """Keeps what a recording is made of: observation and action of every step, as a dict `observed["recording"]`.

    The dict holds "action" (L, A), what the agent wanted as far as the action space allows it, and the observations
    before each action, (L, ...): under their own keys if the environment gives a mapping, else under `obs_key`.
    Memory holds an episode, pictures included.

    Args:
        obs_key: name of a plain observation in the recording.
        first: see `Observer`.
        executed: also keep "executed_action", which an `ActionNoise` around the environment says.
    """

    name = "recording"

    def __init__(self, obs_key: str = "obs", first: int | None = None, executed: bool = False) -> None:
        super().__init__(first)
        self.obs_key, self.executed = obs_key, executed

    def on_step(self, step: Step) -> None:
        seen = step.obs if isinstance(step.obs, Mapping) else {self.obs_key: step.obs}
        frame = {name: np.array(values) for name, values in seen.items()}
        frame[ACTION] = within(step.env.action_space, np.array(step.action))
        if self.executed:
            frame[EXECUTED] = step.info[EXECUTED].astype(frame[ACTION].dtype)
        step.episode.observed[self.name].append(frame)

    def on_end(self, episode: Episode) -> None:
        frames = episode.observed[self.name]
        episode.observed[self.name] = {name: _popped(frames, name) for name in list(frames[0])}


def _popped(frames: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """One array of all frames, each of which is given up once it is copied: memory for one episode, not for two."""
    joined = np.empty((len(frames), *frames[0][name].shape), frames[0][name].dtype)
    for i, frame in enumerate(frames):
        joined[i] = frame.pop(name)
    return joined


class Spread(Observer):
    """Keeps how far the candidates of each chunk were apart, as the list `observed["spread"]`."""

    name = "spread"

    def on_step(self, step: Step) -> None:
        if step.spread is not None:
            step.episode.observed[self.name].append(step.spread)


class Timing(Observer):
    """Keeps how long each start of a chunk took, in seconds, as the list `observed["timing"]`.

    With several environments side by side that is the time for all of them; time one robot with `envs=1`.
    """

    name = "timing"

    def on_step(self, step: Step) -> None:
        if step.planned:
            step.episode.observed[self.name].append(step.seconds)
