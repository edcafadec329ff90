"""The options of Push-T, and the two tasks that have several modes."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffpolicy.envs import ENVIRONMENTS
from diffpolicy.envs.detour import DetourEnv
from diffpolicy.envs.drawing import AGENT, BLOCK
from diffpolicy.envs.geometry import Region
from diffpolicy.envs.pushblocks import ZONES, PushBlocksEnv
from diffpolicy.envs.pusht import PushTEnv
from diffpolicy.envs.shapes import make_block
from diffpolicy.envs.zones import disc_fraction, outline

BOX = [(230, 60), (280, 60), (280, 110), (230, 110)]


NAMES = [name for name, *_ in ENVIRONMENTS]


@pytest.mark.parametrize(
    ("name", "obs_mode"), [(name, mode) for name in NAMES for mode in gym.make(name).unwrapped.obs_modes]
)
def test_check_env_finds_nothing(name: str, obs_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A recommendation for learning algorithms; actions here are in px, like all the published data.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        env = gym.make(name, obs_mode=obs_mode).unwrapped
        check_env(env, skip_render_check=importlib.util.find_spec("pygame") is None)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_state_the_task(name: str) -> None:
    env = gym.make(name, render_mode="rgb_array", render_size=128)
    task = env.metadata["task"]
    assert json.loads(json.dumps(task)) == task and env.metadata["render_fps"] == 10
    _, info = env.reset(seed=0)
    *_, info = env.step([300.0, 60.0])
    assert isinstance(info[task["success_key"]], bool)
    assert list(task["metrics"]) == ["score", "final_coverage"]
    for metric in task["metrics"].values():
        assert metric["key"] == "reward" or 0.0 <= info[metric["key"]] <= 1.0
        assert metric["reducer"] in ("max", "last") and metric["description"]
    assert task["modes"] == list(env.unwrapped.modes)
    assert (task["mode_key"] in info) if task["modes"] else task["mode_key"] is None
    for names in task["seed_sets"].values():
        assert names["option"] in env.unwrapped.reset_options and names["first"] >= 0 and names["episodes"] > 0
    # The extent says where in an image a position is.
    left, right, bottom, top = task["extent"]
    image = env.render()
    places = {AGENT: [0, 1]} | ({BLOCK: task["paths"]["puck"]} if "puck" in task["paths"] else {})
    for color, columns in places.items():
        x, y = info["state"][columns]
        assert tuple(image[int(128 * (y - top) / (bottom - top)), int(128 * (x - left) / (right - left))]) == color


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_an_episode(name: str) -> None:
    runs = []
    for _ in range(2):
        env = gym.make(name)
        observation, _ = env.reset(seed=5)
        env.action_space.seed(0)
        runs.append([observation, *(env.step(env.action_space.sample())[0] for _ in range(40))])
    np.testing.assert_array_equal(*runs)
    assert not np.array_equal(runs[0][0], env.reset(seed=6)[0])


def test_the_fraction_of_a_disc_against_counting() -> None:
    x, y = np.meshgrid(*[(np.arange(1000) + 0.5) / 1000 * 50 - 25] * 2)
    puck = x**2 + y**2 < 25**2
    for distance in (0.0, 19.9, 25.0, 40.0, 55.0, 69.0, 70.0, 100.0):
        counted = (puck & ((x - distance) ** 2 + y**2 < 45**2)).sum() / puck.sum()
        assert disc_fraction(distance, 25.0, 45.0) == pytest.approx(counted, abs=1e-3)


def test_a_drawn_goal_is_seen_and_counts() -> None:
    env = PushTEnv(obs_mode="state", goal="random", render_mode="rgb_array")
    observation, info = env.reset(seed=0)
    goal, image = info["goal_pose"], env.render()
    assert env.observation_space.contains(observation) and observation.shape == (8,)
    np.testing.assert_allclose(observation[5:], [*goal[:2], goal[2] % (2 * math.pi)], rtol=1e-6)
    assert not np.array_equal(env.reset(seed=1)[1]["goal_pose"], goal)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), image)
    fixed = PushTEnv(goal=(200, 300, 1.0))
    _, info = fixed.reset(options={"state": [50, 50, 200, 300, 1.0]})
    assert info["coverage"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shape", "area", "center"),
    [
        ("ell", 30 * 120 + 60 * 30, ((-15 * 3600 + 30 * 1800) / 5400, 45 * 1800 / 5400)),
        ("plus", 120 * 30 + 2 * 30 * 45, (0, 0)),
        ([[(0, 0), (60, 0), (0, 30)]], 900, (20, 10)),
        ([[(0, 0), (0, 30), (60, 0)]], 900, (20, 10)),  # the other way round
    ],
)
def test_blocks_are_plates(shape: object, area: float, center: tuple[float, float]) -> None:
    block = make_block(shape)
    assert block.region.area == pytest.approx(area)
    assert block.center_of_gravity == pytest.approx(center)
    x, y = np.meshgrid(np.arange(-99.75, 100, 0.5), np.arange(-99.75, 100, 0.5))
    inside = np.zeros(x.shape, bool)
    for piece in block.region.pieces:
        turns = [
            (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
            for (ax, ay), (bx, by) in zip(piece, piece[1:] + piece[:1], strict=True)
        ]
        inside |= np.all(turns, axis=0)
    moment = ((x - center[0]) ** 2 + (y - center[1]) ** 2)[inside].mean()
    assert block.moment == pytest.approx(moment, rel=0.01)
    env = PushTEnv(obs_mode="corners", block=shape)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2 * len(block.corners) + 2,) and env.observation_space.contains(observation)


def test_an_obstacle_stops_the_block_and_not_the_agent() -> None:
    """Pushed down onto a box under it, the block stays above; without the box it does not."""
    ends = []
    for obstacles in ([], [[(150, 300), (350, 300), (350, 330), (150, 330)]]):
        env = PushTEnv(obstacles=obstacles, goal=(256, 100, 0.0))
        env.reset(options={"state": [256, 100, 256, 160, 0.0]})
        for target in np.linspace(100, 180, 40):
            _, _, _, _, info = env.step([256, target])
        ends.append(info["state"])
    assert ends[0][3] + 120 > 310 > 307 > ends[1][3] + 120
    np.testing.assert_allclose(ends[0][:2], ends[1][:2], atol=1e-9)
    env = PushTEnv(obstacles=[BOX])
    box = Region.of([BOX])
    for seed in range(100):
        state = env.reset(seed=seed)[1]["state"]
        assert make_block("tee").region.moved(*state[2:]).overlap(box) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "rnadom"}, "'rnadom'"),
        ({"goal": (1, 2)}, r"shape \(2,\)"),
        ({"goal": (1, 2, math.nan)}, "goal angle nan"),
        ({"goal": (700, 2, 0)}, "goal x 700"),
        ({"block": "te"}, "did you mean 'tee'"),
        ({"block": []}, "one or more convex polygons"),
        ({"block": [[(0, 0), (1, 0)]]}, "strictly convex"),
        ({"block": [[(0, 0), (900, 0), (0, 9)]]}, "at most 200 px"),
        ({"block": "ell", "obs_mode": "keypoints"}, "corners"),
        ({"obstacles": [[(240, 240), (270, 240), (270, 270), (240, 270)]]}, "an obstacle on the goal"),
        ({"obstacles": [[(0, 0), (math.inf, 0), (0, 1)]]}, "finite"),
        ({"obstacles": BOX}, "expected convex polygons"),
        ({"obs_mode": "pixel"}, "did you mean 'pixels'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushTEnv(**options)


def test_no_room_for_the_block() -> None:
    env = PushTEnv(goal=(36, 100, 0.0), obstacles=[[(98, 0), (512, 0), (512, 512), (98, 512)]])
    with pytest.raises(ValueError, match="no room"):
        env.reset(seed=0)


@pytest.mark.parametrize(("x", "mode"), [(120.0, "left"), (392.0, "right")])
def test_detour_says_on_which_side_the_puck_went(x: float, mode: str) -> None:
    env = DetourEnv()
    _, info = env.reset(options={"state": [x, 400, x, 330]})
    assert (info["coverage"], info["success"], info["mode"]) == (0.0, False, "")
    for target in np.linspace(400, 150, 40):
        *_, info = env.step([x, target])
    assert info["mode"] == mode and not info["success"]
    _, info = env.reset(options={"state": [50, 50, 256, 110]})
    assert info["success"] and info["coverage"] == 1.0 and env.step([50, 50])[1:3] == (1.0, True)


def test_straight_on_runs_into_the_obstacle() -> None:
    env = DetourEnv()
    env.reset(options={"state": [256, 430, 256, 370]})
    for target in np.linspace(430, 300, 60):
        _, reward, terminated, _, info = env.step([256, target])
    assert reward == 0.0 and not terminated and info["state"][3] > 265 + 20


def test_pushblocks_counts_the_better_assignment_and_names_the_first() -> None:
    env = PushBlocksEnv()
    left, right = ZONES
    _, info = env.reset(options={"state": [256, 480, *right, *left]})
    assert info["success"] and info["coverage"] == 1.0
    _, info = env.reset(options={"state": [256, 480, *right, 200, 400]})
    assert info["coverage"] == 0.5 and not info["success"] and info["mode"] == "0-right"
    _, info = env.reset(options={"state": [256, 480, left[0] - 30, 120, left[0] + 30, 120]})
    assert not info["success"], "two pucks in one zone are not one in each"


def test_outlines_turn_the_right_way() -> None:
    assert Region.of([outline((10.0, 20.0), 5.0)]).area == pytest.approx(math.pi * 25, rel=0.01)
