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
from .base import check_choice
from .geometry import Point, Polygon, Region, signed_area


@dataclass(frozen=True)
class Block:
    """A rigid block in its own frame: px, mass · px².

    Args:
        region: its convex pieces.
        centre_of_gravity, mass, moment: the moment is about the centre of gravity.
        corners: (K, 2), what an observation by corners shows.
    """

    region: Region
    centre_of_gravity: Point
    mass: float
    moment: float
    corners: NDArray[np.float64]

    @property
    def reach(self) -> float:
        """The farthest distance of a corner from the block's origin, px."""
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
"""How far from its origin a block may reach, px: one that fills the world cannot be pushed about in it."""


def make_block(shape: Any) -> Block:
    """The block called `shape`, or one of the given convex pieces, [[(x, y), …], …] in px.

    All but the T, whose published mass and moment are not those of a plate, are plates of even thickness.

    Raises:
        ValueError: an unknown name, or pieces that are no strictly convex polygons or reach too far.
    """
    if shape == "tee":
        return Block(tee.TEE, tee.CENTRE_OF_GRAVITY, tee.MASS, tee.MOMENT, tee.CORNERS)
    if isinstance(shape, str):
        check_choice("block", shape, SHAPES)
        shape = SHAPES[shape]
    region = make_region("a block", shape)
    areas = [signed_area(piece) for piece in region.pieces]
    centres = [_centroid(piece) for piece in region.pieces]
    x, y = (sum(a * c[i] for a, c in zip(areas, centres, strict=True)) / sum(areas) for i in (0, 1))
    parts = [pymunk.moment_for_poly(a / sum(areas), p, (-x, -y)) for a, p in zip(areas, region.pieces, strict=True)]
    corners = np.array(list(dict.fromkeys(corner for piece in region.pieces for corner in piece)))
    block = Block(region, (x, y), 1.0, math.fsum(parts), corners)
    if block.reach > LARGEST:
        raise ValueError(f"a block reaches at most {LARGEST:g} px from its origin; this one {block.reach:g} px")
    return block


def make_region(what: str, pieces: Any) -> Region:
    """A region of the given pieces; the order of their corners does not matter.

    Raises:
        ValueError: not a list of strictly convex polygons; names what was given.
    """
    try:
        polygons = [[(float(x), float(y)) for x, y in piece] for piece in pieces]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is a list of convex polygons [[(x, y), …], …] in px; got {pieces!r}") from error
    if not polygons or not np.isfinite([number for piece in polygons for point in piece for number in point]).all():
        raise ValueError(f"{what} is made of one or more polygons of finite numbers; got {pieces!r}")
    return Region.of([piece if len(piece) < 3 or signed_area(piece) > 0 else piece[::-1] for piece in polygons])


def _centroid(polygon: Sequence[Point]) -> Point:
    """Centre of area, (Σ (p + q)·(p × q)) / (6·area) over the edges p → q."""
    area = signed_area(polygon)
    x = y = 0.0
    for (x0, y0), (x1, y1) in zip((*polygon[-1:], *polygon[:-1]), polygon, strict=True):
        cross = x0 * y1 - x1 * y0
        x, y = x + (x0 + x1) * cross, y + (y0 + y1) * cross
    return x / (6.0 * area), y / (6.0 * area)
