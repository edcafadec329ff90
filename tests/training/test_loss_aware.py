"""An objective with a state: it is saved, resumed to the same bits, and left alone by measuring."""

import minimal
import pytest
import torch

from diffpolicy import checkpoint
from diffpolicy.training.precision import untouched_buffers


def _state(path, group="model"):
    return {name: value for name, value in checkpoint.read(path).tensors(group).items() if "objective" in name}


def test_a_run_that_is_resumed_goes_on_with_its_history(tmp_path):
    whole = minimal.run(tmp_path / "whole", model=minimal.loss_aware())

    def fail(step):
        if step == 10:
            raise ZeroDivisionError
        return minimal.batch_at(step)

    with pytest.raises(ZeroDivisionError):
        minimal.run(tmp_path / "killed", model=minimal.loss_aware(), batch_at=fail)
    before = _state(tmp_path / "killed")
    assert int(before["objective.counts"].sum()) == 64  # eight steps of eight samples
    resumed = minimal.run(tmp_path / "killed", model=minimal.loss_aware(), resume=True)
    assert minimal.digests(resumed) == minimal.digests(whole)
    model, average = _state(resumed), _state(resumed, "ema")
    assert int(model["objective.counts"].min()) >= 10, "the last steps were to draw by the history"
    assert all(torch.equal(value, average[name]) for name, value in model.items())


def test_forgetting_the_history_would_have_been_noticed(tmp_path):
    runs = []
    for name in ("kept", "forgotten"):
        model = minimal.loss_aware()

        def batch_at(step, model=model, name=name):
            if step == 10 and name == "forgotten":
                model.objective.counts.zero_()
            return minimal.batch_at(step)

        runs.append(minimal.run(tmp_path / name, model=model, batch_at=batch_at))
    assert minimal.digests(runs[0])["model"] != minimal.digests(runs[1])["model"]


def test_measuring_a_speed_leaves_no_trace(tmp_path):
    model = minimal.loss_aware()
    with untouched_buffers(model):
        model.train().loss(minimal.batch_at(0), torch.Generator().manual_seed(0)).mean().backward()
        assert int(model.objective.counts.sum()) == 8
    assert int(model.objective.counts.sum()) == 0 and not model.objective.losses.any()
    runs = [minimal.run(tmp_path / speed, model=minimal.loss_aware(), speed=speed) for speed in ("auto", "float32")]
    assert int(_state(runs[0])["objective.counts"].sum()) == int(_state(runs[1])["objective.counts"].sum()) == 96
