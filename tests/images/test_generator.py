"""Images are composition: drawn by the library's sampler, guided by its wrapper, refused where they cannot be."""

from dataclasses import replace

import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.config import FoundInData, ImageConfig, RunConfig, SamplerConfig, plain
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.generative.guidance import ClassifierFree
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import make_solver
from diffpolicy.images import build_generator, found_in, load_generator
from diffpolicy.images.density import bits_per_dimension
from diffpolicy.images.drawing import draw_images, save_animation, save_grid, tiled
from diffpolicy.util.seeds import generator as keyed

CONFIG = RunConfig(
    net={"name": "unet2d", "widths": [8, 16], "layers": 1, "features": 8, "block": "adaptive", "patch": 2},
    method={"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3},
    found=FoundInData(kind="images", image_shape=[1, 32, 32], labels=10),
)
NO_DROPOUT = replace(CONFIG, images=ImageConfig(condition_dropout=0.0, guidance=1.0))
LABELS = torch.tensor([3, 1, 4, 1])


@pytest.fixture
def generator():
    torch.manual_seed(0)
    made = build_generator(CONFIG).eval().requires_grad_(False)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made


def test_drawing_is_the_librarys_sampling_of_the_guided_field(generator):
    drawn, calls = generator.draw(LABELS, [keyed(7, 3, i) for i in range(4)], 2.5)
    field = ClassifierFree(ModelField(generator.net, generator.method.path, "velocity"), 2.5, generator.net.null)
    x = torch.stack([torch.randn((1, 32, 32), generator=keyed(7, 3, i)) for i in range(4)])
    flow = make_solver("euler").bind(field, generator.method.path)
    by_hand = sample(flow, x, time_grid("uniform", 3, generator.method.path), LABELS)
    assert torch.equal(drawn, by_hand)
    assert calls == flow.calls == 6


def test_scale_one_is_the_conditional_field_at_half_the_calls(generator):
    drawn, calls = generator.draw(LABELS, [keyed(7, 3, i) for i in range(4)], 1.0)
    assert calls == 3
    field = ClassifierFree(ModelField(generator.net, generator.method.path, "velocity"), 1.0, generator.net.null)
    x = torch.stack([torch.randn((1, 32, 32), generator=keyed(7, 3, i)) for i in range(4)])
    flow = make_solver("euler").bind(field, generator.method.path)
    assert torch.allclose(drawn, sample(flow, x, time_grid("uniform", 3, generator.method.path), LABELS), atol=1e-6)


def test_a_learned_variance_is_drawn_with_and_guided():
    method = {"name": "generative", "path": {"name": "ddpm", "steps": 20}, "prediction": "noise", "times": "discrete"}
    torch.manual_seed(0)
    made = build_generator(replace(CONFIG, method={**method, "learned_variance": True, "clip": 1.0}))
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    made.loss({"data": images, "cond": LABELS}, torch.Generator().manual_seed(0)).mean().backward()
    made.eval().requires_grad_(False)
    drawn = {}
    for solver in ("ddpm", "ddpm_learned"):
        made.configure(SamplerConfig(solver, 5))
        drawn[solver], calls = made.draw(LABELS, [keyed(7, 3, i) for i in range(4)], 2.5)
        assert drawn[solver].shape == (4, 1, 32, 32) and drawn[solver].isfinite().all() and calls == 10
    assert not torch.equal(*drawn.values())
    found = bits_per_dimension(
        made, LabeledImages(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), LABELS[:2]), 2, 2, 20
    )
    assert found["ddpm_bound"]["steps"] > 0


def test_an_image_does_not_depend_on_its_batch(generator):
    together = draw_images(generator, LABELS, seed=1).images
    assert torch.allclose(together[:2], draw_images(generator, LABELS[:2], seed=1).images, atol=1e-5)
    assert not torch.allclose(together, draw_images(generator, LABELS, seed=2).images, atol=0.1)


def test_a_trajectory_ends_in_the_images(generator):
    states = draw_images(generator, LABELS, seed=1, trajectory=True).images
    assert states.shape == (4, 4, 1, 32, 32)
    assert torch.equal(states[-1], draw_images(generator, LABELS, seed=1).images)


def test_any_solver_on_another_path(generator):
    generator.configure(SamplerConfig("ddpm", 4, "ddpm_trailing"), DiscretePath(1000))
    first, calls = draw_images(generator, LABELS, seed=1, guidance=3.0)
    assert calls == 8 and first.isfinite().all()
    assert torch.equal(first, draw_images(generator, LABELS, seed=1, guidance=3.0).images)


def test_guidance_without_label_dropout_is_refused():
    with pytest.raises(ValueError, match="without label dropout.*condition_dropout=0.1"):
        build_generator(NO_DROPOUT).field(3.0)
    with pytest.raises(ValueError, match="without label dropout"):
        build_generator(replace(CONFIG, images=ImageConfig(condition_dropout=0.0)))
    build_generator(NO_DROPOUT).field()


def test_bad_requests_are_refused(generator):
    for labels in (torch.tensor([10]), torch.tensor([-1]), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="integers from 0 to 9"):
            generator.draw(labels, [keyed(0)])
    with pytest.raises(ValueError, match="at least one label"):
        draw_images(generator, LABELS[:0], seed=0)
    with pytest.raises(ValueError, match="bfloat16"):
        draw_images(generator, LABELS, seed=0, precision="float16")
    with pytest.raises(ValueError, match="steps=0; expected an integer >= 1"):
        generator.configure(SamplerConfig(steps=0))
    with pytest.raises(ValueError, match="method.name='regression'"):
        build_generator(replace(CONFIG, method={"name": "regression"}))
    with pytest.raises(ValueError, match="found.kind=policy; expected images"):
        build_generator(replace(CONFIG, found=FoundInData()))


@pytest.mark.parametrize("version", [1, 2])
def test_checkpoints_are_loaded(generator, tmp_path, version):
    config = plain(CONFIG)
    if version == 1:  # as earlier releases wrote them
        config = {name: config[name] for name in ("net", "method", "images")} | {"dataset": {"name": "mnist"}}
    weights = {"model": generator.state_dict(), "ema": generator.state_dict()}
    path = checkpoint.write(tmp_path, 1, weights, config, {})
    again = load_generator(path)
    assert torch.equal(draw_images(again, LABELS, 0).images, draw_images(generator, LABELS, 0).images)
    other = load_generator(path, SamplerConfig(steps=1))
    assert draw_images(other, LABELS, 0, guidance=1.0).calls == 1
    with pytest.raises(CheckpointError, match="a checkpoint of images; expected one of a policy"):
        load_policy(path)


def test_other_checkpoints_are_refused(generator, tmp_path):
    policy = checkpoint.write(tmp_path, 1, {"ema": generator.state_dict()}, {"policy": {}}, {})
    with pytest.raises(CheckpointError, match="a checkpoint of policy; expected one of images"):
        load_generator(policy)
    strange = checkpoint.write(tmp_path, 2, {"ema": generator.state_dict()}, {"version": 9}, {})
    with pytest.raises(CheckpointError, match="config version 9"):
        load_generator(strange)


def test_images_of_several_channels_and_labels():
    found = FoundInData(kind="images", image_shape=[3, 16, 16], labels=4)
    generator = build_generator(replace(CONFIG, found=found)).eval().requires_grad_(False)
    images, _ = draw_images(generator, torch.arange(4), seed=0)
    assert images.shape == (4, 3, 16, 16) and tiled(images, 2).shape == (38, 38, 3)
    with pytest.raises(ValueError, match="integers from 0 to 3"):
        draw_images(generator, torch.tensor([4]), seed=0)


def test_what_is_found_in_images():
    images = LabeledImages(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.arange(6) % 2)
    found = found_in(images, 2)
    assert (found.kind, found.image_shape, found.labels) == ("images", [3, 8, 8], 2)
    assert found.digest == images.digest()


def test_files_that_show_images(generator, tmp_path):
    states = draw_images(generator, LABELS, seed=1, trajectory=True).images
    save_grid(tmp_path / "grid.png", [("a", states[-1]), ("b", states[0])], 2)
    save_animation(tmp_path / "noise_to_images.gif", list(states), 2)
    assert (tmp_path / "grid.png").stat().st_size > 1000
    from PIL import Image

    with Image.open(tmp_path / "noise_to_images.gif") as animation:
        assert animation.n_frames == 4 and animation.size == (2 * 34 + 2, 2 * 34 + 2)
    sheet = tiled(torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 1.0, 3.0)]), columns=2, margin=1)
    assert sheet.shape == (11, 11, 1)
    sheet = sheet[..., 0]
    assert (sheet[1:5, 1:5] == 0).all() and (sheet[1:5, 6:10] == 255).all() and (sheet[6:10, 1:5] == 255).all()
    assert (sheet[6:10, 6:10] == 40).all()


SMALL_DIT = {"name": "dit2d", "width": 16, "layers": 1, "heads": 2, "features": 8, "time_features": 4, "patch": 8}


@pytest.mark.parametrize("net", [CONFIG.net, SMALL_DIT], ids=["unet2d", "dit2d"])
def test_images_by_jumps(net):
    """A network of two times draws in as many calls as steps, at the guidance that it was taught and no other."""
    method = {"name": "mean_flow", "path": {"name": "linear"}, "steps": 2}
    config = replace(CONFIG, net=net, method=method, images=ImageConfig(guidance=1.5))
    torch.manual_seed(0)
    generator = build_generator(config)
    for p in generator.parameters():
        torch.nn.init.normal_(p, std=0.1)
    batch = {"data": torch.randn(4, 1, 32, 32).clamp(-1, 1), "cond": LABELS}
    loss = generator.loss(batch, keyed(1))
    assert loss.shape == (4,) and bool(loss.isfinite().all())
    loss.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(generator.loss(batch, keyed(1)), loss, rtol=0.05, atol=0.05)
    generator.eval().requires_grad_(False)
    noises = [keyed(7, 3, i) for i in range(4)]
    images, calls = generator.draw(LABELS, noises)
    assert images.shape == (4, 1, 32, 32) and calls == 2
    generator.configure(SamplerConfig(steps=3))
    assert generator.draw(LABELS, noises).calls == 3
    with pytest.raises(ValueError, match=r"guidance=3 .*taught to jump with 1.5"):
        generator.draw(LABELS, noises, 3.0)
    with pytest.raises(ValueError, match="method=flow, ddpm, v or score"):
        generator.field()


def test_a_transformer_draws_as_a_unet_does():
    config = replace(CONFIG, net=SMALL_DIT)
    torch.manual_seed(0)
    generator = build_generator(config).eval().requires_grad_(False)
    for p in generator.parameters():
        torch.nn.init.normal_(p, std=0.1)
    together = draw_images(generator, LABELS, seed=1).images
    assert torch.allclose(together[:2], draw_images(generator, LABELS[:2], seed=1).images, atol=1e-5)


@pytest.mark.parametrize("net", [CONFIG.net, SMALL_DIT], ids=["unet2d", "dit2d"])
@pytest.mark.parametrize("path", ["mask", "uniform"])
def test_images_of_tokens(net, path):
    """Digits of four gray levels: what is learned and drawn are those levels and no others."""
    method = {"name": "discrete", "path": path, "levels": 4, "width": 4, "steps": 5}
    config = replace(CONFIG, net=net, method=method, images=ImageConfig(guidance=2.0, dequantize=True))
    torch.manual_seed(0)
    generator = build_generator(config)
    batch = {"data": torch.randn(4, 1, 32, 32).clamp(-1, 1), "cond": LABELS}
    loss = generator.loss(batch, keyed(1))
    loss.sum().backward()
    assert loss.shape == (4,) and bool(loss.isfinite().all())
    generator.eval().requires_grad_(False)
    images, calls = generator.draw(LABELS, [keyed(7, i) for i in range(4)])
    assert images.shape == (4, 1, 32, 32) and calls == 10
    torch.testing.assert_close(images.unique(), torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    alone = generator.draw(LABELS[2:3], [keyed(7, 2)]).images
    assert float((alone[0] != images[2]).float().mean()) < 0.01  # but for ties that rounding decides
    states = generator.draw(LABELS, [keyed(7, i) for i in range(4)], 1.0, trajectory=True)
    assert states.images.shape == (6, 4, 1, 32, 32) and states.calls == 5
    with pytest.raises(ValueError, match="token to token"):
        generator.field()
    with pytest.raises(ValueError, match="a generator of pixels by method=flow"):
        bits_per_dimension(generator, LabeledImages(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), LABELS[:2]))
    with pytest.raises(ValueError, match="expected images.guidance"):
        build_generator(replace(config, method={**method, "guidance": 2.0}))
    with pytest.raises(ValueError, match="one with a path"):
        build_generator(replace(config, method={"name": "mean_flow"}))
    with pytest.raises(ValueError, match="tau_leaping, euler"):
        generator.configure(SamplerConfig("ddim"))
