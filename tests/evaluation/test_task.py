"""What results mean is declared by the environment; what is not declared has defaults."""

import gymnasium as gym
import pytest
import tiny

from diffpolicy.evaluation import Metric, TaskSpec
from diffpolicy.evaluation.task import SeedSet


def test_a_declared_task():
    task = TaskSpec.of(gym.make(tiny.ENV_ID))
    assert (task.success_key, task.fps, task.mode_key, task.main) == ("success", 5.0, "mode", "best")
    assert task.metrics["place"] == Metric("place", "last", "where the point is at the end")
    assert task.seed_sets == {"published": SeedSet(100, 3, "published")}
    plain = task.plain_metrics()
    assert plain["best"] == tiny.METRICS["best"] and plain["success"]["key"] == "success"


def test_every_environment_of_this_project_declares_its_task():
    for id in ("PushT", "PushBlocks", "Detour"):
        task = TaskSpec.of(gym.make(f"diffpolicy/{id}-v0"))
        assert list(task.metrics) == ["score", "final_coverage"] and task.fps == 10
        assert task.success_key == "success" and len(task.extent) == 4 and bool(task.modes) == (id != "PushT")


def test_a_plain_environment_has_the_return_and_whatever_success_its_info_tells():
    task = TaskSpec.of(gym.make("Pendulum-v1"))
    assert task.metrics == {"return": Metric("reward", "sum", "sum of rewards")} and task.fps == 30
    assert task.succeeded({}) is None and not task.modes and task.extent is None
    assert task.succeeded({"is_success": 1.0}) is True and task.succeeded({"success": 0.0, "is_success": 1}) is False


@pytest.mark.parametrize(("reducer", "expected"), [("max", 3.0), ("min", -1.0), ("sum", 4.0), ("last", 2.0)])
def test_metrics_are_reduced_over_steps(reducer, expected):
    for metric, steps in (
        (Metric("reward", reducer), [(value, {}) for value in (3, -1, 2)]),
        (Metric("x", reducer), [(9, {"x": value}) for value in (3, -1, 2)]),
    ):
        value = None
        for reward, info in steps:
            value = metric.reduce(value, reward, info)
        assert value == expected and type(value) is float


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"succes_key": "done"}, r"unknown entry of metadata\[\"task\"\] 'succes_key' \(did you mean 'success_key'"),
        ({"metrics": {"far": {"key": "x", "reducer": "mox"}}}, "unknown reducer of the metric 'far' 'mox'"),
        ({"metrics": {"far": {"reducer": "max"}}}, "metric 'far' .*expected key, reducer, description"),
        ({"metrics": {}}, "no metrics"),
        ({"metrics": {"second_difference": {"key": "x"}}}, "'second_difference', which every episode has"),
        ({"metrics": {"last": {"key": "x"}}}, "'last', which training.choose takes"),
        ({"metrics": {"far": {"key": "x"}, "score": {"key": "y"}}}, "metric 'score' is not the first of far, score"),
        ({"seed_sets": {"p": {"start": 1}}}, "seed set 'p' .*expected first, episodes, option"),
    ],
)
def test_a_malformed_declaration_is_refused_in_words(changed, says):
    with pytest.raises(ValueError, match=says):
        TaskSpec.from_metadata({"task": {**tiny.LineEnv.metadata["task"], **changed}})
