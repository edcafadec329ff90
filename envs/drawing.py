"""Images of the table: 96×96 observations that look like the published data, and smooth renderings of any size.

Both are painted from signed distances on a grid of sample points, only where a shape is. An observation follows the
published recipe (a 512×512 drawing without anti-aliasing, then a bilinear resize), but draws only the 192×192 pixels
that such a resize reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Point, Polygon
from .physics import AGENT_RADIUS, WALL_RADIUS, WALLS

OBSERVATION_SIZE = 96
DRAWING_SIZE = 512
"""Side in pixels of the drawing behind an observation; one pixel of it is one unit of the world."""

GROUND = (255, 255, 255)
GOAL = (144, 238, 144)  # LightGreen
WALL = (211, 211, 211)  # LightGray
BLOCK_EDGE = (119, 136, 153)  # LightSlateGray
BLOCK = (143, 163, 184)  # the published drawing fills a shape with 1.2 times the color of its edge
AGENT_EDGE = (65, 105, 225)  # RoyalBlue
AGENT = (78, 126, 255)
TARGET = (220, 40, 40)
OBSTACLE = (105, 105, 105)  # DimGray

BLOCK_EDGE_REACH = 2.0
"""The edge of a block's drawing reaches this far, in px of the world, to either side of its outline."""
AGENT_RIM = 4.0

_PALETTE = np.array([GROUND, GOAL, WALL, BLOCK_EDGE, BLOCK, AGENT_EDGE, AGENT, OBSTACLE], dtype=np.float32)
_GROUND, _GOAL, _WALL, _BLOCK_EDGE, _BLOCK, _AGENT_EDGE, _AGENT, _OBSTACLE = range(len(_PALETTE))

Patch = tuple[slice, slice]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Scene:
    """What does not move, in convex pieces, px.

    Args:
        goal: where the blocks belong.
        obstacles: what stops them.
    """

    goal: Sequence[Polygon]
    obstacles: Sequence[Polygon] = ()


def polygon_distance(polygon: Sequence[Point], xs: Floats, ys: Floats) -> Floats:
    """Return the signed distance of grid points to a convex polygon: the largest over its edges, negative inside.

    Args:
        polygon: vertices in the order of a positive area, px.
        xs: (W,) columns of the grid, px.
        ys: (H,) rows of the grid, px.

    Returns:
        (H, W) distances in px.
    """
    distance: Floats | None = None
    ax, ay = polygon[-1]
    for bx, by in polygon:
        length = math.hypot(bx - ax, by - ay)
        nx, ny = (by - ay) / length, (ax - bx) / length
        edge = np.add.outer(ys * ny - (nx * ax + ny * ay), xs * nx)
        distance = edge if distance is None else np.maximum(distance, edge, out=distance)
        ax, ay = bx, by
    return distance


def segment_distance(a: Point, b: Point, xs: Floats, ys: Floats) -> Floats:
    """Return the distance of grid points to a line segment, or to a point where a = b.

    Args:
        a: one end, px.
        b: the other end, px.
        xs: (W,) columns of the grid, px.
        ys: (H,) rows of the grid, px.

    Returns:
        (H, W) distances in px.
    """
    dx, dy = b[0] - a[0], b[1] - a[1]
    u, v = xs[None, :] - a[0], ys[:, None] - a[1]
    length2 = dx * dx + dy * dy
    if length2 > 0.0:
        along = np.clip((u * dx + v * dy) / length2, 0.0, 1.0)
        u, v = u - along * dx, v - along * dy
    return np.sqrt(u * u + v * v)


class ObservationCamera:
    """Draws 96×96 observations; what does not move is drawn once."""

    def __init__(self, scene: Scene) -> None:
        pixels = np.arange(OBSERVATION_SIZE)
        position = (pixels + 0.5) * (DRAWING_SIZE / OBSERVATION_SIZE) - 0.5  # bilinear, centers aligned
        low = np.floor(position)
        self._at = np.stack([low, low + 1], axis=1).ravel()  # (192,) what the resize reads
        self._high = (position - low).astype(np.float32)
        self._ink = np.full((self._at.size, self._at.size), _GROUND, dtype=np.uint8)
        for polygon in scene.goal:
            # Half a pixel more: a filled polygon of the published drawing includes its border pixels.
            self._paint_polygon(self._ink, _rounded(polygon), ((_GOAL, 0.5),))
        for a, b in WALLS:
            self._ink[segment_distance(a, b, self._at, self._at) <= WALL_RADIUS] = _WALL
        for polygon in scene.obstacles:
            self._paint_polygon(self._ink, _rounded(polygon), ((_OBSTACLE, 0.5),))
        everything = slice(0, OBSERVATION_SIZE)
        self._background = self._resize(self._ink, (everything, everything))

    def __call__(self, blocks: Sequence[Polygon], agent: Point) -> NDArray[np.uint8]:
        """Return the image, (96, 96, 3) uint8 RGB, of blocks (convex pieces, px) and the agent's center (px)."""
        ink = self._ink.copy()
        colors = ((_BLOCK_EDGE, BLOCK_EDGE_REACH), (_BLOCK, -BLOCK_EDGE_REACH))
        patches = [self._paint_agent(ink, agent)]
        patches += [self._paint_polygon(ink, _rounded(polygon), colors) for polygon in blocks]
        image = self._background.copy()
        for patch in patches:
            image[patch] = self._resize(ink, patch)
        return image

    def _paint_agent(self, ink: NDArray[np.uint8], center: Point) -> Patch:
        x, y, radius = round(center[0]), round(center[1]), AGENT_RADIUS
        patch, grid = self._patch(x - radius, y - radius, x + radius, y + radius)
        columns, rows = self._at[grid[1]], self._at[grid[0]]
        _fill(
            ink[grid],
            segment_distance((x, y), (x, y), columns, rows),
            ((_AGENT_EDGE, radius), (_AGENT, radius - AGENT_RIM)),
        )
        return patch

    def _paint_polygon(
        self, ink: NDArray[np.uint8], polygon: Sequence[Point], colors: Sequence[tuple[int, float]]
    ) -> Patch:
        xs, ys = zip(*polygon, strict=True)
        reach = colors[0][1]
        patch, grid = self._patch(min(xs) - reach, min(ys) - reach, max(xs) + reach, max(ys) + reach)
        _fill(ink[grid], polygon_distance(polygon, self._at[grid[1]], self._at[grid[0]]), colors)
        return patch

    @staticmethod
    def _patch(left: float, top: float, right: float, bottom: float) -> tuple[Patch, Patch]:
        """Return the observation's pixels, and the sample points, that a box in the world can touch."""
        scale = OBSERVATION_SIZE / DRAWING_SIZE
        edges = [
            min(max(int(value * scale) + extra, 0), OBSERVATION_SIZE)
            for value, extra in ((top, -1), (bottom, 2), (left, -1), (right, 2))
        ]
        r0, r1, c0, c1 = edges
        return (slice(r0, r1), slice(c0, c1)), (slice(2 * r0, 2 * r1), slice(2 * c0, 2 * c1))

    def _resize(self, ink: NDArray[np.uint8], patch: Patch) -> NDArray[np.uint8]:
        rows, columns = patch
        drawn = _PALETTE[ink[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]]
        upper, lower = drawn[0::2], drawn[1::2]
        drawn = upper + (lower - upper) * self._high[rows, None, None]
        left, right = drawn[:, 0::2], drawn[:, 1::2]
        return (left + (right - left) * self._high[None, columns, None] + 0.5).astype(np.uint8)


class SceneRenderer:
    """Draws the table smoothly at any size; what does not move is drawn once."""

    def __init__(self, scene: Scene, size: int) -> None:
        self._pixel = DRAWING_SIZE / size  # px of the world
        self._at = (np.arange(size) + 0.5) * self._pixel
        self._background = np.full((size, size, 3), GROUND, dtype=np.float32)
        for polygon in scene.goal:
            # A reach of half a pixel closes the seam between two pieces that meet.
            self._blend(self._background, polygon, 0.5 * self._pixel, GOAL)
        for segment in WALLS:
            self._blend(self._background, segment, WALL_RADIUS, WALL)
        for polygon in scene.obstacles:
            self._blend(self._background, polygon, 0.5 * self._pixel, OBSTACLE)

    def __call__(self, blocks: Sequence[Polygon], agent: Point, target: Point | None) -> NDArray[np.uint8]:
        """Return the image, (size, size, 3) uint8 RGB.

        Args:
            blocks: convex pieces, px.
            agent: center of the agent, px.
            target: of the last action, px, drawn as a cross; None draws none.
        """
        image = self._background.copy()
        for polygon in blocks:
            self._blend(image, polygon, 0.0, BLOCK_EDGE)
        for polygon in blocks:
            self._blend(image, polygon, -BLOCK_EDGE_REACH, BLOCK)
        self._blend(image, (agent, agent), AGENT_RADIUS, AGENT_EDGE)
        self._blend(image, (agent, agent), AGENT_RADIUS - AGENT_RIM, AGENT)
        if target is not None:
            x, y = target
            self._blend(image, ((x - 9.0, y), (x + 9.0, y)), 1.5, TARGET)
            self._blend(image, ((x, y - 9.0), (x, y + 9.0)), 1.5, TARGET)
        return (image + 0.5).astype(np.uint8)

    def _blend(self, image: Floats, shape: Sequence[Point], reach: float, color: tuple[int, int, int]) -> None:
        """Color what lies within `reach` of a polygon, or of a segment (two points), with an edge one pixel soft."""
        xs, ys = zip(*shape, strict=True)
        margin = max(reach, 0.0) + self._pixel
        c0, c1 = np.searchsorted(self._at, (min(xs) - margin, max(xs) + margin))
        r0, r1 = np.searchsorted(self._at, (min(ys) - margin, max(ys) + margin))
        columns, rows = self._at[c0:c1], self._at[r0:r1]
        if len(shape) == 2:
            distance = segment_distance(shape[0], shape[1], columns, rows)
        else:
            distance = polygon_distance(shape, columns, rows)
        opacity = np.clip((reach - distance) / self._pixel + 0.5, 0.0, 1.0)[..., None].astype(np.float32)
        patch = image[r0:r1, c0:c1]
        patch += opacity * (np.array(color, dtype=np.float32) - patch)


def _rounded(polygon: Sequence[Point]) -> list[Point]:
    # The published drawing puts corners and centers on whole pixels.
    return [(round(x), round(y)) for x, y in polygon]


def _fill(ink: NDArray[np.uint8], distance: Floats, colors: Sequence[tuple[int, float]]) -> None:
    for color, reach in colors:
        ink[distance <= reach] = color
