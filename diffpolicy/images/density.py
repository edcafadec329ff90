"""How probable a generator finds real images: bits per dimension."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffpolicy.datasets.images import LEVEL, LabeledImages, from_levels
from diffpolicy.generative.discrete import TokenProcess, to_tokens, token_bound
from diffpolicy.generative.likelihood import log_density, variational_bound
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.images.generator import ImageGenerator, dequantized
from diffpolicy.util import seeds
from diffpolicy.util.errors import require


def to_bits(nats: Tensor, dimensions: int) -> Tensor:
    """Return bits per dimension of images on the lattice of gray levels.

    A level is LEVEL wide, so that P(levels) ≥ exp E[log p(x)]·LEVEL^d for x uniform within the levels (Theis et al.
    2016, section 3.1): an upper bound of the bits.

    Args:
        nats: log densities of dequantized images.
        dimensions: d, numbers per image.
    """
    return -(nats / dimensions + math.log(LEVEL)) / math.log(2)


def bits_per_dimension(
    generator: ImageGenerator,
    images: LabeledImages,
    steps: int = 50,
    probes: int = 4,
    indices: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return bits per dimension of images given their labels, unguided: through the flow, and by DDPM's bound.

    Args:
        generator: whose density is asked.
        images: N images.
        steps: of RK4 along the flow, see `log_density`.
        probes: of Hutchinson's estimator, see `log_density`.
        indices: N of the bound's `DiscretePath` (squared cosine), on which the network's field is asked.
        seed: of dequantization, probes and the bound's noise.

    Returns:
        {"images": N, "flow": {"mean", "standard_error" over the images, "hutchinson" the standard error that the
        estimator of the trace adds, "steps", "probes"}, "ddpm_bound": {"mean", "standard_error", "prior", "steps",
        "reconstruction", "indices"}}, all in bits per dimension.
    """
    has = isinstance(generator.method, GenerativeProcess) and generator.latents is None
    given = "the density of a generator of latents, of one that jumps, or of tokens"
    require(has, given, "a generator of pixels by method=flow, ddpm, v or score")
    images = images.to(next(generator.parameters()).device)
    data = dequantized(from_levels(images.levels), seeds.generator(seed, "dequantization"))
    d, told = data[0].numel(), generator.condition(images.labels)
    density = log_density(
        generator.field(1.0, generator.method.path),
        data,
        told,
        steps=steps,
        grid="log_snr",
        divergence="hutchinson",
        probes=probes,
        generator=seeds.generator(seed, "probe signs"),
    )
    table = generator.field(1.0, DiscretePath(indices))
    bound = variational_bound(table, data, told, seeds.generator(seed, "variational bound"))
    parts = {"prior": bound.prior, "steps": bound.steps.sum(0), "reconstruction": bound.reconstruction}
    scale = d * math.log(2)
    trace_error = float(density.standard_error.square().mean().sqrt()) / scale / math.sqrt(len(data))
    return {
        "images": len(data),
        "flow": {**_mean(to_bits(density.value, d)), "hutchinson": trace_error, "steps": steps, "probes": probes},
        "ddpm_bound": {
            **_mean(to_bits(-bound.total, d)),
            **{name: float(part.mean()) / scale for name, part in parts.items()},
            "indices": indices,
        },
    }


def token_bits(generator: ImageGenerator, images: LabeledImages, times: int = 100, seed: int = 0) -> dict[str, Any]:
    """Return an upper bound of the bits per dimension of images in the generator's gray levels, given their labels.

    Fewer levels take fewer bits: only generators of equally many compare.

    Args:
        generator: of tokens that masks hide.
        images: N images.
        times: see `token_bound`.
        seed: of times and masks.

    Returns:
        {"images": N, "levels": K, "token_bound": {"mean", "standard_error" over the images, "times"}}.

    Raises:
        ValueError: a generator of something else.
    """
    method = generator.method
    require(
        isinstance(method, TokenProcess),
        f"bits of tokens of a generator by {type(method).__name__}",
        "one by method=discrete",
    )
    images = images.to(next(generator.parameters()).device)
    data = to_tokens(from_levels(images.levels), method.tokens.levels)
    noise = seeds.generator(seed, "variational bound")
    bound = token_bound(generator.net, method.tokens, data, generator.condition(images.labels), noise, times)
    bits = _mean(bound / (data[0].numel() * math.log(2)))
    return {"images": len(data), "levels": method.tokens.levels, "token_bound": {**bits, "times": times}}


def _mean(values: Tensor) -> dict[str, float]:
    values = values.double()
    return {"mean": float(values.mean()), "standard_error": float(values.std() / math.sqrt(len(values)))}
