import math

import pytest
import torch
from mixture import ExactNet, ring

from diffpolicy.generative.guidance import ClassifierFree, ClassifierGuidance, ClipData, Guided, Inpaint
from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    SquareRootPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import PREDICTIONS, ModelField, estimate, score, velocity
from diffpolicy.generative.sampling import generate, sample, time_grid
from diffpolicy.generative.shapes import expand
from diffpolicy.generative.solvers import SOLVERS, make_solver

PATHS = [
    LinearPath(),
    SquareRootPath(),
    CosinePath(),
    VariancePreservingPath(),
    DiscretePath(100),
]
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
TIMES = torch.tensor([0.0, 0.02, 0.3, 0.6, 0.95, 1.0], dtype=torch.float64)
each = pytest.mark.parametrize("path", PATHS, ids=repr)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=6):
    return torch.randn(n, 2, generator=gen(), dtype=torch.float64)


def null(cond):
    return torch.full_like(cond, -1)


def classify(mixture, path):
    """log p(label|x_t) of a mixture: its components are the classes."""

    def log_prob(x, t, cond):
        log, _ = mixture.components(x, path.alpha(t).to(x.dtype), path.sigma(t).to(x.dtype))
        return torch.log_softmax(log, 1)[torch.arange(len(x)), cond]

    return log_prob


def invariant(field, x, t, cond):
    data, noise = field(x, t, cond)
    rebuilt = expand(field.path.alpha(t), x) * data + expand(field.path.sigma(t), x) * noise
    torch.testing.assert_close(rebuilt, x, rtol=0, atol=1e-9)


@each
def test_every_wrapper_keeps_the_invariant(path):
    exact = ExactField(ring((2,)), path)
    mask = torch.tensor([True, False])
    for field in (
        ClassifierFree(exact, 3.0, null),
        ClassifierGuidance(exact, classify(exact.mixture, path), 2.0),
        ClipData(exact, -0.2, 0.2),
        Inpaint(exact, torch.tensor([0.3, 9.0]), mask),
        ClipData(Inpaint(ClassifierFree(exact, 3.0, null), torch.tensor([0.3, 9.0]), mask), -0.2, 0.2),
    ):
        invariant(field, points(), TIMES, LABELS)
        assert field.path is path


@each
def test_scale_one_is_conditioning_and_zero_is_none(path):
    exact, x = ExactField(ring((2,)), path), points()
    for scale, cond in ((1.0, LABELS), (0.0, null(LABELS))):
        got = ClassifierFree(exact, scale, null)(x, TIMES, LABELS)
        for a, b in zip(got, exact(x, TIMES, cond), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@each
def test_guidance_is_the_same_for_every_prediction(path):
    """(1 − w)·u(x|∅) + w·u(x|y), from networks of all five kinds."""
    exact, x, t = ExactField(ring((2,)), path), points(), TIMES.clamp(0.02, 0.95)
    free, given = (velocity(exact(x, t, c), t, path) for c in (null(LABELS), LABELS))
    for prediction in PREDICTIONS:
        net = ExactNet(exact, prediction)
        field = ClassifierFree(ModelField(net, path, prediction), 3.0, net.null)
        got = velocity(field(x, t, LABELS), t, path)
        torch.testing.assert_close(got, (1 - 3.0) * free + 3.0 * given, rtol=1e-8, atol=1e-8)


@each
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_guidance_by_one_part_is_classifier_free(path, scale):
    exact, x = ExactField(ring((2,)), path), points()
    parts = Guided(exact, [(scale, null(LABELS))])
    expected = ClassifierFree(exact, scale, null)(x, TIMES, LABELS)
    for ours, theirs in zip(parts(x, TIMES, LABELS), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert parts.calls == 2


class Sum:
    """The exact field of a standard Gaussian whose mean is the sum of two conditions, each 0 where it is not told.

    Data are cond[:, :D] + cond[:, D:] + noise of variance 1; the field of the mean m is known in closed form.
    """

    calls, needs_grad = 1, False

    def __init__(self, path):
        self.path = path

    def __call__(self, x, t, cond):
        mean = cond[:, :2] + cond[:, 2:]
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        data = mean + alpha / (alpha**2 + sigma**2) * (x - alpha * mean)
        return estimate("data", data, x, t, self.path)


def test_each_part_of_a_condition_has_a_scale_of_its_own():
    path, x = LinearPath(), points()
    first, second = torch.randn(2, 6, 2, generator=gen(1), dtype=torch.float64)
    both, none = torch.cat([first, second], 1), torch.zeros(6, 2, dtype=torch.float64)
    without = [(3.0, torch.cat([none, second], 1)), (-0.5, torch.cat([first, none], 1))]
    field, t = Guided(Sum(path), without), torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    # Gaussians of one variance: scores are affine in the mean, so that scales multiply the parts of the mean.
    expected = Sum(path)(x, t, torch.cat([3.0 * first, -0.5 * second], 1))
    for ours, theirs in zip(field(x, t, both), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert field.calls == 3 and ClipData(field).calls == 3


def test_guided_calls_count_double():
    exact = ExactField(ring((2,)), LinearPath())
    field = ClassifierFree(exact, 2.0, null)
    assert field.calls == 2 and ClipData(field).calls == 2 and not field.needs_grad
    flow = make_solver("euler").bind(field, field.path)
    sample(flow, points(), time_grid("uniform", 5, field.path), LABELS)
    assert flow.calls == 10


@each
def test_classifier_guidance_turns_the_marginal_into_the_conditional(path):
    """∇ log p(x|y) = ∇ log p(x) + ∇ log p(y|x), with the exact classifier of a mixture."""
    exact, x, t = ExactField(ring((2,)), path), points(), TIMES.clamp(0.02, 0.95)
    field = ClassifierGuidance(exact, classify(exact.mixture, path), 1.0)
    unguided = ClassifierGuidance(lambda_field(exact), classify(exact.mixture, path), 1.0)
    want = exact(x, t, LABELS)
    got = unguided(x, t, LABELS)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(score(got, t, path), score(want, t, path), rtol=1e-7, atol=1e-9)
    assert field.needs_grad and field.calls == 1 and not got.data.requires_grad


def lambda_field(exact):
    """The unconditional field, whatever the condition."""

    class Unconditional:
        calls, needs_grad, path = 1, False, exact.path

        def __call__(self, x, t, cond=None):
            return exact(x, t)

    return Unconditional()


def test_classifier_guidance_runs_in_the_sampling_loop():
    path, mixture = LinearPath(), ring((2,))
    plain = lambda_field(ExactField(mixture, path))
    field = ClipData(ClassifierGuidance(plain, classify(mixture, path), 1.0), -9.0, 9.0)
    assert field.needs_grad
    label = torch.full((40,), 2)
    x = torch.randn(40, 2, generator=gen(), dtype=torch.float64)
    got = sample(make_solver("heun").bind(field, path), x, time_grid("uniform", 20, path), label)
    distance = (got - mixture.means[2]).norm(dim=1) / mixture.stds[2]
    assert not got.requires_grad and float(distance.max()) < 5  # all in the third mode
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        field(points(), TIMES, LABELS)
    with pytest.raises(ValueError, match=r"log_prob returned shape \(\); expected \(6,\)"):
        ClassifierGuidance(plain, lambda x, t, c: x.sum(), 1.0)(points(), TIMES, LABELS)


def test_classifier_guidance_is_differentiable_where_asked():
    path, mixture = LinearPath(), ring((2,))
    field = ClassifierGuidance(lambda_field(ExactField(mixture, path)), classify(mixture, path), 1.0)
    x, t = points().requires_grad_(), TIMES.clamp(0.1, 0.9)
    got, want = field(x, t, LABELS).data, ExactField(mixture, path)(x, t, LABELS).data
    jacobians = [torch.autograd.grad(y[:, 0].sum(), x)[0] for y in (got, want)]
    torch.testing.assert_close(*jacobians, rtol=1e-7, atol=1e-9)


@each
def test_clip(path):
    exact, x = ExactField(ring((2,)), path), points()
    inside = TIMES < 1
    data, _ = ClipData(exact, -0.2, 0.3)(x, TIMES)
    torch.testing.assert_close(data[inside], exact(x, TIMES).data[inside].clamp(-0.2, 0.3), rtol=0, atol=0)
    torch.testing.assert_close(data[~inside], x[~inside], rtol=0, atol=0)  # at σ = 0 x is the data
    wide = ClipData(exact, -99.0, 99.0)(x, TIMES.clamp(max=0.95))
    for a, b in zip(wide, exact(x, TIMES.clamp(max=0.95)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for name in set(SOLVERS) - {"ddpm_learned"}:
        got = generate(ClipData(exact, -0.2, 0.3), path, make_solver(name), (20, 2), 6, generator=gen())
        assert float(got.min()) >= -0.2 - 1e-6 and float(got.max()) <= 0.3 + 1e-6, name


@each
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_inpainting_ends_on_the_known_entries(name, path):
    known = torch.tensor([[0.37, 5.0]], dtype=torch.float64)
    mask = torch.tensor([True, False])
    field = Inpaint(ExactField(ring((2,)), path), known, mask)
    solver = make_solver(name)
    got = generate(field, path, solver, (20, 2), 6, generator=gen(), dtype=torch.float64)
    # Euler and Runge–Kutta steps are differences, which round; all end with α·data = data
    assert torch.equal(got[:, 0], known[0, 0].expand(20))
    assert float(got[:, 1].std()) > 0.05 and float((got[:, 1] - 5).abs().min()) > 1


def test_inpainting_follows_what_is_known():
    """Knowing the first coordinate of a two-mode mixture picks the mode of the second."""
    mixture = ring((2,), components=2)
    path = LinearPath()
    known = mixture.means[[1]]
    field = Inpaint(ExactField(mixture, path), known, torch.tensor([True, False]))
    got = generate(field, path, make_solver("ddpm"), (200, 2), 50, generator=gen(), dtype=torch.float64)
    assert float((got[:, 1] - known[0, 1]).abs().mean()) < float((got[:, 1] - mixture.means[0, 1]).abs().mean())


def test_refusals():
    exact = ExactField(ring((2,)), LinearPath())
    for low, high in ((1.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="low < high"):
            ClipData(exact, low, high)
    with pytest.raises(TypeError, match="expected boolean"):
        Inpaint(exact, torch.zeros(2), torch.tensor([1.0, 0.0]))
