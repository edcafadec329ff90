"""The closed-form mixture and the distance, which other tests take for granted."""

import math
from functools import partial

import pytest
import torch
from mixture import ring

from diffpolicy.generative.classifier import ClassifierObjective, class_log_prob
from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.guidance import ClassifierFree, ClassifierGuidance
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.predictions import score
from diffpolicy.generative.shapes import rand, randn


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_score_is_the_gradient_of_the_log_density():
    field = ExactField(ring((2,)), CosinePath())
    x = torch.randn(20, 2, generator=gen(), dtype=torch.float64).requires_grad_()
    t = torch.linspace(0.05, 0.95, 20, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(field.log_density(x, t).sum(), x)
    torch.testing.assert_close(score(field(x, t), t, field.path).detach(), gradient, rtol=1e-8, atol=1e-8)


def test_a_condition_picks_one_component_and_minus_one_none():
    mixture, path = ring((2,)), LinearPath()
    x = torch.randn(5, 2, generator=gen(), dtype=torch.float64)
    t, cond = torch.linspace(0, 1, 5, dtype=torch.float64), torch.tensor([0, -1, 2, 3, -1])
    got, free = ExactField(mixture, path)(x, t, cond), ExactField(mixture, path)(x, t)
    for i, k in enumerate(cond.tolist()):
        alone = GaussianMixture(mixture.means[[k]], mixture.stds[[k]], torch.ones(1, dtype=torch.float64))
        want = ExactField(alone, path)(x[i : i + 1], t[i : i + 1]) if k >= 0 else [part[i : i + 1] for part in free]
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-12, atol=1e-12)
    assert torch.equal(ExactField.null(cond), torch.full((5,), -1))


def test_samples_of_a_component_are_its_own():
    mixture = ring((2,))
    points = mixture.sample_given(torch.full((4000,), 2), gen())
    torch.testing.assert_close(points.mean(0), mixture.means[2], rtol=0, atol=0.03)
    assert float(points.std(0).mean()) == pytest.approx(float(mixture.stds[2]), rel=0.03)
    assert torch.bincount(mixture.sample_component(4000, gen())).tolist() == pytest.approx([1000] * 4, abs=120)


def test_bayes_and_exact_classifier_guidance():
    """Σ_k p(k|x_t) = 1, and guided by the exact classifier with w = 1 the free field is the conditional one."""
    field = ExactField(ring((2,)), LinearPath())
    x, t = torch.randn(6, 2, generator=gen(), dtype=torch.float64), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    total = sum(field.log_posterior(x, t, torch.full((6,), k)).exp() for k in range(4))
    torch.testing.assert_close(total, torch.ones(6, dtype=torch.float64))
    cond = torch.tensor([0, 1, 2, 3, 0, 1])
    # the condition is the classifier's alone: the field below it is asked for none
    free = ClassifierGuidance(ClassifierFree(field, 0.0, field.null), field.log_posterior, 1.0)
    for a, b in zip(free(x, t, cond), field(x, t, cond), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_classifier_objective_by_hand():
    path, data, cond = LinearPath(), torch.randn(8, 2, generator=gen(), dtype=torch.float64), torch.arange(8) % 3

    def net(x, t):
        return torch.stack([x[:, 0], x[:, 1], t], dim=1)

    loss = ClassifierObjective(path)(net, {"data": data, "cond": cond}, gen(5))
    generator = gen(5)
    t = rand((8,), generator, dtype=torch.float64, device="cpu")
    noise = randn((8, 2), generator, dtype=torch.float64, device="cpu")
    logits = net(t[:, None] * data + (1 - t[:, None]) * noise, t)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, cond, reduction="none"))
    torch.testing.assert_close(-loss, partial(class_log_prob, net)(path.interpolate(data, noise, t), t, cond))
    with pytest.raises(ValueError, match=r"a batch of \['data'\]; expected one with 'cond'"):
        ClassifierObjective(path)(net, {"data": data})
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        ClassifierObjective(path, "uniforn")


def test_distance_of_shifted_and_of_equal_sets():
    """A shift by d moves each projection by d·cos, whose mean modulus in the plane is 2d/π."""
    points = torch.randn(500, 2, generator=gen())
    assert sliced_wasserstein(points, points.flip(0)) < 1e-12
    shifted = points + torch.tensor([3.0, 0.0])
    assert sliced_wasserstein(points, shifted, projections=4000) == pytest.approx(3 * 2 / math.pi, rel=0.03)
    with pytest.raises(ValueError, match="as many samples of both"):
        sliced_wasserstein(points, points[:10])
