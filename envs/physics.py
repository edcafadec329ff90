"""The physics of pushing on a table, seen from above, on pymunk 6 and 7 alike.

The constants are those of the published Push-T environment (Chi et al. 2023, "Diffusion Policy", section 5), in
pixels, seconds and radians; y points down, as on a screen.
"""

from __future__ import annotations

import abc
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pymunk

from .geometry import Point, Polygon
from .shapes import Block

WORLD_SIZE = 512.0
"""Side of the square world, px. Actions and the agent's center lie in [0, WORLD_SIZE]."""
WALL_RADIUS = 2.0
WALLS: tuple[tuple[Point, Point], ...] = (
    ((5.0, 506.0), (5.0, 5.0)),
    ((5.0, 5.0), (506.0, 5.0)),
    ((506.0, 5.0), (506.0, 506.0)),
    ((5.0, 506.0), (506.0, 506.0)),
)
AGENT_RADIUS = 15.0
AGENT_HOME: Point = (256.0, 400.0)
BLOCK_HOME: Point = (256.0, 300.0)
"""Where bodies enter the space, before they are moved to where they start.

The spatial index is built there, and its order is the order in which contacts are solved: with both bodies at the
origin, published demonstration 50, which starts in contact with both pieces of the block, comes out 2 px off.
"""
CONTROL_HZ = 10
PHYSICS_DT = 0.01
PHYSICS_STEPS = 10
"""Physics steps of `PHYSICS_DT` seconds in one control step."""
STIFFNESS = 100.0
DAMPING = 20.0
"""The agent accelerates by STIFFNESS·(target − position) − DAMPING·velocity, in px/s²."""
PUCK_FRICTION = 2.5
"""Coefficient of Coulomb friction between a puck and the agent; everything else is smooth."""


class Pushable(abc.ABC):
    """A block and where it starts."""

    @abc.abstractmethod
    def add(self, space: pymunk.Space) -> pymunk.Body:
        """Add the block to the space, at `BLOCK_HOME`, and return its body."""

    @abc.abstractmethod
    def place(self, body: pymunk.Body) -> None:
        """Move the body to where the block starts."""


@dataclass(frozen=True)
class Slab(Pushable):
    """A rigid block of convex pieces.

    Args:
        block: its shape and mass.
        x: of the block's origin, px.
        y: of the block's origin, px.
        angle: about the origin, rad.
        legacy: sets the position before the angle, as the published environment does. A body turns about its center
            of gravity, so this moves the origin away from (x, y); the paper's initial states are defined so.
    """

    block: Block
    x: float
    y: float
    angle: float
    legacy: bool = False

    def add(self, space: pymunk.Space) -> pymunk.Body:
        body = pymunk.Body(self.block.mass, self.block.moment)
        body.center_of_gravity = self.block.center_of_gravity
        body.position = BLOCK_HOME
        space.add(body, *(pymunk.Poly(body, piece) for piece in self.block.region.pieces))
        return body

    def place(self, body: pymunk.Body) -> None:
        if self.legacy:
            body.position = self.x, self.y
        body.angle = self.angle
        if not self.legacy:
            body.position = self.x, self.y


@dataclass(frozen=True)
class Puck(Pushable):
    """A round block that cannot turn and sticks to the agent that pushes it.

    A disc that slides off or rolls is unstable to push: the pusher's offset from the center grows e-fold with every
    radius of the path. One that neither rolls nor, within the cone of friction, slides follows the agent (Lynch and
    Mason 1996, "Stable pushing"), so that the tasks ask for choosing a mode and not for balancing.

    Args:
        radius: px.
        x: of the center, px.
        y: of the center, px.
    """

    radius: float
    x: float
    y: float

    def add(self, space: pymunk.Space) -> pymunk.Body:
        body = pymunk.Body(1.0, math.inf)
        body.position = BLOCK_HOME
        shape = pymunk.Circle(body, self.radius)
        shape.friction = PUCK_FRICTION
        space.add(body, shape)
        return body

    def place(self, body: pymunk.Body) -> None:
        body.position = self.x, self.y


class Table:
    """Simulates walls, an agent under PD control, and the blocks it pushes.

    The agent pushes with unlimited force and passes through walls; with its gains it never overshoots a target, so
    that from rest in [0, WORLD_SIZE]² it stays there. Blocks lose all velocity between two physics steps (the space's
    damping is 0), which makes the motion quasi-static. Every episode has a table of its own: the solver starts from
    the contacts of the step before, so that a table that has been used does not repeat what a fresh one does.

    A copy, by `copy.deepcopy` or pickling, continues to the same bits. pymunk copies neither those contacts nor the
    order of its spatial index, so the copy is a fresh table that repeats all control steps, at about the speed of the
    first time. Physics steps made past `control` and `settle` are not repeated.

    Args:
        agent: center of the agent, px.
        blocks: what the agent pushes.
        obstacles: convex polygons, px, that stop blocks and not the agent.

    Attributes:
        agent: the agent's body.
        blocks: the blocks' bodies, in the order given.
    """

    agent: pymunk.Body
    blocks: tuple[pymunk.Body, ...]

    def __init__(self, agent: Point, blocks: Sequence[Pushable], obstacles: Sequence[Polygon] = ()) -> None:
        self._start = (agent, tuple(blocks), tuple(obstacles))
        self._settled = False
        self._targets = array("d")  # x and y of every control step, for copies
        self._contacts = 0
        self._build(*self._start)

    def settle(self) -> int:
        """Run the one physics step that finds the first contacts, in which nothing moves, and return their number."""
        self._settled = True
        self._contacts = 0
        self.space.step(PHYSICS_DT)
        return self._contacts

    def control(self, target: Point) -> int:
        """Drive the agent towards `target` (x, y) px for one control step of 0.1 s.

        Returns:
            The number of contact points (of blocks with the agent and with walls), summed over the physics steps.
        """
        self._targets.extend(target)
        self._contacts = 0
        target_x, target_y = target
        agent, step = self.agent, self.space.step
        for _ in range(PHYSICS_STEPS):
            x, y = agent.position
            vx, vy = agent.velocity
            agent.velocity = (
                vx + (STIFFNESS * (target_x - x) - DAMPING * vx) * PHYSICS_DT,
                vy + (STIFFNESS * (target_y - y) - DAMPING * vy) * PHYSICS_DT,
            )
            step(PHYSICS_DT)
        return self._contacts

    def __reduce__(self) -> tuple[Any, ...]:
        return _repeated, (self._start, self._settled, self._targets.tolist())

    def _build(self, agent: Point, blocks: Sequence[Pushable], obstacles: Sequence[Polygon]) -> None:
        """Make the space; the order of what enters it is part of the physics, see `BLOCK_HOME`."""
        self.space = pymunk.Space()
        self.space.gravity = 0.0, 0.0
        self.space.damping = 0.0
        self.space.add(*(pymunk.Segment(self.space.static_body, a, b, WALL_RADIUS) for a, b in WALLS))
        self.space.add(*(pymunk.Poly(self.space.static_body, polygon) for polygon in obstacles))
        self.agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self.agent.position = AGENT_HOME
        shape = pymunk.Circle(self.agent, AGENT_RADIUS)
        shape.friction = 1.0  # of a pair, the product counts, and only pucks have friction
        self.space.add(self.agent, shape)
        _after_each_contact(self.space, self._count_contacts)
        self.blocks = tuple([block.add(self.space) for block in blocks])
        self.agent.position = agent
        for block, body in zip(blocks, self.blocks, strict=True):
            block.place(body)

    def _count_contacts(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        self._contacts += len(arbiter.contact_point_set.points)


def _repeated(start: tuple[Any, ...], settled: bool, targets: Sequence[float]) -> Table:
    """Return a fresh table on which everything that was done to another one has been done again."""
    table = Table(*start)
    if settled:
        table.settle()
    for target in zip(targets[::2], targets[1::2], strict=True):
        table.control(target)
    return table


def _after_each_contact(space: pymunk.Space, callback: object) -> None:
    """Call `callback(arbiter, space, data)` for every touching pair after each solve; all shapes have type 0."""
    if hasattr(space, "on_collision"):  # pymunk 7, which removed the other
        space.on_collision(0, 0, post_solve=callback)
    else:
        space.add_collision_handler(0, 0).post_solve = callback
