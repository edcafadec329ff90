import math

import pytest
import torch

from diffpolicy.generative import generate, make_solver, sample
from diffpolicy.generative.inversion import between, invert
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import CosinePath, DiscretePath, LinearPath, SquareRootPath, VariancePreservingPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.solvers import SOLVERS

PATHS = [LinearPath(), SquareRootPath(), CosinePath(), VariancePreservingPath(), DiscretePath(100)]
REVERSIBLE = {"euler", "heun", "rk4", "ddim", "dpmpp_1s"}


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.3, 0.4, 0.5]).double(), torch.tensor([0.3, 0.3, 0.4]).double())


def data(n: int = 64) -> torch.Tensor:
    return mixture().sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", ["heun", "ddim"])
def test_data_come_back_from_their_noise(path, name):
    """The error falls with the number of steps, and the noise is normal."""
    field, solver, errors = ExactField(mixture(), path), make_solver(name), []
    for steps in (20, 80):
        noise = invert(field, path, solver, data(1000), steps, "log_snr")
        back = generate(field, path, solver, noise.shape, steps, "log_snr", start=noise)
        errors.append(float((back - data(1000)).square().mean().sqrt()))
    assert errors[1] < 0.6 * errors[0] and errors[1] < (0.01 if name == "heun" else 0.1)
    assert noise.mean(0).abs().max() < 0.15 and (noise.std(0) - 1).abs().max() < 0.1


def test_a_gaussian_is_inverted_in_closed_form():
    """N(2, 0.5²) through the monotone map: noise = (x − 2)/0.5."""
    law = GaussianMixture(torch.tensor([[2.0]]).double(), torch.tensor([0.5]).double(), torch.ones(1).double())
    x = torch.linspace(1, 3, 9, dtype=torch.float64)[:, None]
    noise = invert(ExactField(law, LinearPath()), LinearPath(), make_solver("rk4"), x, 200, "log_snr")
    torch.testing.assert_close(noise, (x - 2) / 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_which_solvers_go_back(name):
    path = LinearPath()
    solver, field = make_solver(name), ExactField(mixture(), path)
    assert solver.reversible == (name in REVERSIBLE)
    if not solver.reversible:
        with pytest.raises(ValueError, match="noise to data alone.*euler, heun, rk4 or ddim"):
            invert(field, path, solver, data(4), 5)
        with pytest.raises(ValueError, match="expected t < s"):
            solver.bind(field, path)(data(1), torch.tensor([0.5]), torch.tensor([0.4]))


def test_there_and_back_from_the_middle_is_exact_for_a_linear_field():
    """RK4 reproduces e^{-1/2} of dx/dt = −x to its order both ways."""
    path = LinearPath()
    flow = make_solver("rk4").bind(ModelField(lambda x, t, cond: -x, path, "velocity"), path)
    x = torch.ones(3, 2, dtype=torch.float64)
    there = sample(flow, x, torch.linspace(0.7, 0.2, 11))
    torch.testing.assert_close(there, x * math.exp(0.5), rtol=1e-6, atol=0)
    torch.testing.assert_close(sample(flow, there, torch.linspace(0.2, 0.7, 11)), x, rtol=1e-6, atol=0)


def test_times_that_turn_are_refused():
    flow = make_solver("euler").bind(ExactField(mixture(), LinearPath()), LinearPath())
    with pytest.raises(ValueError, match="times that increase"):
        sample(flow, data(2), [0.9, 0.2, 0.5])
    with pytest.raises(ValueError, match="times that increase"):
        sample(flow, data(2), [0.2, 0.9, 0.5])


def test_between_two_noises_their_length_is_kept():
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(1, 32, 32, generator=generator) for _ in range(2))
    second = second * first.norm() / second.norm()
    found = between(first, second, torch.linspace(0, 1, 7))
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[-1], second, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), first.norm().expand(7), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="opposite noises"):
        between(first, -first, torch.linspace(0, 1, 3))
    with pytest.raises(ValueError, match="two of one shape"):
        between(first, second[:, :3], torch.linspace(0, 1, 3))
    same = between(first, first, torch.linspace(0, 1, 3))
    torch.testing.assert_close(same, first.expand(3, 1, 32, 32))
