"""The Fréchet distance between two sets of features, with its interval."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpolicy.util import seeds
from diffpolicy.util.errors import require
from diffpolicy.util.stats import Interval


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians with the means and covariances of two sets of features.

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁^½ Σ₂ Σ₁^½)^½) (Dowson and Landau 1982; of features, Heusel et al. 2017,
    equation 6), in float64. The estimate is biased upwards, the more the fewer the samples: compare distances of
    the same number only. Σ₁^½ Σ₂ Σ₁^½ has the eigenvalues of Σ₁Σ₂ and is symmetric, which spares the square root of
    a matrix that is not.

    Args:
        features_a: (N, F) with N > F.
        features_b: (N, F) with the same N and F.

    Raises:
        ValueError: other shapes, too few samples for a covariance of full rank, or values that are not finite.
    """
    a, b = _checked(features_a, features_b)
    return _distance(*_moments(a), *_moments(b))


def frechet_interval(
    generated: Tensor, reference: Tensor, labels: Tensor | None = None, replicates: int = 100, seed: int = 0
) -> Interval:
    """Return `frechet_distance` with its 95% interval, value ± 1.96 standard errors, over the generated images.

    The standard error is the standard deviation over bootstrap replicates of the generated side (Efron 1979), drawn
    within each class where as many of each were asked for. Not their mean and no percentiles: a replicate holds
    about 63% distinct images, and the distance's bias grows as the samples become fewer, so that replicates lie above
    the value itself. The bias of the value is not in the interval either: `Reference.floor` shows it.

    Args:
        generated: (N, F), see `frechet_distance`.
        reference: (N, F).
        labels: (N,) the classes of the generated side, if their numbers were fixed.
        replicates: how many, at least 2.
        seed: of the replicates.

    Raises:
        ValueError: as `frechet_distance`, other labels than one per image, or fewer than 2 replicates.
    """
    require(replicates >= 2, f"{replicates=}", "at least 2, for a standard deviation")
    a, b = _checked(generated, reference)
    strata = torch.zeros(len(a), dtype=torch.int64) if labels is None else labels.cpu()
    require(strata.shape == a.shape[:1], f"labels of shape {tuple(strata.shape)}", f"one for each of {len(a)} images")
    classes = [(strata == label).nonzero().flatten() for label in strata.unique()]
    mean_b, covariance_b = _moments(b)
    value = _distance(*_moments(a), mean_b, covariance_b)
    generator = seeds.generator(seed, "bootstrap replicates")
    drawn = torch.empty(replicates, dtype=torch.float64)
    for replicate in range(replicates):
        chosen = [own[torch.randint(len(own), (len(own),), generator=generator)] for own in classes]
        drawn[replicate] = _distance(*_moments(a[torch.cat(chosen)]), mean_b, covariance_b)
    half = 1.96 * float(drawn.std())
    return {"mean": value, "low": max(0.0, value - half), "high": value + half}


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shapes = f"features of shapes {tuple(a.shape)} and {tuple(b.shape)}"
    require(a.ndim == 2 and a.shape == b.shape, shapes, "(N, F) twice, since the distance's bias depends on N")
    enough = len(a) > a.shape[1]
    require(enough, f"{len(a)} samples of {a.shape[1]} features", f"at least {a.shape[1] + 1}, for full rank")
    for which, values in (("first", a), ("second", b)):
        bad = int((~values.isfinite()).any(1).sum())
        require(
            bad == 0, f"{bad} of {len(values)} samples of the {which} features are not finite", cure="leave them out"
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
