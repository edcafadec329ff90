"""Checkpoints: whole or not there at all, found by whatever path a user gives, and refused in words."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors import SafetensorError

from diffpolicy import checkpoint
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.training.retention import point
from diffpolicy.util import files

GROUPS = {"ema": {"weight": torch.arange(6.0)}, "normalizer": {"scale": torch.ones(2)}}


@pytest.fixture
def run(tmp_path):
    """A run of three checkpoints, the second of which is the best."""
    folder = tmp_path / "run" / "checkpoints"
    for step in (10, 20, 30):
        checkpoint.write(folder, step, GROUPS, {"seed": step}, {"best": [[0.5, 20]]})
    point(folder, "last", "step_00000030")
    point(folder, "best", "step_00000020")
    return tmp_path / "run"


def test_what_was_written_is_read(run):
    saved = checkpoint.read(run / "checkpoints/step_00000010")
    assert (saved.step, saved.config, saved.state) == (10, {"seed": 10}, {"best": [[0.5, 20]]})
    assert torch.equal(saved.tensors("ema")["weight"], torch.arange(6.0))
    with pytest.raises(CheckpointError, match=r"holds no 'model' tensors; expected one of \['ema', 'normalizer'\]"):
        saved.tensors("model")


def test_an_existing_checkpoint_is_kept(run):
    checkpoint.write(run / "checkpoints", 10, {"ema": {"weight": torch.zeros(6)}}, {}, {})
    assert checkpoint.read(run / "checkpoints/step_00000010").tensors("ema")["weight"].sum() == 15


@pytest.mark.parametrize("pointers", ["links", "text", "folders"])
@pytest.mark.parametrize(
    ("path", "step"),
    [("", 20), ("best", 20), ("last", 30), ("step_00000010", 10)],
)
def test_any_path_of_a_run_stands_for_a_checkpoint(run, pointers, path, step):
    for name in ("best", "last"):
        place = run / "checkpoints" / name
        target = place.resolve()
        if pointers != "links":
            place.unlink()
        if pointers == "text":
            place.write_text(f"{target.name}\n")
        if pointers == "folders":
            shutil.copytree(target, place)
    assert checkpoint.read(run / "checkpoints" / path).step == step
    assert checkpoint.read(run).step == checkpoint.read(f"{run}/").step == 20
    assert checkpoint.latest(run / "checkpoints").step == 30


def test_a_run_without_evaluations_stands_for_its_last_and_without_links_for_its_newest(run):
    point(run / "checkpoints", "best", None)
    point(run / "checkpoints", "last", "step_00000010")
    assert checkpoint.read(run).step == checkpoint.latest(run / "checkpoints").step == 10
    (run / "checkpoints/last").unlink()
    assert checkpoint.read(run).step == checkpoint.latest(run / "checkpoints").step == 30
    shutil.rmtree(run / "checkpoints")
    assert checkpoint.latest(run / "checkpoints") is None


def test_a_pointer_names_a_step_of_its_own_folder_only(run):
    shutil.copytree(run / "checkpoints/step_00000010", run / "elsewhere")
    for text in ("../elsewhere", "/etc", "step_00000099", "", "\0\xff"):
        (run / "checkpoints/last").unlink()
        (run / "checkpoints/last").write_text(text)
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            checkpoint.read(run / "checkpoints/last")


def test_what_is_damaged_is_refused_with_the_others_named(run):
    folder = run / "checkpoints"
    (folder / "step_00000020/ema.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is damaged .*SHA-256.*take another.*step_00000010"):
        checkpoint.read(folder / "best")
    (folder / "step_00000020/ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing; take another one"):
        checkpoint.read(folder / "best")
    (folder / "step_00000020/checkpoint.json").write_text('{"step": 20')
    with pytest.raises(CheckpointError, match=r"step_00000020 is no complete checkpoint \(checkpoint\.json: "):
        checkpoint.read(folder / "step_00000020")
    info = folder / "step_00000030/checkpoint.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "format_version": 7}))
    with pytest.raises(CheckpointError, match="has format version 7; expected 1; use the release that wrote it"):
        checkpoint.read(folder / "step_00000030")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere; take another one: .*step_00000030"):
        checkpoint.read(folder / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint at .*ema.safetensors"):
        checkpoint.read(folder / "step_00000010/ema.safetensors")


def test_what_only_training_needs_may_be_deleted(run):
    path = checkpoint.write(run / "checkpoints", 40, {**GROUPS, "model": {}, "training": {}}, {}, {})
    for name in ("model", "training"):
        (path / f"{name}.safetensors").unlink()
    assert len(checkpoint.read(path).tensors("ema")) == 1


def test_weights_of_another_network_are_refused(run):
    module = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"bias: checkpoint nothing, network \(3,\); weight: checkpoint \(6,\)"):
        checkpoint.load_weights(module, checkpoint.read(run).tensors("ema"), run)


def test_a_state_is_replaced_and_the_rest_stays(run):
    path = run / "checkpoints/step_00000010"
    checkpoint.restate(path, {"best": [[0.9, 10]]})
    saved = checkpoint.read(path)
    assert saved.state == {"best": [[0.9, 10]]} and saved.tensors("ema")["weight"].sum() == 15


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), SafetensorError("I/O error (os error 28)")]
)
def test_a_full_disk_leaves_nothing_behind(run, monkeypatch, error):
    def fail(tensors, path):
        path.write_bytes(b"half")
        raise error

    before = sorted(run.rglob("*"))
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    says = r"no space for .*step_00000040: 65,\d{3} bytes are needed, and [\d,]+ are free"
    with pytest.raises(files.DiskFullError, match=says):
        checkpoint.write(run / "checkpoints", 40, GROUPS, {}, {})
    assert sorted(run.rglob("*")) == before


def test_a_disk_that_is_too_small_is_not_written_to(run, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(files.DiskFullError, match="and 1,000 are free; make room and repeat the command"):
        checkpoint.write(run / "checkpoints", 40, GROUPS, {}, {})


def test_folders_that_cannot_be_opened_for_flushing_are_passed_over(run, monkeypatch):
    opened = os.open

    def refuse(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert checkpoint.read(checkpoint.write(run / "checkpoints", 40, GROUPS, {}, {})).step == 40
