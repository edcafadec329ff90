"""Pushing on a table, seen from above: walls, a round agent under PD control, and blocks, on pymunk 6 and 7 alike.

The constants are those of the published Push-T environment (Chi et al. 2023, "Diffusion Policy", section 5), in
pixels, seconds and radians; y points down, as on a screen. A new `Table` is built at every reset, because the solver
warm-starts from cached contacts, so that a table that has been used does not repeat what a fresh one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pymunk

from .geometry import Point, Polygon, Region

WORLD_SIZE = 512.0
"""Side of the square world, px. Actions and the agent's centre lie in [0, WORLD_SIZE]."""
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
"""Where bodies are when they enter the space. It matters even though they are then moved: the spatial index is built
there, and its order is the order in which contacts are solved: of the 206 published demonstrations, number 50, which
starts in contact with both pieces of the block, comes out 2 px off when both bodies enter at the origin."""
CONTROL_HZ = 10
PHYSICS_DT = 0.01
PHYSICS_STEPS = 10
"""Physics steps of `PHYSICS_DT` seconds in one control step."""
STIFFNESS = 100.0
DAMPING = 20.0
"""The agent accelerates by STIFFNESS·(target − position) − DAMPING·velocity, in px/s²."""
PUCK_FRICTION = 2.5
"""Coulomb's, between a puck and the agent; everything else is smooth."""


class Table:
    """A space with walls and a kinematic agent, to which an environment adds its blocks.

    The agent pushes with unlimited force and passes through walls; with its gains it never overshoots a target, so
    that from rest in [0, 512]² it stays there. Blocks lose all velocity between two physics steps (the space's
    damping is 0), which makes the motion quasi-static. Obstacles (convex polygons, px) stop blocks and not the agent.
    """

    def __init__(self, obstacles: Sequence[Polygon] = ()) -> None:
        self.space = pymunk.Space()
        self.space.gravity = 0.0, 0.0
        self.space.damping = 0.0
        self.space.add(*(pymunk.Segment(self.space.static_body, a, b, WALL_RADIUS) for a, b in WALLS))
        self.space.add(*(pymunk.Poly(self.space.static_body, polygon) for polygon in obstacles))
        self.agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self.agent.position = AGENT_HOME
        self.space.add(self.agent, pymunk.Circle(self.agent, AGENT_RADIUS))
        self._contacts = 0
        _after_each_contact(self.space, self._count_contacts)

    def add_block(self, region: Region, centre_of_gravity: Point, mass: float, moment: float) -> pymunk.Body:
        """Add a rigid block of convex pieces and return its body, to be put where it belongs by `place`.

        Args:
            region: the block in its own frame, px.
            centre_of_gravity: in the block's frame, px.
            mass: in the unit of `moment`; only their ratio matters against an agent of unlimited force.
            moment: moment of inertia about the centre of gravity, mass · px².
        """
        body = pymunk.Body(mass, moment)
        body.center_of_gravity = centre_of_gravity
        body.position = BLOCK_HOME
        self.space.add(body, *(pymunk.Poly(body, piece) for piece in region.pieces))
        return body

    def add_puck(self, radius: float) -> pymunk.Body:
        """Add a round block of `radius` px that cannot turn and sticks to the agent; put it where it belongs.

        A disc that slides off or rolls is unstable to push: what the pusher is off the centre grows e-fold along
        every radius' length. One that neither rolls nor, within the cone of friction, slides follows the agent (Lynch
        and Mason 1996, "Stable pushing"), so that what these tasks ask for is choosing a way and not balancing.
        """
        body = pymunk.Body(1.0, math.inf)
        body.position = BLOCK_HOME
        shape = pymunk.Circle(body, radius)
        shape.friction = PUCK_FRICTION
        for agent in self.agent.shapes:
            agent.friction = 1.0
        self.space.add(body, shape)
        return body

    @staticmethod
    def place(body: pymunk.Body, x: float, y: float, angle: float, *, legacy: bool = False) -> None:
        """Put a block's origin at (x, y) px, turned by `angle` rad.

        With `legacy`, the position is set before the angle, as the published environment does. A body turns about its
        centre of gravity, so this moves the origin away from (x, y); the paper's initial states are defined so.
        """
        if legacy:
            body.position = x, y
        body.angle = angle
        if not legacy:
            body.position = x, y

    def settle(self) -> int:
        """Run the one physics step that follows a placement and return the number of contact points in it."""
        self._contacts = 0
        self.space.step(PHYSICS_DT)
        return self._contacts

    def control(self, target: Sequence[float]) -> int:
        """Drive the agent towards `target` (x, y) px for one control step of 0.1 s.

        Returns:
            The number of contact points (of blocks with the agent and with walls), summed over the physics steps.
        """
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

    def _count_contacts(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        self._contacts += len(arbiter.contact_point_set.points)


def _after_each_contact(space: pymunk.Space, callback: object) -> None:
    """Call `callback(arbiter, space, data)` for every touching pair after each solve; all shapes have type 0."""
    if hasattr(space, "on_collision"):  # pymunk 7, which removed the other
        space.on_collision(0, 0, post_solve=callback)
    else:
        space.add_collision_handler(0, 0).post_solve = callback
