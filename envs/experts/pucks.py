"""Experts for pucks: go behind the puck, push it along a line, keep behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..detour import MIDDLE_X, OBSTACLE, ZONE
from ..geometry import Point
from ..physics import AGENT_RADIUS
from ..pushblocks import PUCK_RADIUS, ZONES

Vector = np.ndarray

CONTACT = AGENT_RADIUS + PUCK_RADIUS
CLEARANCE = 14.0  # px kept from a puck while going round it
LEAD = 12.0
"""How far ahead of the agent its target lies, px. The agent lags a steadily moving target by 0.2 s, so this makes
about 6 px a step: pushing a puck is unstable, and a policy that executes eight actions blindly must not get far."""
LOOK_AHEAD = 45.0  # px along the line, from the puck's place on it to where it is pushed towards
CORRECTION = 3.0  # how hard the agent steers to stay behind the puck
BEHIND = math.cos(math.radians(40.0))  # within this angle the agent counts as behind the puck

SETTINGS = {
    "clearance": CLEARANCE,
    "lead": LEAD,
    "look_ahead": LOOK_AHEAD,
    "correction": CORRECTION,
    "behind": BEHIND,
}
"""What a recording says of its expert."""


def towards(agent: Vector, point: Vector) -> Vector:
    """The target that takes the agent to `point` at the experts' pace, slowing down on arrival."""
    way = point - agent
    distance = float(np.hypot(*way))
    return point if distance <= LEAD else agent + way * (LEAD / distance)


def push(agent: Vector, puck: Vector, aim: Vector, others: Sequence[Vector] = ()) -> Vector:
    """The target with which the agent pushes a puck towards `aim`, going round it and the `others` first if need be.

    Args:
        agent, puck, aim, others: positions in px.
    """
    heading = (aim - puck) / max(float(np.hypot(*(aim - puck))), 1e-9)
    offset = puck - agent
    distance = float(np.hypot(*offset))
    if offset @ heading > BEHIND * distance and distance < CONTACT + 2 * CLEARANCE:
        sideways = offset - (offset @ heading) * heading
        course = heading + CORRECTION * sideways / CONTACT
        return agent + course * (LEAD / float(np.hypot(*course)))
    start = puck - heading * (CONTACT + CLEARANCE)
    for obstacle in (puck, *others):
        detour = _round(agent, start, obstacle)
        if detour is not None:
            return towards(agent, detour)
    return towards(agent, start)


def _round(agent: Vector, goal: Vector, disc: Vector) -> Vector | None:
    """The next point of the way round a puck that lies between the agent and its goal; None where it does not."""
    radius = CONTACT + CLEARANCE
    way = goal - agent
    length = float(np.hypot(*way))
    if length < 1e-9:
        return None
    along = min(max(float((disc - agent) @ way) / length, 0.0), length)
    if np.hypot(*(agent + way * (along / length) - disc)) >= radius - 4.0:
        return None
    here = math.atan2(*(agent - disc)[::-1])
    there = math.atan2(*(goal - disc)[::-1])
    turn = (there - here + math.pi) % (2 * math.pi) - math.pi
    angle = here + math.copysign(min(abs(turn), 0.7), turn)
    return disc + radius * np.array([math.cos(angle), math.sin(angle)])


class DetourExpert:
    """Pushes the puck of `DetourEnv` round the obstacle, left or right with equal chance whatever the start."""

    id = "diffpolicy/Detour-v0"
    settings = SETTINGS

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        self._draw = np.random.default_rng(seed)

    def reset(self, info: Mapping[str, Any]) -> None:
        """Choose the side for the episode that starts with this `info`."""
        side = 1 if self._draw.random() < 0.5 else -1
        ((x0, y0), _, (_, y1), _) = OBSTACLE.pieces[0]
        beside = MIDDLE_X + side * (MIDDLE_X - x0 + 2 * PUCK_RADIUS)
        self._line = np.array([info["state"][2:], (beside, y1 + PUCK_RADIUS), (beside, y0 - PUCK_RADIUS), ZONE])

    def act(self, info: Mapping[str, Any]) -> Vector:
        """The action after this `info`: the agent's target, (2,) px."""
        state = info["state"]
        return push(state[:2], state[2:], _ahead(self._line, state[2:]))


class PushBlocksExpert:
    """Pushes the pucks of `PushBlocksEnv` one after the other; which, and whereto, is drawn from the four ways."""

    id = "diffpolicy/PushBlocks-v0"
    settings = SETTINGS

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        self._draw = np.random.default_rng(seed)

    def reset(self, info: Mapping[str, Any]) -> None:
        """Choose the way for the episode that starts with this `info`."""
        self._first, self._zone = self._draw.integers(0, 2, 2).tolist()
        self._starts = info["state"][2:].reshape(2, 2).copy()

    def act(self, info: Mapping[str, Any]) -> Vector:
        """The action after this `info`: the agent's target, (2,) px."""
        state = info["state"]
        pucks = state[2:].reshape(2, 2)
        first, second = self._first, 1 - self._first
        done = math.dist(pucks[first], ZONES[self._zone]) < 12.0
        which, zone = (second, 1 - self._zone) if done else (first, self._zone)
        line = np.array([self._starts[which], ZONES[zone]])
        return push(state[:2], pucks[which], _ahead(line, pucks[which]), [pucks[1 - which]])


def _ahead(line: Sequence[Point] | Vector, puck: Vector) -> Vector:
    """The point of a polyline LOOK_AHEAD px beyond the one nearest to the puck, at most its end (pure pursuit)."""
    line = np.asarray(line)
    starts, ways = line[:-1], np.diff(line, axis=0)
    lengths = np.hypot(*ways.T)
    along = np.clip(((puck - starts) * ways).sum(1) / lengths, 0.0, lengths)
    nearest = int(np.argmin(np.hypot(*(starts + ways * (along / lengths)[:, None] - puck).T)))
    rest = along[nearest] + LOOK_AHEAD
    for start, way, length in zip(starts[nearest:], ways[nearest:], lengths[nearest:], strict=True):
        if rest <= length:
            return start + way * (rest / length)
        rest -= length
    return line[-1]
