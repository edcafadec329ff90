import math

import pytest
import torch
from mixture import ring

from diffpolicy.generative.guidance import ClassifierGuidance
from diffpolicy.generative.likelihood import log_density, variational_bound
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VariancePreservingPath,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(std, shape):
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(torch.zeros(1, *shape, dtype=torch.float64), std * one, one)


def blurred(mixture, path):
    """The density that `log_density` speaks of: data + r·noise, r = σ/α at the path's last time."""
    t = torch.tensor(path.last_time, dtype=torch.float64)
    r = path.sigma(t) / path.alpha(t)
    return GaussianMixture(mixture.means, (mixture.stds**2 + r**2).sqrt(), mixture.weights)


@pytest.mark.parametrize("shape", [(3,), (4, 2)], ids=str)
@pytest.mark.parametrize("schedule", ["squared_cosine", "linear"])
def test_bound_of_a_gaussian_term_by_term(schedule, shape):
    std, n, d = 0.6, 4000, math.prod(shape)
    path, mixture = DiscretePath(20, schedule, 0.1, 15.0), gaussian(0.6, shape)
    got = variational_bound(ExactField(mixture, path), mixture.sample(n, gen()), generator=gen(1))
    bars = path.alpha_bar
    posterior = std**2 * (1 - bars) / (bars * std**2 + 1 - bars)  # Var(data | x_k)
    snr = bars / (1 - bars)
    prior = 0.5 * d * (bars[-1] * std**2 + (1 - bars[-1]) - 1 - torch.log(1 - bars[-1]))
    steps = 0.5 * d * (snr[:-1] - snr[1:]) * posterior[1:]
    beta = path.betas[0]
    reconstruction = 0.5 * d * (posterior[0] / beta + torch.log(2 * math.pi * beta))

    def agree(values, want):
        error = values.std(-1) / math.sqrt(n)
        assert bool(((values.mean(-1) - want).abs() < 4.5 * error + 1e-12).all())

    assert got.steps.shape == (19, n)
    agree(got.prior, prior)
    agree(got.steps, steps)
    agree(got.reconstruction, reconstruction)
    agree(got.total, prior + steps.sum() + reconstruction)


@pytest.mark.parametrize("schedule", ["squared_cosine", "linear"])
@pytest.mark.parametrize("steps", [30, 120])
def test_bound_lies_above_the_entropy(schedule, steps):
    """By what is lost in steps whose posterior is not the Gaussian assumed."""
    mixture = ring((2,))
    data = mixture.sample(4000, gen())
    bound = variational_bound(ExactField(mixture, DiscretePath(steps, schedule)), data, generator=gen(1))
    assert float((bound.total + mixture.log_prob(data)).mean()) > 0


def test_bound_of_one_step_and_of_row_generators():
    field = ExactField(ring((2,)), DiscretePath(1))
    data = field.mixture.sample(5, gen())
    whole = variational_bound(field, data, generator=[gen(i) for i in range(5)])
    part = variational_bound(field, data[[3]], generator=[gen(3)])
    assert whole.steps.shape == (0, 5)
    torch.testing.assert_close(part.total, whole.total[[3]])
    with pytest.raises(TypeError, match="expected a DiscretePath"):
        variational_bound(ExactField(field.mixture, LinearPath()), data)


@pytest.mark.parametrize(
    "path",
    [LinearPath(), SquareRootPath(), CosinePath(), VariancePreservingPath()],
    ids=repr,
)
def test_exact_density_of_a_gaussian(path):
    mixture = gaussian(0.6, (3,))
    x = mixture.sample(8, gen())
    got = log_density(ExactField(mixture, path), x, steps=100)
    torch.testing.assert_close(got.value, blurred(mixture, path).log_prob(x), rtol=0, atol=1e-3)
    assert torch.equal(got.standard_error, torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("path", "atol"),
    # α(0) = 0.007 leaves the last two a trace of the data in their N(0, I); the table's λ has kinks
    [(LinearPath(), 1e-4), (CosinePath(), 1e-4), (VariancePreservingPath(), 1e-2), (DiscretePath(100), 2e-2)],
    ids=repr,
)
def test_exact_density_of_a_mixture(path, atol):
    mixture = ring((2, 2))
    x = mixture.sample(8, gen())
    grid = "log_snr" if isinstance(path, LinearPath) else "uniform"
    got = log_density(ExactField(mixture, path), x, steps=100, grid=grid).value
    torch.testing.assert_close(got, blurred(mixture, path).log_prob(x), rtol=0, atol=atol)


def test_density_of_a_condition():
    mixture = ring((2,))
    x, labels = mixture.sample(4, gen()), torch.tensor([0, 1, 2, 3])
    got = log_density(ExactField(mixture, LinearPath()), x, labels, steps=60).value
    for i in range(4):
        one = GaussianMixture(mixture.means[[i]], mixture.stds[[i]], torch.ones(1, dtype=torch.float64))
        want = blurred(one, LinearPath()).log_prob(x[[i]])
        torch.testing.assert_close(got[[i]], want, rtol=1e-4, atol=2e-3)


def test_hutchinson_agrees_within_its_standard_error():
    field = ExactField(ring((8,)), LinearPath())
    x = field.mixture.sample(12, gen())
    exact = log_density(field, x, steps=20).value
    got = log_density(field, x, steps=20, divergence="hutchinson", probes=64, generator=gen(1))
    assert bool((got.standard_error > 0).all())
    deviations = (got.value - exact) / got.standard_error
    assert float(deviations.abs().max()) < 4 and float(deviations.square().mean()) < 3


def test_hutchinson_is_exact_for_an_isotropic_jacobian():
    """Sign vectors have vᵀv = d, so for ∂u/∂x = c·I every probe gives the trace: the spread is 0."""
    mixture = gaussian(0.6, (1, 4, 4))
    x = mixture.sample(3, gen())
    field = ExactField(mixture, LinearPath())
    got = log_density(field, x, steps=20, divergence="hutchinson", probes=2, generator=gen(1))
    torch.testing.assert_close(got.value, log_density(field, x, steps=20).value)
    assert float(got.standard_error.max()) < 1e-12


def test_hutchinson_probes_by_row():
    field = ExactField(ring((3,)), LinearPath())
    x = field.mixture.sample(5, gen())

    def run(rows):
        return log_density(
            field, x[rows], steps=10, divergence="hutchinson", probes=3, generator=[gen(i) for i in rows]
        )

    torch.testing.assert_close(run([4, 1]).value, run([0, 1, 2, 3, 4]).value[[4, 1]], rtol=0, atol=1e-12)


def test_density_of_a_guided_field():
    """With the exact classifier, guidance of scale one gives the density of one component."""
    path, mixture = LinearPath(), ring((2,))
    exact = ExactField(mixture, path)

    class Unconditional:
        calls, needs_grad = 1, False

        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            return exact(x, t)

    def log_prob(x, t, cond):
        log, _ = mixture.components(x, path.alpha(t), path.sigma(t))
        return torch.log_softmax(log, 1)[:, 0]

    field = ClassifierGuidance(Unconditional(), log_prob, 1.0)
    x = mixture.means[[0]] + 0.1 * torch.randn(4, 2, generator=gen(), dtype=torch.float64)
    want = log_density(exact, x, torch.zeros(4, dtype=torch.long), steps=40).value
    # at t = 0 alone, where its gradient is 0/0, the guidance is left out: one stage of 160
    torch.testing.assert_close(log_density(field, x, steps=40).value, want, rtol=0, atol=1e-2)


def test_refusals():
    field = ExactField(ring((2,)), LinearPath())
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="did you mean 'hutchinson'"):
        log_density(field, x, divergence="hutchison")
    with pytest.raises(ValueError, match="probes=1; expected at least 2"):
        log_density(field, x, divergence="hutchinson", probes=1)
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        log_density(field, x, steps=0)
