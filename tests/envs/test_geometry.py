"""Polygon clipping and coverage against closed forms, a sampled area and shapely."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffpolicy.envs.geometry import Region, clip, signed_area
from diffpolicy.envs.tee import CORNERS, GOAL_POSE, TEE, block_points, corners, coverage, keypoints

SQUARE = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0))


def near_poses(count: int, spread: float) -> np.ndarray:
    return np.array(GOAL_POSE) + np.random.default_rng(0).normal(size=(count, 3)) * (spread, spread, spread / 40)


def test_area_is_positive_from_x_towards_y() -> None:
    assert signed_area(SQUARE) == 4.0
    assert signed_area(SQUARE[::-1]) == -4.0
    assert TEE.area == 120 * 30 + 30 * 90


@pytest.mark.parametrize(
    ("dx", "dy", "area"), [(0, 0, 4), (1, 0, 2), (0.5, -1.5, 0.75), (2, 0, 0), (3, 3, 0), (-1, -1, 1)]
)
def test_shifted_squares(dx: float, dy: float, area: float) -> None:
    moved = tuple((x + dx, y + dy) for x, y in SQUARE)
    common = clip(moved, SQUARE)
    assert (signed_area(common) if len(common) > 2 else 0.0) == pytest.approx(area, abs=1e-15)


def test_a_square_turned_by_45_degrees_leaves_a_regular_octagon() -> None:
    centered = Region.of([((-1, -1), (1, -1), (1, 1), (-1, 1))])
    assert centered.overlap(centered.moved(0, 0, math.pi / 4)) == pytest.approx(8 * (math.sqrt(2) - 1), abs=1e-14)


def test_clipping_is_symmetric_and_keeps_the_smaller_polygon_whole() -> None:
    small = tuple((0.5 + 0.25 * x, 0.5 + 0.25 * y) for x, y in SQUARE)
    assert signed_area(clip(small, SQUARE)) == signed_area(clip(SQUARE, small)) == 0.25


def test_coverage_on_the_goal_and_far_from_it() -> None:
    assert coverage(*GOAL_POSE) == pytest.approx(1.0, abs=1e-12)
    assert coverage(GOAL_POSE[0], GOAL_POSE[1], GOAL_POSE[2] - 4 * math.pi) == pytest.approx(1.0, abs=1e-12)
    assert coverage(0.0, 0.0, 0.0) == 0.0


def test_coverage_of_a_pure_shift_along_the_stem() -> None:
    x, y, angle = GOAL_POSE
    shift = 7.0  # along the stem: the bar loses 7 of 30, the stem keeps its length up to the bar that moved over it
    moved = x - shift * math.sin(angle), y + shift * math.cos(angle), angle
    lost = 120 * shift  # the uncovered strip of the goal is as long as the bar
    assert coverage(*moved) == pytest.approx(1 - lost / TEE.area, abs=1e-12)


def test_coverage_against_counted_points() -> None:
    """Counts the points of a fine grid over the goal that lie in the block, in the block's own frame."""
    u, v = np.meshgrid(np.arange(-59.75, 60, 0.5), np.arange(0.25, 120, 0.5))
    inside = ((v < 30) | (np.abs(u) < 15)).ravel()
    grid = np.stack([u.ravel(), v.ravel()], axis=1)[inside]
    world = block_points([0, 0, *GOAL_POSE], grid).reshape(-1, 2)
    for pose in near_poses(20, 30.0):
        c, s = math.cos(pose[2]), math.sin(pose[2])
        du, dv = (world - pose[:2]) @ (c, s), (world - pose[:2]) @ (-s, c)
        covered = ((np.abs(du) < 60) & (dv > 0) & (dv < 30)) | ((np.abs(du) < 15) & (dv >= 30) & (dv < 120))
        assert coverage(*pose) == pytest.approx(covered.mean(), abs=4e-3)


def test_coverage_against_shapely() -> None:
    shapely = pytest.importorskip("shapely")

    def tee(pose: np.ndarray | tuple[float, ...]) -> object:
        return shapely.Polygon(corners([0, 0, *pose]).reshape(8, 2))

    for pose in np.concatenate([near_poses(60, 3.0), near_poses(60, 40.0)]):
        expected = tee(pose).intersection(tee(GOAL_POSE)).area / tee(GOAL_POSE).area
        assert coverage(*pose) == pytest.approx(expected, abs=1e-9)


def test_regions_that_are_not_convex_or_run_backwards_are_refused() -> None:
    arrow = ((0, 0), (2, 0), (0.5, 0.5), (0, 2))
    for piece in (SQUARE[::-1], arrow, ((0, 0), (1, 1)), ((0, 0), (1, 0), (2, 0), (2, 1))):
        with pytest.raises(ValueError, match="strictly convex"):
            Region.of([piece])


def test_corners_turn_and_shift_with_the_block() -> None:
    states = np.array([[1, 2, 100, 200, 0], [1, 2, 100, 200, math.pi / 2]])
    points = corners(states).reshape(2, 8, 2)
    np.testing.assert_allclose(points[0], CORNERS + np.array([100, 200]))
    np.testing.assert_allclose(points[1], np.stack([100 - CORNERS[:, 1], 200 + CORNERS[:, 0]], axis=1))
    assert abs(signed_area(CORNERS.tolist())) == TEE.area
    assert corners(states[0]).shape == (16,)
    assert keypoints(states.reshape(1, 2, 5)).shape == (1, 2, 18)


@pytest.mark.parametrize("shape", [(), (4,), (3, 6)])
def test_points_of_something_that_is_no_state(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"states \(\.\.\., 5\)"):
        corners(np.zeros(shape))
