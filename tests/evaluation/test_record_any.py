"""Recording in an environment that a person writes: dict observations with a camera, any expert, all episodes."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from typed import typed

from diffpolicy.config import EnvConfig
from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.manifest import digest
from diffpolicy.evaluation.record import record
from diffpolicy.evaluation.recorded import success_rate
from diffpolicy.evaluation.shards import _heard, _Worker
from diffpolicy.util.stats import wilson

MODULE = '''
import gymnasium as gym
import gymnasium as gym
import numpy as np


class Reach(gym.Env):
    """A point is moved to a goal on a line; a camera sees both."""

    metadata = {"render_fps": 10}

    def __init__(self, breaks=False):
        self.breaks = breaks
        numbers = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        parts = dict.fromkeys(("observation", "achieved_goal", "desired_goal"), numbers)
        self.observation_space = gym.spaces.Dict({**parts, "camera": gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)})
        self.action_space = gym.spaces.Box(-0.5, 0.5, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.place, self.goal = seed, 0.0, self.np_random.uniform(0.5, 1.0)
        return self.see(), {}

    def step(self, action):
        if self.breaks and self.seed % 3 == 1:
            raise RuntimeError("the motor stalled")
        self.place += 0.2 * float(action[0])
        done = abs(self.place - self.goal) < 0.06
        return self.see(), float(done), False, False, {"is_success": done}

    def see(self):
        image = np.zeros((16, 16, 3), np.uint8)
        image[4, min(int(abs(self.place) * 10), 15)] = image[12, int(self.goal * 10)] = 255
        place, goal = np.array([self.place]), np.array([self.goal])
        return {"observation": place, "achieved_goal": place, "desired_goal": goal, "camera": image}


class Expert:
    settings = {"gain": 9.0}

    def __init__(self, seed, options):
        self.seed = seed

    def reset(self, obs, info):
        self.goal = obs["desired_goal"]

    def act(self, obs, info):
        return [9.0 * float((self.goal - obs["observation"])[0]), 0.0]


class Lazy(Expert):
    def act(self, obs, info):
        return [0.0, 0.0] if self.seed % 2 else super().act(obs, info)


class Nan(Expert):
    def act(self, obs, info):
        return [np.nan, 0.0] if self.seed == 2 else super().act(obs, info)


class Raises(Expert):
    def act(self, obs, info):
        raise KeyError("door")


class Wide(Expert):
    def act(self, obs, info):
        return [0.0, 0.0, 0.0]


class Inside(Expert):
    def reset(self, obs, info):
        super().reset({"desired_goal": obs["seen.desired_goal"]}, info)

    def act(self, obs, info):
        return super().act({"observation": obs["seen.observation"]}, info)


class Old(Expert):
    def act(self, info):
        return [0.0, 0.0]


if "Reach-v0" not in gym.registry:
    gym.register("Reach-v0", entry_point=Reach)
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reach")
    (folder / "reach_here.py").write_text(MODULE)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("reach_here", None)


def settings(out, expert="Expert", **changed):
    env = EnvConfig("reach_here:Reach-v0", max_steps=25, stop_on_success=True, **changed.pop("env", {}))
    return RecordConfig(str(out), **{"episodes": 3, "expert": f"reach_here:{expert}", "env": env, **changed})


@pytest.fixture(scope="module")
def made(here):
    config = settings(here / "A", noise="10%", executed=True, instruction="reach it", steps_after_success=6)
    says = record(config)
    assert f"train on it:\n  diffpolicy train task=own dataset.path={here / 'A'} " in says
    assert "'observation.vectors=[desired_goal,observation]' 'observation.images=[camera]' env.id=reach" in says
    return here / "A"


def test_a_recording_says_what_it_shows_and_what_makes_it_again(made, here):
    buffer = ReplayBuffer.open(made)
    assert set(buffer.keys()) == {"observation", "desired_goal", "action", "executed_action"}  # images stay on disk
    camera = ReplayBuffer.open(made, ["camera"])["camera"]
    assert camera.shape == (buffer.n_steps, 16, 16, 3) and camera.dtype == np.uint8 and camera.any()
    attrs = buffer.attrs
    assert attrs["observation"]["camera"] == {"kind": "image", "shape": [16, 16, 3], "unit": None, "rate": 10.0}
    assert attrs["tasks"] == ["reach it"] and buffer.meta["task"].tolist() == [0, 0, 0] and attrs["fps"] == 10
    assert attrs["roles"] == {"executed_action": "other"} and attrs["expert"] == {
        "make": "reach_here:Expert",
        "gain": 9.0,
    }
    env = attrs["env"]
    again = RecordConfig(
        str(here / "again"),
        episodes=buffer.n_episodes,
        seed=attrs["first_seed"],
        noise=attrs["noise"],
        executed="executed_action" in buffer,
        steps_after_success=attrs["linger"],
        expert=attrs["expert"]["make"],
        instruction=attrs["tasks"][0],
        env=EnvConfig(kwargs=env.pop("options"), **env),
    )
    record(again)
    assert digest(here / "again") == digest(made)


def test_labels_are_intended_within_the_space_and_what_was_done_stands_beside(made):
    buffer = ReplayBuffer.open(made)
    intended, executed = buffer["action"], buffer["executed_action"]
    assert np.abs(intended).max() == 0.5 and np.abs(executed).max() <= 0.5  # the expert asks for 9 times the way
    assert (intended[:, 1] == 0).all() and 0.01 < executed[:, 1].std() < 0.1  # 10% of 0.5, correlated
    for part in buffer.episode_slices():
        moved = np.diff(buffer["observation"][part][:, 0])
        np.testing.assert_allclose(moved, 0.2 * executed[part][:-1, 0], atol=1e-6)


def test_the_same_bits_for_any_number_of_workers_and_after_a_stop(made, here):
    config = settings(here / "W", noise="10%", executed=True, instruction="reach it", steps_after_success=6)
    config.episodes = 1
    record(config)
    config.episodes, config.workers = 3, 2
    record(config)
    assert digest(here / "W") == digest(made)


def test_all_episodes_with_flags(here):
    says = record(settings(here / "B", "Lazy", keep="all", episodes=4))
    assert "4 episodes of 4 tried: the expert succeeds in 50.0%" in says
    buffer = ReplayBuffer.open(here / "B")
    assert buffer.meta["success"].tolist() == [1, 0, 1, 0] and buffer.meta["seeds"].tolist() == [0, 1, 2, 3]
    assert buffer.episode_lengths[1] == 25 and buffer.attrs["keep"] == "all"
    blind = settings(here / "N", "Expert", env={"success": "none"})
    with pytest.raises(ValueError, match="does not say whether an episode succeeded; name what says so by env.succ"):
        record(blind)
    blind.keep = "all"
    assert "Reach-v0 does not say which succeeded" in record(blind)
    assert ReplayBuffer.open(here / "N").meta["success"].tolist() == [-1, -1, -1]


def test_episodes_that_the_environment_breaks_are_left_out_and_counted(here):
    says = record(settings(here / "C", env={"kwargs": {"breaks": True}}))
    assert "3 episodes of 4 tried: the expert succeeds in 100.0%" in says
    assert "1 episode was left out because the environment broke off; the first: reach_here:Reach-v0, seed 1" in says
    buffer = ReplayBuffer.open(here / "C")
    assert buffer.meta["seeds"].tolist() == [0, 2, 3] and buffer.attrs["broken_off"] == 1
    again = record(settings(here / "C", env={"kwargs": {"breaks": True}}))
    assert "3 episodes of 4 tried: the expert succeeds in 100.0%" in again
    assert "1 episode was left out because the environment broke off\n" in again
    assert success_rate(buffer.meta, buffer.attrs) == wilson(3, 3)
    longer = record(settings(here / "C", env={"kwargs": {"breaks": True}}, episodes=4))
    assert "4 episodes of 6 tried: the expert succeeds in 100.0%" in longer
    assert "2 episodes were left out because the environment broke off; one of them: reach_here" in longer


@pytest.mark.parametrize(
    ("expert", "says"),
    [
        ("Nan", r"expert=reach_here:Nan, seed 2, step 0: an action \[nan, 0.0\]; expected finite numbers"),
        ("Raises", "expert=reach_here:Raises, seed 0, step 0: KeyError: 'door'"),
        ("Wide", r"seed 0, step 0: an action of shape \(3,\); expected \(2,\), as the environment takes"),
        (
            "Old",
            r"TypeError: .*act.* expected make\(seed, options\), which returns an object with reset\(obs, info\)",
        ),
        ("Gone", "unknown name 'Gone'"),
    ],
)
def test_experts_that_are_wrong_end_in_one_sentence(here, expert, says):
    with pytest.raises(ValueError, match=says):
        record(settings(here / expert, expert))
    if expert == "Nan":  # what was finished stays
        assert ReplayBuffer.open(here / expert).n_episodes == 2


def test_recorded_trained_and_recorded_by_the_policy_from_the_command_line(made, monkeypatch):
    env = ["env.id=reach_here:Reach-v0", "env.max_steps=25", "env.stop_on_success=true"]
    data = [f"dataset.path={made}", "observation.vectors=[desired_goal,observation]", "observation.images=[camera]"]
    small = [
        "net.widths=[16,32]",
        "policy.horizon=8",
        "policy.action_horizon=4",
        "device=cpu",
        "evaluation_workers=0",
    ]
    steps = ["training.steps=3", "training.batch_size=8", "training.evaluate_from=3", "evaluation_episodes=1"]
    here = made.parent
    typed("train", "task=own", *data, *env, *small, *steps, "run_dir=RUN", cwd=here)
    policy = ["expert=RUN/checkpoints/last", "keep=all", "episodes=2", "out=P"]
    monkeypatch.delitem(gym.registry, "Reach-v0")  # as in a process that has not imported the module
    monkeypatch.delitem(sys.modules, "reach_here")
    says = typed("record", *policy, cwd=here, ok=False)
    assert "would run code that it names" in says and "diffpolicy record expert=RUN/checkpoints/last env.id=r" in says
    assert "the policy succeeds in" in typed("record", *policy, env[0], cwd=here)
    attrs = json.loads((here / "P" / "zarr.json").read_text())["attributes"]
    assert (
        attrs["expert"].keys() == {"step", "sha256"}
        and attrs["expert"]["step"] == 3
        and "torch" in attrs["versions"]
        and attrs["env"]["max_steps"] == 25
    )
    buffer = ReplayBuffer.open(here / "P")
    assert set(buffer.keys()) == {"observation", "desired_goal", "action"} and (here / "P/data/camera").is_dir()


def test_processes_that_are_ahead_wait_for_the_slowest():
    workers = {k: _Worker(None, None, k, None, items=items) for k, items in enumerate((3, 5, 4))}
    assert list(_heard(workers, 2)) == [0, 2] and list(_heard(workers, None)) == [0, 1, 2]
    workers[0].items = 4
    assert list(_heard(workers, 2)) == [0, 1, 2]


def _nested(monkeypatch, key):
    """The environment's observations inside another dict."""
    import reach_here

    class Nested(reach_here.Reach):
        def __init__(self, breaks=False):
            super().__init__(breaks)
            self.observation_space = gym.spaces.Dict({key: self.observation_space})

        def see(self):
            return {key: super().see()}

    monkeypatch.setitem(gym.registry, "Reach-v0", gym.envs.registration.EnvSpec("Reach-v0", Nested))


def test_nested_keys_become_names_of_arrays(here, monkeypatch):
    _nested(monkeypatch, "seen")
    record(settings(here / "nested_keys", "Inside", episodes=1))
    assert {"seen.observation", "seen.desired_goal"} <= set(ReplayBuffer.open(here / "nested_keys").keys())
    assert (here / "nested_keys" / "data" / "seen.camera").is_dir()


def test_names_that_are_paths_are_refused_before_anything_is_written(here, monkeypatch):
    _nested(monkeypatch, "my/eyes")
    with pytest.raises(ValueError, match="shows 'my/eyes.camera', .*; expected keys without /; flatten them"):
        record(settings(here / "nested"))
    assert not (here / "nested").exists()
