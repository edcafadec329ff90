"""Experts for pucks: go behind the puck, push it along a line, keep behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..detour import MIDDLE_X, OBSTACLE, ZONE
from ..geometry import Point
from ..physics import AGENT_RADIUS
from ..pucks import PUCK_RADIUS
from ..pushblocks import ZONES
from .base import Expert, Vector

CONTACT = AGENT_RADIUS + PUCK_RADIUS
CLEARANCE = 14.0  # px kept from a puck while going around it
LEAD = 20.0
"""Distance of the target ahead of the agent, px. The agent lags a steadily moving target by 0.2 s, which makes about
10 px a step."""
LOOK_AHEAD = 45.0  # px along the line, from the puck's place on it to where it is pushed
TOUCHING = 3.0  # px between agent and puck up to which they count as touching
HOLD = math.radians(60.0)  # once touching, the agent pushes on within this angle of straight behind: it sticks to 68°
APPROACH = math.radians(12.0)  # within this angle it starts to push
DONE = 12.0  # px from a puck to its zone's center at which the expert leaves it there
BERTH = 15.0  # px between a puck and the obstacle it is pushed around
UP = np.array([0.0, -1.0])  # on the screen, where y points down

# Recordings store these: the keys are part of their format.
SETTINGS = {
    "clearance": CLEARANCE,
    "lead": LEAD,
    "look_ahead": LOOK_AHEAD,
    "hold": HOLD,
    "approach": APPROACH,
    "berth": BERTH,
}


class DetourExpert(Expert):
    """Pushes the puck of `DetourEnv` around the obstacle: as asked, else left or right with equal chance."""

    id = "diffpolicy/Detour-v0"
    settings = SETTINGS

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode, and choose its mode.

        Args:
            obs: not looked at.
            info: what the environment's `reset` returned.
        """
        side = 1 if self._draw.random() < 0.5 else -1
        side = {"left": -1, "right": 1}.get(info.get("asked", ""), side)
        ((x0, y0), _, (_, y1), _) = OBSTACLE.pieces[0]
        beside = MIDDLE_X + side * (MIDDLE_X - x0 + PUCK_RADIUS + BERTH)
        self._line = np.array([info["state"][2:], (beside, y1 + BERTH), (beside, y0 - BERTH), ZONE])

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action, the agent's target (2,) px.

        Args:
            obs: not looked at.
            info: what the environment's last `reset` or `step` returned.
        """
        state = info["state"]
        puck, aim = state[2:], _ahead(self._line, state[2:])
        side = 2.0 * UP + (aim - puck) / max(math.dist(aim, puck), 1e-9)
        return _push(state[:2], puck, aim, side / float(np.hypot(*side)))


class PushBlocksExpert(Expert):
    """Pushes the pucks of `PushBlocksEnv` one after the other: as asked, else in a mode drawn with equal chance."""

    id = "diffpolicy/PushBlocks-v0"
    settings = SETTINGS | {"done": DONE}

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode, and choose its mode.

        Args:
            obs: not looked at.
            info: what the environment's `reset` returned.
        """
        self._first, self._zone = self._draw.integers(0, 2, 2).tolist()
        if asked := info.get("asked"):
            first, zone = asked.split("-")
            self._first, self._zone = int(first), ("left", "right").index(zone)
        self._starts = info["state"][2:].reshape(2, 2).copy()

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action, the agent's target (2,) px.

        Args:
            obs: not looked at.
            info: what the environment's last `reset` or `step` returned.
        """
        state = info["state"]
        pucks = state[2:].reshape(2, 2)
        first, second = self._first, 1 - self._first
        done = math.dist(pucks[first], ZONES[self._zone]) < DONE
        which, zone = (second, 1 - self._zone) if done else (first, self._zone)
        if done and math.dist(pucks[which], ZONES[zone]) < DONE:
            return state[:2]
        line = np.array([self._starts[which], ZONES[zone]])
        side = (line[1] - pucks[which]) / max(math.dist(line[1], pucks[which]), 1e-9)
        return _push(state[:2], pucks[which], _ahead(line, pucks[which]), side, [pucks[1 - which]])


def _push(agent: Vector, puck: Vector, aim: Vector, side: Vector, others: Sequence[Vector] = ()) -> Vector:
    """Return the target with which the agent pushes a puck, going around it first if need be.

    Args:
        agent: center of the agent, px.
        puck: center of the puck, px.
        aim: where the puck is pushed, px.
        side: unit vector; the agent approaches so that the puck lies in this direction, and then keeps touching the
            puck while that lets it push towards `aim`.
        others: centers of pucks to go around, px.
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
        detour = _around(agent, start, obstacle)
        if detour is not None:
            return _towards(agent, detour)
    return _towards(agent, start)


def _towards(agent: Vector, point: Vector) -> Vector:
    """Return the target that moves the agent to `point` at the experts' speed, slowing down on arrival."""
    path = point - agent
    distance = float(np.hypot(*path))
    return point if distance <= LEAD else agent + path * (LEAD / distance)


def _around(agent: Vector, goal: Vector, disc: Vector) -> Vector | None:
    """Return the next point of the path around a puck, None if the puck is not in between."""
    radius = CONTACT + CLEARANCE
    path = goal - agent
    length = float(np.hypot(*path))
    if length < 1e-9:
        return None
    along = min(max(float((disc - agent) @ path) / length, 0.0), length)
    if np.hypot(*(agent + path * (along / length) - disc)) >= radius - 4.0:
        return None
    here = math.atan2(*(agent - disc)[::-1])
    there = math.atan2(*(goal - disc)[::-1])
    turn = (there - here + math.pi) % (2 * math.pi) - math.pi
    angle = here + math.copysign(min(abs(turn), 0.7), turn)
    return disc + radius * np.array([math.cos(angle), math.sin(angle)])


def _ahead(line: Sequence[Point] | Vector, puck: Vector) -> Vector:
    """Return the point of a polyline LOOK_AHEAD px beyond the one nearest to the puck (pure pursuit), or its end."""
    line = np.asarray(line)
    starts, pieces = line[:-1], np.diff(line, axis=0)
    lengths = np.hypot(*pieces.T)
    along = np.clip(((puck - starts) * pieces).sum(1) / lengths, 0.0, lengths)
    nearest = int(np.argmin(np.hypot(*(starts + pieces * (along / lengths)[:, None] - puck).T)))
    rest = along[nearest] + LOOK_AHEAD
    for start, piece, length in zip(starts[nearest:], pieces[nearest:], lengths[nearest:], strict=True):
        if rest <= length:
            return start + piece * (rest / length)
        rest -= length
    return line[-1]
