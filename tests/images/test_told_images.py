"""Images, films and points that are told by words: their data, and generators of all three."""

import json

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, train_policy
from diffpolicy.config import SamplerConfig, load_config
from diffpolicy.config.commands import SampleConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets.catalog import open_source
from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.datasets.sources import colored_digits, moving_digits, solids
from diffpolicy.datasets.sources.colored_digits import ColoredDigits
from diffpolicy.datasets.sources.moving_digits import MovingDigits
from diffpolicy.datasets.sources.solids import Solids
from diffpolicy.images import ImageGenerator, load_generator
from diffpolicy.images.drawing import as_images, as_shown, draw_images, tiled
from diffpolicy.images.sample import sample_images
from diffpolicy.nets import ConditionalTransformer
from diffpolicy.util.condition import Condition

TOLD = {"colored_digits": ColoredDigits, "moving_digits": MovingDigits, "solids": Solids}
each = pytest.mark.parametrize("task", TOLD)
TINY = {
    "colored_digits": ["net.widths=[8,16]", "net.features=8"],
    "moving_digits": ["net.widths=[8,16]", "net.features=8"],
    "solids": ["net.width=16", "net.layers=1", "net.features=16", "net.time_features=8"],
}


def digits(count=40):
    """Digits that are none: a bright square each, whose label says nothing."""
    levels = torch.zeros((count, 1, 32, 32), dtype=torch.uint8)
    levels[:, :, 10:22, 12:20] = 255
    return LabeledImages(levels, torch.arange(count) % 10)


def data(task, count=40, seed=0):
    if task == "solids":
        return solids.solids(count, seed)
    make = colored_digits.colored if task == "colored_digits" else moving_digits.moving
    return make(digits(count), seed)


@each
def test_texts_say_what_labels_say(task):
    source = TOLD[task]
    said = source.said(torch.arange(source.classes))
    assert list(said) == list(source.words) and len(set(source.texts)) == source.classes
    for number, text in enumerate(source.texts):
        for word, names in source.words.items():
            assert names[said[word][number]] in text.split()


@each
def test_data_are_those_of_the_seed_and_as_the_source_says(task):
    source, first = TOLD[task], data(task)
    assert first.levels.shape[1:] == source.shape and first.labels.min() >= 0 and first.labels.max() < source.classes
    assert first.digest() == data(task).digest() != data(task, seed=1).digest()
    batch = first.batch(torch.arange(4))["data"]
    assert batch.dtype == torch.float32 and batch.abs().max() <= 1


def test_colors_and_strokes_are_what_they_are_called():
    made = data("colored_digits", 80)
    said, levels = ColoredDigits.said(made.labels), made.levels.float()
    bright = levels.flatten(2).amax(2)
    order = {"red": 0, "green": 1, "blue": 2}
    for number in range(len(made)):
        color = ColoredDigits.words["color"][said["color"][number]]
        if color in order:
            assert bright[number].argmax() == order[color]
        else:
            assert bright[number, :2].min() > 1.5 * bright[number, 2]
    covered = (levels.sum(1) > 60).flatten(1).sum(1).float()
    thick = said["stroke"] == ColoredDigits.words["stroke"].index("thick")
    assert covered[thick].min() > 1.2 * covered[~thick].max()
    assert torch.equal(said["digit"], torch.arange(80) % 10)
    with pytest.raises(ValueError, match="unknown stroke 'thik'"):
        colored_digits.with_stroke(torch.zeros(1, 1, 4, 4), "thik")


def test_films_move_as_they_say_and_stay_within_the_picture():
    made = data("moving_digits", 60)
    said, films = MovingDigits.said(made.labels), made.levels.float()[:, :, 0]
    weight = films.sum((2, 3))
    np.testing.assert_array_equal(weight[:, :1].expand_as(weight), weight)  # nothing leaves the picture
    places = torch.arange(32.0)
    down, right = ((films.sum(axis) * places).sum(2) / weight for axis in (3, 2))
    steps = torch.stack([down[:, -1] - down[:, 0], right[:, -1] - right[:, 0]], 1) / (moving_digits.FRAMES - 1)
    ways = torch.tensor(list(moving_digits.DIRECTIONS.values()))[said["direction"]]
    speeds = torch.tensor(list(moving_digits.SPEEDS.values()))[said["speed"]]
    torch.testing.assert_close(steps, (ways * speeds[:, None]).float(), rtol=0, atol=1e-4)


def test_solids_stand_lie_and_have_their_size():
    made = solids.solids(400, 0)
    said, points = Solids.said(made.labels), made.levels
    far = points.norm(dim=2).amax(1)
    large = said["size"] == 1
    assert far[large].min() > 0.5 > far[~large].max()
    axis = torch.where(said["pose"] == 0, 2, 0)  # z where it stands, x where it lies
    other = torch.where(said["pose"] == 0, 0, 2)
    rows = torch.arange(400)
    along, across = (points.std(1)[rows, one] for one in (axis, other))
    ring = said["solid"] == Solids.words["solid"].index("torus")
    assert (along[ring] < across[ring]).all() and (along[~ring] > 0.8 * across[~ring]).all()
    surface = solids._surface("cylinder", np.random.default_rng(0))
    radius, height = np.hypot(*surface.T[:2]), abs(surface[:, 2])
    assert np.all(np.isclose(radius, 0.4) | np.isclose(height, height.max()))


@each
def test_it_is_trained_sampled_by_texts_and_loaded(task, tmp_path, monkeypatch):
    monkeypatch.setattr(TOLD[task], "images", lambda self, split: data(task, 40, split == "test"))
    settings = [f"task={task}", *TINY[task], "training.steps=2", "training.batch_size=8", f"run_dir={tmp_path / 'r'}"]
    last = train_policy([*settings, "device=cpu", "text.width=8", "text.features=8"])
    found = load_config(checkpoint.read(last).config).found
    assert tuple(found.image_shape) == TOLD[task].shape and tuple(found.texts) == TOLD[task].texts
    says = sample_images(
        SampleConfig(
            str(last), str(tmp_path / "out"), [1.0, 2.0], texts=list(TOLD[task].texts[:3]), samples=2, steps=2
        )
    )
    assert says.startswith("6 images for each of 2 scales") and (tmp_path / "out" / "samples.png").exists()
    lines = json.loads((tmp_path / "out" / "samples.json").read_text())["lines"]
    assert lines == list(TOLD[task].texts[:3])
    with np.load(tmp_path / "out" / "samples.npz", allow_pickle=False) as drawn:
        assert set(drawn) == {"w=1", "w=2"} and drawn["w=2"].shape == (6, *TOLD[task].shape)
        again, _ = draw_images(
            load_generator(last, SamplerConfig(steps=2)), torch.arange(3).repeat_interleave(2), 0, 2.0
        )
        np.testing.assert_allclose(drawn["w=2"], again, atol=1e-5)
    assert (tmp_path / "out" / "films.gif").exists() == (task == "moving_digits")
    generator = load_generator(last, SamplerConfig("euler", 2))
    labels = torch.tensor([5, 0, 5])
    by_label, calls = draw_images(generator, labels, 3, 2.0)
    by_text, _ = draw_images(generator, generator.read([TOLD[task].texts[k] for k in labels]), 3, 2.0)
    torch.testing.assert_close(by_label, by_text)
    assert calls == 4 and by_label.shape == (3, *TOLD[task].shape)
    with pytest.raises(ValueError, match="training never saw"):
        generator.read(["a pink elephant"])
    with pytest.raises(ValueError, match="one of the two"):
        sample_images(SampleConfig(str(last), str(tmp_path / "two"), labels=[1], texts=["a"], steps=2))


@pytest.mark.parametrize("method", ["mean_flow", "discrete"])
def test_other_methods_are_told_too(method):
    options = {"name": "mean_flow", "path": {"name": "linear"}} if method == "mean_flow" else {"name": "discrete"}
    net = {"name": "unet2d", "widths": [8, 16], "features": 8, "block": "adaptive", "patch": 4}
    text = {"name": "words", "width": 8, "features": 8, "attend": True}
    torch.manual_seed(0)
    generator = ImageGenerator((3, 16, 16), 2, net, options, text=text, texts=["a red one", "a blue two"])
    batch = {"data": from_levels(torch.randint(0, 256, (4, 3, 16, 16)).to(torch.uint8)), "cond": torch.arange(4) % 2}
    loss = generator.loss(batch, torch.Generator().manual_seed(0))
    loss.mean().backward()
    told = generator.net.net if method == "discrete" else generator.net
    assert loss.shape == (4,) and all(one.grad is not None for one in told.text.blocks.parameters())


def test_a_set_of_points_has_no_order():
    torch.manual_seed(0)
    net = ConditionalTransformer(3, 4, 10, ordered=False, width=16, layers=2, heads=2, features=8, time_features=8)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, t, cond, order = torch.randn(2, 10, 3), torch.rand(2), Condition(torch.randn(2, 4)), torch.randperm(10)
    torch.testing.assert_close(net.double()(x[:, order].double(), t, cond), net(x.double(), t, cond)[:, order])


def test_what_is_shown_and_judged():
    films, points = torch.zeros(2, 3, 1, 8, 8), torch.tensor([[[0.0, 0.0, 0.99], [-1.0, 0.5, 2.0]]])
    assert as_images(films).shape == (2, 3, 8, 8) and as_shown(films).shape == (2, 1, 8, 24)
    seen = as_images(points)[0]
    assert seen.shape == (3, 32, 32) and (seen == 1).sum().tolist() == 4  # the second point is above what is seen
    assert tiled(points, 1).shape[2] == 3 and seen[0, 16, 16] == 1 and seen[0, 24, 0] == 1


def test_what_cannot_be_told_is_refused():
    net, flow = {"name": "transformer"}, {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity"}
    with pytest.raises(ValueError, match="of numbered labels; expected texts"):
        ImageGenerator((8, 3), 2, net, flow)
    with pytest.raises(ValueError, match="data of shape"):
        ImageGenerator((8,), 2, net, flow, texts=["a", "b"])
    with pytest.raises(ValueError, match="in place of one"):
        ImageGenerator((8, 3), 2, net, {"name": "discrete"}, texts=["a", "b"])
    with pytest.raises(ValueError, match="does not take"):
        ImageGenerator((8, 3), 2, {"name": "unet2d"}, flow, texts=["a", "b"])
    numbered = ImageGenerator((1, 8, 8), 2, {"name": "unet2d", "widths": [8]}, flow)
    with pytest.raises(ValueError, match="told by numbers"):
        numbered.read(["a"])
    with pytest.raises(ValueError, match="none: "):
        open_source(compose(["task=solids", "dataset.path=x", "run_dir=r"])).images("train")
