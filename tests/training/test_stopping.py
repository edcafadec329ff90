"""Ctrl-C and SIGTERM at any moment: the present state is saved, the way to continue is said, and nothing is lost."""

import signal
import subprocess
import sys
import time

import minimal
import numpy as np
import pytest

from diffpolicy import checkpoint
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.training.distributed import Ranks
from diffpolicy.training.log import read_metrics
from diffpolicy.training.signals import Leave, Stop
from diffpolicy.util.errors import Interrupted


class _Raiser:
    """Raises a signal in the n-th call of a function, as if it arrived from outside."""

    def __init__(self, call, at, number=signal.SIGINT):
        self.call, self.left, self.number = call, at, number

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)
        return self.call(*args)


def _validation():
    return minimal.batch_at(1000)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """As `whole`, with a validation in every step."""
    run_dir = tmp_path_factory.mktemp("watched") / "run"
    return minimal.run(run_dir, evaluate=minimal.score, validation=_validation, validate_every=1)


def _rows(run_dir):
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("during", "at", "step"),
    [("step", 1, 1), ("step", 7, 7), ("validate", 5, 5), ("evaluate", 2, 8), ("evaluate", 3, 12), ("save", 2, 8)],
)
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, watched, monkeypatch, number, during, at, step):
    functions = {"step": minimal.batch_at, "validate": _validation, "evaluate": minimal.score}
    functions["save"] = checkpoint._write
    functions[during] = _Raiser(functions[during], at, number)
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        patch.setattr(checkpoint, "_write", functions["save"])
        minimal.run(
            tmp_path,
            batch_at=functions["step"],
            evaluate=functions["evaluate"],
            validation=functions["validate"],
            validate_every=1,
        )
    assert stopped.value.code == 128 + number
    saved = tmp_path / "checkpoints" / checkpoint.step_name(step)
    assert str(stopped.value) == (
        f"stopped by {signal.Signals(number).name}; the present state is {saved}; "
        "the same command with resume=true continues from there"
    )
    assert checkpoint.read(tmp_path / "checkpoints/last").step == step
    options = {"evaluate": minimal.score, "validation": _validation, "validate_every": 1}
    final = minimal.run(tmp_path, resume=True, **options)
    assert minimal.digests(final) == minimal.digests(watched)
    assert minimal.listing(final) == minimal.listing(watched)
    assert minimal.state(final) == minimal.state(watched)
    assert _rows(tmp_path) == _rows(watched.parents[1])


def test_a_signal_while_the_speed_is_measured_changes_nothing(tmp_path):
    with pytest.raises(Interrupted):
        minimal.run(tmp_path, batch_at=_Raiser(minimal.batch_at, 2), speed="auto")
    assert checkpoint.read(tmp_path).step == 0
    minimal.run(tmp_path / "other", max_minutes=0.0)
    starts = [minimal.digests(path / "checkpoints/last") for path in (tmp_path, tmp_path / "other")]
    assert starts[0] == starts[1]


def test_handlers_are_put_back_and_what_is_ignored_stays_so():
    before = signal.getsignal(signal.SIGINT)
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Stop(Ranks()) as stop:
            assert signal.getsignal(signal.SIGINT) != before
            signal.raise_signal(signal.SIGTERM)
            assert not stop.asked()
            signal.raise_signal(signal.SIGINT)
            assert stop.asked() and stop.signal == signal.SIGINT
            with pytest.raises(Leave), stop.leaving():
                raise AssertionError("entered")
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_ends_at_once(tmp_path, processes):
    child = processes.Process(
        target=minimal.to_the_end, args=(tmp_path,), kwargs={"batch_at": minimal.twice_interrupted}
    )
    child.start()
    child.join()
    assert child.exitcode == 128 + signal.SIGINT and not (tmp_path / "checkpoints").exists()


_BARE = """
import os, sys
def no_links(*_): raise NotImplementedError
os.symlink, sys.modules["fcntl"] = no_links, None
from diffpolicy.cli import main
main(sys.argv[1:])
"""


def test_the_command_exits_without_a_traceback_also_where_there_are_no_locks_and_no_links(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.random((40, 3)), "action": rng.random((40, 2))} for _ in range(2)]
    ReplayBuffer.from_episodes(episodes).save(tmp_path / "demos.zarr")
    command = [
        sys.executable, "-c", _BARE, "train", "task=own", f"dataset.path={tmp_path / 'demos.zarr'}", "speed=float32",
        "net.widths=[8,16]", "net.groups=2", "net.time_features=8", "training.batch_size=8", "device=cpu",
        "training.steps=100000", "training.log_every=1", f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, says = run.communicate()
    assert run.returncode == 130, says
    assert "Traceback" not in says and "resume=true continues" in says
    step = checkpoint.read(tmp_path / "run").step
    assert step >= 1 and f"step_{step:08d}" in says
    assert (tmp_path / "run/checkpoints/last").read_text() == f"step_{step:08d}\n"
