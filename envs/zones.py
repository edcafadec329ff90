"""How much of a disc lies in a round zone, and circles as polygons for drawing."""

from __future__ import annotations

import math

from .geometry import Point, Polygon

_CORNERS = 48  # of a circle's outline: within 0.1 px of it at a radius of 45 px


def disc_fraction(distance: float, radius: float, zone_radius: float) -> float:
    """Return the fraction, 0 to 1, of a disc's area that lies in a round zone.

    The lens of two circles: https://mathworld.wolfram.com/Circle-CircleIntersection.html, equation 14.

    Args:
        distance: between the centers of disc and zone, px.
        radius: of the disc, px.
        zone_radius: of the zone, px; at least `radius`.
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


def outline(center: Point, radius: float) -> Polygon:
    """Return a circle as a polygon with corners on it, in the order of a positive area."""
    angles = (2.0 * math.pi * k / _CORNERS for k in range(_CORNERS))
    return tuple((center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles)
