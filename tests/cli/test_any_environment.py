"""A new user's environment, from the command line alone: recorded by a script, trained, evaluated, filmed."""

import json
import sys

import gymnasium as gym
import pytest
from typed import typed

MODULE = """
import gymnasium as gym
import numpy as np


class Reach(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None, size=32):
        self.render_mode, self.size = render_mode, size
        place = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        parts = {"observation": place, "achieved_goal": place, "desired_goal": place}
        self.observation_space = gym.spaces.Dict(parts)
        self.action_space = gym.spaces.Box(-0.1, 0.1, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-0.5, 0.5, (2, 2))
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = self.place + action
        far = float(np.linalg.norm(self.goal - self.place))
        return self.see(), -far, False, False, {"is_success": far < 0.1}

    def see(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.goal}

    def render(self):
        return np.full((self.size, self.size, 3), 200, np.uint8)


class Expert:
    def reset(self, obs, info):
        pass

    def act(self, obs, info):
        return np.clip(obs["desired_goal"] - obs["observation"], -0.1, 0.1)


def expert(seed, options):
    return Expert()


gym.register("Reach-v0", Reach)
"""
ENV = ["env.id=reaching_here:Reach-v0", "env.max_steps=16"]
TINY = ["method=regression", "net.widths=[16,32]", "net.time_features=8", "training.batch_size=32", "speed=float32"]
TINY += ["training.steps=60", "training.warmup_steps=5", "training.lr=3e-3", "training.ema_max=0.9"]
TINY += ["observation.vectors=[observation,desired_goal]", "dataset.path=demos.zarr", "task=own", "device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reaching")
    (folder / "reaching_here.py").write_text(MODULE)
    yield folder
    gym.registry.pop("Reach-v0", None)
    sys.modules.pop("reaching_here", None)
    sys.path[:] = [one for one in sys.path if one != str(folder)]


def forgotten():
    """As in the next command's own process, in which nobody has imported the module."""
    gym.registry.pop("Reach-v0", None)
    sys.modules.pop("reaching_here", None)


def test_recorded_trained_evaluated_and_filmed(folder):
    said = typed("record", *ENV, "expert=reaching_here:expert", "episodes=20", "out=demos.zarr", cwd=folder)
    assert "20 episodes of 20 tried" in said
    typed("train", *TINY, "run_dir=RUN", *ENV, "evaluation_episodes=2", cwd=folder)
    forgotten()
    evaluate = ("evaluate", "checkpoint=RUN/checkpoints/best", "out=OUT", "episodes=8", "videos=1", "workers=0")
    error = typed(*evaluate, cwd=folder, ok=False)
    allowed = "diffpolicy evaluate checkpoint=RUN/checkpoints/best env.id=reaching_here:Reach-v0"
    assert error.rstrip().endswith(f"if you trust it: {allowed}") and "reaching_here" not in sys.modules
    said = typed(*evaluate, *ENV, cwd=folder)
    result = json.loads((folder / "OUT" / "evaluation.json").read_text())
    assert result["success"]["mean"] >= 0.5 and "success" in said and result["errors"] == []
    assert result["env"]["given_by_hand"] and result["env"]["id"] == "reaching_here:Reach-v0"
    assert list((folder / "OUT").glob("episode_*.mp4")) and (folder / "OUT" / "report.html").exists()


def test_a_policy_trained_without_an_environment(folder):
    typed("train", *TINY, "run_dir=BLIND", "env.id=null", "training.steps=2", cwd=folder)
    evaluate = ("evaluate", "checkpoint=BLIND/checkpoints/last", "out=LATER", "episodes=2", "videos=0", "workers=0")
    assert "trained without an environment" in typed(*evaluate, cwd=folder, ok=False)
    assert "Reach-v0 has no time limit" in typed(*evaluate, ENV[0], cwd=folder, ok=False)
    says = (
        "shows {'observation': (2,)}; expected vector 'observation' (2,), vector 'desired_goal' (2,), as the policy"
    )
    assert says in typed(*evaluate, *ENV, "env.obs_keys=[observation]", cwd=folder, ok=False)
    typed(*evaluate, *ENV, "env.kwargs.size=48", cwd=folder)
    result = json.loads((folder / "LATER" / "evaluation.json").read_text())
    assert result["checkpoint"]["config"]["env"]["id"] is None and result["env"]["kwargs"] == {"size": 48}
