"""Encoders that begin with weights of a file or of another run, stay frozen, and are shared by cameras."""

import re

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.nets.resnet import ResNet18
from diffpolicy.policies import Policy, build_actor, observed_by
from diffpolicy.training import TrainConfig, train
from diffpolicy.training.distributed import Ranks
from diffpolicy.training.loop import keyed_generator

T_O, T_P = 2, 8
LIGHT = {"name": "image", "crop": 12, "widths": [8, 16], "keypoints": 3}
RESNET = {"name": "resnet18", "crop": 33, "width": 16, "keypoints": 3}
CAMERAS = {"front": [36, 34, 3], "wrist": [36, 34, 3]}


def _config(encoder=RESNET, cameras=CAMERAS, **options):
    return {
        "policy": {"obs_horizon": T_O, "horizon": T_P, "action_horizon": 4},
        "dataset": {"obs_keys": ["agent"]},
        "method": {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 2},
        "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
        "encoder": {**encoder, **options},
        "cameras": cameras,
        "training": {"steps": 6},
    }


def _actor(config, begins=False):
    torch.manual_seed(0)
    return build_actor(config, 2, 2, begins)


def _batch(step, rows=4):
    generator = keyed_generator(7, step)
    pictures = {
        name: torch.randint(0, 256, (rows, T_O, *shape), dtype=torch.uint8, generator=generator)
        for name, shape in CAMERAS.items()
    }
    cond = torch.randn(rows, T_O * 2, generator=generator)
    return {"cond": cond, "data": torch.randn(rows, T_P, 2, generator=generator), **pictures}


def _loss(model, batch, generator):
    return model.loss(batch, generator)


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


def _saved(folder, config, actor):
    tensors = actor.state_dict()
    rng = np.random.default_rng(0)
    normalizer = Normalizer.fit({"obs": rng.random((9, 2)), "action": rng.random((9, 2))})
    groups = {"model": tensors, "ema": tensors, "normalizer": normalizer.to_tensors()}
    return checkpoint.write(folder, 1, groups, config, {})


def _is_published(trunk, path):
    weights = load_file(path)
    return all(torch.equal(weight, weights[name]) for name, weight in trunk.state_dict().items())


def test_a_published_file_fills_the_trunks_when_training_begins_and_is_not_needed_later(published, tmp_path):
    config = _config(weights=str(published))
    plain, actor = _actor(config), _actor(config, begins=True)
    for camera, encoder in actor.encoders.items():
        assert _is_published(encoder.trunk, published)
        assert not _is_published(plain.encoders[camera].trunk, published)
        assert torch.equal(encoder.pool.maps.weight, plain.encoders[camera].pool.maps.weight)
        assert encoder.trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    saved = _saved(tmp_path, config, actor)
    here = load_file(published)
    published.unlink()
    loaded = load_policy(saved).actor.encoders["wrist"].trunk.state_dict()
    assert all(torch.equal(weight, here[name]) for name, weight in loaded.items())


@pytest.mark.parametrize("what", ["best", "best/ema.safetensors"])
@pytest.mark.parametrize("encoder", [LIGHT, RESNET])
def test_another_runs_encoders(tmp_path, encoder, what):
    before = _actor(_config(encoder))
    _saved(tmp_path, _config(encoder), before)
    checkpoint.point(tmp_path, "best", checkpoint.step_name(1))
    torch.manual_seed(1)
    actor = build_actor(_config(encoder, weights=str(tmp_path / what)), 2, 2, begins=True)
    for camera, own in actor.encoders.items():
        for name, weight in own.state_dict().items():
            assert torch.equal(weight, before.encoders[camera].state_dict()[name]), name
    one = {"side": [36, 34, 3]}
    with pytest.raises(checkpoint.CheckpointError, match=r"cameras \['front', 'wrist'\] and none of 'side'"):
        _actor(_config(encoder, one, weights=str(tmp_path / what)), begins=True)


def test_the_only_encoder_of_another_run_is_for_every_camera(tmp_path):
    before = _actor(_config(LIGHT, shared=True))
    saved = _saved(tmp_path, _config(LIGHT, shared=True), before)
    torch.manual_seed(1)
    actor = build_actor(_config(LIGHT, weights=str(saved)), 2, 2, begins=True)
    assert len(actor.encoders) == 2
    for encoder in actor.encoders.values():
        assert torch.equal(encoder.layers[0].conv.weight, before.encoders["front"].layers[0].conv.weight)


def _without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("layer2.0.downsample.0.weight"), r"layer2\.0\.downsample\.0\.weight: checkpoint nothing"),
        (_without("bn1.bias"), r"bn1\.bias: checkpoint nothing, network \(16,\)"),
        (lambda w: {**w, "conv1.weight": torch.zeros(16, 1, 7, 7)}, r"conv1\.weight: checkpoint \(16, 1, 7, 7\)"),
        (
            lambda w: {**w, "layer5.0.weight": torch.zeros(1)},
            r"layer5\.0\.weight: checkpoint \(1,\), network nothing",
        ),
    ],
)
def test_files_that_do_not_fit(published, change, message):
    save_file(change(load_file(published)), published)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        _actor(_config(weights=str(published)), begins=True)


def test_files_that_are_refused(tmp_path):
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(b"\x80\x04 not a safetensors file")
    for path, kind, message in [
        (damaged, ValueError, r"weights\.safetensors is no \.safetensors file"),
        (tmp_path / "none.safetensors", FileNotFoundError, r"no weights at .*none\.safetensors"),
        (tmp_path, checkpoint.CheckpointError, "no complete checkpoint"),
        (tmp_path / "resnet18.pth", ValueError, r"resnet18\.pth is pickled.*give a \.safetensors"),
    ]:
        with pytest.raises(kind, match=message):
            _actor(_config(weights=str(path)), begins=True)
    with pytest.raises(ValueError, match=r"encoder\.weights=x\.safetensors is for pictures"):
        _actor(_config(cameras={}, weights="x.safetensors"))


def test_a_pickled_file_is_not_opened_and_the_error_says_how_to_convert_it(tmp_path, published, monkeypatch):
    weights, pickled = load_file(published), tmp_path / "weights.pth"
    torch.save(weights, pickled)
    with pytest.raises(ValueError, match="pickled") as refused:
        _actor(_config(weights=str(pickled)), begins=True)
    command = re.search(r'python -c "(.*)"$', str(refused.value))[1]
    monkeypatch.chdir(tmp_path)
    exec(command)
    actor = _actor(_config(weights=str(tmp_path / "weights.safetensors")), begins=True)
    assert _is_published(actor.encoders["front"].trunk, published)


def _trained(config, run_dir, batch_at=_batch, begins=True, **options):
    settings = TrainConfig(steps=6, warmup_steps=1, lr=1e-2, weight_decay=0.1, checkpoint_every=3)
    arguments = {"seed": 1, "record": config, "progress": False, "speed": "float32"} | options
    return train(_actor(config, begins), _loss, batch_at, settings, run_dir, **arguments)


@pytest.mark.parametrize("shared", [False, True])
def test_a_frozen_trunk_is_kept_and_a_killed_run_goes_on_without_the_file(tmp_path, published, shared):
    config = _config(weights=str(published), frozen=True, shared=shared)
    whole = checkpoint.read(_trained(config, tmp_path / "whole"))
    first = _actor(config, begins=True)
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
    resumed = _trained(config, tmp_path / "broken", begins=False, resume=True)
    for group in ("model", "ema", "training"):
        files = [path / f"{group}.safetensors" for path in (whole.path, resumed)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_frozen_cannot_be_trained_further_in_the_same_run(tmp_path, published):
    _trained(_config(weights=str(published), frozen=True), tmp_path)
    with pytest.raises(ValueError, match=r"encoder\.frozen: was True, now False"):
        _trained(_config(weights=str(published), frozen=False), tmp_path, resume=True)


def test_frozen_needs_weights():
    with pytest.raises(ValueError, match=r"encoder\.frozen=true keeps pretrained weights.*encoder\.weights"):
        _actor(_config(frozen=True))


def test_runs_from_before_these_options_go_on(tmp_path):
    _trained(_config(LIGHT), tmp_path)
    off = _config(LIGHT, weights=None, frozen=False, shared=False)
    _trained(off, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"encoder\.shared: was None, now True"):
        _trained(_config(LIGHT, shared=True), tmp_path, resume=True)


@pytest.mark.parametrize("shared", [False, True])
def test_several_processes_take_frozen_and_shared_encoders(published, shared):
    """As each of them does it, in a group of one, whose gradients are its own."""
    config = _config(weights=str(published), frozen=True, shared=shared)
    alone, grouped = _actor(config, begins=True), _actor(config, begins=True)

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
    config, apart = _config(LIGHT, shared=True), _actor(_config(LIGHT))
    actor = _actor(config)
    assert list(actor.encoders) == ["front"] and list(apart.encoders) == ["front", "wrist"]
    size = sum(weight.numel() for weight in apart.encoders["front"].parameters())
    total = [sum(weight.numel() for weight in each.parameters()) for each in (actor, apart)]
    assert total[1] - total[0] == size
    batch = _batch(0)
    swapped = {**batch, "front": batch["wrist"], "wrist": batch["front"]}
    for each, same in ((actor, True), (apart, False)):
        features = [each.eval()._encoded(seen, {}).sort().values for seen in (batch, swapped)]
        assert torch.equal(*features) == same
    actor.loss(batch, torch.Generator().manual_seed(0)).mean().backward()
    one = [weight.grad for weight in actor.encoders["front"].trunk.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in one)
    saved = _saved(tmp_path, config, actor)  # every weight once
    loaded = load_policy(saved)
    assert list(loaded.actor.encoders) == ["front"]
    assert all(torch.equal(a, b) for a, b in zip(loaded.actor.parameters(), actor.parameters(), strict=True))


def test_cameras_of_other_shapes_cannot_share():
    cameras = {"front": [16, 16, 3], "wrist": [14, 16, 3]}
    with pytest.raises(ValueError, match=r"shared=true.*'front': \(16, 16, 3\), 'wrist': \(14, 16, 3\)"):
        _actor(_config(LIGHT, cameras, shared=True))


def test_an_encoder_that_a_camera_is_too_small_for_names_the_camera():
    with pytest.raises(ValueError, match=r"camera 'wrist': crop=12 must lie within an image of 10 × 16 px"):
        _actor(_config(LIGHT, {"front": [16, 16, 3], "wrist": [10, 16, 3]}))


@pytest.mark.parametrize("shared", [False, True])
def test_features_are_computed_once_a_chunk(shared):
    config = _config(LIGHT, shared=shared)
    actor = _actor(config).eval()
    actor.configure("euler", 10, None, None)
    rng = np.random.default_rng(0)
    normalizer = Normalizer.fit({"obs": rng.random((9, 2)), "action": rng.random((9, 2))})
    policy, seen = Policy(actor, normalizer, T_O, T_P, 4, cameras=observed_by(config)), []
    for encoder in actor.encoders.values():
        encoder.register_forward_hook(lambda *_: seen.append(1))
    obs = {name: values.numpy() for name, values in _batch(0).items()} | {"agent": np.zeros((4, T_O, 2))}
    policy.predict(obs)
    assert actor.calls == 10 and len(seen) == 2  # one for each camera
