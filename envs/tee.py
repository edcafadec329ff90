"""The T-shaped block and its mark: shape, mass, the points that observations are made of, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pymunk
from numpy.typing import ArrayLike, NDArray

from .geometry import Point, Region

BAR: tuple[Point, ...] = ((-60.0, 0.0), (60.0, 0.0), (60.0, 30.0), (-60.0, 30.0))
STEM: tuple[Point, ...] = ((-15.0, 30.0), (15.0, 30.0), (15.0, 120.0), (-15.0, 120.0))
TEE = Region.of([BAR, STEM])
"""The block in its own frame, px: the origin is the middle of the bar's outer side, the stem points along +y."""

CENTRE_OF_GRAVITY: Point = (0.0, 45.0)  # as published: the mean of the two centres, not weighted by area
MASS = 1.0
MOMENT = 2.0 * pymunk.moment_for_poly(MASS, BAR)  # as published: the bar's moment, and that again for the stem

GOAL_POSE: tuple[float, float, float] = (256.0, 256.0, math.pi / 4)
"""Position (px) and angle (rad) of the mark."""
GOAL = TEE.moved(*GOAL_POSE)

CORNERS: NDArray[np.float64] = np.array([*BAR[:3], *STEM[1:], STEM[0], BAR[3]])
"""The T's eight corners in its own frame, px, (8, 2), round the outline from the bar's outer corner at -x."""
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
    """Points fixed to the block, seen in the world.

    Args:
        states: (..., 5) states [agent x, agent y, block x, block y, block angle], px and rad.
        points: (K, 2) points in the block's frame, px, such as `CORNERS` or `KEYPOINTS`.

    Returns:
        (..., K·2) world coordinates in px: x and y of the first point, of the second, and so on.

    Raises:
        ValueError: where the shapes are others.
    """
    states, points = np.asarray(states, dtype=np.float64), np.asarray(points, dtype=np.float64)
    if states.ndim < 1 or states.shape[-1] != 5 or points.ndim != 2 or points.shape[-1] != 2:
        raise ValueError(f"expected states (..., 5) and points (K, 2), got {states.shape} and {points.shape}")
    c, s = np.cos(states[..., 4:5]), np.sin(states[..., 4:5])
    u, v = points.T
    world = np.empty((*states.shape[:-1], len(points), 2))
    world[..., 0] = states[..., 2:3] + (c * u - s * v)
    world[..., 1] = states[..., 3:4] + (s * u + c * v)
    return world.reshape(*states.shape[:-1], 2 * len(points))


def corners(states: ArrayLike) -> NDArray[np.float64]:
    """The block's eight corners in the order of `CORNERS`: states (..., 5) -> (..., 16) px; see `block_points`."""
    return block_points(states, CORNERS)


def keypoints(states: ArrayLike) -> NDArray[np.float64]:
    """The published data's nine keypoints: states (..., 5) -> (..., 18) px; see `block_points`."""
    return block_points(states, KEYPOINTS)


def coverage(x: float, y: float, angle: float) -> float:
    """Share of the mark's area, 0 to 1, that a block at (x, y) px, turned by `angle` rad, covers."""
    return TEE.moved(x, y, angle).overlap(GOAL) / GOAL.area
