"""The T-shaped block and its goal: shape, mass, the points that observations show, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pymunk
from numpy.typing import ArrayLike, NDArray

from .checks import require
from .geometry import Point, Region

BAR: tuple[Point, ...] = ((-60.0, 0.0), (60.0, 0.0), (60.0, 30.0), (-60.0, 30.0))
STEM: tuple[Point, ...] = ((-15.0, 30.0), (15.0, 30.0), (15.0, 120.0), (-15.0, 120.0))
TEE = Region.of([BAR, STEM])
"""The block in its own frame, px: the origin is the middle of the bar's outer side, the stem points along +y."""

CENTER_OF_GRAVITY: Point = (0.0, 45.0)  # as published: the mean of the two centers, not weighted by area
MASS = 1.0
MOMENT = 2.0 * pymunk.moment_for_poly(MASS, BAR)  # as published: the bar's moment, and that again for the stem

GOAL_POSE: tuple[float, float, float] = (256.0, 256.0, math.pi / 4)
"""Position (px) and angle (rad) of the goal."""
GOAL = TEE.moved(*GOAL_POSE)

CORNERS: NDArray[np.float64] = np.array([*BAR[:3], *STEM[1:], STEM[0], BAR[3]])
"""The T's eight corners in its own frame, px, (8, 2), around the outline from the bar's outer corner at -x."""
KEYPOINTS: NDArray[np.float64] = np.array(
    [
        (9.26979, 90.04097),
        (-60.98347, -1.18673),
        (60.91276, -1.39336),
        (-0.27050, 25.54363),
        (-14.06493, 122.81585),
        (39.00274, 32.85740),
        (-39.96641, 32.72966),
        (-16.82434, 62.86318),
        (23.54146, -1.70029),
    ]
)
"""The published data's nine keypoints in the block's frame, px, (9, 2), fitted to its recordings (within 1e-4 px)."""


def block_points(states: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Return the world coordinates of points that are fixed to the block.

    Args:
        states: (..., 5) states [agent x, agent y, block x, block y, block angle], px and rad.
        points: (K, 2) points in the block's frame, px, such as `CORNERS` or `KEYPOINTS`.

    Returns:
        (..., K·2) coordinates in px: x and y of the first point, of the second, and so on.

    Raises:
        ValueError: arrays of other shapes.
    """
    states, points = np.asarray(states, dtype=np.float64), np.asarray(points, dtype=np.float64)
    fits = states.ndim >= 1 and states.shape[-1] == 5 and points.ndim == 2 and points.shape[-1] == 2
    require(fits, f"shapes {states.shape} and {points.shape}", "states (..., 5) and points (K, 2)")
    c, s = np.cos(states[..., 4:5]), np.sin(states[..., 4:5])
    u, v = points.T
    world = np.empty((*states.shape[:-1], len(points), 2))
    world[..., 0] = states[..., 2:3] + (c * u - s * v)
    world[..., 1] = states[..., 3:4] + (s * u + c * v)
    return world.reshape(*states.shape[:-1], 2 * len(points))


def corners(states: ArrayLike) -> NDArray[np.float64]:
    """Return the world coordinates (..., 16), px, of the block's eight `CORNERS` for states (..., 5)."""
    return block_points(states, CORNERS)


def keypoints(states: ArrayLike) -> NDArray[np.float64]:
    """Return the world coordinates (..., 18), px, of the nine `KEYPOINTS` for states (..., 5)."""
    return block_points(states, KEYPOINTS)


def coverage(x: float, y: float, angle: float) -> float:
    """Return the fraction of the goal's area, 0 to 1, that a block covers.

    Args:
        x: of the block's origin, px.
        y: of the block's origin, px.
        angle: of the block, rad.
    """
    return TEE.moved(x, y, angle).overlap(GOAL) / GOAL.area
