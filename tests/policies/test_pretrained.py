"""Encoders that begin with weights of a file or of another run, stay frozen, and are shared by cameras."""

import dataclasses
import re

import pytest
import tiny_policy as tiny
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from diffpolicy import checkpoint, load_policy
from diffpolicy.config import PolicyConfig
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.nets.resnet import ResNet18
from diffpolicy.policies import build_model
from diffpolicy.training import TrainConfig, train
from diffpolicy.training.distributed import Ranks
from diffpolicy.training.retention import point
from diffpolicy.util.seeds import generator as keyed_generator

T_O, T_P = 2, 8
LIGHT = {"name": "image", "crop": 12, "widths": [8, 16], "keypoints": 3}
RESNET = {"name": "resnet18", "crop": 33, "width": 16, "keypoints": 3}
CAMERAS = {"front": [36, 34, 3], "wrist": [36, 34, 3]}


def _config(encoder=RESNET, cameras=CAMERAS, **options):
    run = tiny.config({**tiny.METHODS["flow"], "steps": 2}, cameras)
    run.policy = PolicyConfig(T_O, T_P, 4)
    run.encoder = {**encoder, **options}
    return run


def _model(run, for_training=False, seed=0):
    torch.manual_seed(seed)
    return build_model(run, ObservationSpec.from_plain(run.found.observation), 2, for_training=for_training)


def _batch(step, count=4):
    generator = keyed_generator(7, step)
    images = {
        name: torch.randint(0, 256, (count, T_O, *shape), dtype=torch.uint8, generator=generator)
        for name, shape in CAMERAS.items()
    }
    vectors = torch.randn(count, T_O, 3, generator=generator)
    return {"obs": vectors, "action": torch.randn(count, T_P, 2, generator=generator), **images}


@pytest.fixture
def published(tmp_path):
    """A file as published ones are: batch norms with their statistics, and the last layer."""
    torch.manual_seed(5)
    weights = {name: torch.randn_like(weight) for name, weight in ResNet18(width=16).state_dict().items()}
    for name in [name.removesuffix("weight") for name in weights if "bn" in name or "downsample.1." in name]:
        norm = name.removesuffix("bias")
        weights[f"{norm}running_mean"], weights[f"{norm}running_var"] = torch.ones(3), torch.ones(3)
        weights[f"{norm}num_batches_tracked"] = torch.tensor(9)
    weights |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "resnet18.safetensors"
    save_file(weights, path)
    return path


def _saved(folder, run, model):
    return tiny.save(folder, run, model, step=1)


def _is_published(trunk, path):
    weights = load_file(path)
    return all(torch.equal(weight, weights[name]) for name, weight in trunk.state_dict().items())


def test_a_published_file_fills_the_trunks_when_training_for_training_and_is_not_needed_later(published, tmp_path):
    config = _config(weights=str(published))
    plain, model = _model(config), _model(config, for_training=True)
    for camera, encoder in model.encoders.items():
        assert _is_published(encoder.trunk, published)
        assert not _is_published(plain.encoders[camera].trunk, published)
        assert torch.equal(encoder.pool.maps.weight, plain.encoders[camera].pool.maps.weight)
        assert encoder.trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    saved = _saved(tmp_path, config, model)
    here = load_file(published)
    published.unlink()
    loaded = load_policy(saved).model.encoders["wrist"].trunk.state_dict()
    assert all(torch.equal(weight, here[name]) for name, weight in loaded.items())


@pytest.mark.parametrize("what", ["best", "best/ema.safetensors"])
@pytest.mark.parametrize("encoder", [LIGHT, RESNET])
def test_another_runs_encoders(tmp_path, encoder, what):
    before = _model(_config(encoder))
    _saved(tmp_path, _config(encoder), before)
    point(tmp_path, "best", checkpoint.step_name(1))
    model = _model(_config(encoder, weights=str(tmp_path / what)), for_training=True, seed=1)
    for camera, own in model.encoders.items():
        for name, weight in own.state_dict().items():
            assert torch.equal(weight, before.encoders[camera].state_dict()[name]), name
    one = {"side": [36, 34, 3]}
    with pytest.raises(checkpoint.CheckpointError, match=r"cameras \['front', 'wrist'\] and none of 'side'"):
        _model(_config(encoder, one, weights=str(tmp_path / what)), for_training=True)


def test_the_only_encoder_of_another_run_is_for_every_camera(tmp_path):
    before = _model(_config(LIGHT, shared=True))
    saved = _saved(tmp_path, _config(LIGHT, shared=True), before)
    model = _model(_config(LIGHT, weights=str(saved)), for_training=True, seed=1)
    assert len(model.encoders) == 2
    for encoder in model.encoders.values():
        assert torch.equal(encoder.layers[0].conv.weight, before.encoders["front"].layers[0].conv.weight)


def _without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("layer2.0.downsample.0.weight"), r"layer2\.0\.downsample\.0\.weight: checkpoint nothing"),
        (_without("bn1.bias"), r"bn1\.bias: checkpoint nothing, network \(16,\)"),
        (
            lambda w: {**w, "conv1.weight": torch.zeros(16, 1, 7, 7)},
            r"for images of 1 channels, and camera 'front' has 3; leave encoder\.weights",
        ),
        (
            lambda w: {**w, "layer5.0.weight": torch.zeros(1)},
            r"layer5\.0\.weight: checkpoint \(1,\), network nothing",
        ),
    ],
)
def test_files_that_do_not_fit(published, change, message):
    save_file(change(load_file(published)), published)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        _model(_config(weights=str(published)), for_training=True)


def test_files_that_are_refused(tmp_path):
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(b"\x80\x04 not a safetensors file")
    for path, kind, message in [
        (damaged, ValueError, r"weights\.safetensors is no \.safetensors file"),
        (tmp_path / "none.safetensors", FileNotFoundError, r"no weights at .*none\.safetensors"),
        (tmp_path, checkpoint.CheckpointError, "no complete checkpoint"),
        (tmp_path / "resnet18.pth", ValueError, r"resnet18\.pth is pickled.*expected a \.safetensors"),
    ]:
        with pytest.raises(kind, match=message):
            _model(_config(weights=str(path)), for_training=True)
    with pytest.raises(ValueError, match=r"encoder\.weights=x\.safetensors; expected images"):
        _model(_config(cameras=None, weights="x.safetensors"))


def test_a_pickled_file_is_not_opened_and_the_error_says_how_to_convert_it(tmp_path, published, monkeypatch):
    weights, pickled = load_file(published), tmp_path / "weights.pth"
    torch.save(weights, pickled)
    with pytest.raises(ValueError, match="pickled") as refused:
        _model(_config(weights=str(pickled)), for_training=True)
    command = re.search(r'python -c "(.*)"$', str(refused.value))[1]
    monkeypatch.chdir(tmp_path)
    exec(command)
    model = _model(_config(weights=str(tmp_path / "weights.safetensors")), for_training=True)
    assert _is_published(model.encoders["front"].trunk, published)


def _trained(config, run_dir, batch_at=_batch, for_training=True, **options):
    settings = TrainConfig(steps=6, warmup_steps=1, lr=1e-2, weight_decay=0.1, checkpoint_every=3)
    arguments = {
        "seed": 1,
        "record": dataclasses.replace(config, training=settings),
        "progress": False,
        "speed": "float32",
    } | options
    return train(_model(config, for_training), batch_at, settings, run_dir, **arguments)


@pytest.mark.parametrize("shared", [False, True])
def test_a_frozen_trunk_is_kept_and_a_killed_run_goes_on_without_the_file(tmp_path, published, shared):
    config = _config(weights=str(published), frozen=True, shared=shared)
    whole = checkpoint.read(_trained(config, tmp_path / "whole"))
    first = _model(config, for_training=True)
    names = [name for name, _ in ResNet18().named_parameters()]
    frozen = {f"encoders.{camera}.trunk.{name}" for camera in first.encoders for name in names}
    assert len(frozen) == (1 if shared else 2) * 60
    for group in ("model", "ema"):
        for name, weight in whole.tensors(group).items():
            kept = torch.equal(weight, first.state_dict()[name])
            assert kept == (name in frozen) or name.endswith(("null_cond", "maps.bias")), name
    trained = [parameter for parameter in first.parameters() if parameter.requires_grad]
    moments = [value for name, value in whole.tensors("training").items() if name.endswith("exp_avg")]
    assert sum(value.numel() for value in moments) <= sum(parameter.numel() for parameter in trained)

    def kill(step):
        if step == 4:
            published.unlink()
            raise KeyboardInterrupt
        return _batch(step)

    with pytest.raises(KeyboardInterrupt):
        _trained(config, tmp_path / "broken", kill)
    resumed = _trained(config, tmp_path / "broken", for_training=False, resume=True)
    for group in ("model", "ema", "training"):
        files = [path / f"{group}.safetensors" for path in (whole.path, resumed)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_frozen_cannot_be_trained_further_in_the_same_run(tmp_path, published):
    _trained(_config(weights=str(published), frozen=True), tmp_path)
    with pytest.raises(ValueError, match=r"encoder\.frozen: was True, now False"):
        _trained(_config(weights=str(published), frozen=False), tmp_path, resume=True)


def test_frozen_needs_weights():
    with pytest.raises(ValueError, match=r"encoder\.frozen=true without encoder\.weights"):
        _model(_config(frozen=True))


@pytest.mark.parametrize("shared", [False, True])
def test_several_processes_take_frozen_and_shared_encoders(published, shared):
    """As each of them does it, in a group of one, whose gradients are its own."""
    config = _config(weights=str(published), frozen=True, shared=shared)
    alone, grouped = _model(config, for_training=True), _model(config, for_training=True)

    class Losses(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = grouped

        def forward(self, batch, generator):
            return self.model.loss(batch, generator).mean()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = Ranks(0, 2).parallel(Losses(), torch.device("cpu"))
        for step in range(2):
            parallel(_batch(step), keyed_generator(step)).backward()
            alone.loss(_batch(step), keyed_generator(step)).mean().backward()
    finally:
        dist.destroy_process_group()
    for (name, own), other in zip(grouped.named_parameters(), alone.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None) and own.requires_grad == (".trunk." not in name), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad)


def test_cameras_share_one_encoder(tmp_path):
    config, apart = _config(LIGHT, shared=True), _model(_config(LIGHT))
    model = _model(config)
    assert list(model.encoders) == ["front"] and list(apart.encoders) == ["front", "wrist"]
    size = sum(weight.numel() for weight in apart.encoders["front"].parameters())
    total = [sum(weight.numel() for weight in each.parameters()) for each in (model, apart)]
    assert total[1] - total[0] == size
    batch = _batch(0)
    swapped = {**batch, "front": batch["wrist"], "wrist": batch["front"]}
    for each, same in ((model, True), (apart, False)):
        features = [each.eval().condition(seen).vector.sort().values for seen in (batch, swapped)]
        assert torch.equal(*features) == same
    model.loss(batch, torch.Generator().manual_seed(0)).mean().backward()
    one = [weight.grad for weight in model.encoders["front"].trunk.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in one)
    saved = _saved(tmp_path, config, model)  # every weight once
    loaded = load_policy(saved)
    assert list(loaded.model.encoders) == ["front"]
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))


def test_cameras_of_other_shapes_cannot_share():
    cameras = {"front": [16, 16, 3], "wrist": [14, 16, 3]}
    with pytest.raises(ValueError, match=r"shared=true .*front \(16, 16, 3\), wrist \(14, 16, 3\)"):
        _model(_config(LIGHT, cameras, shared=True))
