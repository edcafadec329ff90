"""Metrics of generated digits against closed forms, an independent square root, and digits that fail on purpose."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import stats

from diffpolicy.datasets.images import LabeledImages
from diffpolicy.images.frechet import frechet_distance, frechet_interval
from diffpolicy.images.metrics import Reference, accuracy, assess, diversity, spread
from diffpolicy.nets.classifier import ImageClassifier


def _normal(n, features, seed, scale=1.0):
    return scale * torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _with_moments(mean, deviations, n=64):
    """n samples whose mean and (diagonal) covariance are exactly these."""
    x = _normal(n, len(mean), 0)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return x * torch.tensor(deviations) + torch.tensor(mean)


def test_accuracy_is_wilsons():
    labels = torch.arange(100) % 10
    predictions = labels.clone()
    predictions[:3] += 1
    expected = stats.binomtest(97, 100).proportion_ci(method="wilson")
    logits = torch.nn.functional.one_hot(predictions, 10).float() - 1
    for given in (predictions, logits):
        interval = accuracy(given, labels)
        assert interval["mean"] == 0.97
        assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high))


def test_accuracy_refuses():
    says = r"predictions of shape \(3,\) and labels of shape \(2,\); expected logits \(N, K\)"
    with pytest.raises(ValueError, match=says):
        accuracy(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"predictions of shape \(0, 10\)"):
        accuracy(torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"classes are torch.float32.*expected integers"):
        accuracy(torch.zeros(3), torch.zeros(3, dtype=torch.int64))


def test_distance_equals_the_closed_form():
    """Of Gaussians with diagonal covariances: |μ₁ − μ₂|² + Σ (s₁ − s₂)²."""
    a = _with_moments([0.0, 1.0, -2.0], [1.0, 0.5, 3.0])
    b = _with_moments([1.0, 1.0, 2.0], [2.0, 0.5, 1.0])
    assert frechet_distance(a, b) == pytest.approx(1 + 16 + 1 + 4, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_distance_equals_the_one_by_scipys_square_root():
    mix = _normal(12, 12, 5)
    a, b = _normal(300, 12, 1) @ mix, _normal(300, 12, 2, scale=1.3) + 0.2
    covariances = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(float(expected), rel=1e-4)


def test_features_that_never_vary_are_no_trouble():
    """As a unit that is off for all digits."""
    a, b = _normal(50, 6, 1), _normal(50, 6, 2)
    a[:, 2], b[:, 2], a[:, 4] = 0, 0, 1
    assert frechet_distance(a, b) > 1
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((64, 64), (64, 64), r"64 samples of 64 features; expected at least 65"),
        ((70, 8), (71, 8), r"shapes \(70, 8\) and \(71, 8\); expected \(N, F\) twice"),
        ((70, 8), (70, 9), r"shapes \(70, 8\) and \(70, 9\)"),
        ((70,), (70,), r"shapes \(70,\) and \(70,\)"),
    ],
)
def test_distance_refuses(a, b, message):
    for function in (frechet_distance, frechet_interval):
        with pytest.raises(ValueError, match=message):
            function(torch.rand(a), torch.rand(b))


def test_distance_refuses_what_is_not_finite():
    a = _normal(20, 3, 1)
    broken = a.clone()
    broken[[2, 5], 1] = math.nan
    with pytest.raises(ValueError, match=r"2 of 20 samples of the second features are not finite"):
        frechet_distance(a, broken)


def test_interval_holds_the_spread_over_fresh_samples():
    """Its standard error is that of the distance over independent draws of the generated side, within a quarter."""
    reference = _normal(400, 8, 99)
    values, errors = [], []
    for seed in range(40):
        generated = _normal(400, 8, seed) + 0.3
        interval = frechet_interval(generated, reference)
        assert interval["mean"] == frechet_distance(generated, reference)
        values.append(interval["mean"])
        errors.append((interval["high"] - interval["mean"]) / 1.96)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_interval_of_classes_of_fixed_numbers():
    """Where as many of each class were asked for, their numbers are no part of the chance."""
    labels = torch.arange(400) % 10
    centers = 20 * _normal(10, 8, 98)
    reference = centers[labels] + _normal(400, 8, 99)
    values, errors = [], []
    for seed in range(40):
        generated = centers[labels] + _normal(400, 8, seed) + 0.3
        interval = frechet_interval(generated, reference, labels)
        values.append(interval["mean"])
        errors.append((interval["high"] - interval["mean"]) / 1.96)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)
    blind = frechet_interval(generated, reference)
    assert blind["high"] - blind["mean"] > 3 * 1.96 * np.mean(errors)
    with pytest.raises(ValueError, match=r"labels of shape \(3,\); expected one for each of 400"):
        frechet_interval(generated, reference, labels[:3])


def test_interval_is_reproducible_and_needs_replicates():
    a, b = _normal(100, 4, 1), _normal(100, 4, 2)
    assert frechet_interval(a, b, seed=3) == frechet_interval(a, b, seed=3)
    assert frechet_interval(a, b, seed=3) != frechet_interval(a, b, seed=4)
    with pytest.raises(ValueError, match=r"replicates=1; expected at least 2"):
        frechet_interval(a, b, replicates=1)


def test_spread_is_the_mean_pairwise_distance():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0], [1.0, 1.0], [1.0, 2.0]])
    found = spread(features, torch.tensor([0, 0, 0, 1, 1]), classes=2)
    assert found.tolist() == pytest.approx([(5 + 8 + 5) / 3, 1.0])
    with pytest.raises(ValueError, match=r"class 1 has 1 images; expected at least 2"):
        spread(features, torch.tensor([0, 0, 0, 1, 0]), classes=2)
    with pytest.raises(ValueError, match=r"features of shape \(5, 2\) and labels of shape \(4,\)"):
        spread(features, torch.tensor([0, 0, 1, 1]), classes=2)


def test_diversity_sees_the_class_that_collapses():
    labels = torch.arange(400) % 10
    features, reference = _normal(400, 6, 1), _normal(400, 6, 2)
    features[labels == 3] *= 0.1
    features[labels == 7] *= 2
    found = diversity(features, labels, reference, labels)
    expected = torch.ones(10)
    expected[3], expected[7] = 0.1, 2
    assert found["per_class"] == pytest.approx(expected.tolist(), rel=0.15)
    assert found["min"] == found["per_class"][3] and found["mean"] == pytest.approx(np.mean(found["per_class"]))
    with pytest.raises(ValueError, match=r"images per class: \[40, .*as many as the reference has"):
        diversity(features, labels, reference, labels.roll(1) // 2)


@pytest.fixture(scope="module")
def judge():
    """A classifier of "digits" that are bright bars, and functions that draw them."""
    torch.manual_seed(0)
    net = ImageClassifier(widths=(8, 16), features=12)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for seed in range(40):
        bars = _bars(20, seed)
        loss = torch.nn.functional.cross_entropy(net(bars.levels / 127.5 - 1), bars.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def _bars(per_class, seed):
    """Row 3·label bright, by how much and in which columns varies."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(10 * per_class) % 10
    levels = torch.randint(0, 60, (len(labels), 1, 32, 32), generator=generator)
    ends = torch.randint(10, 32, (len(labels),), generator=generator)
    for image, label, end in zip(levels, labels, ends, strict=True):
        image[0, 3 * label : 3 * label + 3, :end] += 150
    return LabeledImages(levels.to(torch.uint8), labels)


def test_assess_tells_good_digits_from_wrong_pale_and_repeated_ones(judge):
    reference = Reference.draw(judge, _bars(80, 100), per_class=20)
    good = _bars(20, 102).per_class(20)
    images, labels = good.levels / 127.5 - 1, good.labels
    found = assess(judge, images, labels, reference)
    assert found["n"] == 200 and found["accuracy"]["mean"] > 0.98
    assert found["diversity"]["mean"] == pytest.approx(1, abs=0.15)
    floor = reference.floor["frechet"]
    assert floor["low"] <= floor["mean"] <= floor["high"]
    assert found["frechet"]["mean"] < 3 * floor["mean"]

    wrong = assess(judge, images, labels.roll(20), reference)
    assert wrong["accuracy"]["mean"] < 0.02
    assert wrong["frechet"]["mean"] == pytest.approx(found["frechet"]["mean"])  # which does not look at labels

    pale = assess(judge, images * 0.3, labels, reference)
    assert pale["frechet"]["mean"] > 3 * floor["mean"]

    repeated = images.reshape(10, 20, 1, 32, 32)[:, :1].expand(10, 20, 1, 32, 32).reshape_as(images)
    repeated = assess(judge, repeated, labels, reference)
    assert repeated["diversity"]["min"] == 0 and repeated["frechet"]["mean"] > 3 * floor["mean"]


def test_the_reference_is_balanced_and_the_same_every_time(judge):
    first, again = (Reference.draw(judge, _bars(40, 100), per_class=8) for _ in range(2))
    assert torch.bincount(first.labels).tolist() == [8] * 10
    assert torch.equal(first.features, again.features) and first.floor == again.floor
    assert first.floor["n"] == 4 * 80
    with pytest.raises(ValueError, match=r"21 images of each class; expected 1 to 20"):
        Reference.draw(judge, _bars(40, 100), per_class=21)
    with pytest.raises(ValueError, match=r"class 0 has 1 images; expected at least 2"):
        Reference.draw(judge, _bars(40, 100), per_class=1)


def test_assess_refuses(judge):
    reference = Reference.draw(judge, _bars(40, 100), per_class=8)
    bars = _bars(8, 3)
    images, labels = bars.levels / 127.5 - 1, bars.labels
    with pytest.raises(ValueError, match=r"images per class: \[7, .*expected \[8, "):
        assess(judge, images[:70], labels[:70], reference)
    with pytest.raises(ValueError, match=r"labels \[10\]; expected those of the reference"):
        assess(judge, images, torch.where(labels == 9, 10, labels), reference)
    with pytest.raises(ValueError, match=r"images of shape \(80, 32, 32\) and labels of shape \(80,\)"):
        assess(judge, images[:, 0], labels, reference)
