"""How probable a generator finds real images: bits per dimension."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffpolicy.datasets.images import LEVEL, LabeledImages, from_levels
from diffpolicy.generative.likelihood import log_density, variational_bound
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.images.generator import ImageGenerator, dequantized
from diffpolicy.util.seeds import generator as keyed_generator

_LEVELS, _SIGNS, _BOUND = 7, 8, 9  # keys of the draws, next to those of the training loop


def to_bits(nats: Tensor, dimensions: int) -> Tensor:
    """Bits per dimension of images on the lattice of grey levels, from log densities in nats of dequantised ones.

    A level is LEVEL wide, so that P(levels) ≥ exp E[log p(x)]·LEVEL^d for x uniform within the levels (Theis et al.
    2016, section 3.1): an upper bound of the bits.
    """
    return -(nats / dimensions + math.log(LEVEL)) / math.log(2)


def bits_per_dimension(
    generator: ImageGenerator,
    digits: LabeledImages,
    steps: int = 50,
    probes: int = 4,
    indices: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Bits per dimension of `digits`, given their labels, unguided: through the flow, and by DDPM's bound.

    Args:
        steps, probes: of the flow's density (RK4, Hutchinson's estimator), see `log_density`.
        indices: N of the bound's DiscretePath (squared cosine), on which the network's field is asked.

    Returns:
        {"images": N, "flow": {"mean", "standard_error" over the images, "hutchinson" the standard error that the
        estimator of the trace adds, "steps", "probes"}, "ddpm_bound": {"mean", "standard_error", "prior", "steps",
        "reconstruction", "indices"}}, all in bits per dimension.
    """
    digits = digits.to(next(generator.parameters()).device)
    data = dequantized(from_levels(digits.levels), keyed_generator(seed, _LEVELS))
    d = data[0].numel()
    field = generator.field(1.0, generator.method.path)
    density = log_density(
        field,
        data,
        digits.labels,
        steps=steps,
        grid="log_snr",
        divergence="hutchinson",
        probes=probes,
        generator=keyed_generator(seed, _SIGNS),
    )
    flow = to_bits(density.value, d)

    table = generator.field(1.0, DiscretePath(indices))
    bound = variational_bound(table, data, digits.labels, keyed_generator(seed, _BOUND))
    parts = {"prior": bound.prior, "steps": bound.steps.sum(0), "reconstruction": bound.reconstruction}
    total = to_bits(-bound.total, d)
    scale = d * math.log(2)
    return {
        "images": len(data),
        "flow": {
            **_mean(flow),
            "hutchinson": float(density.standard_error.square().mean().sqrt()) / scale / math.sqrt(len(data)),
            "steps": steps,
            "probes": probes,
        },
        "ddpm_bound": {
            **_mean(total),
            **{name: float(part.mean()) / scale for name, part in parts.items()},
            "indices": indices,
        },
    }


def _mean(values: Tensor) -> dict[str, float]:
    values = values.double()
    return {"mean": float(values.mean()), "standard_error": float(values.std() / math.sqrt(len(values)))}
