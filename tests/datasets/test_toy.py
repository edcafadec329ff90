"""The toy data lie where they are said to, and come from the generator alone."""

import pytest
import torch

from diffpolicy.datasets.toy import TOYS, checkerboard, circles, moons


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TOYS)
def test_shape_scale_and_seed(name):
    points = TOYS[name](4000, gen())
    assert points.shape == (4000, 2) and points.dtype == torch.float32
    assert torch.equal(points, TOYS[name](4000, gen())) and not torch.equal(points, TOYS[name](4000, gen(1)))
    assert float(points.mean(0).abs().max()) < 0.06
    assert float(points.std(0).min()) > 0.4 and float(points.std(0).max()) < 1.3
    assert TOYS[name](0, gen()).shape == (0, 2)


def test_moons_are_two_half_circles():
    points = moons(4000, gen())
    upper, lower = ((points - torch.tensor([c, c / 2])).norm(dim=1) for c in (-0.5, 0.5))
    assert float(torch.minimum((upper - 1).abs(), (lower - 1).abs()).max()) < 0.4
    # the upper one hangs over the left, the lower one under the right
    assert float(points[points[:, 0] < -0.6, 1].mean()) > 0 > float(points[points[:, 0] > 0.6, 1].mean())


def test_circles_have_two_radii():
    radius = circles(4000, gen()).norm(dim=1)
    outer = radius > 1.1
    assert 0.45 < float(outer.float().mean()) < 0.55
    assert float(radius[outer].mean()) == pytest.approx(1.5, abs=0.01)
    assert float(radius[~outer].mean()) == pytest.approx(0.7, abs=0.01)


def test_checkerboard_fills_every_second_square():
    points = checkerboard(8000, gen())
    column, row = (points + 2).floor().long().T
    assert bool(((column + row) % 2 == 0).all())
    counts = torch.bincount(4 * row + column, minlength=16)
    assert int((counts > 0).sum()) == 8 and int(counts[counts > 0].min()) > 850
