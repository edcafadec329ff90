"""What the environments with pucks share: state, observation, images, and the check of a given state."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, PushingEnv
from .checks import Bounds, numbers, require
from .drawing import polygon_distance
from .geometry import Point, Polygon, Region
from .physics import AGENT_RADIUS, WORLD_SIZE, Puck
from .zones import outline

PUCK_RADIUS = 25.0
ZONE_RADIUS = 45.0
WALL_INSET = 8.0  # px from the border of the world to the inner side of a wall

DEEPEST = 27.0
"""Overlap of two bodies after the agent's fastest physics step, px: from rest at a distance of 512·√2 px, it reaches
10/e of that distance a second. Only a puck that is squeezed from two sides overlaps deeper."""
NEAR = 5.0
"""Distance of a body that may have squeezed a puck in the physics step before, px."""


class PuckEnv(PushingEnv):
    """Base of the tasks with pucks: round blocks that do not turn, and stick to the agent.

    Args:
        obs_mode: "state" or "pixels".
        render_mode: None, "rgb_array" or "human".
        render_size: side of a rendered image, px.
    """

    pucks: ClassVar[tuple[str, ...]]
    """The pucks' names."""
    zones: ClassVar[tuple[Point, ...]]
    """Centers of the zones, px."""
    margin: ClassVar[float]
    """How far outside the world a puck's center can get, px, because the agent can push it through a wall."""
    obstacles: ClassVar[tuple[Region, ...]] = ()

    def __init__(
        self, obs_mode: str = "state", render_mode: str | None = None, render_size: int = int(WORLD_SIZE)
    ) -> None:
        super().__init__(obs_mode, self._bounds(), self.obstacles, render_mode, render_size)
        self._set_goal([outline(zone, ZONE_RADIUS) for zone in self.zones])

    @abc.abstractmethod
    def _draw(self, draw: np.random.Generator) -> list[float]:
        """Return a random initial state."""

    def _layout(self, options: Mapping[str, Any]) -> tuple[Point, Sequence[Puck]]:
        if "state" in options:
            names = [f"{body} {axis}" for body in ("agent", *self.pucks) for axis in "xy"]
            agent, *pucks = _points(numbers("state", options["state"], names, self._bounds()))
            check_overlaps(agent, dict(zip(self.pucks, pucks, strict=True)), self._obstacle_pieces())
        else:
            agent, *pucks = _points(self._draw(self.np_random))
        return agent, [Puck(PUCK_RADIUS, x, y) for x, y in pucks]

    def _state(self) -> NDArray[np.float64]:
        return np.array([center for body in (self._table.agent, *self._table.blocks) for center in body.position])

    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return state

    def _blocks(self) -> Sequence[Polygon]:
        return [outline(body.position, PUCK_RADIUS) for body in self._table.blocks]

    def _bounds(self) -> list[Bounds]:
        return [*AGENT_BOUNDS, *((-self.margin, WORLD_SIZE + self.margin),) * (2 * len(self.pucks))]


def check_overlaps(agent: Point, pucks: Mapping[str, Point], obstacles: Sequence[Polygon]) -> None:
    """Refuse a state whose bodies overlap deeper than pushing can bring about.

    The agent pushes with unlimited force: a fast one is inside a puck before the puck moves, and a puck squeezed
    between the agent and a wall has nowhere to go.

    Args:
        agent: center of the agent, px.
        pucks: their centers by name, px.
        obstacles: convex polygons, px.

    Raises:
        ValueError: two bodies overlap by more than `DEEPEST`, and nothing squeezes them.
    """
    overlaps = {
        (a, b): 2.0 * PUCK_RADIUS - math.dist(pucks[a], pucks[b]) for a, b in itertools.combinations(pucks, 2)
    }
    for name, (x, y) in pucks.items():
        overlaps[name, "agent"] = AGENT_RADIUS + PUCK_RADIUS - math.dist(agent, (x, y))
        overlaps[name, "wall"] = PUCK_RADIUS + WALL_INSET - min(x, y, WORLD_SIZE - x, WORLD_SIZE - y)
        for k, polygon in enumerate(obstacles):
            apart = float(polygon_distance(polygon, np.array([x]), np.array([y]))[0, 0])
            overlaps[name, f"obstacle {k}"] = PUCK_RADIUS - apart
    for pair, depth in overlaps.items():
        touched = [p for p, other in overlaps.items() if p != pair and other > -NEAR]
        squeezed = any(name in pucks and name in other for name in pair for other in touched)
        if "wall" not in pair and not squeezed:
            given = f"a state in which {pair[0]} and {pair[1]} overlap by {depth:.1f} px"
            require(depth <= DEEPEST, given, f"at most {DEEPEST:g} px", "move them apart")


def _points(values: Sequence[float]) -> list[Point]:
    return list(zip(values[::2], values[1::2], strict=True))
