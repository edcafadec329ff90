"""The training loop: resuming is exact, a kill loses nothing, and what goes wrong says so."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from diffpolicy import checkpoint
from diffpolicy.training import NonFiniteLossError, TrainConfig, train
from diffpolicy.training.average import ema_decay
from diffpolicy.training.logging import read_metrics
from diffpolicy.training.loop import keyed_generator, learning_rate_factor
from diffpolicy.training.speed import Speed, choose

RECORD = {"what": "a test", "training": {"lr": 1e-2}}


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Mish(), nn.Linear(16, 2))


def _batch(step):
    generator = keyed_generator(7, step)
    return {"x": torch.randn(8, 3, generator=generator)}


def _loss(model, batch, generator):
    noise = torch.randn(batch["x"].shape, generator=generator)
    return (model(batch["x"] + 0.1 * noise) - batch["x"][:, :2]).square().mean(1)


def _train(run_dir, steps=12, **options):
    settings = {"steps": steps, "warmup_steps": 3, "log_every": 1, "checkpoint_every": 4, "evaluate_every": 4}
    settings |= {"evaluate_from": 0}
    settings |= options.pop("settings", {})
    arguments = {"seed": 1, "record": RECORD, "progress": False, "speed": "float32"} | options
    return train(_model(), _loss, _batch, TrainConfig(**settings), Path(run_dir), **arguments)


def _digests(path):
    names = ("model", "ema", "training")
    return {name: hashlib.sha256((path / f"{name}.safetensors").read_bytes()).hexdigest() for name in names}


def test_resumed_equals_unbroken(tmp_path):
    whole = _train(tmp_path / "whole")
    stopped = _train(tmp_path / "broken", max_minutes=0.0)
    assert checkpoint.read(stopped).step == 0
    calls = []

    def interrupt(step):
        calls.append(step)
        if step == 6:
            raise KeyboardInterrupt
        return _batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(
            _model(), _loss, interrupt, TrainConfig(steps=12, warmup_steps=3, checkpoint_every=4),
            tmp_path / "broken", seed=1, record=RECORD, progress=False, resume=True, speed="float32",
        )  # fmt: skip
    assert checkpoint.read(tmp_path / "broken" / "checkpoints" / "last").step == 4
    resumed = _train(tmp_path / "broken", resume=True)
    assert calls == [0, 1, 2, 3, 4, 5, 6]
    assert _digests(resumed) == _digests(whole)
    losses = [
        [(row["step"], row["loss"]) for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("whole", "broken")
    ]
    assert losses[0][-8:] == losses[1][-8:]


def test_a_run_saved_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    _train(tmp_path, steps=4)
    config = tmp_path / "checkpoints/last/config.yaml"
    assert "schedule" not in config.read_text()  # the record of these tests names the rate alone
    full = {"what": "a test", "training": {"lr": 1e-2, "schedule": "cosine"}}
    _train(tmp_path, steps=8, resume=True, record=full)
    with pytest.raises(ValueError, match=r"training\.schedule: was 'cosine', now 'constant'"):
        other = {"what": "a test", "training": {"lr": 1e-2, "schedule": "constant"}}
        _train(tmp_path, steps=12, resume=True, record=other)


def test_an_encoder_matters_where_there_are_cameras(tmp_path):
    for name, cameras in (("blind", {}), ("seeing", {"cameras": {"front": [96, 96, 3]}})):
        _train(tmp_path / name, steps=4, record=RECORD | cameras | {"encoder": {"name": "image"}})
        later = RECORD | cameras | {"encoder": {"name": "image", "scale": 96}}
        if cameras:
            with pytest.raises(ValueError, match=r"encoder\.scale: was None, now 96"):
                _train(tmp_path / name, steps=8, resume=True, record=later)
        else:
            assert checkpoint.read(_train(tmp_path / name, steps=8, resume=True, record=later)).step == 8


class _Memory(nn.Module):
    """Learns nothing: what it knows was put into it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("known", torch.tensor([3.0]))


def test_a_model_without_weights_is_evaluated_and_written_once(tmp_path):
    evaluated = []

    def evaluate(model, step):
        evaluated.append((model.known.item(), step))
        return {"score": 0.5}

    def refuse(step):
        raise AssertionError("a batch to learn from")

    def run(name, **options):
        arguments = {"seed": 1, "record": RECORD, "progress": False} | options
        return train(_Memory(), lambda m, b, g: (b["x"] - m.known) ** 2, refuse, TrainConfig(), name, **arguments)

    last = run(tmp_path / "a", evaluate=evaluate, validation=lambda: {"x": torch.ones(1)})
    assert last.name == "step_00000000" and evaluated == [(3.0, 0)]
    assert (tmp_path / "a/checkpoints/best").resolve() == last == (tmp_path / "a/checkpoints/last").resolve()
    for group in ("model", "ema"):
        assert checkpoint.read(last).tensors(group)["known"] == 3
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(tmp_path / "a/metrics.jsonl")]
    assert rows == [{"step": 0, "validation_loss": 4.0}, {"step": 0, "evaluation/score": 0.5}]
    before = _digests(last)
    assert _digests(run(tmp_path / "a", evaluate=evaluate, resume=True)) == before and len(evaluated) == 1
    assert run(tmp_path / "b").is_dir()  # nor is it required to be evaluated


def _normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Mish(), nn.Linear(16, 2))


def test_batch_statistics_are_resumed_averaged_models_and_untouched_by_measuring(tmp_path):
    """Buffers are the model's, in the average too; and what is run to choose a speed is not counted."""
    config = TrainConfig(steps=8, warmup_steps=3, checkpoint_every=4)

    def interrupt(step):
        if step == 6:
            raise KeyboardInterrupt
        return _batch(step)

    def run(name, batch_at=_batch, **options):
        arguments = {"seed": 1, "record": RECORD, "progress": False, "speed": "float32"} | options
        return train(_normed(), _loss, batch_at, config, tmp_path / name, **arguments)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", interrupt)
    assert _digests(run("broken", resume=True)) == _digests(whole)
    tensors = [checkpoint.read(whole).tensors(group) for group in ("model", "ema")]
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(tensors[0][name], tensors[1][name])
    assert tensors[0]["1.num_batches_tracked"] == 8
    assert not torch.equal(tensors[0]["0.weight"], tensors[1]["0.weight"])
    chosen = checkpoint.read(run("chosen", speed="auto"))
    assert chosen.tensors("model")["1.num_batches_tracked"] == 8


_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_loop
test_loop._train(sys.argv[2], steps=400, resume=True,
                 settings={"checkpoint_every": 5, "evaluate_every": 10},
                 evaluate=lambda model, step: {"score": (step * 7 % 40) / 40})
"""


def test_twenty_kills_lose_nothing(tmp_path):
    """SIGKILL at random moments, many of them while a checkpoint is being written, then resume to the end."""

    def start(name):
        arguments = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(tmp_path / name)]
        return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("whole")
    chance = random.Random(0)
    last = tmp_path / "killed" / "checkpoints" / "last"
    steps = []
    for _ in range(20):
        before = steps[-1] if steps else -1
        child = start("killed")
        # Let it come past the step where it began, so that every life makes a little progress, then kill.
        while child.poll() is None and (not last.exists() or checkpoint.read(last).step <= before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        steps.append(checkpoint.read(last).step)
    assert steps == sorted(steps) and steps[-1] < 400, "the run ended before the last kill; give it more steps"
    assert start("killed").wait() == 0 and whole.wait() == 0
    finals = [tmp_path / name / "checkpoints" / "last" for name in ("whole", "killed")]
    assert [checkpoint.read(final).step for final in finals] == [400, 400]
    assert _digests(finals[0]) == _digests(finals[1])
    bests = [(tmp_path / name / "checkpoints" / "best").resolve().name for name in ("whole", "killed")]
    assert bests[0] == bests[1]
    folders = [sorted(path.name for path in final.parent.iterdir()) for final in finals]
    assert folders[0] == folders[1], "nothing half-written stays behind"


class _Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test catches it."""


def test_a_kill_at_any_point_of_a_checkpoint_loses_nothing(tmp_path, monkeypatch):
    """The run is cut off before the n-th change to the disk, for every n there is, and resumed."""
    options = {"settings": {"checkpoint_every": 2, "evaluate_every": 2, "keep_best": 1}}
    options["evaluate"] = lambda model, step: {"score": {2: 0.5, 4: 0.9, 6: 0.1}[step]}
    whole = _train(tmp_path / "whole", steps=6, **options)
    cut, finished = 0, False
    while not finished:
        run = tmp_path / f"cut_{cut}"
        with monkeypatch.context() as patch:
            allowed = iter(range(cut))
            for owner, name in ((os, "replace"), (Path, "rename"), (checkpoint, "_flush"), (shutil, "rmtree")):
                patch.setattr(owner, name, _mortal(getattr(owner, name), allowed))
            try:
                _train(run, steps=6, **options)
                finished = True
            except _Killed:
                cut += 1
        folder = run / "checkpoints"
        for name in ("last", "best"):
            if (folder / name).is_symlink():
                assert checkpoint.read(folder / name).step % 2 == 0
        final = _train(run, steps=6, resume=True, **options)
        assert _digests(final) == _digests(whole), cut
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.parent.iterdir()), cut
        assert (folder / "best").resolve().name == checkpoint.step_name(4), cut
    assert cut > 30, "there were fewer changes to the disk than three checkpoints make"


def _mortal(call, allowed):
    def wrapper(*args, **kwargs):
        if next(allowed, None) is None:
            raise _Killed
        return call(*args, **kwargs)

    return wrapper


def test_best_checkpoints_are_those_with_the_highest_scores(tmp_path):
    scores = {4: 0.2, 8: 0.9, 12: 0.5, 16: 0.7, 18: 0.1}
    _train(tmp_path, steps=18, settings={"keep_best": 2}, evaluate=lambda model, step: {"score": scores[step]})
    folder = tmp_path / "checkpoints"
    assert (folder / "best").resolve().name == checkpoint.step_name(8)
    kept = sorted(path.name for path in folder.glob("step_*"))
    assert kept == [checkpoint.step_name(step) for step in (8, 16, 18)]


def test_nan_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(step):
        batch = _batch(step)
        return {"x": batch["x"] * float("nan")} if step == 6 else batch

    with pytest.raises(NonFiniteLossError, match=r"step 7.*step_00000004.*training\.lr"):
        train(
            _model(), _loss, poisoned, TrainConfig(steps=12, checkpoint_every=4), tmp_path,
            seed=1, record=RECORD, progress=False,
        )  # fmt: skip
    weights = checkpoint.read(tmp_path / "checkpoints" / "last").tensors("model")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_resume_without_the_link_takes_the_newest(tmp_path):
    _train(tmp_path, steps=4)
    (tmp_path / "checkpoints" / "last").unlink()
    with pytest.raises(ValueError, match="another config"):
        _train(tmp_path, steps=4, resume=True, record={"what": "something else"})
    assert checkpoint.read(_train(tmp_path, steps=4, resume=True)).step == 4


def test_a_run_is_not_overwritten_nor_resumed_with_another_config(tmp_path):
    _train(tmp_path, steps=4)
    with pytest.raises(FileExistsError, match="resume=true"):
        _train(tmp_path, steps=4)
    with pytest.raises(ValueError, match=r"training\.lr: was 0\.01, now 0\.02"):
        _train(tmp_path, steps=4, resume=True, record={"what": "a test", "training": {"lr": 2e-2}})


@pytest.mark.parametrize("begun", [0, 4])
def test_a_run_has_one_writer(tmp_path, begun):
    """Another one is refused, whose first act would be to remove what the run has not linked yet."""
    whole = _digests(_train(tmp_path / "alone"))
    run_dir, refused = tmp_path / "shared", []

    def intrude(model, step):
        with pytest.raises(FileExistsError, match="another process is training into .*shared") as error:
            _train(run_dir, resume=True)
        refused.append(error)
        return {"score": 0.0}

    if begun:
        _train(run_dir, steps=begun)
    last = _train(run_dir, resume=bool(begun), settings={"steps": 12}, evaluate=intrude)
    assert len(refused) == 3 - begun // 4 and _digests(last) == whole
    assert [row["step"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row] == list(range(1, 13))
    assert _train(run_dir, resume=True) == last  # it is let go of


def test_ema_is_the_recursion(tmp_path):
    """Against the average computed by hand from the checkpoints' weights of every step."""
    settings = {"checkpoint_every": 1, "keep_best": 100, "evaluate_every": 1}
    path = _train(tmp_path, steps=6, settings=settings, evaluate=lambda model, step: {"score": 0.0})
    folder = path.parent
    average = None
    for step in range(1, 7):
        weights = checkpoint.read(folder / checkpoint.step_name(step)).tensors("model")
        if average is None:
            average = weights
            continue
        decay = ema_decay(step - 1, 0.75, 0.9999)
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
    for name, value in checkpoint.read(path).tensors("ema").items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 100, 10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[10] == 1.0 and factors[100] == pytest.approx(0.0)
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_constant_rate_after_the_warm_up(tmp_path):
    factors = [learning_rate_factor(step, 100, 10, "constant") for step in range(101)]
    assert factors[:10] == [learning_rate_factor(step, 100, 10) for step in range(10)]
    assert set(factors[10:]) == {1.0}
    with pytest.raises(ValueError, match="'cosine', 'constant'.*'linear'"):
        _train(tmp_path, settings={"schedule": "linear"})
    assert not list(tmp_path.iterdir())


def test_speed_is_chosen_once_kept_and_may_be_changed(tmp_path):
    def speed_of(path):
        return json.loads((path / "checkpoint.json").read_text())["state"]["speed"]

    chosen = speed_of(_train(tmp_path, steps=4, max_minutes=0.0, speed="auto"))
    assert Speed.parse(chosen).compiled == "", "compiling was to pay within four steps"
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    assert speed_of(_train(tmp_path, steps=4, max_minutes=0.0, resume=True, speed="auto")) == chosen
    assert speed_of(_train(tmp_path, steps=4, resume=True, speed=other)) == other
    with pytest.raises(ValueError, match=r"float32\+blocks.*'half'"):
        _train(tmp_path / "other", speed="half")
    with pytest.raises(ValueError, match="has blocks"):
        _train(tmp_path / "other", speed="float32+blocks")


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr("diffpolicy.training.speed.has_compiler", lambda: False)
    model, cpu = nn.Sequential(_Blocks(2, 2)), torch.device("cpu")
    chosen, why = choose(model, lambda autocast: time.sleep(0.02), cpu, 100_000)
    assert chosen == Speed("float32", "") and "no C++ compiler" in why
    with pytest.raises(ValueError, match=r"no C\+\+ compiler was found.*speed=float32"):
        Speed("float32", "blocks").prepare(model, cpu)


class _Blocks(nn.Linear):
    def fuse(self):
        self.fused = True


@pytest.mark.parametrize(("seconds", "steps", "compiled"), [(0.02, 10, ""), (0.02, 100_000, "blocks")])
def test_blocks_are_compiled_where_that_pays(seconds, steps, compiled):
    model = nn.Sequential(_Blocks(2, 2))
    chosen, why = choose(model, lambda autocast: time.sleep(seconds), torch.device("cpu"), steps)
    assert chosen == Speed("float32", compiled), "bfloat16 is no faster here, and noise must not choose"
    assert str(chosen) in why and f"{steps} steps" in why
    chosen.prepare(model, torch.device("cpu"))
    assert hasattr(model[0], "fused") == bool(compiled)


def test_a_weight_in_the_batch_weights_the_loss(tmp_path):
    """A sample of weight 3 counts as one that comes three times, a sample of weight 0 as none."""
    x = torch.tensor([[0.5], [-1.0], [2.0], [0.7]])
    weighted = {"x": x, "weight": torch.tensor([3.0, 1.0, 0.0, 0.0])}
    repeated = {"x": torch.cat([x[:1], x[:1], x[:1], x[1:2]])}
    trained = []
    for name, batch in (("weighted", weighted), ("repeated", repeated)):
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1)
        train(
            model,
            lambda m, b, g: (m(b["x"]) - 1).square()[:, 0],
            lambda step, batch=batch: batch,
            TrainConfig(steps=5, batch_size=4, warmup_steps=1),
            tmp_path / name,
            seed=0,
            record={},
            speed="float32",
            progress=False,
        )
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*trained)
