"""Processes without a path against what is known of them."""

import math

import pytest
import torch
from mixture import ring

from diffpolicy.generative.guidance import ClassifierGuidance
from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.sde import SDE, langevin
from diffpolicy.generative.solvers import make_solver

PATH = LinearPath()


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(steps):
    return time_grid("uniform", steps, PATH)


def test_without_noise_it_is_euler_as_the_solver_takes_it():
    """dx = −θ·x·dτ over T, n steps: x·(1 − θT/n)ⁿ, by SDE and by a velocity field on the linear path alike."""
    theta, duration, x = 3.0, 2.0, torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    for steps in (2, 5, 40):
        want = x * (1 - theta * duration / steps) ** steps
        sde = SDE(lambda x, tau, cond: -theta * x, 0.0, duration)
        torch.testing.assert_close(sample(sde, x, grid(steps)), want)
        field = ModelField(lambda x, t, cond: -theta * duration * x, PATH, "velocity")
        torch.testing.assert_close(sample(make_solver("euler").bind(field, PATH), x, grid(steps)), want)


def test_brownian_motion_has_independent_increments_of_variance_g_squared_h():
    walk = SDE(lambda x, tau, cond: torch.zeros_like(x), 0.7, 2.0, gen())
    paths = sample(walk, torch.zeros(20_000, 1, dtype=torch.float64), grid(8), trajectory=True)[..., 0]
    covariance = torch.cov(paths.diff(dim=0))
    torch.testing.assert_close(covariance, 0.7**2 * 2 / 8 * torch.eye(8, dtype=torch.float64), rtol=0, atol=4e-3)


def test_ornstein_uhlenbeck_has_the_variance_of_its_discretisation():
    """Under Euler–Maruyama var' = (1 − θh)²·var + σ²h, which ends at σ²/(2θ − θ²h): exact but for sampling."""
    theta, sigma, duration, steps = 1.5, 0.8, 6.0, 60
    h = duration / steps
    sde = SDE(lambda x, tau, cond: -theta * x, sigma, duration, gen())
    got = sample(sde, torch.full((40_000, 1), 2.0, dtype=torch.float64), grid(steps))
    assert float(got.var()) == pytest.approx(sigma**2 / (2 * theta - theta**2 * h), rel=0.03)
    assert abs(float(got.mean())) < 0.01


def test_drift_and_g_see_the_time_of_the_process():
    seen = []

    def g(tau):
        seen.append(tau.clone())
        return 0 * tau

    end = sample(SDE(lambda x, tau, cond: torch.cos(tau)[:, None], g, 4.0), torch.zeros(1, 1).double(), grid(4000))
    assert float(end) == pytest.approx(math.sin(4.0), abs=2e-3)
    assert float(seen[0]) == 0 and float(seen[2000]) == pytest.approx(2.0)


def test_langevin_dynamics_keeps_p_t():
    """Started at the exact p_t, the mean log density stays that of p_t; with g = 0 nothing moves."""
    field, time = ExactField(ring((2,)), PATH), 0.6
    t = torch.full((4000,), time, dtype=torch.float64)
    noise = torch.randn(4000, 2, generator=gen(1), dtype=torch.float64)
    start = PATH.interpolate(field.mixture.sample(4000, gen()), noise, t)
    end = sample(langevin(field, time, 1.0, 2.0, gen(2)), start, grid(200))
    entropy = [float(field.log_density(x, t).mean()) for x in (start, end)]
    assert entropy[0] == pytest.approx(entropy[1], abs=0.06)
    assert float((end - start).norm(dim=1).mean()) > 0.5
    still = sample(langevin(field, time, 0.0, 2.0, gen(2)), start, grid(3))
    assert torch.equal(still, start)


def test_langevin_finds_p_t_from_elsewhere():
    """One Gaussian, where the stationary law of the discretisation is known: variance v/(1 − h·g²/(4v))."""
    mixture = ring((2,))
    one = ExactField(type(mixture)(mixture.means[:1], mixture.stds[:1], torch.ones(1, dtype=torch.float64)), PATH)
    time, g, steps, duration = 0.5, 1.0, 300, 6.0
    v = (0.5 * float(mixture.stds[0])) ** 2 + 0.25
    got = sample(langevin(one, time, g, duration, gen()), torch.zeros(20_000, 2, dtype=torch.float64), grid(steps))
    torch.testing.assert_close(got.mean(0), 0.5 * mixture.means[0], rtol=0, atol=0.02)
    assert float(got.var(0).mean()) == pytest.approx(v / (1 - duration / steps * g**2 / (4 * v)), rel=0.02)


def test_each_row_draws_its_own_noise():
    x = torch.zeros(3, 2, dtype=torch.float64)
    many = sample(SDE(lambda x, tau, cond: -x, 1.0, 1.0, [gen(i) for i in range(3)]), x, grid(4))
    alone = sample(SDE(lambda x, tau, cond: -x, 1.0, 1.0, [gen(2)]), x[:1], grid(4))
    assert torch.equal(many[2:], alone)


def test_a_field_that_differentiates_may_drive_it():
    exact = ExactField(ring((2,)), PATH)
    guided = ClassifierGuidance(exact, exact.log_posterior, 2.0)
    labels = torch.tensor([0, 1, 2])
    moved = sample(langevin(guided, 0.5, 1.0, 1.0, gen()), torch.zeros(3, 2, dtype=torch.float64), grid(5), labels)
    assert bool(moved.isfinite().all())


def test_refusals():
    def drift(x, tau, cond):
        return x

    for g in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="finite number >= 0"):
            SDE(drift, g)
    for duration in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="expected a positive finite number"):
            SDE(drift, 1.0, duration)
    with pytest.raises(ValueError, match="t=1.0; expected 0 <= t < 1"):
        langevin(ExactField(ring((2,)), PATH), 1.0)
