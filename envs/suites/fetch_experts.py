"""Experts for the Fetch arm: proportional control of the hand, by what the environment's state shows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np

from ..experts.base import Expert, Vector

GAIN = 10.0
"""Action per meter: at 10 cm from where it is to be, the hand moves at full speed."""
OPEN, CLOSED, STILL = 1.0, -1.0, 0.0

SAFE = 0.07
"""Height over the cube's center at which the hand passes over it, m."""
BEHIND = 0.065
"""Distance from the cube's center at which the hand comes down behind it, m; cube and fingers touch at 4.5 cm."""
CONTACT = 0.045
CLEAR = 0.05
"""Distance behind the cube's center from which on the hand may come down, m."""
BESIDE = 0.06
"""Distance from the line through cube and goal up to which it may, m."""
LATERAL = 0.02
"""Distance from the line through cube and goal beyond which a push is given up, m."""
LOW = 0.025
"""Height over the cube's center up to which the hand pushes it, m."""
THERE = 0.01
"""Distance of cube and goal at which a push ends, m."""
NEARBY = 0.02
"""Distance of cube and goal at which no other push is begun, m; a success takes 5 cm."""


LEAD = 0.08
"""Distance ahead of itself to which the cube is pushed at most, m."""
LEAD_GAIN = 2.0
"""That distance, per meter which the cube has to go: it gets shorter from 4 cm before the goal on."""
LEAST_PACE, PACE_GAIN = 0.4, 8.0
"""Part of a push's speed that is left at the goal, and what is added to it per meter before."""


class FetchExpert(Expert):
    """Moves the hand towards a point that depends on where hand, cube and goal are, and on nothing before.

    Args:
        seed: has no effect.
        options: the environment's constructor arguments, which have no effect.
    """

    settings: ClassVar[Mapping[str, float]] = {"gain": GAIN}

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode; nothing is remembered."""

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action (4,) in [-1, 1].

        Args:
            obs: has no effect.
            info: what the environment's last `reset` or `step` returned.
        """
        move, grip = self._move(info["state"])
        return np.clip([*move, grip], -1.0, 1.0).astype(np.float32)

    def _move(self, state: Vector) -> tuple[Vector, float]:
        """Return the hand's displacement (3,), 1 for 5 cm, and the gripper's opening, see `FetchEnv`."""
        raise NotImplementedError


@final
class FetchReachExpert(FetchExpert):
    """Moves the hand to the goal."""

    id = "diffpolicy/FetchReach-v0"

    def _move(self, state: Vector) -> tuple[Vector, float]:
        return GAIN * (state[-3:] - state[:3]), STILL


@final
class FetchPushExpert(FetchExpert):
    """Goes over and behind the cube, down, pushes it along the line to the goal, steering against drift."""

    id = "diffpolicy/FetchPush-v0"
    settings: ClassVar[Mapping[str, float]] = {
        "gain": GAIN,
        "safe": SAFE,
        "behind": BEHIND,
        "contact": CONTACT,
        "clear": CLEAR,
        "beside": BESIDE,
        "lateral": LATERAL,
        "low": LOW,
        "lead": LEAD,
        "lead_gain": LEAD_GAIN,
        "least_pace": LEAST_PACE,
        "pace_gain": PACE_GAIN,
        "there": THERE,
        "nearby": NEARBY,
    }

    def _move(self, state: Vector) -> tuple[Vector, float]:
        hand, cube, goal = state[:3], state[3:6], state[-3:]
        way = (goal - cube)[:2]
        far = float(np.hypot(*way))
        ahead = np.array([*(way / max(far, 1e-9)), 0.0])
        off = hand - cube
        along = float(off @ ahead)
        side = off - along * ahead
        lateral, height = float(np.hypot(*side[:2])), float(off[2])
        pushing = height < LOW and lateral < LATERAL and along < 0.0  # behind it and down
        if far < (THERE if pushing else NEARBY):
            rise = 0.0 if pushing else GAIN * (SAFE - height)  # while it touches, it would drag the cube along
            return np.array([0.0, 0.0, rise]), STILL
        if pushing:
            aim = cube - CONTACT * ahead - 2.0 * np.array([*side[:2], 0.0]) + min(LEAD, LEAD_GAIN * far) * ahead
            move = GAIN * (aim - hand)
            move[:2] *= min(1.0, LEAST_PACE + PACE_GAIN * far)
            return move, STILL
        aim = cube - BEHIND * ahead
        if along < -CLEAR and lateral < BESIDE:  # nothing below: down, and in line with cube and goal
            return GAIN * (aim - hand), STILL
        aim[2] = cube[2] + SAFE
        move = GAIN * (aim - hand)
        if height < 0.6 * SAFE and lateral < 0.08 and along < 0.08:  # clear of the cube first
            move[:2] *= 0.2
        return move, STILL


@final
class FetchPickAndPlaceExpert(FetchExpert):
    """Opens the gripper over the cube, comes down, closes it, and carries the cube to the goal."""

    id = "diffpolicy/FetchPickAndPlace-v0"

    def _move(self, state: Vector) -> tuple[Vector, float]:
        hand, cube, goal, opening = state[:3], state[3:6], state[-3:], float(state[9:11].sum())
        off = cube - hand
        if np.hypot(*off[:2]) > 0.02:
            return GAIN * (off + np.array([0.0, 0.0, SAFE])), OPEN
        if abs(off[2]) > 0.015:
            return GAIN * off, OPEN
        if opening > 0.052:
            return GAIN * off, CLOSED
        return GAIN * (goal - cube), CLOSED
