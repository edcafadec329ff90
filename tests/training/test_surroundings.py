"""What a machine may lack, or have too little of: space, TensorBoard, locks, other devices, float64."""

import errno
import importlib
import sys

import minimal
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffpolicy import checkpoint
from diffpolicy.training.distributed import process_group
from diffpolicy.training.log import MetricsLog
from diffpolicy.util import files
from diffpolicy.util.files import DiskFullError


def test_a_disk_too_small_for_the_first_checkpoint_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    def refuse(step):
        raise AssertionError("a step")

    monkeypatch.setattr(files, "free_bytes", lambda path: 100)
    with pytest.raises(
        DiskFullError, match=r"checkpoints: 67,\d{3} bytes are needed, and 100 are free; no checkpoint"
    ):
        minimal.run(tmp_path, batch_at=refuse)
    monkeypatch.undo()
    assert minimal.run(tmp_path, steps=1).is_dir()


def test_a_disk_that_fills_up_names_the_last_good_checkpoint(tmp_path, monkeypatch, whole):
    written = checkpoint._write

    def fail(partial, step, *rest):
        written(partial, step, *rest)
        if step == 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFullError) as full:
        patch.setattr(checkpoint, "_write", fail)
        minimal.run(tmp_path)
    folder = tmp_path / "checkpoints"
    says = str(full.value)
    assert says.startswith(f"no space for {folder / 'step_00000008'}: ") and "\n" not in says
    assert f"the last good checkpoint is {folder / 'step_00000004'}; make room and continue by resume=true" in says
    assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step_00000004"]
    assert minimal.digests(minimal.run(tmp_path, resume=True)) == minimal.digests(whole)


def test_a_log_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    def fail(log, step, values):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "metrics.jsonl"))

    monkeypatch.setattr(MetricsLog, "write", fail)
    with pytest.raises(DiskFullError, match=r"no space for .*metrics\.jsonl"):
        minimal.run(tmp_path)


@pytest.fixture
def broken_tensorboard(tmp_path, monkeypatch):
    package = tmp_path / "packages" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise TypeError('metaclass conflict')")
    monkeypatch.syspath_prepend(package.parent)
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


def test_tensorboard_is_imported_on_request_only(tmp_path, broken_tensorboard):
    assert minimal.run(tmp_path / "a", steps=1).is_dir()
    with pytest.raises(ImportError, match=r"training\.tensorboard=true.*metaclass conflict.*leave it off"):
        minimal.run(tmp_path / "b", steps=1, tensorboard=True)
    assert not (tmp_path / "b/checkpoints").exists()


class _NoFloat64(TorchDispatchMode):
    """Fails wherever a tensor of float64 is made, as Apple's GPUs do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError(f"float64 by {function}")
        return result


def test_nothing_is_float64_on_the_device(tmp_path):
    with _NoFloat64():
        last = minimal.run(tmp_path, evaluate=minimal.score, validation=lambda: minimal.batch_at(99))
    assert checkpoint.read(last).step == 12


@pytest.mark.parametrize("device", ["cuda", "mps", "gpu", "cuda:7"])
def test_a_device_that_is_not_there_is_refused_in_words(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    with (
        pytest.raises(ValueError, match=f"device={device} is not available.*take device=auto"),
        process_group(device),
    ):
        pass
