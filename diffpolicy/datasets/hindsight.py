"""Hindsight: what an episode came to on its way is told as what it was to come to.

Relabeling of Andrychowicz et al. 2017 (section 3.2), for cloning: an episode that went on to its goal passed other
places, and shows how to reach these. By the keys of gymnasium-robotics, "achieved_goal" and "desired_goal".
"""

from __future__ import annotations

import zlib
from typing import ClassVar, final

import numpy as np

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.transforms import EpisodeTransform
from diffpolicy.util.errors import require

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"


@final
class Hindsight(EpisodeTransform):
    """Beside every episode one whose goal, up to a step drawn at random, is what was achieved at that step.

    The step lies in the later two thirds of the episode; from there on the goal is what is achieved at the end.
    """

    adds: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = (ACHIEVED, DESIRED)

    def fit(self, buffer: ReplayBuffer) -> None:
        """Remember the goals, which `undo` puts back."""
        missing = [key for key in (ACHIEVED, DESIRED) if key not in buffer]
        cure = "record them by env.obs_keys=[observation,achieved_goal,desired_goal]"
        require(not missing, f"dataset.transforms=[hindsight] without {' and '.join(missing)}", "both arrays", cure)
        shapes = [buffer[key].shape[1:] for key in (ACHIEVED, DESIRED)]
        require(shapes[0] == shapes[1], f"{ACHIEVED} {shapes[0]} and {DESIRED} {shapes[1]}", "one shape")
        self._before = buffer[DESIRED]

    def apply(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the episodes with other goals."""
        achieved, goals = buffer[ACHIEVED], buffer[DESIRED].copy()
        for part in buffer.episode_slices():
            own = achieved[part]
            # drawn by the episode's content, so that it depends neither on its number nor on which others there are
            draw = np.random.default_rng(zlib.crc32(np.ascontiguousarray(own, "<f4").tobytes()))
            step = int(draw.integers(len(own) // 3, len(own)))
            goals[part] = np.where(np.arange(len(own))[:, None] <= step, own[step], own[-1]).reshape(own.shape)
        return self._with(buffer, goals)

    def undo(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """Return the episodes with the goals that they had."""
        return self._with(buffer, self._before)

    def _with(self, buffer: ReplayBuffer, goals: np.ndarray) -> ReplayBuffer:
        return buffer.with_arrays({**{name: buffer[name] for name in list(buffer.keys())}, DESIRED: goals})
