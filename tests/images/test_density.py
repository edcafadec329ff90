"""Bits per dimension, in closed form."""

import math
from dataclasses import replace

import pytest
import torch

from diffpolicy.config import FoundInData, RunConfig, SamplerConfig
from diffpolicy.datasets.images import LEVEL, LabeledImages, from_levels, to_levels
from diffpolicy.generative.paths import DiscretePath, LinearPath
from diffpolicy.images import build_generator
from diffpolicy.images.density import bits_per_dimension, to_bits, token_bits
from diffpolicy.images.generator import dequantized

CONFIG = RunConfig(
    net={"name": "unet2d", "widths": [8, 16], "layers": 1, "features": 8, "block": "adaptive", "patch": 4},
    method={"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3},
    found=FoundInData(kind="images", image_shape=[1, 32, 32], labels=10),
)


def test_dequantized_images_stay_within_their_levels():
    images = from_levels(torch.arange(256, dtype=torch.uint8)).expand(100, -1).reshape(100, 1, 16, 16)
    spread = dequantized(images, torch.Generator().manual_seed(0))
    assert torch.equal(to_levels(spread), to_levels(images))
    assert (spread - images).std().item() == pytest.approx(LEVEL / math.sqrt(12), rel=0.02)


def test_bits_of_a_gaussian_by_the_flow_and_by_the_bound():
    """Every pixel N(m, s²), whose field is known: E[−log₂ P(level)] is the entropy's, level by level."""
    m, s = -0.2, 0.3
    path = LinearPath()

    def velocity(x, t, cond, r=None):
        alpha, sigma = path.alpha(t).reshape(-1, 1, 1, 1), path.sigma(t).reshape(-1, 1, 1, 1)
        gain = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
        data = m + gain * (x - alpha * m)
        noise = sigma / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)
        return data - noise

    generator = build_generator(CONFIG).eval().requires_grad_(False)
    generator.net.forward = velocity
    # How it samples is no part of what it finds probable.
    generator.configure(SamplerConfig("ddim", 5, "ddpm_trailing"), DiscretePath(1000))
    before = generator.method.sampler
    pixels = m + s * torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images = LabeledImages(to_levels(pixels), torch.arange(10))
    found = bits_per_dimension(generator, images, steps=40, probes=2, indices=300)
    assert generator.method.sampler == before
    entropy = (0.5 * math.log(2 * math.pi * math.e * s**2) - math.log(LEVEL)) / math.log(2)
    assert found["flow"]["mean"] == pytest.approx(entropy, abs=0.03)
    assert entropy < found["ddpm_bound"]["mean"] < entropy + 1
    parts = [found["ddpm_bound"][name] for name in ("prior", "steps", "reconstruction")]
    levels = math.log2(LEVEL)
    assert sum(parts) - levels == pytest.approx(found["ddpm_bound"]["mean"], abs=1e-4)
    assert to_bits(torch.tensor([0.0]), 7).item() == pytest.approx(-levels)


def test_bits_of_tokens():
    """A network that knows nothing but the share of black pixels: the bits are that share's cross-entropy."""
    method = {"name": "discrete", "levels": 2}
    generator = build_generator(replace(CONFIG, method=method)).eval().requires_grad_(False)
    black = math.log(0.8 / 0.2)
    generator.net.forward = lambda x, t, cond: torch.stack([torch.full(x.shape, black), torch.zeros(x.shape)], -1)
    levels = torch.zeros(20, 1, 32, 32, dtype=torch.uint8)
    levels[:, :, :8] = 255  # a quarter
    found = token_bits(generator, LabeledImages(levels, torch.arange(20) % 10), times=400)
    exact = -(0.75 * math.log2(0.8) + 0.25 * math.log2(0.2))
    assert found["token_bound"]["mean"] == pytest.approx(exact, rel=0.01) and found["levels"] == 2
    with pytest.raises(ValueError, match="method=discrete"):
        token_bits(build_generator(CONFIG), LabeledImages(levels, torch.arange(20) % 10))
