"""How good generated digits are: the label a classifier reads, the Fréchet distance of its features, the diversity.

Features are (N, F), one row per image, from the classifier's last hidden layer. Every number is compared with what
real digits reach: other test images are assessed as a generator's would be. A Fréchet distance has the units of
one classifier's features, squared, and the bias of one number of images: compare it where both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.datasets.sources.mnist import CLASSES
from diffpolicy.images.classifier import logits_and_features
from diffpolicy.util.seeds import generator as keyed_generator
from diffpolicy.util.stats import Interval, wilson

_ORDER, _REPLICATES = 5, 6  # keys of the draws, next to those of the training loop
_FLOORS = 4  # sets of other test images, at most


def accuracy(predictions: Tensor, labels: Tensor) -> Interval:
    """Share of images read as what they should be, with Wilson's interval.

    Args:
        predictions: logits (N, K), or the predicted classes (N,) as integers.
        labels: (N,) integers.

    Raises:
        ValueError: other shapes, or no images.
        TypeError: predicted classes that are no integers.
    """
    if labels.ndim != 1 or predictions.ndim not in (1, 2) or len(predictions) != len(labels) or not len(labels):
        raise ValueError(
            f"predictions have shape {tuple(predictions.shape)} and labels {tuple(labels.shape)}; expected logits "
            "(N, K) or classes (N,), and labels (N,), with N of at least 1"
        )
    classes = predictions.argmax(1) if predictions.ndim == 2 else predictions
    if classes.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"classes are {classes.dtype} and labels {labels.dtype}; give integers, or logits of shape (N, K)"
        )
    return wilson(int((classes == labels).sum()), len(labels))


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Fréchet distance between Gaussians with the means and covariances of two sets of features.

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁^½ Σ₂ Σ₁^½)^½) (Dowson and Landau 1982; of features, Heusel et al. 2017,
    equation 6), in float64. The estimate is biased upwards, the more the fewer the samples: compare distances of
    the same number only. Σ₁^½ Σ₂ Σ₁^½ has the eigenvalues of Σ₁Σ₂ and is symmetric, which spares the square root of
    a matrix that is not.

    Args:
        features_a, features_b: (N, F) each, with the same N > F.

    Raises:
        ValueError: other shapes, too few samples for a covariance of full rank, or values that are not finite.
    """
    a, b = _features(features_a, features_b)
    return _distance(*_moments(a), *_moments(b))


def frechet_interval(
    generated: Tensor, reference: Tensor, labels: Tensor | None = None, replicates: int = 100, seed: int = 0
) -> Interval:
    """`frechet_distance` with its 95% interval, value ± 1.96 standard errors, over the draw of the generated images.

    The standard error is the standard deviation over bootstrap replicates of the generated side (Efron 1979), drawn
    within each class where as many of each were asked for. Not their mean and no percentiles: a replicate holds
    about 63% distinct images, and the distance's bias grows as the samples become fewer, so that replicates lie above
    the value itself. The bias of the value is not in the interval either: `Reference.floor` shows it.

    Args:
        generated, reference: (N, F) each, as `frechet_distance`.
        labels: (N,) the classes of the generated side, whose numbers were fixed; None if nothing was.
        replicates: how many, at least 2.
        seed: of the replicates.

    Raises:
        ValueError: as `frechet_distance`, other labels than one per image, or fewer than 2 replicates.
    """
    if replicates < 2:
        raise ValueError(f"a standard deviation needs at least 2 replicates; given {replicates}")
    a, b = _features(generated, reference)
    strata = torch.zeros(len(a), dtype=torch.int64) if labels is None else labels.cpu()
    if strata.shape != a.shape[:1]:
        raise ValueError(f"labels have shape {tuple(strata.shape)}; expected one for each of {len(a)} images")
    classes = [(strata == label).nonzero().flatten() for label in strata.unique()]
    mean_b, covariance_b = _moments(b)
    value = _distance(*_moments(a), mean_b, covariance_b)
    generator = keyed_generator(seed, _REPLICATES)
    drawn = torch.empty(replicates, dtype=torch.float64)
    for replicate in range(replicates):
        rows = [own[torch.randint(len(own), (len(own),), generator=generator)] for own in classes]
        drawn[replicate] = _distance(*_moments(a[torch.cat(rows)]), mean_b, covariance_b)
    half = 1.96 * float(drawn.std())
    return {"mean": value, "low": max(0.0, value - half), "high": value + half}


def spread(features: Tensor, labels: Tensor, classes: int = CLASSES) -> Tensor:
    """Mean Euclidean distance between two different images of a class, (classes,) float64.

    Args:
        features: (N, F).
        labels: (N,) integers; each class at least twice.

    Raises:
        ValueError: other shapes, or a class with fewer than 2 images.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; expected (N, F) and (N,)"
        )
    means = torch.empty(classes, dtype=torch.float64)
    for label in range(classes):
        own = features[labels == label].double()
        if len(own) < 2:
            raise ValueError(f"class {label} has {len(own)} images; distances between them need at least 2")
        means[label] = torch.pdist(own).mean()
    return means


def diversity(features: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor) -> dict[str, Any]:
    """How varied each class is, as `spread` relative to that of real images of the same class and number.

    1 is as varied as real digits; below 1, a generator shows fewer of the ways to write one, as it does under strong
    guidance.

    Returns:
        {"mean": over the classes, "min": of the least varied one, "per_class": list by class}.

    Raises:
        ValueError: as `spread`, or the classes are not as frequent in both.
    """
    counts, expected = (torch.bincount(of, minlength=CLASSES).tolist() for of in (labels, reference_labels))
    if counts != expected:
        raise ValueError(
            f"images per class are {counts}, and of the reference {expected}; give as many of each class in both"
        )
    ratio = spread(features, labels) / spread(reference, reference_labels)
    return {"mean": float(ratio.mean()), "min": float(ratio.min()), "per_class": ratio.tolist()}


@final
@dataclass(frozen=True)
class Reference:
    """The test images that generated ones are compared with, the same number of each class.

    Attributes:
        features: (N, F) of one classifier.
        labels: (N,) int64, N a multiple of 10.
        floor: what `assess` says of other test images, as many, pooled over as many sets as there are, up to four.
            Its Fréchet distance is what real digits have by being so few.
    """

    features: Tensor
    labels: Tensor
    floor: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, classifier: nn.Module, test: LabeledImages, per_class: int) -> Reference:
        """The reference of `per_class` images of each class, drawn without replacement, always the same ones.

        Raises:
            ValueError: `per_class` is more than half of what a class has, or too small for the classifier's features.
        """
        order = shuffled(test)
        fewest = int(torch.bincount(order.labels, minlength=CLASSES).min())
        if not 1 <= per_class <= fewest // 2:
            raise ValueError(
                f"asked for {per_class} images of each class; need 1 to {fewest // 2}, half of the {fewest} of one "
                "class, since the other half is compared with it"
            )
        sets = min(1 + _FLOORS, fewest // per_class)
        drawn = order.per_class(sets * per_class)
        member = torch.arange(len(drawn)) // per_class % sets
        own, *others = [LabeledImages(drawn.levels[member == i], drawn.labels[member == i]) for i in range(sets)]
        bare = cls(logits_and_features(classifier, from_levels(own.levels))[1], own.labels)
        floors = [assess(classifier, from_levels(other.levels), other.labels, bare) for other in others]
        return cls(bare.features, bare.labels, pooled(floors))


def shuffled(digits: LabeledImages) -> LabeledImages:
    """The digits in a drawn order, always the same: the first half of MNIST's test images was written by other people
    than the second, more legibly."""
    order = torch.randperm(len(digits), generator=keyed_generator(0, _ORDER))
    return LabeledImages(digits.levels[order], digits.labels[order])


def assess(classifier: nn.Module, images: Tensor, labels: Tensor, reference: Reference) -> dict[str, Any]:
    """The metrics of generated digits, as plain numbers.

    Args:
        classifier: of `load_classifier`, the one of the reference.
        images: (N, 1, 32, 32) in [-1, 1], as many of each class as the reference has.
        labels: (N,) what each was to be.
        reference: see `Reference.draw`.

    Returns:
        {"n": N, "accuracy": interval, "frechet": interval, "diversity": {"mean", "min", "per_class"}}.

    Raises:
        ValueError: shapes or numbers that do not fit the reference.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images have shape {tuple(images.shape)} and labels {tuple(labels.shape)}; expected (N, 1, 32, 32) and "
            "(N,)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise ValueError(
            f"labels lie in {int(labels.min())} to {int(labels.max())}; expected 0 to {CLASSES - 1}: images of the "
            "null label have no class to be assessed by"
        )
    images, labels = images.float().cpu(), labels.cpu()
    logits, features = logits_and_features(classifier, images)
    # The diversity first: it says which classes differ in number, where the distance would only see that N does.
    varied = diversity(features, labels, reference.features, reference.labels)
    return {
        "n": len(labels),
        "accuracy": accuracy(logits, labels),
        "frechet": frechet_interval(features, reference.features, labels),
        "diversity": varied,
    }


def pooled(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several independent sets of as many images come to, from what `assess` says of each.

    The accuracy is of all images together (Wilson); the Fréchet distance and the diversities are means over the
    draws, and the distance's interval is that of a mean of independent draws.
    """
    n = sum(draw["n"] for draw in draws)
    right = round(sum(draw["accuracy"]["mean"] * draw["n"] for draw in draws))
    distance = sum(draw["frechet"]["mean"] for draw in draws) / len(draws)
    halves = [draw["frechet"]["high"] - draw["frechet"]["mean"] for draw in draws]
    half = math.hypot(*halves) / len(draws)
    return {
        "n": n,
        "accuracy": wilson(right, n),
        "frechet": {"mean": distance, "low": max(0.0, distance - half), "high": distance + half},
        "diversity": {key: sum(draw["diversity"][key] for draw in draws) / len(draws) for key in ("mean", "min")},
    }


def _features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"features have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (N, F) twice, with the same N, on "
            "which the distance's bias depends: take as many of both"
        )
    if len(a) <= a.shape[1]:
        raise ValueError(
            f"{len(a)} samples of {a.shape[1]} features have a covariance without full rank; take at least "
            f"{a.shape[1] + 1}"
        )
    for which, values in (("first", a), ("second", b)):
        if bad := int((~values.isfinite()).any(1).sum()):
            raise ValueError(
                f"{bad} of the {len(values)} rows of the {which} features are not finite; leave them out"
            )
    return a.double(), b.double()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), torch.cov(features.T)


def _distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    # Rounding leaves eigenvalues a little below the 0 that none can cross.
    values, vectors = torch.linalg.eigh(covariance_b)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ covariance_a @ root
    shared = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * shared
    return max(0.0, float(squared))
