"""The three theorems of the notes, without a network."""

from functools import lru_cache

import pytest
import torch
from mixture import ring

from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import Estimate, target, velocity
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import expand
from diffpolicy.generative.solvers import make_solver

PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    DiscretePath(100, "linear"),
]
each = pytest.mark.parametrize("path", PATHS, ids=repr)


@each
def test_1_marginal_velocity_is_the_posterior_mean_of_the_conditional_ones(path):
    """For data on five points Bayes' rule needs no integral."""
    g = torch.Generator().manual_seed(0)
    points = torch.randn(5, 2, generator=g, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
    field = ExactField(GaussianMixture(points, torch.zeros(5, dtype=torch.float64), weights), path)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    t = torch.rand(50, generator=g, dtype=torch.float64) * 0.9 + 0.02
    alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
    noise = (x[:, None] - alpha * points) / sigma  # the noise that leads from each point to x
    likelihood = weights * torch.exp(-0.5 * noise.square().sum(2)) / sigma[..., 0] ** 2
    posterior = likelihood / likelihood.sum(1, keepdim=True)
    conditional = path.d_alpha(t)[:, None, None] * points + path.d_sigma(t)[:, None, None] * noise
    marginal = (posterior[..., None] * conditional).sum(1)
    torch.testing.assert_close(velocity(field(x, t), t, path), marginal, rtol=1e-9, atol=1e-9)


@each
def test_1_marginal_velocity_moves_the_marginals(path):
    """∂p/∂t + div(p·u) = 0, written for log p: ∂ log p/∂t + div u + u·∇ log p = 0."""
    mixture = ring((2,))
    field = ExactField(mixture, path)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64).requires_grad_()
    t = (torch.rand(50, generator=g, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    log_p = mixture.log_prob(x, path.alpha(t), path.sigma(t))
    d_t, score = torch.autograd.grad(log_p.sum(), (t, x))
    u = velocity(field(x, t), t, path)
    div = sum(torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    residual = d_t + div + (u * score).sum(1)
    assert float(residual.detach().abs().max()) < 1e-8 * float(d_t.abs().max())


def marginal(path, t, seed):
    """3000 exact samples of x_t."""
    generator = torch.Generator().manual_seed(seed)
    data = ring((2,)).sample(3000, generator)
    t = torch.tensor(t, dtype=torch.float64)
    noise = torch.randn(data.shape, generator=generator, dtype=torch.float64)
    return path.alpha(t) * data + path.sigma(t) * noise


@lru_cache
def exact_distance(path, t):
    """The largest of ten distances between independent exact sets."""
    return max(sliced_wasserstein(marginal(path, t, 10 + 2 * i), marginal(path, t, 11 + 2 * i)) for i in range(10))


@pytest.mark.parametrize(
    "g", [0.0, 0.5, 1.0, "sigma", lambda t: 1.5 * (1 - t)], ids=["0", "0.5", "1", "sigma", "falling"]
)
@pytest.mark.parametrize("path", PATHS[:3], ids=repr)
def test_2_every_diffusion_has_the_same_marginals(path, g):
    """Started at the exact p_0.1, all arrive at p_0.8, as near as independent exact samples of it are."""
    field, (t_start, t_end) = ExactField(ring((2,)), path), (0.1, 0.8)
    flow = make_solver("euler_maruyama", g=g).bind(field, path, torch.Generator().manual_seed(3))
    got = sample(flow, marginal(path, t_start, 0), time_grid("uniform", 150, path, t_start, t_end))
    # a quarter for the bias of 150 steps
    limit, end = 1.25 * exact_distance(path, t_end), marginal(path, t_end, 1)
    assert sliced_wasserstein(got, end) < limit
    assert sliced_wasserstein(marginal(path, t_start, 0), end) > 1.5 * limit


@pytest.mark.parametrize("prediction", ["velocity", "score", "noise", "data", "v"])
@each
def test_3_conditional_and_marginal_losses_have_equal_gradients(path, prediction):
    """In one dimension with data on three points: the noise by Gauss–Hermite quadrature, so nothing is random."""
    count = 120
    # Golub–Welsch: nodes and weights of E f(ξ), ξ ~ N(0, 1)
    k = torch.arange(1, count, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(k, 1) + torch.diag(k, -1))
    node_weights = vectors[0] ** 2
    points = torch.tensor([-1.0, 0.2, 1.1], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    field = ExactField(GaussianMixture(points[:, None], torch.zeros(3, dtype=torch.float64), weights), path)
    data, noise = (m.reshape(-1, 1) for m in torch.meshgrid(points, nodes, indexing="ij"))
    measure = (weights[:, None] * node_weights).reshape(-1, 1)
    theta = torch.tensor([0.3, -0.7, 0.2, 0.5], dtype=torch.float64, requires_grad=True)
    for time in (0.05, 0.25, 0.45):
        t = torch.full((len(data),), time, dtype=torch.float64)
        x = expand(path.alpha(t), data) * data + expand(path.sigma(t), data) * noise
        output = theta[0] + theta[1] * x + theta[2] * torch.tanh(x) + theta[3] * t[:, None] * x**2
        gradients = []
        for wanted in (Estimate(data, noise), field(x, t)):
            loss = (measure * (output - target(prediction, *wanted, t, path)) ** 2).sum()
            gradients.append(torch.autograd.grad(loss, theta, retain_graph=True)[0])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)
        # the losses themselves differ, by the spread of the conditional targets
        assert float(gradients[0].abs().max()) > 1e-3
