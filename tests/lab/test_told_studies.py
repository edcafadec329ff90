"""What the studies of goals, of several tasks and of doubt count, on made-up rows, and what they take up again."""

import json
from types import SimpleNamespace

import pytest

import runs
import study_doubt
import study_goals
import study_metaworld_told
import study_several
from diffpolicy.datasets import ReplayBuffer


def episodes(*flags, first=200_000, **more):
    return [{"seed": first + k, "score": float(flag), "success": bool(flag), **more} for k, flag in enumerate(flags)]


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_gains_are_of_the_seeds_that_both_have():
    mine, theirs = episodes(1, 1, 0, 1), episodes(0, 1, 0, 1)
    assert runs.gain("score", mine, theirs)["mean"] == 0.25
    assert runs.gain("score", mine[1:], theirs)["mean"] == runs.gain("score", mine, theirs[1:])["mean"] == 0
    assert runs.gain("success", mine, list(reversed(theirs)))["mean"] == 0.25


def test_the_gain_of_hindsight_is_over_the_plain_run_whatever_comes_first():
    plain = {"demonstrations": 9, "hindsight": False, "steps": 5, "seconds": 60.0, "episodes": episodes(0, 1)}
    more = {"demonstrations": 9, "hindsight": True, "steps": 5, "seconds": 120.0, "episodes": episodes(1, 1)}
    for rows in ([plain, more], [more, plain]):
        of = {line[1]: line for line in cells(study_goals.table({"rows": rows}))}
        assert of["yes"][5].startswith("+0.500") and of["no"][5] == ""
    assert cells(study_goals.table({"rows": [more, {**plain, "steps": 9}]}))[0][5] == ""


def test_several_tasks_are_shown_where_both_policies_are_there():
    rows = [{"policy": "all", "task": name, "episodes": episodes(1, 0)} for name in ("detour", "pusht")]
    rows.append({"policy": "pusht", "task": "pusht", "episodes": episodes(1, 1)})
    (line,) = cells(study_several.table({"rows": rows}))
    assert line[0] == "pusht" and line[3].startswith("-0.500") and line[6].startswith("-50.0%")


def test_episodes_are_told_apart_by_their_words(tmp_path):
    said = ["go left", "cover the mark with the T", "first push the left block into the left zone"]
    one = {"state": [[0.0]] * 4, "action": [[0.0]] * 4}
    buffer = ReplayBuffer.from_episodes([one] * 4, {"tasks": said}, {"task": [0, 1, 2, 0]})
    buffer.save(tmp_path / "a.zarr")
    assert study_several.episodes_of(tmp_path / "a.zarr") == {"pushblocks": [2], "detour": [0, 3], "pusht": [1]}
    ReplayBuffer.from_episodes([one], {"tasks": ["jump"]}, {"task": [0]}).save(tmp_path / "b.zarr")
    with pytest.raises(ValueError, match=r"says \['jump'\]; expected what Several-v0 says"):
        study_several.episodes_of(tmp_path / "b.zarr")


def test_ten_tasks_are_compared_on_the_seeds_that_the_comparison_has():
    rows = [
        {"task": "push-v3", "episodes": episodes(*[1] * 60)}
    ]  # of which the comparison has 50, all of them solved
    one, whole = cells(study_metaworld_told.table({"rows": rows}))
    assert one[1].startswith("100.0%") and one[2].startswith("100.0%") and one[3].startswith("+0.0%")
    assert whole[1:] == one[1:]


def test_doubt_is_that_of_the_first_chunks():
    sure = [{"seed": k, "success": True, "spread": [1.0, 0.1 + k / 100] + [1.0] * 8} for k in range(5)]
    unsure = [{"seed": 9 + k, "success": False, "spread": [0.5 + k / 100] * 8 + [0.01] * 9} for k in range(5)]
    found = study_doubt.parts(sure + unsure, 2)
    assert [len(part) for part in found] == [5, 5] and all(one["success"] for one in found[0])
    assert study_doubt.told_apart(sure + unsure, study_doubt.least) == 1
    assert study_doubt.told_apart(sure + unsure, study_doubt.mean) == 0
    assert study_doubt.reached(unsure[0], 8) == 0.5 and study_doubt.reached(unsure[0], 12) == 0.01
    assert study_doubt.reached(sure[0], 99) == 0
    assert "| least | 100.0%" in study_doubt.table({"episodes": sure + unsure})


def test_an_evaluation_is_read_again_or_refused(tmp_path, monkeypatch):
    saved = SimpleNamespace(path=tmp_path / "run", sha256={"ema.safetensors": "abc"})

    def evaluate(path, out, **how):
        settings = {"episodes": how["episodes"], "seeds": how["seeds"], "env": {"id": None, **how["env"]}}
        found = {
            "checkpoint": {"sha256": saved.sha256},
            "settings": settings,
            "episodes": episodes(1),
            "errors": [{}],
        }
        out.mkdir()
        (out / "evaluation.json").write_text(json.dumps(found))
        return found

    monkeypatch.setattr(runs, "evaluate_policy", evaluate)
    how = {"env": {"kwargs": {"task": "detour"}}}
    first = runs.evaluated(saved, tmp_path / "e", 2, 0, **how)
    assert runs.evaluated(saved, tmp_path / "e", 2, 0, **how) == first
    for count, other in ((3, how), (2, {"env": {"kwargs": {"task": "pusht"}}})):
        with pytest.raises(ValueError, match=r"is of other settings; expected .*; remove .*e"):
            runs.evaluated(saved, tmp_path / "e", count, 0, **other)
    saved.sha256 = {"ema.safetensors": "abd"}
    with pytest.raises(ValueError, match="is of another checkpoint than"):
        runs.evaluated(saved, tmp_path / "e", 2, 0, **how)
