"""The diffusion transformer over patches: its size by hand, its start, its symmetries, its derivatives."""

import math

import pytest
import torch
from torch.autograd import forward_ad

from diffpolicy.nets.dit2d import ConditionalDiT2D, _positions

SMALL = {"patch": 4, "width": 16, "layers": 2, "heads": 2, "expansion": 2, "features": 8, "time_features": 4}


def perturbed(**options):
    torch.manual_seed(0)
    net = ConditionalDiT2D(1, 10, **{**SMALL, **options}).eval()
    for p in net.parameters():  # as training would: away from the start at 0
        torch.nn.init.normal_(p, std=0.2)
    return net


def test_parameters_counted_by_hand():
    def linear(i, o):
        return i * o + o

    block = linear(8, 96) + linear(16, 48) + linear(16, 16) + linear(16, 32) + linear(32, 16)
    ends = linear(16, 16) + linear(8, 32) + linear(16, 16)
    embeddings = 2 + linear(4, 8) + linear(8, 8) + 11 * 8
    net = ConditionalDiT2D(1, 10, **SMALL)
    assert sum(p.numel() for p in net.parameters()) == 2 * block + ends + embeddings


def test_it_begins_at_zero_and_knows_its_null_label():
    net = ConditionalDiT2D(3, 10, **SMALL)
    x, cond = torch.randn(2, 3, 8, 12), torch.tensor([0, 9])
    assert torch.equal(net(x, torch.rand(2), cond), torch.zeros_like(x))
    assert net.null(cond).tolist() == [10, 10]


def test_time_label_span_and_place_reach_the_output():
    net = perturbed(two_times=True)
    x, t, cond = torch.randn(1, 1, 8, 8), torch.tensor([0.3]), torch.tensor([3])
    base = net(x, t, cond)
    assert torch.equal(base, net(x, t, cond, r=t))
    for other in (net(x, t + 0.3, cond), net(x, t, cond + 1), net(x, t, cond, r=t + 0.2)):
        assert not torch.allclose(base, other)
    turned = net(x.flip(3), t, cond).flip(3)
    assert not torch.allclose(base, turned)


def test_a_patch_sees_all_others():
    net = perturbed()
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    net(x, torch.tensor([0.5]), torch.tensor([1]))[0, 0, :4, :4].sum().backward()
    assert bool((x.grad[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).abs().amax((2, 3)) > 0).all())


def test_positions_are_told_apart_and_are_what_they_say():
    positions = _positions(8, 8, 16)
    distance = torch.cdist(positions, positions) + 10 * torch.eye(64)
    assert distance.min() > 0.1
    row, column, rate = 3, 5, 1e4**-0.25
    wanted = [math.sin(row * rate), math.cos(row * rate), math.sin(column * rate), math.cos(column * rate)]
    torch.testing.assert_close(positions[row * 8 + column, [1, 5, 9, 13]], torch.tensor(wanted))


def test_its_forward_derivative_is_that_of_differences():
    net = perturbed(two_times=True).double()
    x, direction = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 1, 8, 8).double()
    t, r, cond = torch.tensor([0.2, 0.4]).double(), torch.tensor([0.9, 0.8]).double(), torch.tensor([1, 2])
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, direction), forward_ad.make_dual(t, torch.ones_like(t))
        change = forward_ad.unpack_dual(net(*moving, cond, r=r)).tangent
    h = 1e-6
    numeric = (net(x + h * direction, t + h, cond, r=r) - net(x - h * direction, t - h, cond, r=r)) / (2 * h)
    torch.testing.assert_close(change, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 18}, "multiple of 4"),
        ({"heads": 3}, "heads divide"),
        ({"patch": 0}, "positive"),
        ({"dropout": 1}, "fraction"),
    ],
)
def test_sizes_that_do_not_fit(options, says):
    with pytest.raises(ValueError, match=says):
        ConditionalDiT2D(1, 10, **{**SMALL, **options})


def test_inputs_that_do_not_fit():
    net, cond = ConditionalDiT2D(1, 10, **SMALL), torch.tensor([1])
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.zeros(1, 1, 6, 8), torch.zeros(1), cond)
    with pytest.raises(ValueError, match="one int64 label"):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), cond.float())
    with pytest.raises(ValueError, match="t and r"):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), cond, r=torch.zeros(2))
