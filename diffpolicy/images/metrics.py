"""How good generated images are: the label a classifier reads, the Fréchet distance of its features, the diversity.

Features are (N, F), one vector per image, from the classifier's last hidden layer. Every number is compared with what
real images reach: other test images are assessed as a generator's would be. A Fréchet distance has the units of one
classifier's features, squared, and a bias that depends on the number of images: compare it where both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.images.classifier import logits_and_features
from diffpolicy.images.frechet import frechet_interval
from diffpolicy.util import seeds
from diffpolicy.util.errors import require
from diffpolicy.util.stats import Interval, wilson

_FLOORS = 4  # sets of other test images, at most


def accuracy(predictions: Tensor, labels: Tensor) -> Interval:
    """Return the fraction of images read as what they should be, with Wilson's interval.

    Args:
        predictions: logits (N, K), or the predicted classes (N,) as integers.
        labels: (N,) integers.

    Raises:
        ValueError: other shapes, or no images.
        TypeError: predicted classes that are no integers.
    """
    shapes = f"predictions of shape {tuple(predictions.shape)} and labels of shape {tuple(labels.shape)}"
    fits = labels.ndim == 1 and predictions.ndim in (1, 2) and len(predictions) == len(labels) >= 1
    require(fits, shapes, "logits (N, K) or classes (N,), and labels (N,)")
    classes = predictions.argmax(1) if predictions.ndim == 2 else predictions
    integers = not (classes.is_floating_point() or labels.is_floating_point())
    require(integers, f"classes are {classes.dtype}, labels {labels.dtype}", "integers", error=TypeError)
    return wilson(int((classes == labels).sum()), len(labels))


def spread(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean Euclidean distance between two different images of a class, (classes,) float64.

    Args:
        features: (N, F).
        labels: (N,) integers; each class at least twice.
        classes: number of classes.

    Raises:
        ValueError: other shapes, or a class with fewer than 2 images.
    """
    shapes = f"features of shape {tuple(features.shape)} and labels of shape {tuple(labels.shape)}"
    require(features.ndim == 2 and labels.shape == features.shape[:1], shapes, "(N, F) and (N,)")
    means = torch.empty(classes, dtype=torch.float64)
    for label in range(classes):
        own = features[labels == label].double()
        require(len(own) >= 2, f"class {label} has {len(own)} images", "at least 2, for distances between them")
        means[label] = torch.pdist(own).mean()
    return means


def diversity(features: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor) -> dict[str, Any]:
    """Return how varied each class is: `spread` relative to that of real images of the same class and number.

    1 is as varied as real images; below 1, a generator covers less of a class, as it does under strong guidance.

    Args:
        features: (N, F) of generated images.
        labels: (N,) of generated images.
        reference: (N, F) of real images.
        reference_labels: (N,) of real images, each class as often as in `labels`.

    Returns:
        {"mean": over the classes, "min": of the least varied one, "per_class": list by class}.

    Raises:
        ValueError: as `spread`, or the classes are not as frequent in both.
    """
    classes = int(max(labels.max(), reference_labels.max())) + 1
    counts, expected = (torch.bincount(of, minlength=classes).tolist() for of in (labels, reference_labels))
    require(counts == expected, f"images per class: {counts}", f"{expected}, as many as the reference has")
    ratio = spread(features, labels, classes) / spread(reference, reference_labels, classes)
    return {"mean": float(ratio.mean()), "min": float(ratio.min()), "per_class": ratio.tolist()}


@final
@dataclass(frozen=True)
class Reference:
    """The test images that generated ones are compared with, the same number of each class.

    Args:
        features: (N, F) of one classifier.
        labels: (N,) int64.
        floor: what `assess` says of as many other test images, pooled over as many sets as there are, up to four.
            Its Fréchet distance is what real images have for being so few.
    """

    features: Tensor
    labels: Tensor
    floor: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, classifier: nn.Module, test: LabeledImages, per_class: int) -> Reference:
        """Return a reference drawn without replacement, always the same one.

        Args:
            classifier: whose features are compared.
            test: images that trained nothing.
            per_class: number of images of each class.

        Raises:
            ValueError: `per_class` is more than half of what a class has, or too small for the classifier's features.
        """
        order = shuffled(test)
        fewest = int(torch.bincount(order.labels).min())
        most = fewest // 2  # the other half is compared with it
        require(1 <= per_class <= most, f"{per_class} images of each class", f"1 to {most}, half of the least")
        sets = min(1 + _FLOORS, fewest // per_class)
        drawn = order.per_class(sets * per_class)
        member = torch.arange(len(drawn)) // per_class % sets
        own, *others = [LabeledImages(drawn.levels[member == i], drawn.labels[member == i]) for i in range(sets)]
        bare = cls(logits_and_features(classifier, from_levels(own.levels))[1], own.labels)
        floors = [assess(classifier, from_levels(other.levels), other.labels, bare) for other in others]
        return cls(bare.features, bare.labels, pooled(floors))


def shuffled(images: LabeledImages) -> LabeledImages:
    """Return the images in a random order, always the same one.

    For data sets whose order means something: the first half of MNIST's test images is more legible than the second.
    """
    order = torch.randperm(len(images), generator=seeds.generator(0, "feature order"))
    return LabeledImages(images.levels[order], images.labels[order])


def assess(classifier: nn.Module, images: Tensor, labels: Tensor, reference: Reference) -> dict[str, Any]:
    """Return the metrics of generated images, as plain numbers.

    Args:
        classifier: the reference's, see `load_classifier`.
        images: (N, C, H, W) in [−1, 1], as many of each class as the reference has.
        labels: (N,), the classes asked for.
        reference: see `Reference.draw`.

    Returns:
        {"n": N, "accuracy": interval, "frechet": interval, "diversity": {"mean", "min", "per_class"}}.

    Raises:
        ValueError: shapes or numbers that do not fit the reference.
    """
    shapes = f"images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
    require(images.ndim == 4 and labels.shape == images.shape[:1], shapes, "(N, C, H, W) and (N,)")
    images, labels = images.float().cpu(), labels.cpu()
    known = set(reference.labels.tolist())
    strange = sorted(set(labels.tolist()) - known)
    require(not strange, f"labels {strange}", f"those of the reference, {sorted(known)}")
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
    """Return the metrics of several independent draws of as many images.

    The accuracy is of all images together (Wilson); the Fréchet distance and the diversities are means over the
    draws, and the distance's interval is that of a mean of independent draws.

    Args:
        draws: what `assess` says of each.
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
