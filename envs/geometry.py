"""Areas of overlapping polygons in pure Python: a few dozen floating-point operations need no geometry library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import require

Point = tuple[float, float]
Polygon = tuple[Point, ...]
"""Vertices of a convex polygon in the order of a positive `signed_area`: clockwise on a screen."""


def signed_area(polygon: Sequence[Point]) -> float:
    """Return the area by the shoelace formula, positive where the vertices turn from x to y."""
    twice = 0.0
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        twice += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return 0.5 * twice


def clip(subject: Sequence[Point], window: Sequence[Point]) -> list[Point]:
    """Return the part of a convex polygon inside another one.

    Sutherland and Hodgman 1974, "Reentrant polygon clipping".

    Args:
        subject: vertices of the polygon that is cut, in either order.
        window: vertices of the convex polygon that cuts, in the order of a positive area.

    Returns:
        The vertices of the intersection, in the subject's order; fewer than three if the two do not overlap.
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
    """A flat region of convex pieces whose interiors are disjoint; make one with `Region.of`.

    Args:
        pieces: polygons.
        circles: (x, y, radius) of a circle around each piece.
    """

    pieces: tuple[Polygon, ...]
    circles: tuple[tuple[float, float, float], ...]

    @classmethod
    def of(cls, pieces: Sequence[Sequence[Point]]) -> Region:
        """Return the region made of the given pieces.

        Args:
            pieces: vertices of each piece.

        Raises:
            ValueError: a piece that is not strictly convex, or whose vertices are in the other order.
        """
        polygons = tuple(tuple((float(x), float(y)) for x, y in piece) for piece in pieces)
        for polygon in polygons:
            corners = zip(polygon[-2:] + polygon[:-2], polygon[-1:] + polygon[:-1], polygon, strict=True)
            turns = [(bx - ax) * (cy - by) - (by - ay) * (cx - bx) for (ax, ay), (bx, by), (cx, cy) in corners]
            convex = len(polygon) >= 3 and min(turns) > 0.0
            require(convex, f"polygon {polygon}", "a strictly convex one, turning from x to y", "split or reverse it")
        return cls(polygons, tuple(_bounding_circle(polygon) for polygon in polygons))

    @property
    def area(self) -> float:
        """The sum of the pieces' areas."""
        return sum(signed_area(piece) for piece in self.pieces)

    def moved(self, x: float, y: float, angle: float) -> Region:
        """Return the region turned about the origin of its own frame, then shifted.

        Args:
            x: shift along x.
            y: shift along y.
            angle: rad, from x to y.
        """
        c, s = math.cos(angle), math.sin(angle)
        return Region(
            tuple([tuple([(x + c * u - s * v, y + s * u + c * v) for u, v in piece]) for piece in self.pieces]),
            tuple([(x + c * u - s * v, y + s * u + c * v, radius) for u, v, radius in self.circles]),
        )

    def overlap(self, other: Region) -> float:
        """Return the area that lies in another region too; pieces that are far apart cost little."""
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
