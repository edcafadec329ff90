"""The tables, plots and pages of the laboratory, from results of this release and of earlier ones."""

import json
import re
import subprocess
import sys
import threading
import time

import pytest

import results_table
from comparison import page, plots, store, tables, work
from comparison.store import config_of, settings_of


def _result(training, seed, score, **changed):
    value = {"mean": score, "low": score - 0.01, "high": score + 0.01}
    return {
        "row": f"{training}_206_s{seed}/fresh", "run": f"{training}_206_s{seed}", "training": training,
        "evaluation": "fresh", "commands": {"evaluate": "diffpolicy evaluate <&>"},
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
    made = tables.tables([_result("flow", 0, 0.90), _result("flow", 1, 0.94), _result("ddpm", 0, 0.92)])
    lines = made["comparison"].markdown().splitlines()
    assert lines[0].startswith("| policy |") and len({line.count("|") for line in lines}) == 1
    assert "| flow | 196 (+10 held out), mirrored, aligned, weighted | 0 | 0.900 [0.890, 0.910] |" in lines[2]
    assert "**mean of 2** | **0.920 (0.900 to 0.940)** |" in lines[4] and "| 10 / 8 | 12.3 |" in lines[2]
    results = [_result("flow", 0, 0.90), _result("flow", 1, 0.94), _result("ddpm", 0, 0.92)]
    short = tables.summary(results).splitlines()
    assert "| flow | 196 (+10 held out), mirrored, aligned, weighted | 2 | 0.920 (0.900 to 0.940) |" in short[2]
    assert "| 1 | 0.920 [0.910, 0.930] |" in short[3] and short[3].endswith("| 10 / 8 | 12.0 |")
    of_two = _result("flow", 0, 0.9)
    of_two["settings"] |= {"action_horizon": 2, "steps": 4}
    assert "| 10 / 2 |" in tables.tables([of_two])["comparison_settings"].markdown()
    assert "*Diffusion Policy, LeRobot, images*" in "\n".join(lines) and "*0.80–0.84*" in "\n".join(lines)
    assert made["comparison_paper"].markdown() == "Nothing is measured yet."
    other = _result("flow", 0, 0.9)
    other["settings"] |= {"steps": 1, "execution": {"noise": "episode", "ensemble": [0.7, 0.3]}}
    other["differences"] = {
        "x": {"episodes": 500, **{k: other["score"] for k in ("score", "final_coverage", "success")}}
    }
    made = tables.tables([other])
    assert made["comparison"].lines == [] and "x | 500 | +0.900" in made["comparison_differences"].markdown()
    assert "steps=1, noise=episode, ensemble=[0.7, 0.3]" in made["comparison_settings"].markdown()
    raw = _result("flow", 0, 0.9)
    raw["settings"] |= {"weights": "model"}
    assert not tables.is_plain(raw)


def test_other_settings_of_several_seeds_are_summed_up():
    jumps = [_result("mean_flow", seed, score) for seed, score in ((0, 0.90), (1, 0.94))]
    once = _result("mean_flow", 0, 0.7)
    for row, steps in ((jumps[0], 2), (jumps[1], 2), (once, 4)):
        row["settings"] = row["settings"] | {"steps": steps, "weights": "ema"}
        row["evaluation"] = f"calls_{steps}"
    made = [_result("mean_flow", 0, 0.8), *jumps, once]
    plain, two = tables.summary(made).splitlines()[2:]
    assert plain.startswith("| mean_flow | ") and two.startswith("| mean_flow, steps=2 | ")
    assert "| 2 | 0.920 (0.900 to 0.940) |" in two
    lines = tables.tables(made)["comparison_settings"].markdown().splitlines()[2:]
    assert len(lines) == 4 and "**mean of 2** | **calls_2** | **steps=2** | **0.920 (0.900 to 0.940)**" in lines[2]


def test_modes_are_shown_beside_the_demonstrations():
    (lines,) = ([line for line in tables.modes_summary([_modes(kind)]).splitlines()[2:]] for kind in ["modes"])
    assert lines == [
        "| detour, flow | all | 92.0% [89.0%, 94.0%] | left 52%, right 48% | left 50%, right 49%, none 1% | 0.041 |",
        "| detour, flow | one | 92.0% [89.0%, 94.0%] | left 52%, right 48% | left 50%, right 49%, none 1% | 0.041 |",
    ]
    assert tables.modes_summary([_modes("ways")]).splitlines()[2:] == lines  # of earlier releases
    made = tables.tables([_modes("ways")])
    assert made["comparison"].lines == [] and len(made["comparison_modes"].lines) == 2


def _modes(key):
    found = {
        "success": {"mean": 0.92, "low": 0.89, "high": 0.94},
        "demonstrations": {"shares": {"left": 0.52, "right": 0.48, "none": 0.0}},
        "rollouts": {"shares": {"left": 0.5, "right": 0.49, "none": 0.01}},
        "total_variation": 0.0412,
    }
    return _result("detour_flow", 0, 0.9, evaluation="modes", **{key: {"all_starts": found, "fixed_start": found}})


def test_results_of_earlier_releases_are_read():
    result = _result("flow", 0, 0.9)
    config, settings = config_of(result), settings_of(result)
    assert config.dataset.transforms == ["align", "mirror"] and config.dataset.time_to_success == 1.0
    assert settings.seeds == 200000 and settings.steps is None and not settings.modes
    assert settings_of(_modes("ways")).modes


def test_the_page_is_one_file_and_escapes(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps([_result("flow", 0, 0.9), _modes("ways")]))
    page.write(tmp_path)
    text = (tmp_path / "comparison.html").read_text()
    assert "P&lt;1&gt;" in text and "diffpolicy evaluate &lt;&amp;&gt;" in text
    assert text.count("data:image/png;base64,") == 2 and not re.search(r'(src|href)="(?!data:)', text)
    assert text.count('<tr class="published">') == sum(one["beside"] == "fresh" for one in tables.published())
    assert all((tmp_path / "comparison" / f"{name}.png").stat().st_size > 5000 for name in ("calls", "minutes"))


def test_results_without_a_score_are_shown_by_their_first_metric(tmp_path, monkeypatch):
    """As of an environment that declares no task: its metrics are the return and success."""
    results = [_result("flow", seed, 0.9) for seed in (0, 1)]
    for one in results:
        one["return"] = {"mean": 7.0, "low": 6.0, "high": 8.0}
        one["episodes"] = {"first_seed": 0, "return": [7.0], "success": "1", "sha256": "x"}
        del one["score"], one["final_coverage"]
    drawn = []
    monkeypatch.setattr(plots, "_finish", lambda figure, axes, path: drawn.append(axes))
    plots.draw_calls(tmp_path / "calls.png", results)
    plots.draw_minutes(tmp_path / "minutes.png", results)
    assert [axes.get_ylabel().split()[0].strip(",") for axes in drawn] == ["return", "return"]
    assert drawn[1].lines[0].get_ydata().tolist() == [7.0] and len(drawn[1].lines) == 4  # and nothing published
    lines = tables.tables(results)["comparison"].markdown().splitlines()
    assert "90.0%" in lines[2] and "mean of 2" in lines[4] and "90.0%" in lines[4]
    assert len(tables.summary(results).splitlines()) == 3


def test_stored_results_are_those_of_the_plan():
    """Nothing of the comparison that ships would be measured again, nor is anything refused."""
    comparison = work.Comparison(work.Settings(results=str(results_table.RESULTS)))
    assert comparison.to_do() == {} and len(comparison.stored) >= 100


def test_pages_agree_with_the_results():
    for file in (results_table.ROOT / "README.md", *(results_table.ROOT / "docs").rglob("*.md")):
        text = file.read_text()
        assert results_table.filled(text) == text, f"{file.name}: run python scripts/lab/results_table.py"


def test_the_map_of_a_suite_is_shown_once_it_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(results_table, "SUITE", results_table.RESULTS / "no_such_suite")
    assert results_table.heat_map() == tables.NOTHING
    monkeypatch.setattr(results_table, "ROOT", tmp_path)
    monkeypatch.setattr(results_table, "SUITE", tmp_path / "docs" / "results" / "own")
    (results_table.SUITE / page.PLOTS).mkdir(parents=True)
    (results_table.SUITE / page.PLOTS / page.HEAT_MAP).touch()
    assert results_table.heat_map().endswith("methods](results/own/comparison/tasks.png)")


def test_tables_are_checked_from_the_command_line(tmp_path):
    command = [sys.executable, results_table.__file__, "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_marker_of_no_table_is_refused():
    with pytest.raises(ValueError, match="unknown table 'result' \\(did you mean 'results'"):
        results_table.filled("<!-- result:begin -->\n<!-- result:end -->")


def test_the_lock_makes_others_wait(tmp_path):
    """Two comparisons side by side lose no result."""

    def add(name):
        with store.changing(tmp_path, {}) as stored:
            time.sleep(0.1)
            stored[name] = _result("flow", 0, 0.9, row=name, against=[])

    threads = [threading.Thread(target=add, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(store.read_results(tmp_path)) == {"a", "b"}
