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
LEAD = 20.0
"""How far ahead of the agent its target lies, px. The agent lags a steadily moving target by 0.2 s, so this makes
about 10 px a step."""
LOOK_AHEAD = 45.0  # px along the line, from the puck's place on it to where it is pushed towards
TOUCHING = 3.0  # px between agent and puck up to which they count as touching
HOLD = math.radians(60.0)  # once touching, the agent pushes on within this angle of straight behind: it sticks to 68°
APPROACH = math.radians(12.0)  # and it begins to push within this one
DONE = 12.0  # px from a puck to its zone's centre at which the expert leaves it there
BERTH = 15.0  # px between a puck and the obstacle it is pushed round
UP = np.array([0.0, -1.0])  # as seen on the screen, where y points down

SETTINGS = {
    "clearance": CLEARANCE,
    "lead": LEAD,
    "look_ahead": LOOK_AHEAD,
    "hold": HOLD,
    "approach": APPROACH,
    "berth": BERTH,
}
"""What a recording says of its expert."""


def towards(agent: Vector, point: Vector) -> Vector:
    """The target that takes the agent to `point` at the experts' pace, slowing down on arrival."""
    way = point - agent
    distance = float(np.hypot(*way))
    return point if distance <= LEAD else agent + way * (LEAD / distance)


def push(agent: Vector, puck: Vector, aim: Vector, side: Vector, others: Sequence[Vector] = ()) -> Vector:
    """The target with which the agent pushes a puck towards `aim`, going round it and the `others` first if need be.

    Args:
        agent, puck, aim, others: positions in px.
        side: unit vector; the agent comes to the puck so that the puck lies in this direction of it, and holds on
            while that lets it push towards `aim`.
    """
    heading = (aim - puck) / max(float(np.hypot(*(aim - puck))), 1e-9)
    offset = puck - agent
    distance = max(float(np.hypot(*offset)), 1e-9)
    if distance < CONTACT + TOUCHING and offset @ heading > math.cos(HOLD) * distance:
        return agent + heading * LEAD
    if distance < CONTACT + 2 * CLEARANCE and offset @ side > math.cos(APPROACH) * distance:
        course = side + 2.0 * (offset - (offset @ side) * side) / CLEARANCE  # onto the line through the puck first
        return agent + course * (LEAD / float(np.hypot(*course)))
    start = puck - side * (CONTACT + CLEARANCE)
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
        beside = MIDDLE_X + side * (MIDDLE_X - x0 + PUCK_RADIUS + BERTH)
        self._line = np.array([info["state"][2:], (beside, y1 + BERTH), (beside, y0 - BERTH), ZONE])

    def act(self, info: Mapping[str, Any]) -> Vector:
        """The action after this `info`: the agent's target, (2,) px."""
        state = info["state"]
        puck, aim = state[2:], _ahead(self._line, state[2:])
        side = 2.0 * UP + (aim - puck) / max(math.dist(aim, puck), 1e-9)
        return push(state[:2], puck, aim, side / float(np.hypot(*side)))


class PushBlocksExpert:
    """Pushes the pucks of `PushBlocksEnv` one after the other; which, and whereto, is drawn from the four ways."""

    id = "diffpolicy/PushBlocks-v0"
    settings = SETTINGS | {"done": DONE}

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
        done = math.dist(pucks[first], ZONES[self._zone]) < DONE
        which, zone = (second, 1 - self._zone) if done else (first, self._zone)
        if done and math.dist(pucks[which], ZONES[zone]) < DONE:
            return state[:2]
        line = np.array([self._starts[which], ZONES[zone]])
        side = (line[1] - pucks[which]) / max(math.dist(line[1], pucks[which]), 1e-9)
        return push(state[:2], pucks[which], _ahead(line, pucks[which]), side, [pucks[1 - which]])


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
