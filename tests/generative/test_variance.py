"""A learned variance of the reverse chain: its ends, its bound, its gradient, and what it learns on a Gaussian."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffpolicy.generative.guidance import Changed, ClassifierFree, ClipData, Inpaint, OnPath, SoftInpaint
from diffpolicy.generative.likelihood import variational_bound
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import DiscretePath, LinearPath, VariancePreservingPath
from diffpolicy.generative.predictions import PREDICTIONS, ModelField, WithVariance, target
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.shapes import expand
from diffpolicy.generative.solvers import SOLVERS, make_solver
from diffpolicy.generative.variance import WEIGHT, divergence, variance_loss

PATH = DiscretePath(20)
SHAPES = [(6, 2), (6, 4, 2), (6, 1, 3, 3)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=gen(seed))


def axis(x):
    return 1 if x.ndim == 4 else -1


def with_half(net, v):
    """A network with twice the outputs, that says v of the variance."""

    def double(x, t, cond=None):
        out = net(x, t, cond)
        return torch.cat([out, v(x, t) if callable(v) else torch.full_like(out, v)], dim=axis(x))

    return double


def plain(x, t, cond=None):
    return torch.tanh(x) * expand(1 + t, x)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("v", "fixed"), [(0.0, "ddpm"), (1.0, "ddpm_large")])
def test_its_ends_are_the_two_fixed_variances(v, fixed, shape, steps):
    times, noise = time_grid("ddpm_trailing", steps, PATH), randn(*shape)
    learned = make_solver("ddpm_learned").bind(ModelField(with_half(plain, v), PATH, "noise", True), PATH, gen(1))
    other = make_solver(fixed).bind(ModelField(plain, PATH, "noise"), PATH, gen(1))
    got, want = (sample(flow, noise, times, trajectory=True) for flow in (learned, other))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert learned.calls == other.calls == steps


def test_between_the_ends_the_log_variance_is_interpolated():
    t, s = PATH.time_at_index(torch.tensor([9, 9])), PATH.time_at_index(torch.tensor([8, 8]))
    x, v = randn(2, 3), torch.tensor([[0.3, -0.4, 1.2], [0.0, 0.5, 1.0]], dtype=torch.float64)
    field = ModelField(with_half(plain, lambda x, t: v), PATH, "noise", True)
    draws = {
        name: make_solver(name).bind(field, PATH, gen(2))(x, t, s) for name in ("ddpm", "ddpm_large", "ddpm_learned")
    }
    noise = torch.randn(2, 3, dtype=torch.float64, generator=gen(2))
    beta = PATH.betas[9]
    small = beta * (1 - PATH.alpha_bar[8]) / (1 - PATH.alpha_bar[9])
    mean = draws["ddpm"] - small.sqrt() * noise
    torch.testing.assert_close(draws["ddpm_large"], mean + beta.sqrt() * noise)
    want = torch.exp(v * beta.log() + (1 - v) * small.log())
    torch.testing.assert_close(draws["ddpm_learned"], mean + want.sqrt() * noise)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_other_solvers_ignore_the_second_half(solver):
    options = {"rtol": 1e-2, "atol": 1e-2} if solver == "dopri5" else {}
    fields = ModelField(plain, PATH, "v"), ModelField(with_half(plain, 0.7), PATH, "v", True)
    flows = [make_solver(solver, **options).bind(field, PATH, gen(3)) for field in fields]
    assert torch.equal(*(sample(flow, randn(3, 2), [0, 0.5, 1]) for flow in flows))


def posterior(data, x, k):
    """Return q(x_{k−1}|x_k, data) by Ho et al. 2020, eq. 7: its mean, and its variance."""
    a, before, beta = PATH.alpha_bar[k], PATH.alpha_bar[k - 1], PATH.betas[k]
    mean = before.sqrt() * beta / (1 - a) * data + (1 - beta).sqrt() * (1 - before) / (1 - a) * x
    return mean, beta * (1 - before) / (1 - a)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_its_loss_is_the_divergence_of_two_gaussians(prediction):
    for k in (1, 7, 19):
        data, noise, v = randn(5, 2), randn(5, 2, seed=1), 0.5 + randn(5, 2, seed=2)
        t = PATH.time_at_index(torch.full((5,), k))
        x = PATH.interpolate(data, noise, t)
        said = target(prediction, data, noise, t, PATH) + 0.1 * randn(5, 2, seed=3)
        mean, small = posterior(data, x, k)
        learned, _ = posterior(ModelField(lambda *a, said=said: said, PATH, prediction)(x, t).data, x, k)
        large = PATH.betas[k]
        spread = torch.exp(v * large.log() + (1 - v) * small.log())
        want = kl_divergence(Normal(mean, small.sqrt()), Normal(learned, spread.sqrt()))
        error = said - target(prediction, data, noise, t, PATH)
        got = variance_loss(prediction, v, error, t, PATH)
        torch.testing.assert_close(got, WEIGHT * PATH.steps * want.mean(1), rtol=1e-6, atol=0)


def test_the_divergence_is_the_integral():
    s, t = PATH.time_at_index(torch.tensor([4])), PATH.time_at_index(torch.tensor([5]))
    data, guess, v = (torch.tensor([[value]], dtype=torch.float64) for value in (0.4, -0.3, 0.35))
    x = torch.tensor([[0.2]], dtype=torch.float64)
    (mean, small), (learned, _) = posterior(data, x, 5), posterior(guess, x, 5)
    spread = torch.exp(v * PATH.betas[5].log() + (1 - v) * small.log())
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64) * small.sqrt() + mean[0, 0]
    q, p = Normal(mean[0, 0], small.sqrt()).log_prob(z), Normal(learned[0, 0], spread[0, 0].sqrt()).log_prob(z)
    want = torch.trapezoid(q.exp() * (q - p), z)
    assert float(divergence(v, (data - guess).square(), t, s, PATH)) == pytest.approx(float(want), rel=1e-6)


def test_the_step_into_the_data_teaches_nothing():
    t = PATH.time_at_index(torch.tensor([0, 1]))
    loss = variance_loss("noise", torch.ones(2, 3), torch.ones(2, 3), t, PATH)
    assert loss[0] == 0 and loss[1] > 0
    steps = torch.tensor([[1.0, t[1]]], dtype=torch.float64)  # a known step, and one that is not
    loss = variance_loss("noise", torch.ones(1, 2, 3), torch.ones(1, 2, 3), steps, PATH)
    assert loss.shape == (1, 2) and loss[0, 0] == 0 and loss[0, 1] > 0


def test_no_gradient_of_the_bound_reaches_the_mean():
    mean, v = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def net(x, t, cond):
        return torch.cat([x * mean + 0.3, (x * 0 + v)], dim=1)

    batch = {"data": randn(64, 2)}
    loss = DenoisingObjective(PATH, "noise", "discrete", learned_variance=True)
    both = torch.autograd.grad(loss(net, batch, gen(4)).sum(), (mean, v))
    plainly = DenoisingObjective(PATH, "noise", "discrete")
    (alone,) = torch.autograd.grad(plainly(lambda *a: net(*a)[:, :2], batch, gen(4)).sum(), mean)
    assert torch.equal(both[0], alone) and both[1] != 0


def test_wrappers_keep_the_variance_of_the_conditional_field():
    field = ModelField(with_half(plain, lambda x, t: x * 0 + 0.6), PATH, "noise", True)
    x, t = randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    guided = ClipData(ClassifierFree(field, 3.0, lambda cond: cond))(x, t)
    assert isinstance(guided, WithVariance) and torch.equal(guided.v, torch.full_like(x, 0.6))
    same = Changed(field, lambda data, t: data)
    held = Inpaint(same, torch.zeros(2), torch.tensor([True, False]))
    for wrapped in (same, held, SoftInpaint(field, torch.zeros(2), torch.ones(2), jacobian=False)):
        assert isinstance(wrapped(x, t), WithVariance), type(wrapped)
    assert not isinstance(OnPath(field, VariancePreservingPath())(x, t), WithVariance)


WIDTH = 0.5  # standard deviation of the data, N(0, WIDTH²)


def gaussian(x, t, cond=None):
    """E[noise|x_t], exactly."""
    alpha, sigma = expand(PATH.alpha(t), x), expand(PATH.sigma(t), x)
    return sigma * x / (alpha**2 * WIDTH**2 + sigma**2)


def best_v():
    """The v of each index k ≥ 1 at which Σ is the variance of x_{k−1} given x_k: β̃ + c²·Var(data|x_k)."""
    a, before = PATH.alpha_bar[1:], PATH.alpha_bar[:-1]
    beta, given = PATH.betas[1:], WIDTH**2 * (1 - a) / (a * WIDTH**2 + 1 - a)
    small = beta * (1 - before) / (1 - a)
    exact = small + before * (beta / (1 - a)) ** 2 * given
    return (exact.log() - small.log()) / (beta.log() - small.log())


def looked_up(table):
    """A v of each index, (N,)."""
    return lambda x, t: x * 0 + expand(table[((1 - t) * PATH.steps - 1).round().long()], x)


def test_on_a_gaussian_it_learns_the_posterior_variance():
    table = torch.zeros(PATH.steps, dtype=torch.float64, requires_grad=True)
    net = with_half(gaussian, looked_up(table))
    loss, optimizer = (
        DenoisingObjective(PATH, "noise", "discrete", learned_variance=True),
        torch.optim.Adam([table], 0.05),
    )
    noise = gen(5)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        batch = {"data": WIDTH * torch.randn(1024, 1, dtype=torch.float64, generator=noise)}
        optimizer.zero_grad()
        loss(net, batch, noise).mean().backward()
        optimizer.step()
    learned = table.detach()[1:]
    assert float((learned - best_v()).abs().max()) < 0.05
    bounds, widths = {}, {}
    data = WIDTH * randn(4000, 1, seed=6)
    for name, half in (("ddpm", 0.0), ("ddpm_large", 1.0), ("ddpm_learned", looked_up(table.detach()))):
        field = ModelField(with_half(gaussian, half), PATH, "noise", True)
        bounds[name] = float(variational_bound(field, data, generator=gen(7)).total.mean())
        flow = make_solver("ddpm_learned").bind(field, PATH, gen(8))
        widths[name] = float(sample(flow, randn(20_000, 1, seed=9), time_grid("ddpm_trailing", 20, PATH)).std())
    assert bounds["ddpm_learned"] < min(bounds["ddpm"], bounds["ddpm_large"]) - 0.005
    off = {name: abs(math.log(width / WIDTH)) for name, width in widths.items()}
    assert off["ddpm_learned"] < 0.5 * min(off["ddpm"], off["ddpm_large"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="learned_variance on LinearPath.*take method=ddpm"):
        GenerativeProcess(LinearPath(), "noise", learned_variance=True)
    with pytest.raises(
        ValueError, match=r"none was learned.*take solver=ddpm, or train .*method\.learned_variance=true"
    ):
        GenerativeProcess(PATH, "noise", solver="ddpm_learned")
    taught = GenerativeProcess(PATH, "noise", learned_variance=True, solver="ddpm_learned")
    with pytest.raises(ValueError, match="none was learned for this path"):
        taught.configure(path=LinearPath())
    with pytest.raises(ValueError, match="this field says nothing of the variance; take solver=ddpm"):
        sample(make_solver("ddpm_learned").bind(ModelField(plain, PATH, "v"), PATH), randn(3, 2), [0, 0.5, 1])
    with pytest.raises(TypeError, match="a learned variance on LinearPath"):
        DenoisingObjective(LinearPath(), "noise", learned_variance=True)(with_half(plain, 0.0), {"data": randn(4, 2)})
