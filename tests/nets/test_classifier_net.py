"""The classifier of digits as a network: shapes, what it refuses, and that images are judged one by one."""

import pytest
import torch

from diffpolicy.nets.classifier import ImageClassifier
from diffpolicy.registry import build


def _net(**options):
    torch.manual_seed(0)
    return ImageClassifier(**{"widths": (8, 16), "features": 12, **options})


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 24)])
def test_shapes(shape):
    net = _net(shape=shape, classes=7)
    x = torch.rand(5, *shape) * 2 - 1
    assert net.features(x).shape == (5, 12)
    assert net(x).shape == (5, 7) and net(x).dtype == torch.float32


def test_logits_are_linear_in_the_features():
    net, x = _net(), torch.rand(5, 1, 32, 32)
    torch.testing.assert_close(net(x), net.features(x) @ net.head.weight.T + net.head.bias)


def test_an_image_is_judged_alike_in_any_company():
    net, x = _net(), torch.rand(6, 1, 32, 32)
    for mode in (True, False):
        torch.testing.assert_close(net.train(mode)(x)[2:3], net(x[2:3]))


def test_a_pale_image_has_other_features():
    net, x = _net(), torch.rand(2, 1, 32, 32) * 2 - 1
    whole, pale = net.features(x), net.features(0.3 * x)
    assert (whole - pale).norm() > 0.1 * whole.norm()


def test_its_defaults_are_small_and_in_the_registry():
    net = build("classifier", {"name": "image_classifier"})
    assert net.features(torch.zeros(1, 1, 32, 32)).shape == (1, 64)
    assert sum(p.numel() for p in net.parameters()) < 300_000


def test_it_learns_a_side():
    """Which half of the image is bright."""
    net = _net(classes=2)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    for _ in range(30):
        x = torch.rand(64, 1, 32, 32, generator=generator) - 1
        x[labels == 0, :, :, :16] += 0.5
        x[labels == 1, :, :, 16:] += 0.5
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(x).argmax(1) == labels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (32, 32)}, r"shape=\(32, 32\).*expected the \(channels, height, width\)"),
        ({"classes": 0}, r"classes=0.*positive sizes"),
        ({"widths": (8, 12)}, r"widths=\[8, 12\].*multiple of groups=8"),
        ({"widths": ()}, r"widths=\[\]; expected at least one"),
        ({"shape": (1, 30, 32)}, r"shape=\(1, 30, 32\); expected sides that are multiples of 4"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        _net(**options)


def test_images_of_another_shape():
    with pytest.raises(
        ValueError, match=r"images have shape \(2, 1, 28, 28\); expected \(B, 1, 32, 32\) in \[-1, 1\]"
    ):
        _net()(torch.zeros(2, 1, 28, 28))
