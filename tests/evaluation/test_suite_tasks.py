"""What the commands know of the suites without their packages."""

import json

import pytest

from diffpolicy import registry
from diffpolicy.config.compose import compose
from diffpolicy.envs import ENVIRONMENTS, SUITES
from diffpolicy.evaluation.adapters import declared_task

NAMES = [name for name, *_ in SUITES]
TASKS = [
    "metaworld",
    "metaworld_pixels",
    "fetch_reach",
    "fetch_push",
    "fetch_pick_and_place",
    "point_maze",
    "gym_pusht",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_task_is_known_without_the_package(name: str) -> None:
    task = declared_task(name)
    assert task is not None and task.success_key == "success" and task.main in ("success", "score")
    assert json.dumps(task.plain_metrics()) and registry.known("expert")[name]


@pytest.mark.parametrize("task", TASKS)
def test_the_config_of_a_suite_names_an_environment(task: str) -> None:
    config = compose([f"task={task}", "run_dir=x"])
    assert config.env.id in NAMES and config.env.id not in [name for name, *_ in ENVIRONMENTS]
    if task == "metaworld_pixels":
        assert config.env.kwargs == {"obs_mode": "pixels", "cameras": ["corner4"]}
    if task == "gym_pusht":
        ours = compose(["task=pusht", "run_dir=x"])
        ours.env.id = config.env.id
        assert config == ours
