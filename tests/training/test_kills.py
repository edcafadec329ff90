"""A run that is killed at any moment and resumed ends with the same bytes as one that was not."""

import os
import random
import shutil
import time

import minimal
import pytest

from diffpolicy import checkpoint
from diffpolicy.training.log import read_metrics
from diffpolicy.util import files


def test_resumed_equals_unbroken(tmp_path, whole):
    stopped = minimal.run(tmp_path, max_minutes=0.0)
    assert checkpoint.read(stopped).step == 0
    calls = []

    def fail(step):
        calls.append(step)
        if step == 6:
            raise ZeroDivisionError
        return minimal.batch_at(step)

    with pytest.raises(ZeroDivisionError):
        minimal.run(tmp_path, batch_at=fail, resume=True)
    assert checkpoint.read(tmp_path / "checkpoints" / "last").step == 4
    resumed = minimal.run(tmp_path, resume=True)
    assert calls == [0, 1, 2, 3, 4, 5, 6]
    assert minimal.digests(resumed) == minimal.digests(whole)
    losses = [
        [(row["step"], row["loss"]) for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]
        for run_dir in (whole.parents[1], tmp_path)
    ]
    assert losses[0] == losses[1]


def test_ten_kills_lose_nothing(tmp_path, processes):
    """SIGKILL at random moments, many of them while a checkpoint is being written, then resume to the end."""
    options = {"steps": 300, "checkpoint_every": 5, "evaluate_every": 10, "evaluate": minimal.score}

    def start(name):
        process = processes.Process(target=minimal.to_the_end, args=(tmp_path / name,), kwargs=options)
        process.start()
        return process

    last, chance, steps = tmp_path / "killed/checkpoints/last", random.Random(0), []
    for _ in range(10):
        before = steps[-1] if steps else 0
        child = start("killed")
        while child.is_alive() and (not last.exists() or checkpoint.read(last).step <= before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        child.kill()
        child.join()
        steps.append(checkpoint.read(last).step)
    assert steps == sorted(steps) and steps[-1] < 300, "the run ended before the last kill; give it more steps"
    finals = []
    for name in ("whole", "killed"):
        child = start(name)
        child.join()
        assert child.exitcode == 0
        finals.append((tmp_path / name / "checkpoints/last").resolve())
    assert [checkpoint.read(final).step for final in finals] == [300, 300]
    assert minimal.digests(finals[0]) == minimal.digests(finals[1])
    assert minimal.listing(finals[0]) == minimal.listing(finals[1]), "nothing half-written stays behind"


class _Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test catches it."""


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_point_of_a_checkpoint_loses_nothing(tmp_path, monkeypatch, links):
    """The run is cut off before the n-th change to the disk, for every n there is, and resumed."""
    if not links:
        monkeypatch.setattr(os, "symlink", _no_links)
    scores = {2: 0.5, 4: 0.9, 6: 0.1}
    options = {"steps": 6, "checkpoint_every": 2, "evaluate_every": 2, "keep_best": 1, "choose": "score"}
    options["evaluate"] = lambda model, step: {"score": scores[step]}
    whole = minimal.run(tmp_path / "whole", **options)
    cut, finished, stride = 0, False, 1 if links else 3
    while not finished:
        run = tmp_path / f"cut_{cut}"
        with monkeypatch.context() as patch:
            allowed = iter(range(cut))
            for owner, name in ((os, "replace"), (os, "symlink"), (files, "flush"), (shutil, "rmtree")):
                patch.setattr(owner, name, _mortal(getattr(owner, name), allowed))
            try:
                minimal.run(run, **options)
                finished = True
            except _Killed:
                cut += stride
        folder = run / "checkpoints"
        for name in ("last", "best"):
            if os.path.lexists(folder / name):
                assert checkpoint.read(folder / name).step % 2 == 0
        final = minimal.run(run, resume=True, **options)
        assert minimal.digests(final) == minimal.digests(whole), cut
        assert minimal.listing(final) == minimal.listing(whole), cut
        assert checkpoint.read(folder / "best").step == 4, cut
    assert cut > 30, "there were fewer changes to the disk than three checkpoints make"


def _mortal(call, allowed):
    def wrapper(*args, **kwargs):
        if next(allowed, None) is None:
            raise _Killed
        return call(*args, **kwargs)

    return wrapper


def _no_links(*_):
    raise OSError(1, "Operation not permitted")
