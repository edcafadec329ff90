"""Areas of overlapping polygons in pure Python: a few dozen floating-point operations need no geometry library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Polygon = tuple[Point, ...]
"""Vertices of a convex polygon in the order of a positive `signed_area`: clockwise on a screen."""


def signed_area(polygon: Sequence[Point]) -> float:
    """Area by the shoelace formula; positive where the vertices turn from the x axis towards the y axis."""
    twice = 0.0
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        twice += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return 0.5 * twice


def clip(subject: Sequence[Point], window: Sequence[Point]) -> list[Point]:
    """The part of a convex polygon inside another one (Sutherland & Hodgman 1974, "Reentrant polygon clipping").

    Args:
        subject: vertices of the polygon that is cut, in either order.
        window: vertices of the convex polygon that cuts, in the order of a positive area.

    Returns:
        The vertices of the intersection, in the subject's order; fewer than three where the two do not overlap.
    """
    kept = list(subject)
    ax, ay = window[-1]
    for bx, by in window:
        ex, ey = bx - ax, by - ay
        px, py = kept[-1]
        before = ex * (py - ay) - ey * (px - ax)  # > 0: inside this edge's half-plane
        inside: list[Point] = []
        for qx, qy in kept:
            after = ex * (qy - ay) - ey * (qx - ax)
            if (before < 0.0) != (after < 0.0):
                t = before / (before - after)
                inside.append((px + t * (qx - px), py + t * (qy - py)))
            if after >= 0.0:
                inside.append((qx, qy))
            px, py, before = qx, qy, after
        if not inside:
            return inside
        kept = inside
        ax, ay = bx, by
    return kept


@dataclass(frozen=True)
class Region:
    """A flat region: convex pieces whose interiors are disjoint, each with a circle around it.

    Make one with `Region.of`; `pieces` and `circles` have one entry a piece, a circle being (x, y, radius).
    """

    pieces: tuple[Polygon, ...]
    circles: tuple[tuple[float, float, float], ...]

    @classmethod
    def of(cls, pieces: Sequence[Sequence[Point]]) -> Region:
        """Build a region from the vertices of its pieces.

        Raises:
            ValueError: where a piece is not strictly convex or its vertices run the wrong way round.
        """
        polygons = tuple(tuple((float(x), float(y)) for x, y in piece) for piece in pieces)
        for polygon in polygons:
            corners = zip(polygon[-2:] + polygon[:-2], polygon[-1:] + polygon[:-1], polygon, strict=True)
            turns = [(bx - ax) * (cy - by) - (by - ay) * (cx - bx) for (ax, ay), (bx, by), (cx, cy) in corners]
            if len(polygon) < 3 or min(turns) <= 0.0:
                raise ValueError(
                    f"expected the corners of a strictly convex polygon, turning from x towards y, got {polygon}; "
                    "split what is not convex into pieces, and reverse the order if only the direction is wrong"
                )
        return cls(polygons, tuple(_bounding_circle(polygon) for polygon in polygons))

    @property
    def area(self) -> float:
        """Sum of the pieces' areas."""
        return sum(signed_area(piece) for piece in self.pieces)

    def moved(self, x: float, y: float, angle: float) -> Region:
        """The region turned by `angle` (rad) about the origin of its own frame, then shifted by (x, y)."""
        c, s = math.cos(angle), math.sin(angle)
        return Region(
            tuple([tuple([(x + c * u - s * v, y + s * u + c * v) for u, v in piece]) for piece in self.pieces]),
            tuple([(x + c * u - s * v, y + s * u + c * v, radius) for u, v, radius in self.circles]),
        )

    def overlap(self, other: Region) -> float:
        """Area shared with another region, in squared units of length; pieces that are far apart cost little."""
        area = 0.0
        for a, (ax, ay, ar) in zip(self.pieces, self.circles, strict=True):
            for b, (bx, by, br) in zip(other.pieces, other.circles, strict=True):
                if (ax - bx) ** 2 + (ay - by) ** 2 < (ar + br) ** 2:
                    common = clip(a, b)
                    if len(common) > 2:
                        area += signed_area(common)
        return area


def _bounding_circle(polygon: Polygon) -> tuple[float, float, float]:
    xs, ys = zip(*polygon, strict=True)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    return x, y, max(math.hypot(u - x, v - y) for u, v in polygon)
