"""A time for every step of a sequence, t (B, T): each step is treated as a sample with that time would be."""

import pytest
import torch

from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import PREDICTIONS, ModelField, estimate, score, target, velocity
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import expand
from diffpolicy.generative.solvers import SOLVERS, make_solver
from diffpolicy.generative.weighting import WEIGHTINGS

PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    VarianceExplodingPath(),
    DiscretePath(100),
]
B, T, D = 4, 5, 3


def tensors(count):
    generator = torch.Generator().manual_seed(0)
    t = 0.05 + 0.9 * torch.rand(B, T, generator=generator, dtype=torch.float64)
    return t, *(torch.randn(B, T, D, generator=generator, dtype=torch.float64) for _ in range(count))


def net(x, t, cond=None):
    return torch.tanh(x) * expand(1 + t, x)


def flat(value):
    """(B, T, …) as (B·T, …): every step a sample of its own."""
    return value.flatten(0, 1)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_formulas(path):
    t, data, noise, output = tensors(3)
    x = path.interpolate(data, noise, t)
    for step in range(T):
        one = path.interpolate(data[:, step], noise[:, step], t[:, step])
        assert torch.equal(x[:, step], one)
    for prediction in PREDICTIONS:
        wanted = target(prediction, data, noise, t, path)
        assert torch.equal(flat(wanted), target(prediction, flat(data), flat(noise), flat(t), path))
        found = estimate(prediction, output, x, t, path)
        alone = estimate(prediction, flat(output), flat(x), flat(t), path)
        for both in zip(found, alone, strict=True):
            assert torch.equal(flat(both[0]), both[1])
        for function in (velocity, score):
            assert torch.equal(flat(function(found, t, path)), function(alone, flat(t), path))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_losses_are_the_mean_over_the_steps(path):
    t, data, noise = tensors(2)
    for prediction in PREDICTIONS:
        for weighting in ("native", *WEIGHTINGS):
            objective = DenoisingObjective(path, prediction, weighting=weighting)
            alone = objective.at(net, flat(data), flat(noise), flat(t)).unflatten(0, (B, T))
            torch.testing.assert_close(objective.at(net, data, noise, t), alone.mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(
    "name", sorted(set(SOLVERS) - {"dopri5", "ddpm", "ddpm_large", "ddpm_learned", "euler_maruyama"})
)
def test_every_step_follows_its_own_grid(path, name):
    """Other grids for other steps, as of diffusion forcing; each result is what the step alone would be."""
    _, noise = tensors(1)
    names = ("uniform", "log_snr", "quadratic", "uniform", "quadratic")
    grids = torch.stack([time_grid(grid, 6, path) for grid in names])
    times = grids.T[:, None].expand(-1, B, -1)
    field = ModelField(net, path, "v")
    together = sample(make_solver(name).bind(field, path), noise, times)
    for step in range(T):
        alone = sample(make_solver(name).bind(field, path), noise[:, step], grids[step])
        torch.testing.assert_close(together[:, step], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"dopri5", "ddpm_learned"}))
def test_steps_whose_time_stays_keep_their_values(path, name):
    """A known prefix stands at t = 1 while the other steps go from noise to data."""
    _, x = tensors(1)
    times = time_grid("uniform", 4, path)[:, None, None].expand(-1, B, T).clone()
    times[:, :, :2] = 1
    seen = []

    def watching(x, t, cond):
        seen.append(t[:, :2])
        return net(x, t)

    flow = make_solver(name).bind(ModelField(watching, path, "v"), path, torch.Generator().manual_seed(0))
    made = sample(flow, x, times)
    assert torch.equal(made[:, :2], x[:, :2]) and made.isfinite().all()
    assert (made[:, 2:] != x[:, 2:]).all()
    assert (torch.stack(seen) == 1).all()  # which the network is told


def test_refusals():
    x = torch.zeros(B, T, D)
    with pytest.raises(ValueError, match=r"per step \(B, T\)"):
        expand(torch.zeros(B, T, D), x)
    with pytest.raises(ValueError, match=r"t has shape \(4, 2\)"):
        expand(torch.zeros(B, 2), x)
    field = ModelField(net, LinearPath(), "velocity")
    flow = make_solver("euler").bind(field, field.path)
    with pytest.raises(ValueError, match="t < s"):
        flow(x, torch.full((B, T), 0.5), torch.full((B, T), 0.4))
    with pytest.raises(ValueError, match=r"dopri5 with times \(4, 5\).*take solver=rk4"):
        make_solver("dopri5").bind(field, field.path)(x, torch.zeros(B, T), torch.ones(B, T))
    with pytest.raises(ValueError, match=r"times of shape \(3, 2\)"):
        sample(flow, x, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="times that increase"):
        sample(flow, x, torch.tensor([0.5, 0.4])[:, None, None].expand(-1, B, T))
