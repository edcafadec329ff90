"""The temporal U-Net: its convolutions against torch's, its size against the published one, its shapes."""

import functools

import pytest
import torch
import torch.nn.functional as F
from net_checks import check_bfloat16_is_near, check_rows_keep_their_values
from torch import nn

from diffpolicy.nets import MLP, ConditionalUnet1D, FastUnet1D, temporal, unet1d_fast
from diffpolicy.nets.temporal import Downsample, NormMish, TemporalConv, Upsample
from diffpolicy.nets.unet1d_fast import copy_weights
from diffpolicy.util.condition import Condition


def _sequence(length, channels=4, rows=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, length, channels, generator=generator, dtype=torch.float64, requires_grad=True)


def _shifted(cond):
    return cond.map(lambda part: part + 1)


def _channels_first(function, x):
    return function(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(("kernel", "length", "rows"), [(1, 7, 3), (3, 7, 3), (5, 7, 3), (5, 4, 200), (7, 2, 200)])
def test_temporal_conv_is_conv1d_forward_and_backward(kernel, length, rows):
    torch.manual_seed(0)
    layer = TemporalConv(nn.Conv1d(4, 6, kernel)).double()
    x = _sequence(length, rows=rows)
    reference = _channels_first(
        lambda z: F.conv1d(z, layer.weight.permute(2, 1, 0), layer.bias, padding=kernel // 2), x
    )
    ours = layer(x)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)
    inputs = (x, layer.weight, layer.bias)
    cotangent = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, cotangent),
        torch.autograd.grad(reference, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_resampling_and_norm_are_torchs():
    torch.manual_seed(0)
    x = _sequence(8)
    down, up = Downsample(nn.Conv1d(4, 4, 3)).double(), Upsample(nn.ConvTranspose1d(4, 4, 4)).double()
    norm = NormMish(2, 4).double()
    torch.nn.init.normal_(norm.weight)
    expected = {
        down: lambda z: F.conv1d(z, down.weight, down.bias, stride=2, padding=1),
        up: lambda z: F.conv_transpose1d(z, up.weight, up.bias, stride=2, padding=1),
        norm: lambda z: F.mish(F.group_norm(z, 2, norm.weight, norm.bias)),
    }
    for layer, reference in expected.items():
        torch.testing.assert_close(layer(x), _channels_first(reference, x), rtol=0, atol=1e-12)


def _plain_and_fused(modulated):
    """The output of a norm and all its gradients, twice: by torch, and as a fused network has them."""
    torch.manual_seed(0)
    norm = NormMish(2, 4).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = _sequence(8)
    film = torch.randn(3, 8, dtype=torch.float64, requires_grad=True) if modulated else None
    inputs = [value for value in (x, norm.weight, norm.bias, film) if value is not None]
    cotangent = torch.randn_like(x)
    for norm.fused in (False, True):
        out = norm(10 * x, film)
        yield [out, *torch.autograd.grad(out, inputs, cotangent)]


@pytest.mark.parametrize("modulated", [False, True])
def test_the_written_out_norm_and_its_gradient_are_torchs(modulated, monkeypatch):
    monkeypatch.setattr(temporal, "_compiled", lambda function: function)
    for plain, written_out in zip(*_plain_and_fused(modulated), strict=True):
        torch.testing.assert_close(written_out, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("modulated", [False, True])
def test_the_compiled_norm_and_its_gradient_are_torchs(modulated):
    for plain, compiled in zip(*_plain_and_fused(modulated), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_fused_network_gives_the_same_gradient(backend, monkeypatch):
    """Traced as ever, and compiled where there is time for all four passes: two are compiled by the test before."""
    compiled = functools.cache(functools.partial(torch.compile, dynamic=True, backend=backend))
    monkeypatch.setattr(temporal, "_compiled", compiled)
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=3, widths=(16, 24), time_features=8)
    x, t, cond = torch.randn(4, 8, 2), torch.rand(4), Condition(torch.randn(4, 3))
    used = [parameter for name, parameter in net.named_parameters() if name != "null_cond"]
    plain = torch.autograd.grad(net(x, t, cond).square().sum(), used)
    net.fuse()
    fused = torch.autograd.grad(net(x, t, cond).square().sum(), used)
    for one, other in zip(plain, fused, strict=True):
        assert (other - one).norm() < 1e-5 * one.norm()


def test_size_at_the_published_shape():
    net = FastUnet1D(2, cond_dim=40, widths=(256, 512, 1024), kernel=5, time_features=256)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == 65_783_298 + 40  # the published network, and the learned null condition


@pytest.mark.parametrize("horizon", [1, 7, 12, 16, 17])
@pytest.mark.parametrize("dim", [1, 2, 7])
def test_any_horizon_and_action_dimension(horizon, dim):
    net = FastUnet1D(dim, cond_dim=5, widths=(8, 16, 16), time_features=8)
    x = torch.randn(2, horizon, dim)
    assert net(x, torch.rand(2), Condition(torch.randn(2, 5))).shape == x.shape


def test_condition_time_and_null_matter():
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=3, widths=(8, 16), time_features=8)
    x, t, cond = torch.randn(4, 8, 2), torch.rand(4), Condition(torch.randn(4, 3))
    base = net(x, t, cond)
    assert not torch.allclose(base, net(x, 1 - t, cond))
    assert not torch.allclose(base, net(x, t, _shifted(cond)))
    assert torch.equal(net(x, t, net.null(cond)), net(x, t, cond.map(torch.zeros_like)))  # at initialisation
    torch.testing.assert_close(base, net(x, t, cond, r=torch.rand(4)))


def test_without_condition_and_with_fourier_time():
    net = FastUnet1D(2, widths=(8, 16), time_features=8, time="fourier")
    x = torch.randn(2, 8, 2)
    assert net(x, torch.rand(2)).shape == x.shape
    with pytest.raises(ValueError, match="no condition to drop"):
        net.null(Condition(torch.zeros(2, 3)))


def test_bfloat16_is_near_float32():
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=3, widths=(32, 64), time_features=16)
    x, t, cond = torch.randn(8, 16, 2), torch.rand(8), Condition(torch.randn(8, 3))
    check_bfloat16_is_near(net, x, t, cond)


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_a_row_does_not_depend_on_its_place_in_a_block(rows):
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=40).eval()
    check_rows_keep_their_values(net, rows)


@pytest.mark.parametrize("cond_dim", [0, 5])
def test_frozen_it_gives_the_same_numbers(cond_dim):
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=cond_dim, widths=(8, 16), time_features=8).double().requires_grad_(False)
    x, cond = torch.randn(3, 7, 2).double(), Condition(torch.randn(3, 5).double()) if cond_dim else None
    times = [torch.full((1,), at).double().expand(3) for at in (0.0, 0.3, 0.0)] + [torch.rand(3).double()]
    before = [net(x, t, cond) for t in times]
    keys = list(net.state_dict())
    net.freeze()
    for t, expected in zip(times, before, strict=True):
        torch.testing.assert_close(net(x, t, cond), expected, rtol=0, atol=1e-12)
    assert list(net.state_dict()) == keys
    net.load_state_dict({name: 2 * value for name, value in net.state_dict().items()})
    assert not torch.allclose(net(x, times[0], cond), before[0]), "frozen weights outlived those that were loaded"


@pytest.mark.slow
def test_compiled_for_acting_it_gives_the_same_numbers(monkeypatch):
    monkeypatch.setitem(unet1d_fast._COMPILE, "max_autotune", False)  # the search for kernels takes half a minute
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=5, widths=(8,), time_features=8).requires_grad_(False)
    x, t, cond = torch.randn(2, 8, 2), torch.rand(2), Condition(torch.randn(2, 5))
    other = net(x, t, _shifted(cond))
    both, first = net(x, t, cond), net(x[:1], t[:1], cond.rows([0]))
    net.freeze((1, 8, 2))
    with torch.inference_mode():
        found = net(x[:1], t[:1], cond.rows([0]))
    torch.testing.assert_close(found, first, rtol=0, atol=1e-5)
    for row in (0, 1):  # another condition and another time, and no inference mode
        torch.testing.assert_close(
            net(x[row:][:1], t[row:][:1], _shifted(cond.rows([row]))), other[row:][:1], rtol=0, atol=1e-5
        )
    torch.testing.assert_close(net(x, t, cond), both, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("horizon", "two_times", "time"), [(16, False, "sinusoidal"), (13, True, "fourier")])
def test_the_fast_twin_is_the_same_network(horizon, two_times, time):
    options = {"two_times": two_times, "widths": (8, 16, 24), "time_features": 8, "time": time}
    torch.manual_seed(0)
    plain = ConditionalUnet1D(2, 5, **options).double()
    torch.manual_seed(0)
    fast = FastUnet1D(2, 5, **options).double()
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    states = zip(fast.state_dict().values(), plain.state_dict().values(), strict=True)
    assert all(torch.equal(one.squeeze(), other.squeeze()) for one, other in states)  # from the same seed
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.3)
    copy_weights(plain, fast)
    x, cond = torch.randn(3, horizon, 2).double(), Condition(torch.randn(3, 5).double())
    t, r = (torch.rand(3).double() for _ in range(2))
    outputs = [net(x, t, cond, r) for net in (plain, fast)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-11)
    cotangent = torch.randn_like(x)
    for output in outputs:
        output.backward(cotangent)
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        gradient = other.grad.permute(2, 1, 0) if name.endswith("conv.weight") else other.grad
        assert (one.grad is None) == (gradient is None) == (name == "null_cond")
        if gradient is not None:
            torch.testing.assert_close(gradient.reshape(one.shape), one.grad, rtol=1e-9, atol=1e-10)
    copy_weights(fast, plain)


def test_errors_name_both_sides():
    net = FastUnet1D(2, cond_dim=3, widths=(8, 16), time_features=8)
    x, t, cond = torch.randn(2, 8, 2), torch.rand(2), Condition(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 8, 5\).*\(B, T, 2\)"):
        net(torch.randn(2, 8, 5), t, cond)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        net(x, torch.rand(3), cond)
    with pytest.raises(ValueError, match=r"None.*\(2, 3\)"):
        net(x, t)
    with pytest.raises(ValueError, match=r"t has shape \(2, 7\).*one time per sample \(2,\), or per step \(2, 8\)"):
        net(x, torch.rand(2, 7), cond)
    with pytest.raises(ValueError, match=r"r has shape \(2, 8\); expected that of t, \(2,\)"):
        net(x, t, cond, r=torch.rand(2, 8))
    with pytest.raises(TypeError, match=r"cond is a Tensor.*Condition\(vector\)"):
        net(x, t, cond.vector)
    with pytest.raises(ValueError, match=r"widths=\[10\]; expected at least one, each a multiple of groups=8"):
        FastUnet1D(2, widths=(10,))
    with pytest.raises(ValueError, match="even"):
        FastUnet1D(2, time_features=7)
    with pytest.raises(ValueError, match="kernel=4; expected an odd number"):
        FastUnet1D(2, kernel=4)
    with pytest.raises(ValueError, match="unknown time embedding 'sinus'"):
        FastUnet1D(2, time="sinus")
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(B, 2\)"):
        MLP(2)(torch.randn(4, 3), torch.rand(4))


def test_two_times():
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=5, widths=(8, 16), time_features=8, time="fourier", two_times=True).double()
    x, cond = torch.randn(3, 8, 2).double(), Condition(torch.randn(3, 5).double())
    t, r = (torch.full((3,), value, dtype=torch.float64) for value in (0.2, 0.9))
    far, near = net(x, t, cond, r=r), net(x, t, cond)
    torch.testing.assert_close(net(x, t, cond, r=t), near, rtol=0, atol=0)
    assert (far - near).abs().max() > 1e-3
    net.freeze()
    for _ in range(2):  # what is kept for a pair of times is not given for another
        torch.testing.assert_close(net(x, t, cond, r=r), far, rtol=0, atol=1e-12)
        torch.testing.assert_close(net(x, t, cond), near, rtol=0, atol=1e-12)
    one = FastUnet1D(2, cond_dim=5, widths=(8, 16), time_features=8).double()
    torch.testing.assert_close(one(x, t, cond, r=r), one(x, t, cond), rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_the_forward_derivative_is_the_finite_difference(fused):
    torch.manual_seed(0)
    net = FastUnet1D(2, cond_dim=5, widths=(8, 16), time_features=8, time="fourier", two_times=True).double()
    x, v, cond = torch.randn(3, 8, 2).double(), torch.randn(3, 8, 2).double(), Condition(torch.randn(3, 5).double())
    t, r = (torch.full((3,), value, dtype=torch.float64) for value in (0.2, 0.9))
    h = 1e-6
    ahead, behind = (net(x + sign * h * v, t + sign * h, cond, r=r) for sign in (1, -1))
    if fused:  # the difference is taken before: the compiled passes would have to be compiled for float64
        net.fuse()
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual
        found = torch.autograd.forward_ad.unpack_dual(net(dual(x, v), dual(t, torch.ones_like(t)), cond, r=r)).tangent
    torch.testing.assert_close(found, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)


def test_tokens_that_the_network_does_not_read_are_refused():
    net = ConditionalUnet1D(2, 3, 8, widths=(8, 16), groups=4, time_features=8)
    cond = Condition(torch.randn(1, 3), torch.randn(1, 5, 4))
    with pytest.raises(
        ValueError, match="cond has tokens, and the network was made without; expected a vector alone"
    ):
        net(torch.randn(1, 8, 2), torch.rand(1), cond)


@pytest.mark.parametrize("horizon", [16, 13])
@pytest.mark.parametrize("two_times", [False, True])
def test_a_time_of_every_step(horizon, two_times):
    """It reaches its own step; one time for all is the same as one for each."""
    sizes = {"dim": 2, "cond_dim": 3, "two_times": two_times, "widths": (8, 16, 32), "time_features": 8}
    plain, fast = ConditionalUnet1D(**sizes), FastUnet1D(**sizes)
    copy_weights(plain, fast)
    x, cond, t = torch.randn(2, horizon, 2), Condition(torch.randn(2, 3)), torch.rand(2)
    steps = t[:, None].expand(-1, horizon)
    own = torch.rand(2, horizon)
    for net in (plain, fast):
        torch.testing.assert_close(net(x, steps, cond), net(x, t, cond), rtol=0, atol=1e-5)
    torch.testing.assert_close(fast(x, own, cond), plain(x, own, cond), rtol=0, atol=1e-5)
    r = torch.rand(2, horizon) if two_times else None
    expected = plain(x, own, cond, r)
    torch.testing.assert_close(fast(x, own, cond, r), expected, rtol=0, atol=1e-5)
    fast.fuse()
    torch.testing.assert_close(fast(x, own, cond, r), expected, rtol=0, atol=1e-5)
    fast.freeze()
    with torch.no_grad():
        torch.testing.assert_close(fast(x, own, cond, r), expected, rtol=0, atol=1e-5)
    other = own.clone()
    other[:, 3] = 1 - other[:, 3]
    assert ((plain(x, other, cond, r) - expected).abs().sum(-1)[:, 3] > 1e-4).all()
