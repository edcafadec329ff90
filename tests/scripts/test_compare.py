"""The comparison of policies, tiny: trained, evaluated, skipped, resumed, refused; and what its tables say.

The commands that it runs are called in this process, but in one test that types them.
"""

import dataclasses
import json
import re
import shutil

import pytest
import torch
import yaml
from typed import typed

from diffpolicy import checkpoint
from diffpolicy.evaluation import compare as paired
from diffpolicy.evaluation import metrics
from diffpolicy.scripts import compare, evaluate, measure_ways, train
from diffpolicy.scripts._hydra import compose
from diffpolicy.scripts.comparison import fan, pages, plan, rows, store, tables

MODULES = {"train": train, "evaluate": evaluate, "measure_ways": measure_ways}
TINY = ["task=detour", "speed=float32", "evaluation_episodes=1", "net.widths=[8,16]", "net.time_features=8"]
TINY += ["training.batch_size=8", "training.steps=2", "training.evaluate_every=1", "training.evaluate_from=1"]
PLAN = {
    "demonstrations": {"few": 3},
    "trainings": {
        "flow": {
            "settings": [*TINY, "method=flow"],
            "demonstrations": ["few"],
            "evaluations": ["fresh"],
            "more": ["calls_2", "ways"],
        },
        "cloning": {
            "settings": [*TINY, "method=regression"],
            "demonstrations": ["few"],
            "evaluations": ["fresh"],
            "against": ["flow"],
        },
    },
    "evaluations": {
        "fresh": {"settings": ["episodes=2"]},
        "calls_2": {"settings": ["episodes=2", "steps=2"], "against": ["fresh"]},
        "ways": {"settings": ["episodes=2"], "command": "measure_ways"},
    },
    "fan": ["flow_few_s0", "cloning_few_s0"],
}


class Bench:
    """A comparison in a folder, which notes the commands that it runs."""

    def __init__(self, folder, contents=PLAN):
        self.folder, self.ran = folder, []
        self.change(contents)

    def change(self, contents):
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(contents, sort_keys=False))

    def make(self, *wanted, **settings):
        given = {"workers": 0, **settings}
        folders = {"runs_dir": str(self.folder / "runs"), "results": str(self.folder / "results")}
        config = compare.Config(file=str(self.folder / "plan.yaml"), rows=list(wanted), **folders, **given)
        return compare.Comparison(config)

    def go(self, *wanted, **settings):
        """Measure what is left, as `diffpolicy-compare` does; the exit status."""
        self.ran = []
        comparison = self.make(*wanted, **settings)
        jobs = comparison.to_do(wanted)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compare, "_launch", self._call)
            for run, chosen in jobs.items():
                comparison.do(run, chosen)
        return comparison.finish(jobs)

    def _call(self, name, arguments, environment):
        self.ran.append((name, arguments))
        MODULES[name].run(compose(name, MODULES[name].Config, arguments))
        return 0

    @property
    def rows(self):
        return store.read_rows(self.folder / "results")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer resamples and timed chunks than anybody would want, and no pictures of single runs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_RESAMPLES", 50)
        patch.setattr(rows, "_CHUNKS", 2)
        patch.setattr(fan, "VALIDATION_EPISODES", 2)
        for module, names in (
            (evaluate, ("draw_scores", "draw_training", "write_page")),
            (train, ("draw_training",)),
            (measure_ways, ("draw_ways",)),
        ):
            for name in names:
                patch.setattr(module, name, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("compared"))
    assert bench.go() == 0
    bench.first = bench.ran
    return bench


@pytest.fixture
def copied(measured, tmp_path):
    """The measured comparison, to be spoilt."""
    shutil.copytree(measured.folder, tmp_path / "copy", symlinks=True)
    return Bench(tmp_path / "copy")


def test_every_row_says_what_it_is(measured):
    assert list(measured.rows) == [
        "flow_few_s0/fresh", "flow_few_s0/calls_2", "flow_few_s0/ways", "cloning_few_s0/fresh",
    ]  # fmt: skip
    assert [name for name, _ in measured.first].count("train") == 2
    row = measured.rows["flow_few_s0/calls_2"]
    assert row["network_calls"] == 2 and measured.rows["flow_few_s0/fresh"]["network_calls"] == 10
    assert row["demonstrations"] == {"name": "few", "trained": 3, "held_out": 40}
    assert len(row["episodes"]["score"]) == len(row["episodes"]["success"]) == 2
    assert row["latency"]["median"] > 0 and row["latency"]["threads"] == 1
    validation = row["train"]["validation"]
    assert [point[0] for point in validation["curve"]] == [1, 2] and validation["of_last"] == 2
    assert validation["best"] == pytest.approx(max(point[2] for point in validation["curve"]), abs=1e-4)
    saved = checkpoint.read(measured.folder / "runs/flow_few_s0/checkpoints/best")
    assert row["checkpoint"]["sha256"] == saved.sha256["ema.safetensors"]
    assert row["parameters"] == sum(value.numel() for value in saved.tensors("ema").values())
    assert measured.rows["flow_few_s0/ways"]["ways"]["all_starts"]["rollouts"]["episodes"] == 2
    text = (measured.folder / "results" / "comparison.json").read_text()
    assert str(measured.folder) not in text and len(text.splitlines()) == len(measured.rows) + 2


def test_what_is_measured_is_not_measured_again(measured):
    before = (measured.folder / "results" / "comparison.json").read_bytes()
    assert measured.go() == 0 and measured.ran == []
    assert (measured.folder / "results" / "comparison.json").read_bytes() == before


def test_a_row_by_its_own_commands_has_the_same_episodes(measured, tmp_path):
    row = measured.rows["flow_few_s0/calls_2"]
    (tmp_path / "runs").symlink_to(measured.folder / "runs")
    name, *arguments = row["commands"]["evaluate"].split()
    assert name == "diffpolicy-evaluate"
    arguments = [a for a in arguments if not a.startswith("out=")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        evaluate.run(compose("evaluate", evaluate.Config, [*arguments, "out=alone", "videos=0", "envs=1"]))
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    assert rows.digest("evaluate", alone) == row["episodes"]["sha256"]


def test_rows_evaluated_again_are_compared(copied, capsys):
    assert copied.go("*/fresh", again=True) == 0
    assert [name for name, _ in copied.ran] == ["evaluate", "evaluate"]
    assert capsys.readouterr().out.count("equal episodes") == 2
    with store.changing(copied.folder / "results", {}) as table:
        table["flow_few_s0/fresh"]["episodes"]["sha256"] = "of others"
    assert copied.go("flow_few_s0/fresh", again=True) == 1
    assert "flow_few_s0/fresh: OTHER EPISODES" in capsys.readouterr().out


def test_chunks_are_timed_again_where_the_checkpoint_is(copied, capsys):
    before = copied.rows
    shutil.rmtree(copied.folder / "runs" / "cloning_few_s0")
    with store.changing(copied.folder / "results", {}) as table:
        for row in table.values():
            row["latency"]["median"] = -1.0
    assert copied.make().retime([]) == 0
    assert "3 rows timed; 1 have no checkpoint" in capsys.readouterr().out
    for name, row in copied.rows.items():
        assert (row["latency"]["median"] > 0) == (row["run"] == "flow_few_s0")
        assert {**row, "latency": 0} == {**before[name], "latency": 0}


def test_paired_differences_are_those_of_the_evaluations(measured):
    def whole(name):
        run, evaluation = name.split("/")
        return json.loads(
            (measured.folder / "runs" / run / "evaluations" / evaluation / "evaluation.json").read_text()
        )

    found = {row["row"]: set(row["differences"]) for row in measured.rows.values()}
    assert found == {
        "flow_few_s0/fresh": set(),
        "flow_few_s0/calls_2": {"flow_few_s0/fresh"},
        "flow_few_s0/ways": set(),
        "cloning_few_s0/fresh": {"flow_few_s0/fresh"},
    }
    for name in ("flow_few_s0/calls_2", "cloning_few_s0/fresh"):
        expected = paired(whole(name), whole("flow_few_s0/fresh"))
        difference = measured.rows[name]["differences"]["flow_few_s0/fresh"]
        assert difference["episodes"] == expected["episodes"] == 2
        for key in ("score", "final_coverage", "success"):
            assert difference[key] == pytest.approx(expected[key], abs=2e-5)
    score = {name: [row["score"] for row in whole(name)["episodes"]] for name in found if "ways" not in name}
    pairs = zip(score["cloning_few_s0/fresh"], score["flow_few_s0/fresh"], strict=True)
    by_hand = sum(ours - others for ours, others in pairs) / 2
    difference = measured.rows["cloning_few_s0/fresh"]["differences"]["flow_few_s0/fresh"]
    assert difference["score"]["mean"] == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize("table_too", [True, False])
def test_another_plan_is_refused(copied, table_too):
    if not table_too:  # what lies in runs_dir is looked at as well
        (copied.folder / "results" / "comparison.json").unlink()
    changed = json.loads(json.dumps(PLAN))
    changed["evaluations"]["fresh"]["settings"] = ["episodes=2", "action_horizon=4"]
    copied.change(changed)
    with pytest.raises(ValueError, match="action_horizon: was None, now 4"):
        copied.go("flow_few_s0/fresh")
    changed = json.loads(json.dumps(PLAN))
    changed["trainings"]["flow"]["settings"] += ["training.lr=1e-4"]
    copied.change(changed)
    with pytest.raises(ValueError, match=re.escape("training.lr: was 0.001, now 0.0001")):
        copied.go("flow_few_s0/fresh")
    assert copied.ran == []


def test_a_killed_training_is_resumed(copied):
    """With the bytes and the episodes of one that was not."""
    folder = copied.folder / "runs" / "flow_few_s0"
    before, checkpoints = copied.rows, folder / "checkpoints"
    shutil.rmtree(checkpoints / checkpoint.step_name(2))
    for link in ("last", "best"):
        checkpoint.point(checkpoints, link, checkpoint.step_name(1))
    shutil.rmtree(folder / "evaluations")
    (copied.folder / "results" / "comparison.json").unlink()
    assert copied.go("flow_few_s0/fresh") == 0
    (name, settings), (evaluated, _) = copied.ran
    assert (name, evaluated) == ("train", "evaluate") and "resume=true" in settings
    assert checkpoint.read(checkpoints / "last").step == 2
    now = copied.rows["flow_few_s0/fresh"]
    assert now["checkpoint"] == before["flow_few_s0/fresh"]["checkpoint"]
    assert now["episodes"] == before["flow_few_s0/fresh"]["episodes"]


def test_the_table_outlives_the_runs(copied, capsys):
    text = (copied.folder / "results" / "comparison.json").read_text()
    shutil.rmtree(copied.folder / "runs")
    assert copied.go() == 0 and copied.ran == []
    assert (copied.folder / "results" / "comparison.json").read_text() == text
    more = json.loads(json.dumps(PLAN))
    more["evaluations"]["calls_3"] = {"settings": ["episodes=2", "steps=3"]}
    more["trainings"]["flow"]["more"] += ["calls_3"]
    copied.change(more)
    assert copied.go() == 1 and copied.ran == []
    assert re.search("flow_few_s0: calls_3 need the checkpoint .* put that run back", capsys.readouterr().err)
    comparison = copied.make(dry=True)
    agenda = comparison.agenda(comparison.to_do([]))
    assert "calls_3 need the checkpoint" in agenda and agenda.endswith("nothing else is left to do")
    more["trainings"]["cloning"]["demonstrations"] = ["few", "fewer"]
    more["demonstrations"]["fewer"] = 2
    copied.change(more)
    assert copied.go("flow_few_s0", "cloning_fewer_*") == 1  # the others are measured all the same
    assert [name for name, _ in copied.ran] == ["train", "evaluate"]


def test_a_row_is_measured_anew_beside_others_of_other_states(copied):
    """Those that are compared with it follow when their turn comes."""
    changed = json.loads(json.dumps(PLAN))
    changed["evaluations"]["fresh"]["settings"] = ["episodes=2", "seeds=77"]
    changed["evaluations"]["calls_2"]["settings"] = ["episodes=2", "steps=2", "seeds=77"]
    copied.change(changed)
    shutil.rmtree(copied.folder / "runs" / "flow_few_s0" / "evaluations")
    with store.changing(copied.folder / "results", {}) as table:
        del table["flow_few_s0/fresh"]
    assert copied.go("flow_few_s0/fresh") == 0
    assert copied.rows["flow_few_s0/fresh"]["episodes"]["first_seed"] == 77
    assert copied.rows["flow_few_s0/calls_2"]["differences"] == {}
    with store.changing(copied.folder / "results", {}) as table:
        del table["flow_few_s0/calls_2"]
    assert copied.go("flow_few_s0/calls_2") == 0
    assert set(copied.rows["flow_few_s0/calls_2"]["differences"]) == {"flow_few_s0/fresh"}


def test_what_is_refused_or_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path)
    compare.run(bench.make("flow_few_s9").config)
    assert "flow_few_s9: no run or row is called" in capsys.readouterr().err
    monkeypatch.setattr(compare, "_launch", lambda *_: 2)
    compare.run(bench.make("flow_few_s0/fresh", "cloning_few_s0").config)
    assert capsys.readouterr().err.count("the command above failed with status 2") == 2


def test_another_checkpoint_is_not_taken_for_the_measured_one(copied):
    with store.changing(copied.folder / "results", {}) as table:
        del table["flow_few_s0/ways"]
        table["flow_few_s0/fresh"]["checkpoint"]["sha256"] = "of another"
    with pytest.raises(ValueError, match="flow_few_s0/fresh.*another checkpoint"):
        copied.go()


def test_a_failed_run_is_said_and_told_from_a_measured_one(copied, monkeypatch, capsys):
    shutil.rmtree(copied.folder / "runs" / "cloning_few_s0")
    with store.changing(copied.folder / "results", {}) as table:
        del table["cloning_few_s0/fresh"]
    monkeypatch.setattr(compare, "_launch", lambda *_: 2)
    comparison = copied.make()
    jobs = comparison.to_do([])
    compare.run(dataclasses.replace(comparison.config, rows=["cloning_few_s0/fresh"]))
    assert comparison.finish(jobs) == 1
    error = capsys.readouterr().err
    assert "cloning_few_s0: the command above failed with status 2" in error
    assert "not measured, for the reasons above: cloning_few_s0/fresh" in error


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("trainings.flow.evaluations", ["frsh"], ["training 'flow'", "'frsh'", "'fresh'"]),
        ("trainings.flow.demonstrations", ["all"], ["'all'", "few"]),
        ("trainings.flow.settings", [*TINY, "seed=3"], ["seed=3", "the comparison sets"]),
        ("trainings.flow.settings", [*TINY, "method=flwo"], ["flow_few_s0", "flwo"]),
        ("trainings.flow.settings", [*TINY, "traning.lr=1"], ["'traning.lr'", "'training.lr'"]),
        ("trainings.flow.settings", ["task=own"], ["env.id=null"]),
        ("trainings.cloning.evaluations", ["calls_2"], ["cloning_few_s0/calls_2", "regression draws nothing"]),
        ("evaluations.fresh.settings", ["episodes=0"], ["flow_few_s0/fresh", "episodes"]),
        ("evaluations.fresh.settings", ["episodes=2", "execution.warm_start=2"], ["warm_start", "between 0"]),
        ("evaluations.fresh.settings", ["seeds=paper"], ["calls_2", "other initial states"]),
        ("trainings.cloning.settings", ["task=pushblocks", *TINY[1:], "method=regression"], ["other initial states"]),
        ("trainings.flow.settings", [*TINY, "method=ddpm", "dataset.normalize.action=gaussian"], ["action=gaussian"]),
        ("evaluations.fresh.settings", ["out=X"], ["out=X"]),
        ("evaluations.fresh.command", "evaluat", ["'evaluat'", "'evaluate'"]),
        ("evaluations.ways.against", ["fresh"], ["'ways'", "against"]),
        ("fan", ["flow_few_s7"], ["fan", "'flow_few_s7'", "'flow_few_s0'"]),
    ],
)
def test_bad_plans_are_refused_before_any_work(tmp_path, where, value, says):
    contents = json.loads(json.dumps(PLAN))
    *parents, last = where.split(".")
    node = contents
    for parent in parents:
        node = node[parent]
    node[last] = value
    bench = Bench(tmp_path, contents)
    with pytest.raises(ValueError) as refused:
        bench.go()
    assert all(word in str(refused.value) for word in says), refused.value
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()


def test_unknown_rows_are_refused_with_the_near_ones(tmp_path):
    with pytest.raises(ValueError, match="'flow_few_s9'.*'flow_few_s0'"):
        Bench(tmp_path).go("flow_few_s9")


def test_the_plan_that_ships_is_sound():
    every = plan.rows_of(compose("compare", compare.Config, []).plan)
    assert {"flow_206_s2/fresh", "ddpm_90_s0/paper", "flow_206_s0/replan_2_warm_start"} <= set(every)
    first = [row.run.name for row in every.values() if row.run.seed == 0]
    assert [row.run.name for row in every.values()][: len(first)] == first
    chosen = plan.select(every, ["flow_206_s0/*", "regression_*/fresh", "mean_flow_90_s0"])
    assert len(chosen) == 12 + 2 + 5
    one_of_each = {row.config.get("steps"): row for row in every.values()}
    one_of_each |= {(row.run.training, row.evaluation): row for row in every.values() if row.run.seed == 0}
    plan.check(one_of_each.values(), every)


def _row(training, seed, score, **changed):
    value = {"mean": score, "low": score - 0.01, "high": score + 0.01}
    return {
        "row": f"{training}_206_s{seed}/fresh", "run": f"{training}_206_s{seed}", "training": training,
        "evaluation": "fresh", "command": "evaluate", "commands": {"evaluate": "diffpolicy-evaluate <&>"},
        "demonstrations": {"name": "206", "trained": 196, "held_out": 10},
        "seed": seed,
        "protocol": "500 episodes", "score": value, "final_coverage": value, "success": value, "network_calls": 10,
        "latency": {"median": 0.0123}, "parameters": 4_600_000, "differences": {}, "commit": "c", "processor": "P<1>",
        "versions": {"torch": "2"},
        "train": {"minutes": 12.0, "validation": {"best": 0.99, "last": 0.9, "of_last": 5, "curve": [[1, 2.0, 0.5]]}},
        "config": {"policy": {"action_horizon": 8}, "dataset": {"mirror": True, "align": True, "pace": 1.0}},
        "settings": {"seeds": 200000, "solver": None, "steps": None, "grid": None, "solver_options": {},
                     "action_horizon": None, "execution": {"noise": "random", "ensemble": None}},
        **changed,
    }  # fmt: skip


def test_tables_hold_rows_means_and_what_was_published():
    made = tables.tables([_row("flow", 0, 0.90), _row("flow", 1, 0.94), _row("ddpm", 0, 0.92)])
    lines = made["comparison"].markdown().splitlines()
    assert lines[0].startswith("| policy |") and len({line.count("|") for line in lines}) == 1
    assert "| flow | 196 (+10 held out), mirrored, aligned, by pace | 0 | 0.900 [0.890, 0.910] |" in lines[2]
    assert "**mean of 2** | **0.920 (0.900 to 0.940)** |" in lines[4] and "| 10 / 8 | 12.3 |" in lines[2]
    short = tables.summary([_row("flow", 0, 0.90), _row("flow", 1, 0.94), _row("ddpm", 0, 0.92)]).splitlines()
    assert "| flow | 196 (+10 held out), mirrored, aligned, by pace | 2 | 0.920 (0.900 to 0.940) |" in short[2]
    assert "| 1 | 0.920 [0.910, 0.930] |" in short[3] and short[3].endswith("| 10 / 8 | 12.0 |")
    of_two = _row("flow", 0, 0.9)
    of_two["settings"] |= {"action_horizon": 2, "steps": 4}
    assert "| 10 / 2 |" in tables.tables([of_two])["comparison_settings"].markdown()
    assert "*Diffusion Policy, LeRobot, images*" in "\n".join(lines) and "*0.80–0.84*" in "\n".join(lines)
    html = made["comparison"].html()
    assert html.count('<tr class="published">') == sum(row["beside"] == "fresh" for row in tables.published())
    assert made["comparison_paper"].markdown() == "Nothing is measured yet."
    other = _row("flow", 0, 0.9)
    other["settings"] |= {"steps": 1, "execution": {"noise": "episode", "ensemble": [0.7, 0.3]}}
    other["differences"] = {
        "x": {"episodes": 500, **{k: other["score"] for k in ("score", "final_coverage", "success")}}
    }
    made = tables.tables([other])
    assert made["comparison"].lines == [] and "x | 500 | +0.900" in made["comparison_differences"].markdown()
    assert "steps=1, noise=episode, ensemble=[0.7, 0.3]" in made["comparison_settings"].markdown()
    raw = _row("flow", 0, 0.9)
    raw["settings"] |= {"weights": "model"}
    assert not tables.is_plain(raw)


def test_other_settings_of_several_seeds_are_summed_up():
    jumps = [_row("mean_flow", seed, score) for seed, score in ((0, 0.90), (1, 0.94))]
    once = _row("mean_flow", 0, 0.7)
    for row, steps in ((jumps[0], 2), (jumps[1], 2), (once, 4)):
        row["settings"] = row["settings"] | {"steps": steps, "weights": "ema"}
        row["evaluation"] = f"calls_{steps}"
    made = [_row("mean_flow", 0, 0.8), *jumps, once]
    plain, two = tables.summary(made).splitlines()[2:]
    assert plain.startswith("| mean_flow | ") and two.startswith("| mean_flow, steps=2 | ")
    assert "| 2 | 0.920 (0.900 to 0.940) |" in two
    lines = tables.tables(made)["comparison_settings"].markdown().splitlines()[2:]
    assert len(lines) == 4 and "**mean of 2** | **calls_2** | **steps=2** | **0.920 (0.900 to 0.940)**" in lines[2]


def test_ways_are_shown_beside_the_demonstrations(measured):
    (row,) = (row for row in measured.rows.values() if "ways" in row)
    found = row["ways"]["fixed_start"]
    text = tables.ways_summary(list(measured.rows.values())).splitlines()
    assert len(text) == 4 and text[3].startswith("| flow | one | ")
    shares = [f"left {found[who]['shares']['left']:.0%}" for who in ("demonstrations", "rollouts")]
    assert re.search(f"{shares[0]}.* \\| {shares[1]}", text[3])
    assert text[3].endswith(f"| {found['total_variation']:.3f} |")


def test_the_page_is_one_file(measured, tmp_path):
    page = (measured.folder / "results" / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert all(name in page for name in measured.rows)
    (tmp_path / "comparison.json").write_text(json.dumps([_row("flow", 0, 0.9)]))
    pages.write(tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert "P&lt;1&gt;" in page and "diffpolicy-evaluate &lt;&amp;&gt;" in page
    assert all((tmp_path / "comparison" / f"{name}.png").stat().st_size > 5000 for name in ("calls", "minutes"))


def test_typed(tmp_path):
    """One run as a job of hydra's multirun, in processes of its own."""
    one = json.loads(json.dumps(PLAN))
    one["trainings"] = {"cloning": one["trainings"]["cloning"] | {"against": []}}
    one["fan"] = []
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(one, sort_keys=False))
    given = ("file=plan.yaml", "workers=0", "results=results", "runs_dir=runs")
    out = typed("compare", *given, "rows=cloning_few_s0", cwd=tmp_path)
    assert "diffpolicy-train task=detour" in out and "1 rows: results/comparison.json" in out
    assert list(store.read_rows(tmp_path / "results")) == ["cloning_few_s0/fresh"]
    assert {file.name for file in tmp_path.iterdir()} == {"plan.yaml", "runs", "results"}
