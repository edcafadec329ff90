"""The comparison of policies, tiny: trained, evaluated, skipped, resumed, refused.

What it trains and evaluates it trains and evaluates once, in this process; the other tests replay those files.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from comparing import TINY, Bench

import compare
from comparison import fan, page, plan, results, store, tables, timing, work
from comparison.checks import check
from diffpolicy import checkpoint
from diffpolicy.cli import evaluate
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation import compare as paired
from diffpolicy.training.retention import point

pytestmark = pytest.mark.usefixtures("hasty")

PLAN = {
    "demonstrations": {"few": 3},
    "trainings": {
        "flow": {
            "settings": ["task=detour", *TINY, "method=flow"],
            "demonstrations": ["few"],
            "evaluations": ["fresh"],
            "more": ["calls_2", "modes"],
        },
        "cloning": {
            "settings": ["task=detour", *TINY, "method=regression"],
            "demonstrations": ["few"],
            "evaluations": ["fresh"],
            "against": ["flow"],
        },
    },
    "evaluations": {
        "fresh": {"settings": ["episodes=2"]},
        "calls_2": {"settings": ["episodes=2", "steps=2"], "against": ["fresh"]},
        "modes": {"settings": ["episodes=2", "modes=true"]},
    },
    "fan": ["flow_few_s0", "cloning_few_s0"],
}


def changed(where, value):
    """The plan with another value at a dotted place; a list after "+" is added."""
    contents = json.loads(json.dumps(PLAN))
    *parents, last = where.split(".")
    node = contents
    for parent in parents:
        node = node[parent]
    node[last] = node[last] + value[1:] if value[:1] == ["+"] else value
    return contents


@pytest.fixture(scope="module")
def measured(hasty, tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("compared"), PLAN)
    assert bench.go() == 0
    bench.first = bench.ran
    return bench


class Replay(Bench):
    """A copy of a measured comparison, whose commands bring back the files that are measured already."""

    def __init__(self, folder, measured):
        shutil.copytree(measured.folder, folder, symlinks=True)
        self.origin = measured.folder / "runs"
        super().__init__(folder, PLAN)

    def _launch(self, name, arguments, environment):
        self.ran.append((name, arguments))
        settings = dict(argument.split("=", 1) for argument in arguments)
        folder = self.folder / "runs"
        if name == "train":
            run = settings["run_dir"].removeprefix(f"{folder}/")
            shutil.rmtree(folder / run, ignore_errors=True)
            no_evaluations = shutil.ignore_patterns("evaluations")
            shutil.copytree(self.origin / run, folder / run, symlinks=True, ignore=no_evaluations)
        else:
            out = settings["out"].removeprefix(f"{folder}/")
            source = self.origin / out.replace("/again/", "/evaluations/") / "evaluation.json"
            (folder / out).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / out)
        return 0


@pytest.fixture
def replay(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "write", lambda *_: None)
    monkeypatch.setattr(fan, "draw", lambda *_: "no plot of chunks")
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    return Replay(tmp_path / "copy", measured)


def forget(bench, *names):
    """Delete stored results and their evaluations."""
    with store.changing(bench.results, {}) as stored:
        for name in names:
            del stored[name]
            shutil.rmtree(bench.folder / "runs" / name.replace("/", "/evaluations/"))


def test_every_result_says_what_it_is(measured):
    assert list(measured.stored) == [
        "flow_few_s0/fresh", "flow_few_s0/calls_2", "flow_few_s0/modes", "cloning_few_s0/fresh",
    ]  # fmt: skip
    assert [name for name, _ in measured.first].count("train") == 2
    found = measured.stored["flow_few_s0/calls_2"]
    assert found["network_calls"] == 2 and measured.stored["flow_few_s0/fresh"]["network_calls"] == 10
    assert found["demonstrations"] == {"name": "few", "trained": 3, "held_out": 40}
    assert len(found["episodes"]["score"]) == len(found["episodes"]["success"]) == 2
    assert found["latency"]["median"] > 0 and found["latency"]["threads"] == 1
    validation = found["train"]["validation"]
    assert [point[0] for point in validation["curve"]] == [1, 2] and validation["of_last"] == 2
    assert validation["best"] == pytest.approx(max(point[2] for point in validation["curve"]), abs=1e-4)
    saved = checkpoint.read(measured.folder / "runs/flow_few_s0/checkpoints/best")
    assert found["checkpoint"]["sha256"] == saved.sha256["ema.safetensors"]
    assert found["parameters"] == sum(value.numel() for value in saved.tensors("ema").values())
    assert measured.stored["flow_few_s0/modes"]["modes"]["all_starts"]["rollouts"]["episodes"] == 2
    text = (measured.results / "comparison.json").read_text()
    assert str(measured.folder) not in text and len(text.splitlines()) == len(measured.stored) + 2


def test_what_is_stored_is_not_measured_again(measured):
    before = (measured.results / "comparison.json").read_bytes()
    assert measured.go() == 0 and measured.ran == []
    assert (measured.results / "comparison.json").read_bytes() == before


def test_a_result_by_its_own_command_has_the_same_episodes(measured, tmp_path, monkeypatch):
    found = measured.stored["flow_few_s0/calls_2"]
    (tmp_path / "runs").symlink_to(measured.folder / "runs")
    program, name, *arguments = found["commands"]["evaluate"].split()
    assert (program, name) == ("diffpolicy", "evaluate")
    arguments = [argument for argument in arguments if not argument.startswith("out=")]
    monkeypatch.chdir(tmp_path)
    evaluate.run(compose([*arguments, "out=alone", "videos=0", "envs=1", "workers=0"], "evaluate", EvaluateConfig))
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    assert results.evaluation_digest(alone) == found["episodes"]["sha256"]


def test_paired_differences_are_those_of_the_evaluations(measured):
    def whole(name):
        file = measured.folder / "runs" / name.replace("/", "/evaluations/") / "evaluation.json"
        return json.loads(file.read_text())

    found = {name: set(one["differences"]) for name, one in measured.stored.items()}
    assert found == {
        "flow_few_s0/fresh": set(),
        "flow_few_s0/calls_2": {"flow_few_s0/fresh"},
        "flow_few_s0/modes": set(),
        "cloning_few_s0/fresh": {"flow_few_s0/fresh"},
    }
    for name in ("flow_few_s0/calls_2", "cloning_few_s0/fresh"):
        expected = paired(whole(name), whole("flow_few_s0/fresh"))
        difference = measured.stored[name]["differences"]["flow_few_s0/fresh"]
        assert difference["episodes"] == expected["episodes"] == 2
        for key in ("score", "final_coverage", "success"):
            assert difference[key] == pytest.approx(expected[key], abs=2e-5)
    score = {name: [episode["score"] for episode in whole(name)["episodes"]] for name in found}
    pairs = zip(score["cloning_few_s0/fresh"], score["flow_few_s0/fresh"], strict=True)
    by_hand = sum(ours - others for ours, others in pairs) / 2
    difference = measured.stored["cloning_few_s0/fresh"]["differences"]["flow_few_s0/fresh"]
    assert difference["score"]["mean"] == pytest.approx(by_hand, abs=2e-5)


def test_the_page_is_one_file(measured):
    text = (measured.results / "comparison.html").read_text()
    assert text.count("data:image/png;base64,") == 3 and not re.search(r'(src|href)="(?!data:)', text)
    assert all(name in text for name in measured.stored)


def test_evaluations_are_repeated_and_compared(replay, capsys):
    assert replay.go("*/fresh", again=True) == 0
    assert [name for name, _ in replay.ran] == ["evaluate", "evaluate"]
    assert capsys.readouterr().out.count("equal episodes") == 2
    with store.changing(replay.results, {}) as stored:
        stored["flow_few_s0/fresh"]["episodes"]["sha256"] = "of others"
    assert replay.go("flow_few_s0/fresh", again=True) == 1
    assert "flow_few_s0/fresh: OTHER EPISODES" in capsys.readouterr().out


def test_chunks_are_timed_again_where_the_checkpoint_is(replay, capsys):
    before = replay.stored
    shutil.rmtree(replay.folder / "runs" / "cloning_few_s0")
    with store.changing(replay.results, {}) as stored:
        for found in stored.values():
            found["latency"]["median"] = -1.0
    assert compare.run(replay.make(), "retime") == 0
    assert "3 timed; 1 have no checkpoint" in capsys.readouterr().out
    for name, found in replay.stored.items():
        assert (found["latency"]["median"] > 0) == (found["run"] == "flow_few_s0")
        assert {**found, "latency": 0} == {**before[name], "latency": 0}


@pytest.mark.parametrize("stored_too", [True, False])
def test_another_plan_is_refused(replay, stored_too):
    if not stored_too:  # the evaluations in runs_dir are checked as well
        (replay.results / "comparison.json").unlink()
    replay.change(changed("evaluations.fresh.settings", ["+", "action_horizon=4"]))
    with pytest.raises(ValueError, match="action_horizon: was None, now 4"):
        replay.go("flow_few_s0/fresh")
    replay.change(changed("trainings.flow.settings", ["+", "training.lr=1e-4"]))
    with pytest.raises(ValueError, match=re.escape("training.lr: was 0.001, now 0.0001")):
        replay.go("flow_few_s0/fresh")
    assert replay.ran == []


def test_an_unfinished_training_is_resumed(replay):
    folder = replay.folder / "runs" / "flow_few_s0"
    shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(2))
    for name in ("last", "best"):
        point(folder / "checkpoints", name, checkpoint.step_name(1))
    before = replay.stored["flow_few_s0/fresh"]
    forget(replay, "flow_few_s0/fresh", "flow_few_s0/calls_2", "flow_few_s0/modes")
    assert "resume training at step 1" in replay.make().agenda(replay.make("flow_few_s0").to_do())
    assert replay.go("flow_few_s0/fresh") == 0
    (name, settings), (evaluated, _) = replay.ran
    assert (name, evaluated) == ("train", "evaluate") and "resume=true" in settings
    now = replay.stored["flow_few_s0/fresh"]
    assert (now["checkpoint"], now["episodes"]) == (before["checkpoint"], before["episodes"])


def test_stored_results_outlive_the_runs(replay, capsys):
    text = (replay.results / "comparison.json").read_text()
    shutil.rmtree(replay.folder / "runs")
    assert replay.go() == 0 and replay.ran == []
    assert (replay.results / "comparison.json").read_text() == text
    more = changed("trainings.flow.more", ["+", "calls_3"])
    more["evaluations"]["calls_3"] = {"settings": ["episodes=2", "steps=3"]}
    replay.change(more)
    assert replay.go() == 1 and replay.ran == []
    assert re.search("flow_few_s0: calls_3 need the checkpoint .* put that run back", capsys.readouterr().err)
    comparison = replay.make()
    agenda = comparison.agenda(comparison.to_do())
    assert "calls_3 need the checkpoint" in agenda and agenda.endswith("nothing else is left to do")
    with store.changing(replay.results, {}) as stored:
        del stored["cloning_few_s0/fresh"]
    assert replay.go("flow_few_s0", "cloning_few_s0") == 1  # the others are measured all the same
    assert [name for name, _ in replay.ran] == ["train", "evaluate"]


def test_results_on_other_initial_states_have_no_difference(replay):
    """They follow when their turn comes."""
    with store.changing(replay.results, {}) as stored:
        stored["flow_few_s0/fresh"]["episodes"]["first_seed"] = 77
        stored["flow_few_s0/fresh"]["episodes"]["sha256"] = "of others"
    assert replay.stored["flow_few_s0/calls_2"]["differences"] == {}
    with store.changing(replay.results, {}) as stored:
        stored["flow_few_s0/calls_2"]["episodes"]["first_seed"] = 77
    assert set(replay.stored["flow_few_s0/calls_2"]["differences"]) == {"flow_few_s0/fresh"}


def test_another_checkpoint_than_the_measured_one_is_refused(replay):
    with store.changing(replay.results, {}) as stored:
        del stored["flow_few_s0/modes"]
        stored["flow_few_s0/fresh"]["checkpoint"]["sha256"] = "of another"
    with pytest.raises(ValueError, match="flow_few_s0/fresh.*another checkpoint"):
        replay.go()


def test_a_failure_is_reported_and_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "launch", lambda *_: 2)
    assert compare.run(Bench(tmp_path, PLAN).make("flow_few_s0/fresh", "cloning_few_s0")) == 1
    error = capsys.readouterr().err
    assert error.count("the command above failed with status 2") == 2 and "cloning_few_s0: the command" in error
    assert "not measured, for the reasons above: flow_few_s0/fresh, cloning_few_s0/fresh" in error


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("trainings.flow.evaluations", ["frsh"], ["training 'flow'", "'frsh'", "'fresh'"]),
        ("trainings.flow.demonstrations", ["all"], ["'all'", "few"]),
        ("trainings.flow.settings", ["+", "seed=3"], ["seed=3", "leave it to the comparison"]),
        ("trainings.flow.settings", ["+", "method=flwo"], ["flow_few_s0", "flwo"]),
        ("trainings.flow.settings", ["+", "traning.lr=1"], ["'traning.lr'", "'training.lr'"]),
        ("trainings.flow.settings", ["task=own"], ["env.id=null"]),
        ("trainings.cloning.evaluations", ["calls_2"], ["cloning_few_s0/calls_2", "has no sampler"]),
        ("evaluations.fresh.settings", ["episodes=0"], ["flow_few_s0/fresh", "episodes=0"]),
        ("evaluations.fresh.settings", ["+", "execution.warm_start=2"], ["warm_start", "between 0"]),
        ("evaluations.fresh.settings", ["seeds=paper"], ["unknown seeds 'paper'"]),
        ("evaluations.modes.settings", ["+", "seeds=first"], ["flow_few_s0/modes", "unknown seeds 'first'"]),
        ("evaluations.fresh.settings", ["seeds=500000"], ["calls_2", "other initial states"]),
        ("trainings.cloning.settings", ["task=pushblocks", *TINY, "method=regression"], ["other initial states"]),
        ("trainings.flow.settings", ["+", "method=ddpm", "dataset.normalize.action=gaussian"], ["action=gaussian"]),
        ("evaluations.fresh.settings", ["out=X"], ["out=X"]),
        ("evaluations.calls_2.settings", ["+", "env.id=diffpolicy/PushBlocks-v0"], ["env.id=", "leave it"]),
        ("evaluations.calls_2.settings", ["+", "+env.kwargs.ways=3"], ["env.kwargs.ways", "leave it"]),
        ("evaluations.calls_2.against", ["frsh"], ["'calls_2'", "against", "'fresh'"]),
        ("fan", ["flow_few_s7"], ["fan", "'flow_few_s7'", "'flow_few_s0'"]),
    ],
)
def test_bad_plans_are_refused_before_any_work(tmp_path, where, value, says):
    bench = Bench(tmp_path, changed(where, value))
    with pytest.raises(ValueError) as refused:
        bench.make("*_few_s0/*").to_do()
    assert all(word in str(refused.value) for word in says), refused.value
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()


EYES = ["task=pusht_block", "dataset.name=expert_pusht", "observation.mode=drawn", "dataset.action_key=corners"]
SEEN = {
    "demonstrations": {"few": 2},
    "trainings": {
        "flow": {
            "settings": ["task=pusht_expert", *TINY],
            "demonstrations": ["few"],
            "seeds": [0, 1],
            "evaluations": ["fresh", "seen"],
        },
        "eyes": {
            "settings": [*EYES, "encoder.widths=[8]", "encoder.keypoints=4", *TINY, "net.groups=4"],
            "demonstrations": ["few"],
        },
    },
    "evaluations": {
        "fresh": {"settings": ["episodes=2"]},
        "seen": {
            "settings": ["episodes=2", "env.kwargs.obs_mode=pixels"],
            "estimator": "eyes",
            "against": ["fresh"],
        },
    },
}


def test_a_policy_observes_by_another_training(tmp_path):
    """The estimator is trained first, and its run is named in the row; without such a run there is no row."""
    bench = Bench(tmp_path, SEEN)
    comparison = bench.make("flow_few_s0/seen")
    assert "eyes_few_s0: train, an estimator" in comparison.agenda(comparison.to_do())
    assert "flow_few_s1/seen" not in comparison.every
    assert bench.go("flow_few_s0") == 0
    assert [name for name, _ in bench.ran].count("train") == 2
    found, exact = bench.stored["flow_few_s0/seen"], bench.stored["flow_few_s0/fresh"]
    saved = checkpoint.read(tmp_path / "runs/eyes_few_s0/checkpoints/best")
    told_by = found["estimator"]
    assert (told_by["training"], told_by["sha256"]) == ("eyes", saved.sha256["ema.safetensors"])
    assert found["checkpoint"] == exact["checkpoint"] and found["episodes"] != exact["episodes"]
    assert tables.changed(found) == {"estimator": "eyes"} and "estimator" not in exact
    assert "env.estimator=runs/eyes_few_s0/checkpoints/best" in found["commands"]["evaluate"]
    assert found["commands"]["estimator"].startswith("diffpolicy train task=pusht_block")
    assert str(tmp_path) not in (bench.results / "comparison.json").read_text()
    assert bench.go("flow_few_s0") == 0 and bench.ran == []
    assert bench.go("flow_few_s0/seen", again=True) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"estimator": "ears"}, "unknown name 'ears'"), ({"estimator": None}, "env.kwargs.obs_mode=pixels.*leave it")],
)
def test_estimators_that_the_plan_does_not_have_are_refused(tmp_path, changes, says):
    contents = json.loads(json.dumps(SEEN))
    contents["evaluations"]["seen"].update(changes)
    with pytest.raises(ValueError, match=says):
        Bench(tmp_path, contents).make().to_do()


def test_unknown_names_are_refused_with_the_close_ones(tmp_path):
    with pytest.raises(ValueError, match="'flow_few_s9'.*'flow_few_s0'"):
        Bench(tmp_path, PLAN).make("flow_few_s9").to_do()


def test_the_plan_that_ships_is_sound():
    every = plan.measurements(plan.load_plan(work.PLAN))
    assert {"flow_206_s2/fresh", "ddpm_90_s0/paper", "flow_206_s0/replan_2_warm_start"} <= set(every)
    first = [one.run.name for one in every.values() if one.run.seed == 0]
    assert [one.run.name for one in every.values()][: len(first)] == first
    chosen = plan.select(every, ["flow_206_s0/*", "regression_*/fresh", "mean_flow_before_90_s0"])
    assert len(chosen) == 18 + 2 + 5
    one_of_each = {one.evaluation: one for one in every.values() if one.run.name.startswith("flow_206_s0")}
    one_of_each |= {one.run.training: one for one in every.values() if one.run.seed == 0}
    check(one_of_each.values(), every)


def test_typed(tmp_path):
    """From another folder, in a process of its own; listing needs no training."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    done = subprocess.run(
        [sys.executable, compare.__file__, "--list", "--plan", "plan.yaml"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["flow_few_s0: fresh calls_2 modes", "cloning_few_s0: fresh"]
    assert {file.name for file in tmp_path.iterdir()} == {"plan.yaml"}
