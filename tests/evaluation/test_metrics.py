"""Summaries, and the paired comparison of evaluations, old ones too."""

import numpy as np
import pytest
import tiny

from diffpolicy.config import EnvConfig, plain
from diffpolicy.evaluation import compare, is_same_task, summarize
from diffpolicy.evaluation.metrics import metric_names

ENV = {"id": "diffpolicy/PushT-v0", "options": {"obs_mode": "keypoints"}}


def evaluation(rows, seeds=0, **env):
    return {"settings": {"seeds": seeds}, "checkpoint": {"config": {"env": ENV | env}}, "episodes": rows}


@pytest.fixture
def pair():
    hard = np.random.default_rng(0).uniform(0, 1, 60)
    rows = [{"seed": s, "score": hard[s], "final_coverage": 0.5, "success": True, "steps": 9} for s in range(50)]
    better = [
        {"seed": s, "score": hard[s] + 0.02, "final_coverage": 0.5, "success": s % 2 == 0, "steps": 7}
        for s in range(10, 60)
    ]
    return better, rows


def test_a_paired_comparison_uses_common_seeds(pair):
    better, rows = pair
    shown = evaluation(rows, options={"obs_mode": "pixels", "render_size": 96})
    difference = compare(evaluation(better), shown)
    assert list(difference) == ["episodes", "score", "final_coverage", "success"] and difference["episodes"] == 40
    assert difference["score"]["low"] == pytest.approx(0.02) and difference["score"]["high"] == pytest.approx(0.02)
    assert difference["success"]["mean"] == pytest.approx(-0.5)
    unpaired = summarize(better)["score"]
    assert unpaired["high"] - unpaired["low"] > 0.1  # what the pairing removed


def test_an_evaluation_of_an_earlier_release_can_still_be_compared_with(pair):
    better, rows = pair
    old = [{**row, "way": "left"} for row in rows]
    new = [{**row, "mode": "left"} for row in better]
    assert compare(evaluation(new), evaluation(old)) == compare(evaluation(better), evaluation(rows))


def test_what_cannot_be_compared_is_refused(pair):
    better, rows = pair
    first = evaluation(better)
    with pytest.raises(ValueError, match="in common"):
        compare(first, evaluation(rows, "paper"))
    with pytest.raises(ValueError, match="in common"):
        compare(first, evaluation(rows[:5]))
    with pytest.raises(ValueError, match="different tasks.*PushT.*Detour"):
        compare(first, evaluation(rows, id="diffpolicy/Detour-v0"))
    with pytest.raises(ValueError, match="different tasks.*'block': 'L'"):
        compare(first, evaluation(rows, options={"block": "L"}))
    with pytest.raises(ValueError, match="no evaluation.json"):
        compare(first, {"settings": {"seeds": 0}, "episodes": rows})


def test_options_that_only_show_are_the_tasks_own():
    def env(**options):
        return {"id": tiny.ENV_ID, "options": options}

    assert is_same_task(env(images=True, render_mode="rgb_array"), env())
    assert not is_same_task(env(width=0.5), env())
    unknown = {"id": "gone/Away-v0", "options": {"images": True}}
    now = {"id": "gone/Away-v0", "task": None, "factory": None, "kwargs": {"images": True}}
    assert is_same_task(unknown, now) and not is_same_task({**now, "task": "door"}, now)
    assert is_same_task(unknown, unknown) and not is_same_task(unknown, {**unknown, "options": {}})


@pytest.mark.parametrize(
    "changed",
    [{"success": "none"}, {"stop_on_success": True}, {"max_steps": 9}, {"fresh": True}, {"seed_globals": True}],
)
def test_settings_that_change_outcomes_are_the_tasks_own(changed):
    now = plain(EnvConfig(tiny.ENV_ID))
    assert not is_same_task(now, {**now, **changed}) and is_same_task({**now, **changed}, {**now, **changed})
    old = {"id": tiny.ENV_ID, "options": {}}
    assert is_same_task(now, old) and not is_same_task(old, {**now, **changed})


def test_settings_of_what_is_shown_change_no_task():
    now = plain(EnvConfig(tiny.ENV_ID))
    assert is_same_task(now, {**now, "obs_keys": ["obs"], "image_range": [0, 1], "timeout": 9.0})


def test_a_summary_has_the_metrics_that_the_episodes_have():
    rows = [{"seed": 1, "return": -3.0, "steps": 4}, {"seed": 2, "return": -5.0, "steps": 4}]
    assert metric_names(rows) == ["return"] and summarize(rows)["return"]["mean"] == -4.0
    assert metric_names([{**rows[0], "success": True}, rows[1]]) == ["return"], "not all of them know success"
    found = summarize([{**row, "success": row["seed"] == 1} for row in rows])
    assert found["success"]["mean"] == 0.5 and 0 < found["success"]["low"] < 0.2
    with pytest.raises(ValueError, match="no episodes"):
        summarize([])
