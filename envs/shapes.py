"""Blocks to push: the published T, an L, a plus, or any convex pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymunk
from numpy.typing import NDArray

from . import tee
from .checks import check_choice, require
from .geometry import Point, Polygon, Region, signed_area


@dataclass(frozen=True)
class Block:
    """The shape and mass of a rigid block, in its own frame and in px.

    Args:
        region: its convex pieces.
        center_of_gravity: in the block's frame.
        mass: in the unit of `moment`; only their ratio matters against an agent of unlimited force.
        moment: moment of inertia about the center of gravity, mass · px².
        corners: (K, 2), the points that an observation by corners shows.
    """

    region: Region
    center_of_gravity: Point
    mass: float
    moment: float
    corners: NDArray[np.float64]

    @property
    def reach(self) -> float:
        """The largest distance of a corner from the block's origin, px."""
        return float(np.hypot(*self.corners.T).max())


ELL: tuple[Polygon, ...] = (
    ((-30.0, -60.0), (0.0, -60.0), (0.0, 60.0), (-30.0, 60.0)),
    ((0.0, 30.0), (60.0, 30.0), (60.0, 60.0), (0.0, 60.0)),
)
PLUS: tuple[Polygon, ...] = (
    ((-60.0, -15.0), (60.0, -15.0), (60.0, 15.0), (-60.0, 15.0)),
    ((-15.0, -60.0), (15.0, -60.0), (15.0, -15.0), (-15.0, -15.0)),
    ((-15.0, 15.0), (15.0, 15.0), (15.0, 60.0), (-15.0, 60.0)),
)
SHAPES = {"tee": (tee.BAR, tee.STEM), "ell": ELL, "plus": PLUS}
LARGEST = 200.0
"""Largest reach of a block, px: one that fills the world cannot be pushed around in it."""


def make_block(shape: Any) -> Block:
    """Return the block called `shape`, or one made of the given pieces.

    All but the T, whose published mass and moment are not those of a plate, are plates of even thickness.

    Args:
        shape: "tee", "ell", "plus", or convex pieces [[(x, y), …], …] in px.

    Raises:
        ValueError: an unknown name, or pieces that are no strictly convex polygons or reach too far.
    """
    if isinstance(shape, str):
        check_choice("block", shape, SHAPES)
        if shape == "tee":
            return Block(tee.TEE, tee.CENTER_OF_GRAVITY, tee.MASS, tee.MOMENT, tee.CORNERS)
        shape = SHAPES[shape]
    region = make_region("block", shape)
    areas = [signed_area(piece) for piece in region.pieces]
    centers = [_centroid(piece) for piece in region.pieces]
    x, y = (sum(a * c[i] for a, c in zip(areas, centers, strict=True)) / sum(areas) for i in (0, 1))
    parts = [pymunk.moment_for_poly(a / sum(areas), p, (-x, -y)) for a, p in zip(areas, region.pieces, strict=True)]
    corners = np.array(list(dict.fromkeys(corner for piece in region.pieces for corner in piece)))
    block = Block(region, (x, y), 1.0, math.fsum(parts), corners)
    require(
        block.reach <= LARGEST, f"a block that reaches {block.reach:g} px from its origin", f"at most {LARGEST:g} px"
    )
    return block


def make_region(kind: str, pieces: Any) -> Region:
    """Return a region of the given pieces, whose corners may be in either order.

    Args:
        kind: what the region is, for example "block".
        pieces: convex polygons [[(x, y), …], …], px.

    Raises:
        ValueError: not a list of strictly convex polygons of finite numbers.
    """
    given, expected = f"{kind}={pieces!r}", "convex polygons [[(x, y), …], …] of finite numbers, px"
    try:
        polygons = [[(float(x), float(y)) for x, y in piece] for piece in pieces]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{given}; expected {expected}") from error
    flat = [number for piece in polygons for point in piece for number in point]
    require(polygons and np.isfinite(flat).all(), given, f"one or more {expected}")
    return Region.of([piece if len(piece) < 3 or signed_area(piece) > 0 else piece[::-1] for piece in polygons])


def _centroid(polygon: Sequence[Point]) -> Point:
    """Return the center of area, (Σ (p + q)·(p × q)) / (6·area) over the edges p → q."""
    area = signed_area(polygon)
    x = y = 0.0
    for (x0, y0), (x1, y1) in zip((*polygon[-1:], *polygon[:-1]), polygon, strict=True):
        cross = x0 * y1 - x1 * y0
        x, y = x + (x0 + x1) * cross, y + (y0 + y1) * cross
    return x / (6.0 * area), y / (6.0 * area)
