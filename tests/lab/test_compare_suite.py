"""A comparison on a suite, tiny: its demonstrations are recorded, every method is trained on every task."""

import re

import numpy as np
import pytest
from comparing import TINY, Bench

import compare
from comparison import plan, recordings, suite, work
from comparison.checks import check
from comparison.store import compact, episodes_of
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.manifest import digest

OWN = ["task=own", "observation.vectors=[state]", "dataset.validation=0", *TINY]
pytestmark = pytest.mark.usefixtures("hasty")

PLAN = {
    "demonstrations": {"all": None},
    "tasks": {"round-it": ["env.id=diffpolicy/Detour-v0"], "two": ["env.id=diffpolicy/PushBlocks-v0"]},
    "recording": ["episodes=2", "noise=0"],
    "trainings": {
        "regression": {
            "settings": [*OWN, "method=regression"], "demonstrations": ["all"], "evaluations": ["fresh"],
        },
        "nearest": {
            "settings": [*OWN, "method=nearest"], "demonstrations": ["all"], "evaluations": ["fresh"],
            "against": ["regression"],
        },
    },
    "evaluations": {"fresh": {"settings": ["episodes=3"]}},
}  # fmt: skip
NAMES = [f"{task}/{method}_all_s0/fresh" for task in PLAN["tasks"] for method in PLAN["trainings"]]


def changed(**parts):
    return {**PLAN, **parts}


@pytest.fixture(scope="module")
def measured(hasty, tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("suite"), PLAN)
    bench.agenda = bench.make().agenda(bench.make().to_do())
    assert bench.go() == 0
    return bench


def test_one_command_records_trains_and_evaluates_on_every_task(measured):
    assert list(measured.stored) == NAMES
    ran = [name for name, _ in measured.ran]
    assert ran == ["record", *["train", "evaluate"] * 2] * 2  # a recording a task, before its first training
    for name, found in measured.stored.items():
        recorded = measured.folder / "runs" / found["task"] / "demonstrations"
        assert name.startswith(f"{found['task']}/") and found["demonstrations"]["trained"] == 2
        assert found["recording"]["sha256"] == digest(recorded) and found["recording"]["episodes"] == 2
        first = ReplayBuffer.open(recorded, ["action"]).meta["seeds"]
        assert found["recording"]["expert"]["mean"] == 2 / (first[-1] + 1)
        assert list(found["commands"]) == ["record", "train", "evaluate"]
        assert f"dataset.path=runs/{found['task']}/demonstrations" in found["commands"]["train"]
        assert len(list(episodes_of(found))) == 3
    assert set(measured.stored[NAMES[1]]["differences"]) == {NAMES[0]}  # of the same task
    assert "round-it/demonstrations: record 2 episodes\n" in measured.agenda
    assert "4 runs, 4 measurements to make, 0 stored" in measured.agenda


def test_what_is_there_is_not_made_again(measured):
    assert measured.go() == 0 and measured.ran == []
    agenda = measured.make().agenda({})
    assert agenda.endswith("4 stored; nothing is left to do")
    kept = measured.folder / "results" / "comparison.json"
    text = kept.read_text()
    try:
        kept.write_text(text.replace(text.splitlines()[-2] + "\n", "").replace("},\n]", "}\n]"))
        assert measured.go("two/*") == 0 and measured.ran == []  # the recording and the evaluation are still there
        assert set(measured.stored) == set(NAMES)
        (measured.folder / "runs" / "two" / "demonstrations.json").unlink()
        kept.write_text(text.replace(text.splitlines()[-2] + "\n", "").replace("},\n]", "}\n]"))
        assert measured.go("two/nearest*") == 0 and [name for name, _ in measured.ran] == ["record"]
        assert measured.stored[NAMES[3]]["recording"]["minutes"] is None  # was not made in one go
        assert measured.stored[NAMES[3]]["recording"]["sha256"] == measured.stored[NAMES[2]]["recording"]["sha256"]
    finally:
        kept.write_text(text)


def test_patterns_choose_tasks_and_methods(measured):
    every = measured.make().every
    assert list(plan.select(every, ["round-it/*"])) == NAMES[:2]
    assert list(plan.select(every, ["*/nearest_*"])) == NAMES[1::2]


def test_another_recording_is_refused(measured):
    try:
        measured.change(changed(recording=["episodes=2", "noise=0.1"]))
        with pytest.raises(ValueError, match=re.escape("noise: was 0, now 0.1")):
            measured.make().to_do()
        measured.change({name: part for name, part in PLAN.items() if name != "recording"})
        with pytest.raises(ValueError, match="were the comparison's own, now others"):
            measured.make().to_do()
    finally:
        measured.change(PLAN)
    recording = next(iter(measured.make().every.values())).run.recording
    note = recordings.note_of(measured.make().recording_dir(recording))
    assert recordings.recording_changes(note, recording) == []


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"recording": ["out=X"]}, ["recording: out=X", "leave it to the comparison"]),
        ({"tasks": {}}, ["recording without tasks", "at least one task"]),
        ({"tasks": {"a/b": []}}, ["'a/b'", "letters, digits, - and _"]),
        ({"tasks": {"a": ["seed=1"]}}, ["task 'a'", "seed=1"]),
        ({"recording": ["episode=2"]}, ["'episode'", "'episodes'"]),
        ({"tasks": {"a": ["env.id=diffpolicy/Detour-v1"]}}, ["a/regression_all_s0", "Detour-v0"]),
    ],
)
def test_bad_suites_are_refused_before_any_work(tmp_path, parts, says):
    bench = Bench(tmp_path, changed(**parts))
    with pytest.raises(ValueError) as refused:
        bench.make().to_do()
    assert all(word in str(refused.value) for word in says), refused.value
    assert not (tmp_path / "runs").exists()


def test_the_page_shows_tasks_and_methods(measured):
    text = (measured.results / "comparison.html").read_text()
    assert text.count("data:image/png;base64,") == 1 and "Published figures" not in text
    assert (measured.results / "comparison" / "tasks.png").stat().st_size > 5000
    assert "<th>task</th><th>expert</th><th>regression</th><th>nearest</th>" in text
    assert "<td>round-it</td>" in text and str(measured.folder) not in text


def _result(task, method, successes, at_end=None, seed=0, **changes):
    ends = successes if at_end is None else at_end
    episodes = [
        {"seed": 7 + i, "return": i / 3, "success": bool(a), "success_at_end": bool(b), "steps": 9}
        for i, (a, b) in enumerate(zip(successes, ends, strict=True))
    ]
    return {
        "row": f"{task}/{method}", "task": task, "training": method, "evaluation": "fresh", "seed": seed,
        "demonstrations": {"name": "50", "trained": 50, "held_out": 0}, "episodes": compact(episodes),
        "recording": {"expert": {"mean": 0.96, "low": 0.87, "high": 0.99}}, "latency": {"median": 0.01},
        "network_calls": 2, "train": {"minutes": 4.0}, "config": {"policy": {"action_horizon": 8}},
        "settings": {"seeds": 200000, "action_horizon": None}, **changes,
    }  # fmt: skip


def _without_end(result):
    """As an evaluation writes it in which no episode went on after its success."""
    del result["episodes"]["success_at_end"]
    return result


def test_tables_have_every_task_and_the_mean():
    half, all_ = [1, 0] * 10, [1] * 20
    results = [
        _result("push", "flow", all_, half), _result("reach", "flow", half), _result("push", "ddpm", half),
    ]  # fmt: skip
    made = suite.tables(results)
    whole, tasks, end = (made[name].markdown().splitlines() for name in ("suite", "suite_tasks", "suite_at_end"))
    assert tasks[0] == "| task | expert | flow | ddpm |"
    assert tasks[2].startswith("| push | 96.0% [87.0%, 99.0%] | 100.0% [83.9%, 100.0%] | 50.0% [29.9%, 70.1%] |")
    assert tasks[3].endswith("|  |") and tasks[4].startswith("| **mean** | **96.0%** | **75.0% [")
    assert "| push | 50.0% [" in end[2] and "50.0%" in end[4]
    assert whole[2].startswith("| flow | 2 of 2 | 75.0% [") and "| 2 / 8 | 10.0 | 4.0 |" in whole[2]
    assert whole[3].startswith("| ddpm | 1 of 2 | 50.0% [") and "| -50.0% [" in whole[3]  # on the task of both
    of_one = suite.tables([_without_end(_result("push", "flow", half))])
    cells = of_one["suite"].lines[0].cells
    assert of_one["suite_at_end"].lines == [] and cells[2] == cells[3]
    found = suite.Suite(results)
    assert found.difference("ddpm", "flow") == suite.stratified_bootstrap([np.subtract(half, all_)])
    assert found.mean("flow") == suite.stratified_bootstrap([all_, half])
    assert suite.tables([])["suite"].markdown() == "Nothing is measured yet."


def test_seeds_of_training_and_other_evaluations_are_told_apart():
    results = [
        _result("push", "flow", [1, 1]), _result("push", "flow", [0, 0], seed=1),
        _result("push", "flow", [0, 1], evaluation="calls_2"),
    ]  # fmt: skip
    found = suite.Suite(results)
    assert {name: cells["push"].values() for name, cells in found.methods.items()} == {
        "flow, fresh": [1.0, 1.0, 0.0, 0.0], "flow, calls_2": [0.0, 1.0],
    }  # fmt: skip


def test_the_plan_of_metaworld_is_what_its_page_says():
    file = work.PLAN.with_name("compare_metaworld.yaml")
    made = plan.load_plan(file)
    every = plan.measurements(made)
    assert len(made.tasks) == 16 and len(every) == 16 * 5
    assert {one.run.training for one in every.values()} == {"flow", "mean_flow", "ddpm", "regression", "lstm_gmm"}
    for one in every.values():
        assert one.against == (() if one.run.training == "flow" else (f"{one.run.task}/flow_50_s0/fresh",))
    one = every["push-v3/mean_flow_50_s0/fresh"]
    assert one.run.config.env.task == "push-v3" == one.run.recording.config.env.task
    assert one.run.recording.config.episodes == 50 == one.config.episodes and one.run.config.method["steps"] == 2
    assert one.run.recording.config.env.id == one.run.config.env.id
    assert made.results == "docs/results/metaworld"
    assert compare.main(["--list", "--plan", str(file)]) == 0


def test_the_plan_of_metaworld_fits_its_environments():
    pytest.importorskip("metaworld", reason="needs the extra: pip install 'diffpolicy[metaworld]'")
    every = plan.measurements(plan.load_plan(work.PLAN.with_name("compare_metaworld.yaml")))
    check([one for one in every.values() if one.run.task in ("push-v3", "shelf-place-v3")], every)
