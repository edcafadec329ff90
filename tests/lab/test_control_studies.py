"""What the studies of delays and of the control loop count."""

import json
import sys

import numpy as np
import pytest
import tiny
import tiny_policy

import check_control
import delay_tables
import study_costs
import study_delay
from diffpolicy.config import EnvConfig
from diffpolicy.control.guard import Limits
from diffpolicy.control.planning import Metadata
from diffpolicy.control.runner import Report
from diffpolicy.policies.costs import make_costs
from diffpolicy.util.stats import wilson


def test_smoothness_is_that_of_the_steps_and_of_the_borders():
    steps = np.arange(20.0)
    assert study_delay.smoothness(np.stack([steps**2, steps], 1), 0, 4)["third_difference"] == 0
    assert study_delay.smoothness(np.stack([steps**3, 0 * steps], 1), 0, 4)["third_difference"] == 6
    jumps = np.zeros((20, 1))
    jumps[6:10] = 5  # from step 6 on, where a delay of 2 puts the border of the second chunk of four
    found = study_delay.smoothness(jumps, 2, 4)
    assert found["jump"] == pytest.approx(10 / 4), "two of the borders 6, 10, 14, 18 have a jump of 5"
    assert study_delay.smoothness(jumps[:2], 2, 4) == {"third_difference": 0, "jump": 0}


def test_a_fault_is_judged_by_when_the_robot_held():
    """A chunk of 4 actions from step 3 on, the next one asked for at step 5; the server away from 0.55 to 1.25 s."""
    steps = 20
    report = Report(10.0, starts=[k / 10 for k in range(steps)], actions=[np.zeros(1)] * steps)
    report.asked, report.arrivals, report.delays, report.borders = [2, 5, 14], [3, 13, 15], [1, 8, 1], [3, 13, 15]
    report.held = [0, 1, 2, *range(8, 13)]
    meta, limits = Metadata(1, 16, 3, 1), Limits([-1], [1], [0.5])
    found = check_control.judged(report, limits, meta, [1.25])
    # The watchdog, 0.3 s after step 5, stops the robot before the chunk of 16 actions ends: it held from step 8 on.
    assert found["with_holds"] == 1 and found["periods_to_hold"] == pytest.approx(0) and found["bad_actions"] == 0
    assert found["seconds_to_go_on"]["p100"] == pytest.approx(0.05)
    report.held = [0, 1, 2]
    assert check_control.judged(report, limits, meta, [1.25])["periods_to_hold"] == np.inf
    report.actions = [np.array([np.nan]), np.array([2.0]), *report.actions[2:]]
    assert check_control.judged(report, limits, meta, [])["bad_actions"] >= 2


def test_attacks_are_of_every_kind():
    good = check_control.wire.pack({"type": "plan", "obs": [np.zeros(3)], "last": None})
    stream = check_control.attacks(good, np.random.default_rng(0))
    some = [next(stream) for _ in range(300)]
    refused = 0
    for data in some:
        try:
            check_control.wire.unpack(data)
        except check_control.wire.WireError:
            refused += 1
    assert 150 < refused < 300 and max(map(len, some)) > 1000


def test_a_study_of_delays_goes_on_and_is_drawn(tmp_path, monkeypatch, capsys):
    run = tiny_policy.config("flow", t_a=4, env=EnvConfig(tiny.ENV_ID))
    run.found.observation = tiny_policy.spec(dim=2).to_plain()
    path = tiny_policy.save(tmp_path / "run", run)
    out = tmp_path / "delay.json"

    def study(*delays):
        given = [str(path), "--remedies", "nothing", "hard", "--episodes", "3", "--workers", "0", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["study_delay.py", *given, "--delays", *delays])
        study_delay.main()
        return capsys.readouterr().out.count("(")

    assert study("2") == 3 and study("2") == 0 and study("2", "4") == 2
    found = json.loads(out.read_text())
    assert [(row["remedy"], row["delay"]) for row in found["rows"]] == [
        ("nothing", 0), ("nothing", 2), ("hard", 2), ("nothing", 4), ("hard", 4)
    ]  # fmt: skip
    assert "difference" not in found["rows"][0] and "success" in found["rows"][1]["difference"]
    assert out.with_suffix(".png").stat().st_size > 5000
    table = delay_tables.delays(found).splitlines()
    assert len(table) == 4 and "delay 4" in table[0] and "| — |" in table[3]
    assert len(delay_tables.one_delay(found).splitlines()) == 5


def test_costs_are_counted_by_region_and_paired():
    def episodes(*of):
        return [{"seed": k, "success": s, "entered": e, "mode": m} for k, (s, e, m) in enumerate(of)]

    def row(name, *of):
        rows = episodes(*of)
        wins = sum(one["success"] for one in rows)
        return {"name": name, "episodes": rows, "success": wilson(wins, len(rows)), "network_calls": 10}

    free = row("none", (True, True, "left"), (True, False, "right"), (True, True, "left"), (False, False, ""))
    kept = row("margin 20", (True, False, "right"), (True, False, "right"), (False, False, ""), (False, False, ""))
    lines = study_costs.table({"rows": [free, kept]}).splitlines()
    assert "| none | 50.0% [" in lines[2] and "left 50%, none 25%, right 25%" in lines[2]
    assert "| margin 20 | 0.0% [" in lines[3] and "-25.0% [" in lines[3] and "none 50%, right 50%" in lines[3]
    made = study_costs.variants([140.0, 340.0], 100.0, [20.0, 40.0, 60.0])
    assert made["none"] == [] and len(make_costs(made["margin 40, and smooth"], 2)) == 2
    radii = [make_costs(costs, 2)[0].radius for costs in list(made.values())[1:]]
    assert radii == [120, 140, 140, 140, 140, 140, 160]
