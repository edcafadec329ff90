"""Latents of images: the autoencoder's loss in closed form, what a generator of latents keeps, what is refused."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpolicy import checkpoint, train_policy
from diffpolicy.config import FoundInData, ImageConfig, RunConfig, load_config, plain
from diffpolicy.config.compose import compose
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.images import build_autoencoder, load_generator, prepared
from diffpolicy.images.density import bits_per_dimension
from diffpolicy.images.latent import Latents, load_latents
from diffpolicy.nets.autoencoder import ImageAutoencoder
from diffpolicy.util.seeds import generator as keyed

NET = {"name": "autoencoder", "latent": 2, "widths": [8, 8]}
LABELS = torch.tensor([3, 1, 4, 1])


def images(count: int = 64, side: int = 8) -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    return LabeledImages(
        torch.randint(256, (count, 1, side, side), generator=generator, dtype=torch.uint8),
        torch.arange(count) % 10,
    )


def config(**changes) -> RunConfig:
    found = FoundInData(kind="autoencoder", image_shape=[1, 8, 8])
    return replace(RunConfig(net=NET, method={"name": "autoencoder", "kl_weight": 0.5}, found=found), **changes)


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of an untrained autoencoder, with weights that are not 0."""
    torch.manual_seed(0)
    model = build_autoencoder(config())
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    tensors = dict(model.state_dict())
    return checkpoint.write(tmp_path / "autoencoder", 5, {"model": tensors, "ema": tensors}, plain(config()), {})


def test_shapes_and_what_does_not_fit():
    net = ImageAutoencoder(3, latent=5, widths=(8, 16, 16))
    mean, log_variance = net.encode(torch.randn(2, 3, 16, 8))
    assert mean.shape == log_variance.shape == (2, 5, 4, 2)
    assert net.decode(mean).shape == (2, 3, 16, 8)
    with pytest.raises(ValueError, match="multiples of 4"):
        net.encode(torch.randn(2, 3, 10, 8))
    with pytest.raises(ValueError, match=r"\(B, 5, h, w\)"):
        net.decode(torch.randn(2, 4, 4, 2))
    with pytest.raises(ValueError, match="multiples of 8"):
        ImageAutoencoder(1, widths=(8, 12))


def test_the_loss_is_the_error_and_the_divergence_per_pixel():
    """Constant networks: q = N(m, s²) in every latent, and the decoder says c."""
    model = build_autoencoder(config())
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    m, log_variance, c = 0.7, -1.0, 0.25
    with torch.no_grad():
        model.net.encoder[-1].bias.copy_(torch.tensor([m, m, log_variance, log_variance]))
        model.net.decoder[-1].bias.fill_(c)
    data = images(5).batch(torch.arange(5))["data"]
    divergence = 0.5 * (m**2 + math.exp(log_variance) - 1 - log_variance) * 2 * 4 * 4
    wanted = (data - c).square().flatten(1).mean(1) + 0.5 * divergence / 64
    torch.testing.assert_close(model.loss({"data": data}, keyed(0)), wanted)


def test_latents_have_mean_0_and_variance_1_and_come_back(trained):
    latents, record = load_latents(trained, (1, 8, 8))
    assert record == {"net": NET, "step": 5, "sha256": checkpoint.read(trained).sha256["ema.safetensors"]}
    assert not any(p.requires_grad for p in latents.parameters())
    some = images(512)
    latents.fit(some)
    data = some.batch(torch.arange(512))["data"]
    z = latents.encode(data, keyed(1))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=0.05)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), rtol=0.05, atol=0)
    raw = z * latents.scale + latents.center
    assert torch.equal(latents.decode(z), latents.net.decode(raw))


def generator_config(trained, **changes) -> RunConfig:
    net = {"name": "unet2d", "widths": [8, 16], "layers": 1, "features": 8, "block": "adaptive", "patch": 1}
    method = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 3}
    return replace(RunConfig(net=net, method=method, images=ImageConfig(autoencoder=str(trained))), **changes)


def test_a_generator_of_latents_is_whole_without_the_autoencoders_file(trained, tmp_path):
    record, generator = prepared(generator_config(trained), images(), 10)
    assert generator.shape == (2, 4, 4) and record.found.image_shape == [1, 8, 8]
    batch = images(4).batch(torch.arange(4))
    loss = generator.loss(batch, keyed(0))
    assert loss.shape == (4,)
    loss.sum().backward()
    assert all(p.grad is None for p in generator.latents.parameters())
    for p in generator.net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    generator.eval()
    noises = [keyed(7, i) for i in range(4)]
    drawn, calls = generator.draw(LABELS, noises, 2.0)
    assert drawn.shape == (4, 1, 8, 8) and calls == 6
    states = generator.draw(LABELS, [keyed(7, i) for i in range(4)], 2.0, trajectory=True).images
    assert states.shape == (4, 4, 1, 8, 8)
    torch.testing.assert_close(states[-1], drawn)

    tensors = dict(generator.state_dict())
    path = checkpoint.write(tmp_path / "latent", 1, {"model": tensors, "ema": tensors}, plain(record), {})
    for file in trained.iterdir():
        file.unlink()
    again = load_generator(path).draw(LABELS, [keyed(7, i) for i in range(4)], 2.0).images
    torch.testing.assert_close(again, drawn)


def test_what_a_generator_of_latents_refuses(trained):
    dequantized = generator_config(trained, images=ImageConfig(dequantize=True, autoencoder=str(trained)))
    with pytest.raises(ValueError, match="latents have no levels"):
        prepared(dequantized, images(), 10)
    with pytest.raises(ValueError, match=r"autoencoder of images \[1, 8, 8\].*one of \[1, 16, 16\]"):
        prepared(generator_config(trained), images(side=16), 10)
    with pytest.raises(checkpoint.CheckpointError):
        prepared(generator_config(trained.parent / "nowhere"), images(), 10)
    _, generator = prepared(generator_config(trained), images(), 10)
    with pytest.raises(ValueError, match="a generator of pixels by method=flow"):
        bits_per_dimension(generator, images())
    other = replace(generator_config(trained), init_from="elsewhere")
    with pytest.raises(ValueError, match="one of the two"):
        prepared(other, images(), 10)
    with pytest.raises(checkpoint.CheckpointError, match="one of images"):
        load_generator(trained)


def test_what_an_autoencoder_refuses():
    with pytest.raises(ValueError, match="kl_weight=-1"):
        build_autoencoder(config(method={"name": "autoencoder", "kl_weight": -1.0}))
    with pytest.raises(ValueError, match="name and kl_weight"):
        build_autoencoder(config(method={"name": "autoencoder", "steps": 3}))
    with pytest.raises(ValueError, match="neither of them"):
        build_autoencoder(config(images=ImageConfig(dequantize=True)))
    with pytest.raises(ValueError, match="net=autoencoder"):
        build_autoencoder(config(net={"name": "unet2d", "widths": [8], "labels": 10}))


def test_latents_are_fitted_by_the_law_of_total_variance():
    latents = Latents(ImageAutoencoder(1, latent=2, widths=(8, 8)))
    for p in latents.net.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        latents.net.encoder[-1].bias.copy_(torch.tensor([1.0, 2.0, 0.0, math.log(4.0)]))
    latents.fit(images())
    assert latents.center.flatten().tolist() == [1.0, 2.0]
    torch.testing.assert_close(latents.scale.flatten(), torch.tensor([1.0, 2.0]))


def test_both_tasks_train_by_the_one_loop(tmp_path):
    """Autoencoder, then flow in its latents, for a few steps each, on the digits."""
    if not (Path(os.environ.get("DIFFPOLICY_DATA", "nowhere")) / "mnist").exists():
        pytest.skip("set DIFFPOLICY_DATA to a folder that holds mnist/*.gz to run this test")
    small = ["training.batch_size=16", "training.steps=2", "training.warmup_steps=1", "device=cpu"]
    first = compose(["task=mnist_autoencoder", f"run_dir={tmp_path / 'a'}", "net.widths=[8,8,8]", *small])
    train_policy(first)
    read = checkpoint.read(tmp_path / "a")
    assert load_config(read.config).found.kind == "autoencoder"
    settings = [f"images.autoencoder={tmp_path / 'a'}", "net.widths=[8,16]", "net.features=8", "net.layers=1"]
    train_policy(compose(["task=mnist_latent", f"run_dir={tmp_path / 'b'}", *settings, *small]))
    for file in (tmp_path / "a").rglob("*.safetensors"):  # a run has its autoencoder from its first checkpoint on
        file.unlink()
    more = [*settings, *small, "training.steps=3", "resume=true"]
    train_policy(compose(["task=mnist_latent", f"run_dir={tmp_path / 'b'}", *more]))
    generator = load_generator(tmp_path / "b")
    assert generator.draw(LABELS, [keyed(i) for i in range(4)]).images.shape == (4, 1, 32, 32)
    with pytest.raises(ValueError, match=r"images.autoencoder is empty.*task=mnist_autoencoder"):
        train_policy(compose(["task=mnist_latent", f"run_dir={tmp_path / 'c'}"]))
