"""What the environments with pucks share: state, observation, images, and the check of a given state."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, PushingEnv
from .checks import Bounds, check_choice, numbers, require
from .drawing import polygon_distance
from .geometry import Point, Polygon, Region
from .phrases import PHRASINGS, Phrases
from .physics import AGENT_RADIUS, WORLD_SIZE, Puck
from .zones import outline

PUCK_RADIUS = 25.0
ZONE_RADIUS = 45.0
OBEYED = {"key": "obeyed", "reducer": "last", "description": "the task was done in the way that was asked for"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz "
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
        told: whether every episode asks for one of the modes, in words that are observed as "task".
        phrasings: of these words, "taught" or "held_out".
    """

    phrases: ClassVar[Phrases]
    """What the modes are called."""
    pucks: ClassVar[tuple[str, ...]]
    """The pucks' names."""
    zones: ClassVar[tuple[Point, ...]]
    """Centers of the zones, px."""
    margin: ClassVar[float]
    """How far outside the world a puck's center can get, px, because the agent can push it through a wall."""
    obstacles: ClassVar[tuple[Region, ...]] = ()

    def __init__(
        self,
        obs_mode: str = "state",
        render_mode: str | None = None,
        render_size: int = int(WORLD_SIZE),
        told: bool = False,
        phrasings: str = PHRASINGS[0],
    ) -> None:
        super().__init__(obs_mode, self._bounds(), self.obstacles, render_mode, render_size)
        self._set_goal([outline(zone, ZONE_RADIUS) for zone in self.zones])
        check_choice("phrasings", phrasings, PHRASINGS)
        self.told, self._phrasings, self._asked, self._text = told, phrasings, "", ""
        if told:
            shown = self.observation_space
            parts = dict(shown.spaces) if isinstance(shown, spaces.Dict) else {"state": shown}
            text = spaces.Text(self.phrases.longest, charset=_LETTERS)
            self.observation_space = spaces.Dict({**parts, "task": text})
            self.reset_options = (*self.reset_options, "task")
            task = self.metadata["task"]
            metrics = {**task["metrics"], "obeyed": OBEYED}
            self.metadata = {**self.metadata, "task": {**task, "metrics": metrics}}  # type: ignore[misc]

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
        if self.told:
            self._ask(options.get("task"))
        return agent, [Puck(PUCK_RADIUS, x, y) for x, y in pucks]

    def _ask(self, text: str | None) -> None:
        """Ask for a mode: in the words of `text`, or for one drawn at random after the initial state."""
        if text is None:
            mode = self.modes[self.np_random.integers(len(self.modes))]
            every = self.phrases.of(mode, self._phrasings)
            text = every[self.np_random.integers(len(every))]
        self._asked, self._text = self.phrases.mode_of(text), text

    def _observe(self, contacts: int) -> tuple[Any, float, dict[str, Any]]:
        obs, reward, info = super()._observe(contacts)
        if not self.told:
            return obs, reward, info
        obeyed = info["mode"] == self._asked
        success = info["success"] and obeyed
        info |= {"asked": self._asked, "obeyed": obeyed, "success": success, "is_success": success}
        seen = obs if isinstance(obs, Mapping) else {"state": obs}
        return {**seen, "task": self._text}, reward if obeyed or not info["mode"] else 0.0, info

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
