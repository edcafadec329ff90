"""What holds of all suites, whether their packages are installed or not."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.envs.suites import tools
from diffpolicy.envs.suites.maze_expert import shortest


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("diffpolicy/MetaWorld-v0", "metaworld", "metaworld"),
        ("diffpolicy/FetchPush-v0", "gymnasium_robotics.envs.fetch.push", "robotics"),
        ("diffpolicy/PointMaze-v0", "gymnasium_robotics.envs.maze.maps", "robotics"),
        ("diffpolicy/GymPushT-v0", "gym_pusht.envs.pusht", "gym-pusht"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'diffpolicy\[{extra}\]'"):
        gym.make(name)


@pytest.mark.parametrize("display", [True, False])
def test_mujoco_draws_without_a_display(display: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", *tools.DISPLAYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    if display:
        monkeypatch.setenv("DISPLAY", ":0")
    tools.needed("json", "metaworld")
    assert tools.os.environ.get("MUJOCO_GL") == (None if display else "egl")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    tools.needed("json", "metaworld")
    assert tools.os.environ["MUJOCO_GL"] == "osmesa"


def test_the_shortest_way_through_a_maze() -> None:
    cells = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).tolist()
    way = shortest(cells, (1, 1), (3, 1))
    assert way == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert shortest(cells, (1, 1), (1, 1)) == [(1, 1)]
    assert shortest([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], (1, 1), (2, 2)) == [(1, 1)]
