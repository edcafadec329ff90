"""Points on the surfaces of solids, each set with a text that says what it is: "a large torus lying"."""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch

from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.told_images import ToldImages
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

POINTS = 96
SETS = {"train": 20_000, "test": 2_000}
SOLIDS = ("cone", "box", "cylinder", "torus")
SIZES = {"small": 0.35, "large": 0.7}
"""Name -> the largest distance of a point from the middle."""
POSES = ("standing", "lying")
TEMPLATES = ("a {size} {solid} {pose}", "a {pose} {solid} that is {size}")


@final
class Solids(ToldImages):
    """Solids, sizes and poses in words."""

    summary: ClassVar[str] = "points on the surfaces of solids, told by words; made here"
    shape = (POINTS, 3)
    words: ClassVar[dict[str, tuple[str, ...]]] = {"size": tuple(SIZES), "pose": POSES, "solid": SOLIDS}
    templates = TEMPLATES

    def images(self, split: str) -> LabeledImages:
        """Return the sets of "train" or "test", whose labels are the numbers of their texts."""
        require(self.dataset.path is None, f"dataset.path={self.dataset.path}", "none: solids are made here")
        check("split", split, SETS)
        return solids(SETS[split], list(SETS).index(split))


def solids(count: int, seed: int) -> LabeledImages:
    """Return sets of points (count, POINTS, 3) in [−1, 1] and the numbers of their texts, drawn by the seed.

    A standing solid has its axis near z, a lying one near x; both are turned about the axis, and tilted a little.
    """
    draw = np.random.default_rng(seed)
    which, size, pose, template = (
        draw.integers(n, size=count) for n in (len(SOLIDS), len(SIZES), len(POSES), len(TEMPLATES))
    )
    points = np.stack([_surface(SOLIDS[one], draw) for one in which])
    turns = _about(2, draw.uniform(0, 2 * math.pi, count))
    tilts = _about(0, draw.normal(0, 0.12, count)) @ _about(1, draw.normal(0, 0.12, count) + pose * math.pi / 2)
    scale = np.array(list(SIZES.values()))[size] * draw.uniform(0.9, 1.1, count)
    points = np.einsum("nij,npj->npi", tilts @ turns, points) * scale[:, None, None]
    number = (size * len(POSES) + pose) * len(SOLIDS) + which
    return LabeledImages(torch.from_numpy(points).float(), torch.from_numpy(number * len(TEMPLATES) + template))


def _surface(solid: str, draw: np.random.Generator) -> np.ndarray:
    """Points evenly over the surface of a solid around z whose farthest point is about 1 away, (POINTS, 3)."""
    angle, other = draw.uniform(0, 2 * math.pi, (2, POINTS))
    if solid == "cone":
        radius, height = 0.6, 1.8
        floor = draw.random(POINTS) < radius / (radius + math.hypot(radius, height))
        share = np.sqrt(draw.random(POINTS))  # of the way from the tip, or from the middle of the floor
        away = radius * share
        up = np.where(floor, -height / 2, height / 2 - height * share)
        return np.stack([away * np.cos(angle), away * np.sin(angle), up], 1)
    if solid == "box":  # twice as long as wide
        half = np.array([1, 1, 2]) / math.sqrt(6)
        areas = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
        axis = draw.choice(3, POINTS, p=areas / areas.sum())
        points = draw.uniform(-1, 1, (POINTS, 3))
        points[np.arange(POINTS), axis] = draw.choice([-1.0, 1.0], POINTS)
        return points * half
    if solid == "cylinder":
        radius, half = 0.4, math.sqrt(1 - 0.4**2)
        lids = draw.random(POINTS) < radius / (radius + 2 * half)
        away = np.where(lids, radius * np.sqrt(draw.random(POINTS)), radius)
        height = np.where(lids, half * draw.choice([-1.0, 1.0], POINTS), draw.uniform(-half, half, POINTS))
        return np.stack([away * np.cos(angle), away * np.sin(angle), height], 1)
    tube = 0.28
    others = draw.uniform(0, 2 * math.pi, 8 * POINTS)  # of which so many are kept that they lie evenly
    ratio = tube / (1 - tube)
    other = others[draw.random(8 * POINTS) < (1 + ratio * np.cos(others)) / (1 + ratio)][:POINTS]
    away = 1 - tube + tube * np.cos(other)
    return np.stack([away * np.cos(angle), away * np.sin(angle), tube * np.sin(other)], 1)


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3) about an axis."""
    i, j = [k for k in range(3) if k != axis]
    turned = np.tile(np.eye(3), (len(angle), 1, 1))
    turned[:, i, i] = turned[:, j, j] = np.cos(angle)
    turned[:, i, j], turned[:, j, i] = -np.sin(angle), np.sin(angle)
    return turned
