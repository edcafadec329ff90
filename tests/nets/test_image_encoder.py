"""The image encoder: what it crops, what it refuses, and that it learns where things are."""

import pytest
import torch

from diffpolicy.nets.vision import ImageEncoder, SpatialSoftmax


def _images(rows=4, steps=2, shape=(24, 20, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, steps, *shape), dtype=torch.uint8, generator=generator)


def _encoder(shape=(24, 20, 3), **options):
    torch.manual_seed(0)
    return ImageEncoder(shape, **{"crop": 16, "widths": (8, 16), "keypoints": 5, **options})


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("scale", [None, 18, 30])
@pytest.mark.parametrize("shape", [(24, 20, 3), (16, 16, 1)])
def test_shapes(steps, shape, scale):
    encoder = _encoder(shape, scale=scale)
    features = encoder(_images(steps=steps, shape=shape))
    assert encoder.features == 10
    assert features.shape == (4, steps * 10) and features.dtype == torch.float32


def test_frames_are_encoded_one_by_one_and_lined_up_in_time():
    encoder, images = _encoder().eval(), _images(steps=3)
    apart = torch.cat([encoder(images[:, i : i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(encoder(images), apart)


def test_evaluation_takes_the_centre():
    encoder, images = _encoder().eval(), _images()
    other = images.clone()
    other[:, :, :2], other[:, :, 21:], other[:, :, :, :2], other[:, :, :, 18:] = 0, 0, 0, 0
    assert torch.equal(encoder._cropped(images, None), images[:, :, 2:21, 2:18])
    assert torch.equal(encoder(images), encoder(other))
    assert torch.equal(encoder(images), encoder(images))


def test_training_crops_rows_apart_and_frames_alike():
    encoder = _encoder()
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    images = torch.stack([rows, columns, rows], -1).to(torch.uint8).expand(200, 2, -1, -1, -1)
    places = torch.rand(200, 2, generator=torch.Generator().manual_seed(3))
    cropped = encoder._cropped(images, places)
    assert torch.equal(cropped[:, 0], cropped[:, 1])
    corners = cropped[:, 0, 0, 0].long()
    assert set(corners[:, 0].tolist()) == set(range(6)) and set(corners[:, 1].tolist()) == set(range(5))
    for row, (top, left, _) in enumerate(corners):
        assert torch.equal(cropped[row], images[row, :, top : top + 19, left : left + 16])


@pytest.mark.parametrize("places", [None, torch.zeros(2, 2), torch.ones(2, 2) * 0.999])
def test_a_camera_of_any_resolution_shows_the_network_the_same(places):
    """A smooth picture, taken at 96 × 128 px and at five times as many: what is scaled is the same part of it."""

    def picture(height, width):
        y, x = torch.meshgrid(
            (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
        )
        wave = 127.5 + 127.5 * torch.sin(3 * x + 5 * y)
        return wave.round().to(torch.uint8)[..., None].expand(2, 1, -1, -1, 3)

    seen = []
    for height, width in ((96, 128), (480, 640)):
        encoder = ImageEncoder((height, width, 3), crop=84, scale=96)
        assert encoder.window == (height * 7 // 8, width * 7 // 8) and encoder.size == (84, 112)
        encoder.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        encoder(picture(height, width), places)
    assert seen[0].shape == seen[1].shape == (2, 3, 84, 112)
    assert (seen[0] - seen[1]).abs().max() < 0.02  # grey values are 2/255 apart


def test_nothing_moves_where_nothing_can_be_cropped():
    encoder, images = _encoder((16, 16, 3)), _images(shape=(16, 16, 3))
    assert torch.equal(encoder._cropped(images, torch.rand(4, 2)), images)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradients_reach_every_weight(bfloat16):
    encoder = _encoder()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = encoder(_images())
    assert features.dtype == torch.float32  # positions keep their precision
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # a softmax does not see a constant added to all of its map
        assert parameter.grad.abs().max() > 0 or name.endswith("maps.bias"), name


@pytest.mark.parametrize("places", [None, torch.rand(4, 2)])
def test_images_stay_channels_last(places):
    encoder, seen = _encoder(), []
    encoder.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(_images(), places)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].min() >= -1 and seen[0].max() <= 1
    assert encoder.layers[0].conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_spatial_softmax_finds_a_peak():
    layer = SpatialSoftmax(2, 2)
    with torch.no_grad():
        layer.maps.weight.copy_(torch.eye(2)[..., None, None] * 1000)
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 0, 8] = maps[0, 1, 4, 2] = 1
    torch.testing.assert_close(layer(maps), torch.tensor([[1.0, -1.0, -0.5, 1.0]]))


def test_it_learns_where_a_dot_is():
    torch.manual_seed(0)
    places = torch.randint(3, 13, (64, 2))
    images = torch.zeros(64, 1, 16, 16, 1, dtype=torch.uint8)
    for image, (x, y) in zip(images, places.tolist(), strict=True):
        image[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    encoder, target = _encoder((16, 16, 1)), places / 7.5 - 1
    head = torch.nn.Linear(10, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-2)
    for _ in range(200):
        loss = (head(encoder(images)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.005  # of a variance of 0.15; half a pixel is 0.004


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (torch.zeros(2, 2, 24, 20, 3), TypeError, r"torch\.float32; expected uint8, 0 to 255"),
        (
            torch.zeros(2, 24, 20, 3, dtype=torch.uint8),
            ValueError,
            r"\(2, 24, 20, 3\); expected \(B, T_o, 24, 20, 3\)",
        ),
        (torch.zeros(2, 2, 3, 24, 20, dtype=torch.uint8), ValueError, r"expected \(B, T_o, 24, 20, 3\)"),
    ],
)
def test_images_that_are_refused(images, kind, message):
    with pytest.raises(kind, match=message):
        _encoder()(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (24, 20)}, r"shape=\(24, 20\); expected the \(height, width, channels\)"),
        ({"crop": 21}, r"crop=21, scale=None for an image of 24 × 20 px; expected 1 <= crop <= 20"),
        ({"crop": 0}, r"crop=0"),
        ({"scale": 15}, r"crop=16, scale=15 for an image of 24 × 20 px; expected 1 <= crop <= 15"),
        ({"scale": 1000}, r"crop=16, scale=1000; expected a crop that leaves a pixel of an image of 24 × 20 px"),
        ({"crop": 4}, r"crop=4 leaves .* one place; expected more than 4 px"),
        ({"widths": ()}, r"widths=\[\]; expected at least one"),
        ({"widths": (8, 12)}, r"widths=\[8, 12\].*multiple of groups=8"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        _encoder(**options)
