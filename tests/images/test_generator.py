"""Images are composition: drawn by the library's sampler, guided by its wrapper, refused where they cannot be."""

import copy

import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.generative.guidance import ClassifierFree
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import make_solver
from diffpolicy.images import build_generator, load_generator
from diffpolicy.images.drawing import draw_images, save_animation, save_grid, tiled
from diffpolicy.util.seeds import generator as keyed_generator

CONFIG = {
    "net": {"name": "unet2d", "widths": [8, 16], "layers": 1, "features": 8, "block": "adaptive", "patch": 2},
    "method": {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3},
    "images": {"condition_dropout": 0.1, "guidance": 3.0},
}
LABELS = torch.tensor([3, 1, 4, 1])


def _config(**changes):
    config = copy.deepcopy(CONFIG)
    for section, values in changes.items():
        config[section] |= values
    return config


@pytest.fixture
def generator():
    torch.manual_seed(0)
    made = build_generator(CONFIG).eval().requires_grad_(False)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made


def test_drawing_is_the_librarys_sampling_of_the_guided_field(generator):
    drawn = generator.draw(LABELS, [keyed_generator(7, 3, row) for row in range(4)], 2.5)
    field = ClassifierFree(ModelField(generator.net, generator.method.path, "velocity"), 2.5, generator.net.null)
    x = torch.stack([torch.randn((1, 32, 32), generator=keyed_generator(7, 3, row)) for row in range(4)])
    flow = make_solver("euler").bind(field, generator.method.path)
    by_hand = sample(flow, x, time_grid("uniform", 3, generator.method.path), LABELS)
    assert torch.equal(drawn, by_hand)
    assert generator.calls == flow.calls == 6


def test_scale_one_is_the_conditional_field_at_half_the_calls(generator):
    noise = [keyed_generator(7, 3, row) for row in range(4)]
    drawn = generator.draw(LABELS, noise, 1.0)
    assert generator.calls == 3
    field = ClassifierFree(ModelField(generator.net, generator.method.path, "velocity"), 1.0, generator.net.null)
    x = torch.stack([torch.randn((1, 32, 32), generator=keyed_generator(7, 3, row)) for row in range(4)])
    flow = make_solver("euler").bind(field, generator.method.path)
    assert torch.allclose(drawn, sample(flow, x, time_grid("uniform", 3, generator.method.path), LABELS), atol=1e-6)


def test_an_image_does_not_depend_on_its_batch(generator):
    together = draw_images(generator, LABELS, seed=1)
    assert torch.allclose(together[:2], draw_images(generator, LABELS[:2], seed=1), atol=1e-5)
    assert not torch.allclose(together, draw_images(generator, LABELS, seed=2), atol=0.1)


def test_a_trajectory_ends_in_the_images(generator):
    states = draw_images(generator, LABELS, seed=1, trajectory=True)
    assert states.shape == (4, 4, 1, 32, 32)
    assert torch.equal(states[-1], draw_images(generator, LABELS, seed=1))


def test_any_solver_on_another_path(generator):
    generator.method.configure("ddpm", 4, "ddpm_trailing", path=DiscretePath(1000))
    first = draw_images(generator, LABELS, seed=1, guidance=3.0)
    assert generator.calls == 8 and first.isfinite().all()
    assert torch.equal(first, draw_images(generator, LABELS, seed=1, guidance=3.0))


def test_guidance_without_label_dropout_is_refused():
    plain = _config(images={"condition_dropout": 0.0, "guidance": 1.0})
    with pytest.raises(ValueError, match="without label dropout.*condition_dropout=0.1"):
        build_generator(plain).field(3.0)
    with pytest.raises(ValueError, match="without label dropout"):
        build_generator(_config(images={"condition_dropout": 0.0}))
    build_generator(plain).field()


def test_bad_requests_are_refused(generator):
    for labels in (torch.tensor([10]), torch.tensor([-1]), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="integers from 0 to 9"):
            generator.draw(labels, [keyed_generator(0)])
    with pytest.raises(ValueError, match="at least one label"):
        draw_images(generator, LABELS[:0], seed=0)
    with pytest.raises(ValueError, match="bfloat16"):
        draw_images(generator, LABELS, seed=0, precision="float16")
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        generator.method.configure(steps=0)
    with pytest.raises(ValueError, match="method.name='regression'"):
        build_generator(_config(method={"name": "regression"}))


def test_checkpoints_of_each_kind_are_told_apart(generator, tmp_path):
    weights = {"model": generator.state_dict(), "ema": generator.state_dict()}
    images = checkpoint.write(tmp_path / "images", 1, weights, CONFIG, {})
    again = load_generator(images)
    assert torch.equal(draw_images(again, LABELS, 0), draw_images(generator, LABELS, 0))
    policy = checkpoint.write(tmp_path / "policy", 1, weights, {"policy": {}}, {})
    with pytest.raises(CheckpointError, match="a policy's.*task=mnist"):
        load_generator(policy)
    other = checkpoint.write(tmp_path / "other", 1, weights, {"classifier": {}}, {})
    with pytest.raises(CheckpointError, match="of another kind.*task=mnist"):
        load_generator(other)
    with pytest.raises(CheckpointError, match="no policy's checkpoint"):
        load_policy(images)


def test_pictures(generator, tmp_path):
    states = draw_images(generator, LABELS, seed=1, trajectory=True)
    save_grid(tmp_path / "grid.png", [("a", states[-1]), ("b", states[0])], 2)
    save_animation(tmp_path / "way.gif", list(states), 2)
    assert (tmp_path / "grid.png").stat().st_size > 1000
    from PIL import Image

    with Image.open(tmp_path / "way.gif") as film:
        assert film.n_frames == 4 and film.size == (2 * 34 + 2, 2 * 34 + 2)
    sheet = tiled(torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 1.0, 3.0)]), columns=2, margin=1)
    assert sheet.shape == (11, 11)
    assert (sheet[1:5, 1:5] == 0).all() and (sheet[1:5, 6:10] == 255).all() and (sheet[6:10, 1:5] == 255).all()
    assert (sheet[6:10, 6:10] == 40).all()
