"""ResNet-18: torchvision's network and names but for the norms, and what makes it an encoder."""

import pytest
import torch
from torch import nn

from diffpolicy.nets.resnet import ResNet18, ResNetEncoder


def _published():
    """Name -> shape of the weights of the published state dict, without running statistics and fc."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.bias": (64,)}
    for stage, (c_in, c) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (c, c if block else c_in, 3, 3)
            shapes[f"{name}.conv2.weight"] = (c, c, 3, 3)
            norms = [f"{name}.bn1", f"{name}.bn2"]
            if stage > 1 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = (c, c_in, 1, 1)
                norms.append(f"{name}.downsample.1")
            shapes |= {f"{norm}.{part}": (c,) for norm in norms for part in ("weight", "bias")}
    return shapes


def _fill(module):
    """Weights by a formula, which is the same in any release of torch."""
    for i, (name, weight) in enumerate(sorted(module.state_dict().items())):
        k = torch.arange(weight.numel(), dtype=torch.float64)
        wave = torch.sin(k * k * 0.37 + i).reshape(weight.shape)
        if weight.ndim == 4:
            weight.copy_(wave * (2 / weight[0].numel()) ** 0.5)
        else:
            weight.copy_(1 + 0.1 * wave if name.endswith("weight") else 0.1 * wave)


def test_names_shapes_and_number_of_the_published_weights():
    net = ResNet18()
    assert {name: tuple(weight.shape) for name, weight in net.state_dict().items()} == _published()
    assert sum(weight.numel() for weight in net.parameters()) == 11_176_512


def test_it_computes_what_torchvision_does():
    """The numbers are torchvision 0.28's, of resnet18(norm_layer=lambda c: GroupNorm(c // 16, c)) without its end."""
    net = ResNet18()
    _fill(net)
    x = torch.sin(torch.arange(2 * 3 * 84 * 84, dtype=torch.float64) * 0.11).float().reshape(2, 3, 84, 84)
    with torch.no_grad():
        y = net(x)
    assert y.shape == (2, 512, 3, 3)
    last = [1.24511, 0.94758, 0.96548, 1.18931, 0.91036, 0, 0.76230, 1.40085, 1.73601]
    torch.testing.assert_close(y[1, 500].flatten(), torch.tensor(last), atol=2e-3, rtol=0)
    assert y.mean() == pytest.approx(0.80287, abs=1e-4) and y.std() == pytest.approx(0.94475, abs=1e-4)


def test_norms_are_of_sixteen_channels_a_group():
    norms = [module for module in ResNet18(width=32).modules() if "Norm" in type(module).__name__]
    assert len(norms) == 20 and all(isinstance(norm, nn.GroupNorm) for norm in norms)
    assert all(norm.num_channels == 16 * norm.num_groups for norm in norms)


@pytest.mark.parametrize(("size", "out"), [((84, 84), (3, 3)), ((96, 64), (3, 2)), ((33, 1), (2, 1))])
def test_sides_are_halved_five_times(size, out):
    assert ResNet18(1, 16)(torch.zeros(1, 1, *size)).shape == (1, 128, *out)


@pytest.mark.parametrize("width", [0, -16, 24])
def test_widths_that_no_group_divides(width):
    with pytest.raises(ValueError, match=f"width={width}; expected a multiple of 16"):
        ResNet18(width=width)


def test_the_scale_of_the_pixels_drops_out():
    """Why pretrained weights, trained on pixels of another scale, need no scaling of their own."""
    torch.manual_seed(0)
    net, x = ResNet18(width=16), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(net(2.2 * x), net(x), rtol=1e-3, atol=1e-3)


def _encoder(shape=(48, 44, 3), crop=40):
    torch.manual_seed(0)
    return ResNetEncoder(shape, crop, width=16, keypoints=5)


def _images(shape=(48, 44, 3)):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 2, *shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_encoder_of_pictures(channels):
    encoder, images = _encoder((48, 44, channels)).eval(), _images((48, 44, channels))
    features = encoder(images)
    assert encoder.features == 10 and features.shape == (4, 20) and features.abs().max() <= 1
    apart = torch.cat([encoder(images[:, i : i + 1]) for i in range(2)], dim=1)
    torch.testing.assert_close(features, apart)
    edges = images.clone()
    edges[:, :, :2], edges[:, :, 46:], edges[:, :, :, :2], edges[:, :, :, 42:] = 0, 0, 0, 0
    assert torch.equal(encoder(edges), features)  # the centre alone is seen
    assert (encoder(images, torch.zeros(4, 2)) - features).abs().max() > 1e-3


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_reach_every_weight(bfloat16):
    encoder = _encoder()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = encoder(_images(), torch.rand(4, 2))
    assert features.dtype == torch.float32
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0 or name.endswith("maps.bias"), name


def test_pictures_stay_channels_last():
    encoder, seen = _encoder(), []
    encoder.trunk.layer3.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(_images(), torch.rand(4, 2))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert encoder.trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_crop_of_which_one_place_would_be_left():
    with pytest.raises(ValueError, match=r"crop=32 .*expected more than 32 px"):
        _encoder(crop=32)
    _encoder(crop=33)
