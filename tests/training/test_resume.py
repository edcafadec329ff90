"""What a run may be resumed with, what it refuses, how it is extended, and how a new one starts from its weights."""

import dataclasses
import json
import shutil

import minimal
import pytest
import torch
import yaml

from diffpolicy import checkpoint
from diffpolicy.config import DatasetConfig, FoundInData, ObservationConfig, RunConfig, TrainConfig, plain
from diffpolicy.training.log import read_metrics
from diffpolicy.training.optim import Schedule, learning_rate_factor
from diffpolicy.util.files import sha256

TRAINING = TrainConfig(**minimal.SETTINGS)
RECORD = RunConfig(
    run_dir="here",
    seed=1,
    dataset=DatasetConfig(path="data/a"),
    net={"name": "unet1d", "widths": [8, 16]},
    method={"name": "flow"},
    encoder={"name": "image"},
    training=TRAINING,
    found=FoundInData(digest="ab" * 32),
)
NORMALIZER = {"normalizer": {"scale": torch.tensor([15.7, 2.0])}}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was stopped before its first step."""
    return _run(tmp_path_factory.mktemp("begun") / "run", max_minutes=0.0).parents[1]


@pytest.fixture
def run_dir(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run", symlinks=True)


def _run(run_dir, record=RECORD, **options):
    return minimal.run(run_dir, record=record, **{"extras": NORMALIZER, "steps": record.training.steps} | options)


def _changed(section=None, **values):
    return dataclasses.replace(RECORD, **{section: dataclasses.replace(getattr(RECORD, section), **values)})


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(
            RECORD, run_dir="there", device="cuda", max_minutes=1, evaluation_episodes=9, resume=True
        ),
        _changed("training", log_every=3, keep_best=1, evaluate_every=2, evaluate_from=6, checkpoint_every=0),
        _changed("dataset", path="elsewhere/a/"),
        dataclasses.replace(RECORD, encoder={"name": "resnet18"}),  # without cameras there is none
        dataclasses.replace(RECORD, net={**RECORD.net, "new_switch": False, "skips": True}),
    ],
)
def test_settings_that_affect_no_result_may_change(run_dir, whole, record):
    assert minimal.digests(_run(run_dir, record, resume=True)) == minimal.digests(whole)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (_changed("training", lr=0.02), r"step_0+ was made with other settings \(training\.lr: was 0\.01, now 0\.02"),
        (_changed("training", steps=20), r"training\.steps: was 12, now 20"),
        (dataclasses.replace(RECORD, seed=2), "seed: was 1, now 2"),
        (dataclasses.replace(RECORD, net={**RECORD.net, "widths": [8]}), r"net\.widths: was \[8, 16\], now \[8\]"),
        (dataclasses.replace(RECORD, net={**RECORD.net, "skips": False}), "net.skips: was None, now False"),
        (dataclasses.replace(RECORD, init_from="x"), "init_from: was None, now 'x'"),
        (
            dataclasses.replace(RECORD, found=FoundInData(digest="cd" * 32)),
            r"was trained on other data \(digest abababababab….*cdcdcdcdcdcd….*init_from",
        ),
    ],
)  # fmt: skip
def test_settings_that_affect_results_and_other_data_are_refused(run_dir, record, says):
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(ValueError, match=says):
        _run(run_dir, record, resume=True)
    assert sorted(run_dir.rglob("*")) == before


def test_another_normalizer_is_other_data(run_dir):
    with pytest.raises(ValueError, match=r"the normalizer of .*step_00000000 is another one.*other data"):
        _run(run_dir, resume=True, extras={"normalizer": {"scale": torch.tensor([18.0, 2.0])}})


def test_an_encoder_matters_where_there_are_cameras(tmp_path):
    seeing = dataclasses.replace(RECORD, observation=ObservationConfig(images=["front"]))
    _run(tmp_path, seeing, max_minutes=0.0)
    with pytest.raises(ValueError, match=r"encoder\.scale: was None, now 96"):
        _run(tmp_path, dataclasses.replace(seeing, encoder={"name": "image", "scale": 96}), resume=True)


def test_a_run_of_the_first_version_is_resumed_and_knows_its_data_by_path(tmp_path, whole):
    """Written by a release without digests, that named observations twice and had fewer settings."""
    path = _run(tmp_path, max_minutes=0.0)
    old = plain(RECORD) | {"dataset": {"name": "zarr", "path": "data/a", "obs": "keypoints", "obs_keys": ["obs"]}}
    for name in ("version", "observation", "found", "images", "init_from", "net"):
        del old[name]  # no net: the method did without
    for name in ("schedule", "tensorboard", "choose"):
        del old["training"][name]
    _rewrite_config(path, old)
    with pytest.raises(ValueError, match=r"does not know the content of its data, and dataset\.path was 'data/a'"):
        _run(tmp_path, _changed("dataset", path="data/b"), resume=True)
    assert minimal.digests(_run(tmp_path, _changed("dataset", path="data/a/"), resume=True)) == minimal.digests(whole)


def _rewrite_config(path, config):
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    info = path / "checkpoint.json"
    old = json.loads(info.read_text())
    old["sha256"]["config.yaml"] = sha256(path / "config.yaml")
    info.write_text(json.dumps(old))


def test_more_steps_extend_a_finished_run_by_a_second_schedule(tmp_path, whole, capsys):
    """The rates are those of a run of the added steps; killed within them and resumed, the bytes are the same."""
    straight = minimal.run(shutil.copytree(whole.parents[1], tmp_path / "a", symlinks=True), steps=20, resume=True)
    rates = [row["lr"] for row in read_metrics(tmp_path / "a/metrics.jsonl") if "lr" in row]
    assert rates == [1e-2 * learning_rate_factor(step, 12, 3) for step in range(12)] + [
        1e-2 * learning_rate_factor(step, 8, 3) for step in range(8)
    ]
    run_dir = shutil.copytree(whole.parents[1], tmp_path / "b", symlinks=True)
    with pytest.raises(ZeroDivisionError):
        minimal.run(run_dir, steps=20, resume=True, batch_at=_stopping_at(18), progress=True)
    assert "extends the run from 12 to 20 steps: a warm-up and a decay" in capsys.readouterr().out
    assert checkpoint.read(run_dir / "checkpoints/last").step == 16
    with pytest.raises(ValueError, match=r"training\.steps: was 20, now 12"):
        minimal.run(run_dir, steps=12, resume=True)
    assert minimal.digests(minimal.run(run_dir, steps=20, resume=True)) == minimal.digests(straight)
    twice = minimal.run(run_dir, steps=24, resume=True)
    assert checkpoint.read(twice).step == 24 and minimal.state(twice)["schedule_ends"] == [12, 20, 24]


def _stopping_at(step):
    def batch_at(number):
        if number == step:
            raise ZeroDivisionError
        return minimal.batch_at(number)

    return batch_at


def test_a_constant_rate_continues_as_if_it_had_been_longer_from_the_start(tmp_path):
    longer = minimal.run(tmp_path / "longer", schedule="constant", steps=12)
    minimal.run(tmp_path / "extended", schedule="constant", steps=8)
    extended = minimal.run(tmp_path / "extended", schedule="constant", steps=12, resume=True)
    assert minimal.digests(extended) == minimal.digests(longer)
    assert "schedule_ends" not in minimal.state(extended)


def test_schedules_are_extended_at_their_end_only():
    cosine, constant = (Schedule(TrainConfig(steps=20, schedule=name), (20,)) for name in ("cosine", "constant"))
    assert cosine.extended([20], 7) == cosine
    assert cosine.extended([12], 12).ends == (12, 20) and cosine.extended([8, 12], 12).ends == (8, 12, 20)
    assert cosine.extended([12], 7) is None and cosine.extended([30], 20) is None
    assert constant.extended([12], 7) == constant and constant.extended([30], 25) is None


def test_a_new_run_starts_from_the_averaged_weights_of_another(tmp_path, whole):
    new = minimal.run(tmp_path, start_from=whole.parents[1], max_minutes=0.0)
    average = checkpoint.read(whole.parent / "best").tensors("ema")
    for group in ("model", "ema"):
        assert all(torch.equal(value, average[name]) for name, value in checkpoint.read(new).tensors(group).items())
    assert checkpoint.read(new).step == 0
    moved = minimal.run(tmp_path, start_from="nowhere", resume=True)  # the run has weights of its own by now
    assert minimal.digests(moved) != minimal.digests(whole)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint at nowhere"):
        minimal.run(tmp_path / "new", start_from="nowhere")


@pytest.mark.parametrize("copy", ["whole", "last alone", "pointers"])
def test_a_copy_without_links_is_resumed(tmp_path, whole, copy):
    source = whole.parents[1]
    if copy == "whole":  # cp -rL
        shutil.copytree(source, tmp_path / "copy", symlinks=False)
    elif copy == "last alone":
        shutil.copytree(source / "checkpoints/last", tmp_path / "copy/checkpoints/last")
    else:
        shutil.copytree(source, tmp_path / "copy", symlinks=True)
        for name in ("last", "best"):
            link = tmp_path / "copy/checkpoints" / name
            target = link.resolve().name
            link.unlink()
            link.write_text(target)
    last = minimal.run(tmp_path / "copy", steps=16, resume=True)
    reference = minimal.run(shutil.copytree(source, tmp_path / "linked", symlinks=True), steps=16, resume=True)
    assert minimal.digests(last) == minimal.digests(reference)
    if copy != "last alone":
        assert minimal.listing(last) == minimal.listing(reference)


def test_without_links_last_and_best_are_found(tmp_path, whole, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.symlink", refuse)
    last = minimal.run(tmp_path, evaluate=minimal.score)
    assert (tmp_path / "checkpoints/last").is_file() and minimal.digests(last) == minimal.digests(whole)
    assert checkpoint.locate(tmp_path / "checkpoints/last") == last
    assert checkpoint.locate(tmp_path).name == (whole.parent / "best").resolve().name
    assert minimal.run(tmp_path, resume=True) == last


def test_resume_without_the_link_takes_the_newest(tmp_path):
    minimal.run(tmp_path, steps=4)
    (tmp_path / "checkpoints" / "last").unlink()
    assert checkpoint.read(minimal.run(tmp_path, steps=4, resume=True)).step == 4
