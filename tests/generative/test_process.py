"""A method on other paths than its own, against closed forms: the field of a Gaussian is known on every path."""

import pytest
import torch

from diffpolicy.generative.guidance import OnPath
from diffpolicy.generative.likelihood import variational_bound
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import ModelField, estimate
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import expand

MEAN, SCALE = 0.7, 0.3
PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    VarianceExplodingPath(),
    DiscretePath(1000),
    DiscretePath(100, "linear"),
]


def gaussian_data(path, x, t):
    """E[data | x] for data ~ N(MEAN, SCALE²)."""
    alpha, sigma = expand(path.alpha(t), x), expand(path.sigma(t), x)
    gain = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def gaussian_field(path):
    return ModelField(lambda x, t, cond: gaussian_data(path, x, t), path, "data")


@pytest.mark.parametrize("shape", [(6, 2), (6, 16, 2), (6, 1, 8, 8)])
@pytest.mark.parametrize("other", PATHS, ids=repr)
@pytest.mark.parametrize("own", PATHS[:3], ids=repr)
def test_the_field_on_another_path_is_that_paths_own(own, other, shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.97], dtype=torch.float64)
    moved = OnPath(gaussian_field(own), other)(x, t)
    exact = estimate("data", gaussian_data(other, x, t), x, t, other)
    low, high = own.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    within = ((other.log_snr(t) > low) & (other.log_snr(t) < high)).reshape(6, *[1] * (len(shape) - 1))
    for a, b in zip(moved, exact, strict=True):
        assert torch.allclose(torch.where(within, a, b), b, atol=1e-6)
    assert torch.allclose(expand(other.alpha(t), x) * moved.data + expand(other.sigma(t), x) * moved.noise, x)


def test_both_ends_are_finite():
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for own in PATHS[:3]:
        for other in PATHS:
            moved = OnPath(gaussian_field(own), other)(x, torch.tensor([0.0, 1.0], dtype=torch.float64))
            assert all(part.isfinite().all() for part in moved)


def test_a_method_draws_the_data_on_its_own_and_on_other_paths():
    own = LinearPath()
    for path in (None, DiscretePath(200), CosinePath()):
        for solver, grid in (("euler", "uniform"), ("ddpm", "uniform"), ("dpmpp_2m", "log_snr")):
            method = GenerativeProcess(own, "data", solver=solver, steps=200, grid=grid)
            method.configure(path=path)
            x = torch.randn(5_000, 1, generator=torch.Generator().manual_seed(0))
            field = method.field(lambda x, t, cond: gaussian_data(own, x, t))
            drawn, calls = method.draw(field, x, None, torch.Generator().manual_seed(1))
            assert calls == 200
            assert drawn.mean().item() == pytest.approx(MEAN, abs=0.01)
            assert drawn.std().item() == pytest.approx(SCALE, rel=0.03)


def test_the_ddpm_bound_of_a_flow_is_that_of_the_paths_own_field():
    data = MEAN + SCALE * torch.randn(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = DiscretePath(200)
    moved, own = (
        variational_bound(field, data, generator=torch.Generator().manual_seed(1)).total
        for field in (OnPath(gaussian_field(LinearPath()), path), gaussian_field(path))
    )
    assert torch.allclose(moved, own, atol=1e-6)
    assert own.mean() > -torch.distributions.Normal(MEAN, SCALE).log_prob(data).mean()


def test_configure_keeps_and_refuses():
    method = GenerativeProcess(LinearPath(), "velocity", solver="euler", steps=7)
    method.configure(solver="ddim", options={"eta": 0.5})
    assert method.sampler == {"solver": "ddim", "steps": 7, "grid": "uniform", "options": {"eta": 0.5}}
    method.configure(solver="heun")
    assert method.sampler == {"solver": "heun", "steps": 7, "grid": "quadratic", "options": {}}  # its own grid
    method.configure(steps=9)
    assert method.sampler["grid"] == "quadratic"
    method.configure(solver="rk4", grid="log_snr")
    assert method.sampler["grid"] == "log_snr"
    method.configure(solver="euler")
    assert method.sampler["grid"] == "uniform"
    method.configure(solver="heun")
    grids = {
        given: GenerativeProcess(LinearPath(), "velocity", solver="rk4", grid=given) for given in (None, "uniform")
    }
    assert [made.sampler["grid"] for made in grids.values()] == ["quadratic", "uniform"]
    kept = GenerativeProcess(
        LinearPath(), "velocity", grid="log_snr"
    )  # the method's own choice goes before a solver's
    for solver in ("heun", "dpmpp_2m"):
        kept.configure(solver=solver)
        assert kept.sampler["grid"] == "log_snr"
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        method.configure(solver="heum")
    before = method.solver, method.sampler
    with pytest.raises(ValueError, match="DiscretePath"):
        method.configure(solver="euler", grid="ddpm_trailing")
    assert (method.solver, method.sampler) == before
    method.configure(steps=30, grid="log_snr", path=DiscretePath(20))
    method.configure(steps=40)
    assert method.sampler["grid"] == "log_snr"
    method.configure(steps=20, grid="ddpm_trailing")
    method.configure(steps=40)
    assert method.sampler["grid"] == "uniform"  # more steps than the path has indices
