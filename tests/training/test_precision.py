"""Precision and compilation: chosen by measuring, once, and kept."""

import time

import minimal
import pytest
import torch
from torch import nn

from diffpolicy.nets.base import Fusable
from diffpolicy.training import LossModel
from diffpolicy.training.precision import Speed, choose

CPU = torch.device("cpu")


class _Blocks(nn.Linear, Fusable):
    fused = False

    def fuse(self):
        self.fused = True


def _model():
    return LossModel(_Blocks(2, 2), None)


def test_speed_is_chosen_once_kept_and_may_be_changed(tmp_path):
    def speed_of(speed, **options):
        return minimal.state(minimal.run(tmp_path, steps=4, speed=speed, **options))["speed"]

    chosen = speed_of("auto", max_minutes=0.0)
    assert Speed.parse(chosen).compiled == "", "compiling was to pay within four steps"
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    assert minimal.state(tmp_path / "checkpoints/last")["device"] == "cpu"
    assert speed_of("auto", max_minutes=0.0, resume=True) == chosen
    assert speed_of(other, resume=True) == other
    with pytest.raises(ValueError, match="has blocks"):
        minimal.run(tmp_path / "other", speed="float32+blocks")
    assert minimal.run(tmp_path / "other", steps=1).is_dir(), "a first step that was refused is in nobody's way"


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr("diffpolicy.training.precision.has_compiler", lambda: False)
    chosen, why = choose(_model(), lambda autocast: time.sleep(0.005), CPU, 1_000_000)
    assert chosen == Speed("float32", "") and "no C++ compiler" in why
    with pytest.raises(ValueError, match=r"no C\+\+ compiler was found.*speed=float32"):
        Speed("float32", "blocks").prepare(_model(), CPU)


@pytest.mark.parametrize(("steps", "compiled"), [(10, ""), (1_000_000, "blocks")])
def test_blocks_are_compiled_where_that_pays(steps, compiled):
    model = _model()
    chosen, why = choose(model, lambda autocast: time.sleep(0.005), CPU, steps)
    assert chosen == Speed("float32", compiled), "bfloat16 is no faster here, and noise must not choose"
    assert str(chosen) in why and f"{steps} steps" in why
    chosen.prepare(model, CPU)
    assert model.net.fused == bool(compiled)
