import math

import pytest
import torch

from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    Path,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)

ALL = [
    LinearPath(),
    CosinePath(),
    SquareRootPath(),
    VarianceExplodingPath(),
    VarianceExplodingPath(0.1, 5.0),
    VariancePreservingPath(),
    VariancePreservingPath(1.0, 1.0),
    DiscretePath(),
    DiscretePath(100, "linear"),
    DiscretePath(7),
    DiscretePath(1),
]
each = pytest.mark.parametrize("path", ALL, ids=repr)


def inner(path: Path) -> torch.Tensor:
    """Times that meet no kink of a DiscretePath and keep clear of the ends."""
    return (torch.arange(400, dtype=torch.float64) + 0.5) / 400 * 0.998 + 0.001


@each
def test_derivatives_are_those_of_alpha_and_sigma(path):
    t, h = inner(path), 1e-7
    for f, df in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        numeric = (f(t + h) - f(t - h)) / (2 * h)
        torch.testing.assert_close(df(t), numeric, rtol=1e-5, atol=1e-6)
        t_grad = t.clone().requires_grad_()
        (auto,) = torch.autograd.grad((f(t_grad) + 0 * t_grad).sum(), t_grad)
        torch.testing.assert_close(df(t), auto, rtol=1e-9, atol=1e-9)


@each
def test_ends_and_monotone_log_snr(path):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.alpha(ends)[1] == 1 and path.sigma(ends)[1] == 0
    assert all(bool(f(ends).isfinite().all()) for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert bool((path.log_snr(t).diff() > 0).all())
    assert path.log_snr(ends)[1] == math.inf


@each
def test_time_at_log_snr_inverts_and_clamps(path):
    t = torch.linspace(0.001, 0.9999, 500, dtype=torch.float64)
    torch.testing.assert_close(path.time_at_log_snr(path.log_snr(t)), t, rtol=0, atol=1e-10)
    far = torch.tensor([-math.inf, -60.0, 60.0, math.inf], dtype=torch.float64)
    got = path.time_at_log_snr(far)
    torch.testing.assert_close(got, torch.tensor([0, 0, 1, 1], dtype=torch.float64), rtol=0, atol=1e-12)
    assert 0 < path.last_time < 1 or path == DiscretePath(1)


@each
def test_float32_in_float32_out(path):
    t = inner(path)
    for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma, path.log_snr):
        assert f(t.float()).dtype == torch.float32
        torch.testing.assert_close(f(t.float()).double(), f(t), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("schedule", ["squared_cosine", "linear"])
def test_discrete_tables_by_hand(schedule):
    n = 50
    path = DiscretePath(n, schedule)
    bars, bar = [], 1.0
    for k in range(n):
        if schedule == "linear":
            beta = (0.1 + (20 - 0.1) * k / (n - 1)) / n
        else:

            def f(u):
                return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

            beta = min(0.999, 1 - f((k + 1) / n) / f(k / n))
        bar *= 1 - beta
        bars.append(bar)
    expected = torch.tensor(bars, dtype=torch.float64)
    torch.testing.assert_close(path.alpha_bar, expected, rtol=1e-12, atol=0)
    t = path.time_at_index(torch.arange(n))
    torch.testing.assert_close(path.alpha(t), expected.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(path.sigma(t), (1 - expected).sqrt(), rtol=1e-11, atol=0)


def test_published_linear_table():
    betas = DiscretePath(1000, "linear").betas
    assert betas[0].item() == pytest.approx(1e-4) and betas[-1].item() == pytest.approx(0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [7, 100, 1000])
def test_discrete_derivative_at_an_index_is_towards_the_data(n, dtype):
    """Also for times that are no binary fractions, and in float32: rounding must not choose the side."""
    path = DiscretePath(n)
    t = path.time_at_index(torch.arange(n))
    after = path.d_sigma(t + 1e-9)
    torch.testing.assert_close(path.d_sigma(t.to(dtype)).double(), after, rtol=1e-4, atol=1e-4)


def test_discrete_is_continuous_at_the_last_index():
    path = DiscretePath(100)
    t = torch.tensor([0.99 - 1e-12, 0.99, 0.99 + 1e-12], dtype=torch.float64)
    lam = path.log_snr(t)
    assert float(lam.max() - lam.min()) < 1e-9
    inside = torch.tensor([0.995], dtype=torch.float64)  # half way: half the noise-to-signal ratio
    assert float(path.log_snr(inside) - lam[1]) == pytest.approx(math.log(2))


def test_linear_schedule_approaches_the_variance_preserving_path():
    path, limit = DiscretePath(5000, "linear"), VariancePreservingPath()
    t = inner(path)
    torch.testing.assert_close(path.alpha(t), limit.alpha(t), rtol=0, atol=2e-3)


def test_compare_by_parameters():
    assert DiscretePath(10) == DiscretePath(10) != DiscretePath(11)
    assert LinearPath() == LinearPath() != CosinePath()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiscretePath(0), "steps=0; expected at least 1"),
        (lambda: DiscretePath(10, "squared-cosine"), "did you mean 'squared_cosine'"),
        (lambda: DiscretePath(10, "linear"), "take more steps"),
        (lambda: VariancePreservingPath(0.0, 1.0), "0 < beta_min"),
        (lambda: VariancePreservingPath(2.0, 1.0), "0 < beta_min"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
