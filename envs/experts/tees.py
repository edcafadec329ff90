"""The expert for Push-T: simulates pushes, chooses the best one, and walks around the block to its start."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..geometry import Point, signed_area
from ..physics import AGENT_RADIUS, PHYSICS_DT, WORLD_SIZE, Slab, Table
from ..shapes import Block, make_block, make_region
from .base import Expert, Vector

SPACING = 12.0  # px between the contact points tried along an edge
GAP = 8.0  # px between agent and block before a push
CLEARANCE = 4.0  # px kept from the block on the path around it
PACE = 14.0  # px a step that the target moves on the path
PUSH_PACE = 9.0  # px a step that the target moves in a push
LAG = 2  # steps by which the agent lags a target that moves steadily
RETREAT = 12.0  # px from the block after a push
LONGEST = 130  # px of a push
OVERHEAD = 10.0  # steps that every push needs besides its path and depth
WALL_INSET = 7.0  # px from the border to the inner side of a wall
MARGIN = 20.0  # px the agent keeps from the border

# Recordings store these: the keys are part of their format.
SETTINGS = {
    "spacing": SPACING,
    "gap": GAP,
    "clearance": CLEARANCE,
    "pace": PACE,
    "push_pace": PUSH_PACE,
    "longest": LONGEST,
    "overhead": OVERHEAD,
    "margin": MARGIN,
}


@dataclass(frozen=True)
class Push:
    """A push of the block.

    Args:
        start: where the agent goes first, px.
        direction: unit vector along which it then pushes.
        depth: how far it pushes, px.
        gain: how much nearer it brings the block's corners to their goal, px a step.
    """

    start: Vector
    direction: Vector
    depth: float
    gain: float


class PushTExpert(Expert):
    """Pushes the block of `PushTEnv` onto its goal.

    Each push starts at the point of the outline from which it, simulated, brings the block's corners nearest to their
    places on the goal in the time that it and the path to it need. A preference for one direction around the block,
    drawn for each episode, weights the paths.

    Args:
        seed: of the expert's generator.
        options: the environment's constructor arguments; `block` and `obstacles` count.
    """

    id = "diffpolicy/PushT-v0"
    settings = SETTINGS

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed)
        options = options or {}
        self._block = make_block(options.get("block", "tee"))
        self._obstacles = [make_region("obstacle", [o]).pieces[0] for o in options.get("obstacles", ())]
        self._contacts = _contacts(self._block)

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode, and draw its preference.

        Args:
            obs: not looked at.
            info: what the environment's `reset` returned.
        """
        self._goal = _places(self._block.corners, *info["goal_pose"])
        self._preference = float(self._draw.uniform(-1.0, 1.0))
        self._plan: list[Vector] = []

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action, the agent's target (2,) px.

        Args:
            obs: not looked at.
            info: what the environment's last `reset` or `step` returned.
        """
        if not self._plan:
            self._plan = self._make_plan(info["state"])
        return self._plan.pop(0)

    def _make_plan(self, state: Vector) -> list[Vector]:
        """Return the targets, one a step, of the path to the best push and of the push."""
        agent, pose = state[:2], state[2:]
        push = max((self._try(push, state) for push in self._pushes(agent, pose)), key=lambda p: p.gain)
        path = _walk([agent, *_path(agent, push.start, self._outline(pose))], PACE)
        still = [push.start] * LAG
        depths = np.append(np.arange(PUSH_PACE, push.depth, PUSH_PACE), push.depth)
        pushing = [push.start + push.direction * depth for depth in depths]
        back = push.start + push.direction * (push.depth - RETREAT)
        return [*path, *still, *pushing, *pushing[-1:] * (2 * LAG), back]

    def _outline(self, pose: Vector) -> list[Vector]:
        return [np.array(piece) for piece in self._block.region.moved(*pose).pieces]

    def _pushes(self, agent: Vector, pose: Vector) -> list[tuple[Vector, Vector, float]]:
        """Return (start, direction, steps to get there) of all pushes whose start the agent can be at."""
        pieces = self._outline(pose)
        points = _places(self._contacts[:, :2], *pose)
        normals = _places(self._contacts[:, 2:], 0.0, 0.0, pose[2])
        starts = points + normals * (AGENT_RADIUS + GAP)
        inside = ((starts > MARGIN) & (starts < WORLD_SIZE - MARGIN)).all(1)
        free = _distance(starts, pieces) >= AGENT_RADIUS + GAP - 1e-6
        center = _places(np.array([self._block.center_of_gravity]), *pose)[0]
        found = []
        for start, normal in zip(starts[inside & free], normals[inside & free], strict=True):
            here, there = agent - center, start - center
            turn = math.atan2(here[0] * there[1] - here[1] * there[0], here @ there)
            weight = 1.0 + 0.5 * self._preference * np.sign(turn)
            length = float(np.hypot(*(start - agent))) + 40.0 * abs(turn) * weight
            found.append((start, -normal, OVERHEAD + length / PACE))
        return found

    def _try(self, push: tuple[Vector, Vector, float], state: Vector) -> Push:
        """Return a push that ends where, simulated, the corners are nearest to their places."""
        start, direction, steps = push
        now = self._cost(state[2:4], state[4])
        table = Table((start[0], start[1]), [Slab(self._block, *state[2:])], self._obstacles)
        (body,) = table.blocks
        # The block moves only while it is pushed: its path depends on the agent's path and not on the speed.
        table.agent.velocity = tuple(direction / PHYSICS_DT)
        costs: list[float] = []
        allowed = max(self._outside(body.position, body.angle), 0.0) + 1.0
        for _ in range(LONGEST):
            table.space.step(PHYSICS_DT)
            if self._outside(body.position, body.angle) > allowed:
                break
            costs.append(self._cost(body.position, body.angle))
            if costs[-1] > min(costs) + 5.0:
                break
        if not costs:
            return Push(start, direction, 0.0, -math.inf)
        depth = int(np.argmin(costs)) + 1
        return Push(start, direction, depth, (now - costs[depth - 1]) / (steps + depth / PUSH_PACE))

    def _cost(self, position: Point, angle: float) -> float:
        return float(np.hypot(*(_places(self._block.corners, *position, angle) - self._goal).T).mean())

    def _outside(self, position: Point, angle: float) -> float:
        """Return how far the block reaches beyond the walls, px; the agent can push it through them."""
        corners = _places(self._block.corners, *position, angle)
        return float(np.abs(corners - WORLD_SIZE / 2).max()) - (WORLD_SIZE / 2 - WALL_INSET)


def _contacts(block: Block) -> Vector:
    """Return points on the block's outline with their outward normals, (K, 4): x, y, nx, ny in the block's frame."""
    found = []
    for piece in block.region.pieces:
        corners = np.array(piece if signed_area(piece) > 0 else piece[::-1])
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            length = float(np.hypot(*(b - a)))
            normal = np.array([(b - a)[1], -(b - a)[0]]) / length
            count = max(int(length // SPACING), 1)
            for k in range(count):
                point = a + (b - a) * ((k + 0.5) / count)
                found.append([*point, *normal])
    outline = [np.array(piece) for piece in block.region.pieces]
    free = [_distance(np.array([c[:2]]) + 0.5 * np.array([c[2:]]), outline)[0] > 0.25 for c in found]
    return np.array(found)[free]


def _places(points: Vector, x: float, y: float, angle: float) -> Vector:
    """Return points (K, 2) of the block's frame in the world."""
    c, s = math.cos(angle), math.sin(angle)
    return points @ np.array([[c, s], [-s, c]]) + np.array([x, y])


def _distance(points: Vector, pieces: list[Vector]) -> Vector:
    """Return the distances (K,) of points (K, 2) to the nearest of convex pieces, 0 inside."""
    nearest = np.full(len(points), np.inf)
    for corners in pieces:
        inside = np.ones(len(points), bool)
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            edge, to = b - a, points - a
            along = np.clip(to @ edge / (edge @ edge), 0.0, 1.0)
            nearest = np.minimum(nearest, np.hypot(*(to - along[:, None] * edge).T))
            inside &= edge[0] * to[:, 1] - edge[1] * to[:, 0] > 0
        nearest[inside] = 0.0
    return nearest


def _path(agent: Vector, goal: Vector, pieces: list[Vector]) -> list[Vector]:
    """Return the corners of the shortest free path from agent to goal, its end (Dijkstra on a visibility graph)."""
    keep = AGENT_RADIUS + CLEARANCE
    nodes = [agent, goal]
    for corners in pieces:
        for before, corner, after in zip(np.roll(corners, 1, 0), corners, np.roll(corners, -1, 0), strict=True):
            out = (corner - before) / np.hypot(*(corner - before)) + (corner - after) / np.hypot(*(corner - after))
            nodes.append(corner + out / np.hypot(*out) * (keep * 1.5))
    points = np.array(nodes)
    ok = _distance(points, pieces) >= keep - 1e-6
    ok &= ((points > 5) & (points < WORLD_SIZE - 5)).all(1)
    ok[:2] = True
    points = points[ok]
    distances, best, before = {0: 0.0}, [(0.0, 0)], {}
    while best:
        far, here = heapq.heappop(best)
        if here == 1:
            break
        if far > distances[here]:
            continue
        for there in range(1, len(points)):
            if there == here or not _free(points[here], points[there], pieces, keep, here == 0):
                continue
            length = far + float(np.hypot(*(points[there] - points[here])))
            if length < distances.get(there, math.inf):
                distances[there], before[there] = length, here
                heapq.heappush(best, (length, there))
    if 1 not in distances:
        return [goal]
    path, here = [], 1
    while here != 0:
        path.append(points[here])
        here = before[here]
    return path[::-1]


def _free(a: Vector, b: Vector, pieces: list[Vector], keep: float, leaving: bool) -> bool:
    """Return whether the agent can go straight from a to b; near the block it may only move away."""
    count = max(int(np.hypot(*(b - a)) // 4.0), 1)
    distance = _distance(a + (b - a) * np.linspace(0.0, 1.0, count + 1)[:, None], pieces)
    if leaving and distance[0] < keep:
        out = distance >= keep - 1e-6
        first = int(np.argmax(out)) if out.any() else len(out)
        return bool((np.diff(distance[: first + 1]) > -1e-6).all() and out[first:].all())
    return bool((distance >= keep - 1e-6).all())


def _walk(corners: list[Vector], pace: float) -> list[Vector]:
    """Return targets along a polyline, `pace` px apart, the last at its end."""
    line = np.array(corners)
    lengths = np.hypot(*np.diff(line, axis=0).T)
    total = lengths.sum()
    at = np.append(np.arange(pace, total, pace), total)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    return [np.array([np.interp(d, ends, line[:, 0]), np.interp(d, ends, line[:, 1])]) for d in at]
