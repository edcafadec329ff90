import pytest
import torch
from mixture import ExactNet, ring

from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import (
    PREDICTIONS,
    ModelField,
    data_gain,
    estimate,
    score,
    target,
    velocity,
)
from diffpolicy.generative.shapes import expand, rand, randn

PATHS = [
    LinearPath(),
    CosinePath(),
    SquareRootPath(),
    VarianceExplodingPath(),
    VariancePreservingPath(),
    DiscretePath(100),
    DiscretePath(100, "linear"),
]
SHAPES = [(6, 2), (6, 16, 2), (6, 1, 32, 32)]
TIMES = torch.tensor([0.01, 0.1, 0.37, 0.5, 0.9, 0.999], dtype=torch.float64)


def draws(shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return randn(shape, g, dtype=torch.float64, device="cpu"), randn(shape, g, dtype=torch.float64, device="cpu")


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(path, prediction, shape):
    data, noise = draws(shape)
    x = expand(path.alpha(TIMES), data) * data + expand(path.sigma(TIMES), data) * noise
    output = target(prediction, data, noise, TIMES, path)
    got = estimate(prediction, output, x, TIMES, path)
    torch.testing.assert_close(got.data, data, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.noise, noise, rtol=0, atol=1e-9)
    back = target(prediction, *got, TIMES, path)
    torch.testing.assert_close(back, output, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_invariant_holds_for_any_output_at_any_time(path, prediction):
    """Also at both ends, where the clamps are, and for outputs that belong to no data."""
    t = torch.tensor([0.0, 1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6, 1.0], dtype=torch.float64)
    x, output = draws((7, 3))
    got = estimate(prediction, output, x, t, path)
    assert bool(got.data.isfinite().all() and got.noise.isfinite().all())
    rebuilt = expand(path.alpha(t), x) * got.data + expand(path.sigma(t), x) * got.noise
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-9)


def test_clamps_take_the_mean():
    x, output = draws((2, 3))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    data, noise = estimate("noise", output, x, ends, LinearPath())
    assert torch.equal(data[0], torch.zeros(3, dtype=x.dtype)) and torch.equal(noise[0], x[0])
    data, noise = estimate("data", output, x, ends, LinearPath())
    assert torch.equal(noise[1], torch.zeros(3, dtype=x.dtype)) and torch.equal(data[1], x[1])


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_from_score(path):
    """u = (α̇/α)·x + (σ²·α̇/α − σ·σ̇)·s, and u is the derivative of x along fixed data and noise."""
    data, noise = draws((6, 2))
    a, s = expand(path.alpha(TIMES), data), expand(path.sigma(TIMES), data)
    da, ds = expand(path.d_alpha(TIMES), data), expand(path.d_sigma(TIMES), data)
    x = a * data + s * noise
    got = estimate("data", data, x, TIMES, path)
    u = da / a * x + (s**2 * da / a - s * ds) * score(got, TIMES, path)
    torch.testing.assert_close(velocity(got, TIMES, path), u, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_data_gain_is_the_derivative_of_the_data(path, prediction):
    x, output = draws((6, 1))
    step = torch.ones_like(output)
    change = (
        estimate(prediction, output + step, x, TIMES, path).data - estimate(prediction, output, x, TIMES, path).data
    )
    gain = data_gain(prediction, TIMES, path)
    torch.testing.assert_close(gain, change.abs()[:, 0], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_model_field(prediction):
    exact = ExactField(ring((2,)), LinearPath())
    field = ModelField(ExactNet(exact, prediction), exact.path, prediction)
    x, _ = draws((6, 2))
    for got, want in zip(field(x, TIMES), exact(x, TIMES), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    assert (field.calls, field.needs_grad) == (1, False)


def test_network_meets_the_dtype_of_x():
    seen = []

    def net(x, t, cond):
        seen.append((x.dtype, t.dtype, cond))
        return x

    x, t = torch.zeros(3, 2), torch.full((3,), 0.5, dtype=torch.float64)
    got = ModelField(net, DiscretePath(10), "noise")(x, t, "anything")
    assert seen == [(torch.float32, torch.float32, "anything")]
    assert got.data.dtype == got.noise.dtype == torch.float32


def test_refusals():
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    with pytest.raises(ValueError, match=r"unknown prediction 'veloctiy' \(did you mean 'velocity'"):
        ModelField(lambda *a: x, LinearPath(), "veloctiy")
    with pytest.raises(ValueError, match=r"output has shape \(3, 3\); expected that of x, \(3, 2\)"):
        estimate("noise", torch.zeros(3, 3), x, t, LinearPath())
    with pytest.raises(ValueError, match="one value of t per sample"):
        estimate("noise", x, x, torch.tensor(0.5), LinearPath())


def test_row_generators_do_not_depend_on_the_batch():
    def gens(seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    for draw in (randn, rand):
        whole = draw((4, 3, 2), gens([5, 6, 7, 8]), dtype=torch.float32, device="cpu")
        part = draw((2, 3, 2), gens([7, 5]), dtype=torch.float32, device="cpu")
        assert torch.equal(part, whole[[2, 0]])
        assert draw((0, 2), [], dtype=torch.float32, device="cpu").shape == (0, 2)
        with pytest.raises(ValueError, match="3 generators for 2 samples"):
            draw((2, 2), gens([1, 2, 3]), dtype=torch.float32, device="cpu")
    torch.manual_seed(3)
    assert torch.equal(
        randn((2, 2), torch.Generator().manual_seed(3), dtype=torch.float32, device="cpu"),
        randn((2, 2), None, dtype=torch.float32, device="cpu"),
    )


@pytest.mark.parametrize("path", PATHS[:5], ids=repr)
def test_the_flow_is_the_forward_process_minus_half_the_score(path):
    """Noising is dx = f·x·dτ + g·dW with τ = 1 − t, and its probability flow, run backwards, is the velocity."""
    data, noise = draws((6, 2))
    t, h = TIMES, 1e-6
    x = path.interpolate(data, noise, t)
    rate = (path.alpha(t + h).log() - path.alpha(t - h).log()) / (2 * h)  # of α, which is −f
    widening = (path.sigma(t + h) ** 2 - path.sigma(t - h) ** 2) / (2 * h)
    g_squared = 2 * rate * path.sigma(t) ** 2 - widening
    assert bool((g_squared > 0).all())
    output = target("noise", data, noise, t, path)
    found = estimate("noise", output, x, t, path)
    expected = expand(rate, x) * x + expand(g_squared, x) / 2 * score(found, t, path)
    torch.testing.assert_close(velocity(found, t, path), expected, rtol=1e-4, atol=1e-4)
