"""Weights in bfloat16: outputs come in the dtype of x, near those of float32."""

import copy

import pytest
import torch

from diffpolicy.nets import (
    MLP,
    ConditionalTransformer,
    ConditionalUnet1D,
    ConditionalUnet2D,
    FastUnet1D,
    ImageEncoder,
)
from diffpolicy.nets.classifier import ImageClassifier
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.util.condition import Condition

UNET = {"widths": (32, 64), "time_features": 32}
TRAJECTORY = [
    (ConditionalUnet1D, UNET),
    (FastUnet1D, UNET),
    (FastUnet1D, {**UNET, "time": "fourier", "two_times": True}),
    (ConditionalTransformer, {"width": 32, "heads": 2, "features": 64, "time_features": 32}),
]


def near(rough, exact, bound=0.03):
    assert rough.dtype == exact.dtype and (rough - exact).norm() < bound * exact.norm()


@pytest.mark.parametrize(("kind", "options"), TRAJECTORY)
def test_networks_of_trajectories(kind, options):
    torch.manual_seed(0)
    net = kind(2, 3, 16, **options).requires_grad_(False)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, t, r, cond = torch.randn(8, 16, 2), torch.rand(8), torch.ones(8), Condition(torch.randn(8, 3))
    half = copy.deepcopy(net).to(torch.bfloat16)
    near(half(x, t, cond, r), net(x, t, cond, r))
    assert half(x.bfloat16(), t, cond.map(torch.Tensor.bfloat16), r).dtype == torch.bfloat16
    if isinstance(half, FastUnet1D):
        half.freeze()
        near(half(x, t, cond, r), net(x, t, cond, r))


def test_other_networks():
    torch.manual_seed(0)
    x, t, labels = torch.randn(4, 1, 32, 32), torch.rand(4), torch.tensor([0, 3, 9, 5])
    frames = torch.randint(0, 256, (4, 2, 32, 32, 3), dtype=torch.uint8)
    point, cond = torch.randn(4, 2), Condition(torch.randn(4, 3))
    cases = [
        (ConditionalUnet2D(1, 10, widths=(16, 32), block="adaptive"), (x, t, labels)),
        (ConditionalUnet2D(1, 10, widths=(16, 32)), (x, t, labels)),
        (ImageClassifier(), (x,)),
        (ImageEncoder((32, 32, 3), crop=28), (frames,)),
        (MLP(2, 3), (point, t, cond)),
    ]
    for net, given in cases:
        net.eval().requires_grad_(False)
        exact, half = net(*given), copy.deepcopy(net).to(torch.bfloat16)
        near(half(*given).to(exact.dtype), exact, 0.05)


@pytest.mark.parametrize("name", ["sinusoidal", "fourier"])
def test_time_features_keep_their_phase(name):
    """At t = 1 a frequency rounded to bfloat16 would be off by radians."""
    torch.manual_seed(0)
    features, t = time_embedding(name, 64), torch.linspace(0, 1, 50)
    if name == "fourier":
        features.frequencies.data = features.frequencies.data.bfloat16().float()
    exact, rough = features(t), copy.deepcopy(features).bfloat16()(t)
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).abs().max() < 0.01
