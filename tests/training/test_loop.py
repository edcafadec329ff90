"""The training loop: what a step computes, what is logged, ranked and kept, and what stops it."""

import json

import minimal
import pytest
import torch
from torch import nn

from diffpolicy import checkpoint
from diffpolicy.config import RunConfig
from diffpolicy.nets.base import Model
from diffpolicy.training import LossModel, NonFiniteLossError
from diffpolicy.training.average import ema_decay
from diffpolicy.training.log import read_metrics
from diffpolicy.training.optim import learning_rate_factor


class _Memory(Model):
    """Learns nothing: what it knows was put into it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("known", torch.tensor([3.0]))

    def loss(self, batch, generator):
        return (batch["x"] - self.known) ** 2

    def networks(self):
        return []


def test_a_model_without_weights_is_evaluated_and_written_once(tmp_path):
    evaluated = []

    def evaluate(model, step):
        evaluated.append((model.known.item(), step))
        return {"score": 0.5}

    def refuse(step):
        raise AssertionError("a batch to learn from")

    def run(name, **options):
        return minimal.run(tmp_path / name, _Memory(), refuse, **options)

    last = run("a", evaluate=evaluate, validation=lambda: {"x": torch.ones(1)})
    assert last.name == "step_00000000" and evaluated == [(3.0, 0)]
    assert (tmp_path / "a/checkpoints/best").resolve() == last == (tmp_path / "a/checkpoints/last").resolve()
    for group in ("model", "ema"):
        assert checkpoint.read(last).tensors(group)["known"] == 3
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(tmp_path / "a/metrics.jsonl")]
    assert rows == [{"step": 0, "validation_loss": 4.0}, {"step": 0, "evaluation/score": 0.5}]
    before = minimal.digests(last)
    assert minimal.digests(run("a", evaluate=evaluate, resume=True, steps=99)) == before and len(evaluated) == 1
    assert run("b").is_dir()  # nor is it required to be evaluated


def test_an_evaluation_with_broken_episodes_ranks_below_all_whole_ones(tmp_path):
    found = {4: {"score": 0.2}, 8: {"score": 0.9, "broken_off": 2}, 12: {"score": 0.1}}
    last = minimal.run(tmp_path, choose="score", evaluate=lambda model, step: found[step])
    assert [one[1] for one in checkpoint.read(last).state["best"]] == [4, 12, 8]
    assert (tmp_path / "checkpoints/best").resolve().name == "step_00000004"
    alone = minimal.run(tmp_path / "alone", choose="score", evaluate=lambda model, step: found[8])
    assert (tmp_path / "alone/checkpoints/best").resolve() == alone.resolve()


def test_an_evaluation_that_fails_costs_no_step(tmp_path):
    def evaluate(model, step):
        if step == 8 and broken:
            raise ValueError("the environment is broken")
        return minimal.score(model, step)

    broken = True
    with pytest.raises(ValueError, match="^the environment is broken$"):
        minimal.run(tmp_path / "a", evaluate=evaluate, checkpoint_every=0)
    assert checkpoint.latest(tmp_path / "a/checkpoints").step == 8
    broken = False
    last = minimal.run(tmp_path / "a", evaluate=evaluate, checkpoint_every=0, resume=True)
    assert minimal.digests(last) == minimal.digests(
        minimal.run(tmp_path / "b", evaluate=evaluate, checkpoint_every=0)
    )


FOUND = {4: (0.9, 0.2), 8: (0.2, 0.9), 12: (0.8, 0.5), 16: (0.7, 0.7), 18: (0.1, 0.1)}  # step -> score, success


@pytest.mark.parametrize(
    ("choose", "best", "kept"), [("success", 8, (8, 16, 18)), ("score", 4, (4, 12, 18)), ("last", 18, (16, 18))]
)
def test_the_best_checkpoint_is_the_newest_or_that_with_the_highest_value_of_a_metric(tmp_path, choose, best, kept):
    def evaluate(model, step):
        return dict(zip(("score", "success"), FOUND[step], strict=True))

    last = minimal.run(tmp_path, steps=18, keep_best=2, choose=choose, evaluate=evaluate)
    names, chosen = minimal.listing(last)
    assert chosen == checkpoint.step_name(best)
    assert names == ["best", "last", *(checkpoint.step_name(step) for step in kept)]


def test_the_newest_checkpoint_is_the_best_between_rollouts_and_without_any(tmp_path):
    def at_six(step):
        if step == 6:
            assert minimal.listing(checkpoint.latest(tmp_path / "a/checkpoints").path)[1] == checkpoint.step_name(6)
        return minimal.batch_at(step)

    minimal.run(tmp_path / "a", batch_at=at_six, choose="last", checkpoint_every=2, evaluate=minimal.score)
    last = minimal.run(tmp_path / "b", checkpoint_every=2)
    assert minimal.listing(last) == (["best", "last", "step_00000012"], "step_00000012")


def test_a_choice_that_nothing_reports_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"training\.choose=score, and nothing is rolled out; expected last; name an"
    ):
        minimal.run(tmp_path / "a", choose="score")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match=r"unknown training\.choose 'succes'.*choose from last, score"):
        minimal.run(tmp_path / "b", choose="succes", evaluate=minimal.score)
    assert checkpoint.latest(tmp_path / "b/checkpoints").step == 4, "the steps so far are kept"


def test_a_resumed_run_may_choose_by_something_else_that_was_logged(tmp_path):
    def evaluate(model, step):
        return dict(zip(("score", "success"), FOUND[step], strict=True))

    options = {"steps": 18, "keep_best": 9, "evaluate": evaluate}
    minimal.run(tmp_path, choose="score", **options)
    for choose, best in (("success", 8), ("last", 18), ("score", 4)):
        last = minimal.run(tmp_path, choose=choose, resume=True, **options)
        assert minimal.listing(last)[1] == checkpoint.step_name(best), choose
    with pytest.raises(ValueError, match=r"choose=speed, which the log lacks of step 4.*choose=score or last"):
        minimal.run(tmp_path, choose="speed", resume=True, **options)


def test_nan_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(step):
        return {"x": minimal.batch_at(step)["x"] * (float("nan") if step == 6 else 1)}

    with pytest.raises(NonFiniteLossError, match=r"step 7 .*step_00000004.*training\.lr"):
        minimal.run(tmp_path, batch_at=poisoned)
    weights = checkpoint.read(tmp_path).tensors("model")
    assert all(bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.parametrize("begun", [0, 4])
def test_a_run_has_one_writer(tmp_path, begun, whole):
    """Another one is refused, whose first act would be to remove what the run has not linked yet."""
    run_dir, refused = tmp_path / "shared", []

    def intrude(model, step):
        with pytest.raises(FileExistsError, match="another process is training into .*shared") as error:
            minimal.run(run_dir, resume=True)
        refused.append(error)
        return {"score": 0.0}

    if begun:
        minimal.run(run_dir, max_minutes=0.0)
    last = minimal.run(run_dir, resume=bool(begun), evaluate=intrude, choose="last")
    assert len(refused) == 3 and minimal.digests(last) == minimal.digests(whole)
    assert [row["step"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row] == list(range(1, 13))
    assert minimal.run(run_dir, resume=True) == last  # it is let go of


def test_a_run_is_not_overwritten(tmp_path):
    minimal.run(tmp_path, steps=1)
    with pytest.raises(FileExistsError, match="holds a run already.*resume=true"):
        minimal.run(tmp_path, steps=1)


def test_ema_is_the_recursion(tmp_path):
    """Against the average computed by hand from the checkpoints' weights of every step."""
    path = minimal.run(tmp_path, steps=6, checkpoint_every=1, evaluate_every=1, keep_best=100, evaluate=minimal.score)
    average = None
    for step in range(1, 7):
        weights = checkpoint.read(path.parent / checkpoint.step_name(step)).tensors("model")
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
    constant = [learning_rate_factor(step, 100, 10, "constant") for step in range(101)]
    assert constant[:10] == factors[:10] and set(constant[10:]) == {1.0}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"schedule": "linear"}, "unknown training.schedule .linear. .*cosine, constant"),
        ({"steps": 0}, "training.steps=0; expected at least 1"),
        ({"keep_best": -1}, "training.keep_best=-1; expected at least 0"),
        ({"speed": "half"}, r"unknown speed 'half'.*auto, float32, float32\+blocks"),
    ],
)
def test_settings_are_refused_before_anything_is_written(tmp_path, setting, says):
    with pytest.raises(ValueError, match=says):
        minimal.run(tmp_path, **setting)
    assert not list(tmp_path.iterdir())


def test_batch_statistics_are_averaged_models_and_untouched_by_measuring(tmp_path):
    """Buffers are the model's, in the average too; and what is run to choose a speed is not counted."""

    def run(name, batch_at=minimal.batch_at, **options):
        model = LossModel(minimal.net(nn.BatchNorm1d(16)), minimal.loss)
        return minimal.run(tmp_path / name, model, batch_at, steps=8, **options)

    def interrupt(step):
        if step == 6:
            raise ZeroDivisionError
        return minimal.batch_at(step)

    whole = run("whole")
    with pytest.raises(ZeroDivisionError):
        run("broken", interrupt)
    assert minimal.digests(run("broken", resume=True)) == minimal.digests(whole)
    tensors = [checkpoint.read(whole).tensors(group) for group in ("model", "ema")]
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(tensors[0][name], tensors[1][name])
    assert tensors[0]["1.num_batches_tracked"] == 8
    assert not torch.equal(tensors[0]["0.weight"], tensors[1]["0.weight"])
    chosen = checkpoint.read(run("chosen", speed="auto"))
    assert chosen.tensors("model")["1.num_batches_tracked"] == 8


def test_a_weight_in_the_batch_weights_the_loss(tmp_path):
    """A sample of weight 3 counts as one that comes three times, a sample of weight 0 as none."""
    x = torch.tensor([[0.5], [-1.0], [2.0], [0.7]])
    weighted = {"x": x, "weight": torch.tensor([3.0, 1.0, 0.0, 0.0])}
    repeated = {"x": torch.cat([x[:1], x[:1], x[:1], x[1:2]])}
    trained = []
    for name, batch in (("weighted", weighted), ("repeated", repeated)):
        torch.manual_seed(0)
        model = LossModel(nn.Linear(1, 1), lambda m, b, g: (m(b["x"]) - 1).square()[:, 0])
        minimal.run(tmp_path / name, model, lambda step, batch=batch: batch, steps=5, warmup_steps=1)
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*trained)


def test_the_record_is_the_whole_config_as_plain_data(tmp_path):
    saved = checkpoint.read(
        minimal.run(tmp_path, steps=1, record=RunConfig(seed=3, net={"name": "x", "widths": (1, 2)}))
    )
    assert saved.config["seed"] == 3 and saved.config["net"] == {"name": "x", "widths": [1, 2]}
    assert json.loads(json.dumps(saved.config)) == saved.config
