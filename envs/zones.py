"""Pucks and round zones: how much of a disc lies within another, and their outlines for drawing."""

from __future__ import annotations

import math

from .geometry import Point, Polygon

_CORNERS = 48  # of a circle's outline: within 0.1 px of it at a radius of 45 px


def disc_share(distance: float, radius: float, zone_radius: float) -> float:
    """Share, 0 to 1, of a disc's area within a zone of at least its radius whose centre is `distance` away (px).

    The lens of two circles: https://mathworld.wolfram.com/Circle-CircleIntersection.html, equation 14.
    """
    d, r, R = distance, radius, zone_radius
    if d <= R - r:
        return 1.0
    if d >= R + r:
        return 0.0
    own = r * r * math.acos((d * d + r * r - R * R) / (2.0 * d * r))
    zone = R * R * math.acos((d * d + R * R - r * r) / (2.0 * d * R))
    kite = 0.5 * math.sqrt((-d + r + R) * (d + r - R) * (d - r + R) * (d + r + R))
    return (own + zone - kite) / (math.pi * r * r)


def outline(centre: Point, radius: float) -> Polygon:
    """A circle as a polygon with corners on it, in the order of a positive area."""
    angles = (2.0 * math.pi * k / _CORNERS for k in range(_CORNERS))
    return tuple((centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles)
