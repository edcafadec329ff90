"""What check-env says of environments whose properties are known."""

import json
import os
import random
import shlex
import time

import gymnasium as gym
import numpy as np
import pytest
import yaml
from typed import typed

from diffpolicy.config import EnvConfig
from diffpolicy.config.commands import CheckEnvConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation import make_env
from diffpolicy.evaluation.check_env import check_environment, command_line, describe, yaml_lines
from diffpolicy.evaluation.check_env.edges import check_edges
from diffpolicy.evaluation.check_env.stepping import check_episode, explore
from diffpolicy.evaluation.check_env.traces import Instance
from diffpolicy.evaluation.journal import Journal

SEEDING = "same seed, same episode (compared in float64)"


class Base(gym.Env):
    """A walk whose start and steps are drawn from the environment's own generator; ends after eight steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_fps": 10, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = self.start(), 0
        return self.see(), {"success": False}

    def step(self, action):
        self.place, self.count = self.place + self.push() + np.clip(action, -1, 1), self.count + 1
        return self.see(), self.reward(), self.count == 8, False, self.info()

    def render(self):
        return np.linspace(0, 255, 6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)

    def start(self):
        return self.np_random.uniform(size=2)

    def push(self):
        return self.np_random.normal(size=2)

    def see(self):
        return self.place.copy()

    def reward(self):
        return -1.0

    def info(self):
        return {"success": self.count == 8}


class StartsFromGlobals(Base):
    def start(self):
        return np.random.uniform(size=2)  # noqa: NPY002


class StartsTheSame(Base):
    def start(self):
        return np.zeros(2)


class PushedByGlobals(Base):
    def push(self):
        return np.array([random.random(), 0.0])


class Remembers(Base):
    past = 0

    def start(self):
        self.past += 1
        return super().start() + (1e-3 if self.past > 1 else 0.0)


class Shared(Base):
    """All instances of a process draw from one generator, which every reset seeds."""

    def start(self):
        Shared.draw = np.random.default_rng(int(self.np_random.integers(1000)))
        return Shared.draw.uniform(size=2)

    def push(self):
        return Shared.draw.uniform(size=2)


class IgnoresItsSeed(Base):
    def start(self):
        return np.random.default_rng().uniform(size=2)


class DrawsWhenMade(Base):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.goal = np.random.uniform(size=2)  # noqa: NPY002

    def start(self):
        return self.goal.copy()

    def push(self):
        return np.zeros(2)


class Untidy(Base):
    """Says success by another name, shows dicts of everything, leaves its bounds, overwrites what it has shown."""

    metadata = {}  # noqa: RUF012  # no render modes, no frame rate
    observation_space = gym.spaces.Dict(
        {
            "arm": gym.spaces.Dict({"joints": gym.spaces.Box(0.0, 0.1, (2,), np.float64)}),
            "camera": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "float_camera": gym.spaces.Box(0.0, 1.0, (8, 8, 3), np.float32),
            "task": gym.spaces.Text(9),
            "achieved_goal": gym.spaces.Box(-1.0, 1.0, (2,)),
        }
    )

    def see(self):
        if self.count == 0:
            self.kept = np.zeros(2)
        self.kept[:] = self.place
        light = self.np_random.uniform(size=(8, 8, 3)).astype(np.float32)
        pictures = {"camera": (255 * light).astype(np.uint8), "float_camera": light}
        return {"arm": {"joints": self.kept}, **pictures, "task": "go", "achieved_goal": np.zeros(2, np.float32)}

    def info(self):
        return {"solved": True, **({"late": 1} if self.count > 3 else {})}


class ChannelsFirst(Base):
    """Cameras whose channels come first, in bytes and in floating-point numbers."""

    observation_space = gym.spaces.Dict(
        {"bytes": gym.spaces.Box(0, 255, (3, 8, 9), np.uint8), "light": gym.spaces.Box(0.0, 1.0, (3, 8, 9))}
    )

    def see(self):
        light = self.np_random.uniform(size=(3, 8, 9)).astype(np.float32)
        return {"bytes": (255 * light).astype(np.uint8), "light": light}


class ClipsItself(Base):
    metadata = {**Base.metadata, "task": {"clips_actions": True}}  # noqa: RUF012


class DrawnToTheEye(Base):
    """Rendering draws from the environment's own generator."""

    def render(self):
        self.np_random.uniform()
        return super().render()


class HangsAndDies(Base):
    """Hangs with seed 1, which only the comparison of seeds uses, and takes its process along when looked at."""

    def reset(self, *, seed=None, options=None):
        if seed == 1:
            time.sleep(60)
        return super().reset(seed=seed, options=options)

    def render(self):
        os._exit(7)


class Fails(Base):
    def reward(self):
        raise RuntimeError("the simulation\nis unstable")


class NoNumber(Base):
    def see(self):
        return self.place * (np.nan if self.count == 2 else 1.0)


class OtherShape(Base):
    def see(self):
        return np.append(self.place, 0.0)


def report_of(kind, limit=50, **settings):
    id = f"checks/{kind.__name__}-v0"
    if id not in gym.registry:
        gym.register(id, kind, max_episode_steps=limit, disable_env_checker=True)
    return check_environment(CheckEnvConfig(env=EnvConfig(id), **settings), apart=False)


def facts(report, title=SEEDING):
    return next(check.values for check in report.checks if check.title == title)


def test_an_environment_that_holds_what_it_promises():
    report = report_of(Base)
    assert report.broken == report.notes == [] and report.settings == {"id": "checks/Base-v0"}
    assert len(facts(report)) == 6 and all(one["bitwise"] for one in facts(report).values())
    seen = facts(report, "an episode of random actions")
    assert (seen["fps"], seen["time_limit"], seen["success_key"], seen["reward"]) == (10, 50, "success", [-1, -1])
    assert seen["info"] == {"reset": ["success"], "step": ["success"]} and seen["ended"] and seen["steps"] == 8
    assert facts(report, "rendering")["shape"] == [6, 8, 3]


@pytest.mark.parametrize(
    ("kind", "settings", "evaluation", "differs"),
    [
        (StartsFromGlobals, {"seed_globals": True}, {}, {"random and numpy.random left in another state"}),
        (
            PushedByGlobals,
            {"seed_globals": True},
            {},
            {
                "random and numpy.random left in another state",
                "others draw from them during the episode",
                "another instance steps beside it",
            },
        ),
        (Remembers, {"fresh": True}, {}, {"twice in one instance", "after other episodes"}),
        (Shared, {}, {"envs": 1}, {"another instance steps beside it"}),
    ],
)
def test_what_an_episode_depends_on_and_the_setting_that_mends_it(kind, settings, evaluation, differs):
    report = report_of(kind)
    assert {how for how, one in facts(report).items() if not one["bitwise"]} == differs
    assert report.settings == {"id": f"checks/{kind.__name__}-v0", **settings}
    assert report.evaluation == evaluation and report.broken == [] and report.notes


def test_how_far_apart_episodes_are():
    apart = facts(report_of(Remembers))["twice in one instance"]
    assert apart["largest"] == pytest.approx(1e-3) and apart["at_start"] == pytest.approx(1e-3)
    pushed = facts(report_of(PushedByGlobals))["others draw from them during the episode"]
    assert pushed["at_start"] == 0 and pushed["largest"] > 1e-3


@pytest.mark.parametrize(
    ("kind", "says"),
    [(IgnoresItsSeed, "not even twice in one instance"), (DrawsWhenMade, "while it is made decides its episodes")],
)
def test_what_no_setting_mends_is_broken(kind, says):
    report = report_of(kind)
    assert says in report.broken[0]
    assert not {"fresh", "seed_globals"} & report.settings.keys()


def test_seeds_that_start_alike_are_noted():
    (note,) = report_of(StartsTheSame).notes
    assert note.startswith("seeds 0, 1 and 2 start alike")
    assert not any("start alike" in note for note in report_of(StartsFromGlobals).notes), "its seeds are told apart"


def test_keys_cameras_bounds_and_what_info_lacks():
    report = report_of(Untidy, limit=None)
    shown = facts(report, "observations and actions")["observation"]
    assert {key: one.get("kind") for key, one in shown.items()} == {
        "arm.joints": "vector", "camera": "camera", "float_camera": "vector", "task": None, "achieved_goal": "vector",
    }  # fmt: skip
    notes = "\n".join(report.notes)
    for said in (
        "'arm.joints' leaves its declared bounds",
        "env.image_range=[0,1]",
        "task: no numbers",
        "env.success=solved",
        "no time limit",
        "late at some steps only",
        'no "render_fps"',
    ):
        assert said in notes
    keys = ["arm.joints", "camera", "float_camera"]
    assert report.settings == {
        "id": "checks/Untidy-v0", "image_range": [0.0, 1.0], "obs_keys": keys, "max_steps": 500,
    }  # fmt: skip
    fitting = facts(report, "with the settings that fit")
    assert fitting["observed"] == {"arm.joints": [2], "camera": [8, 8, 3], "float_camera": [8, 8, 3]}
    assert fitting["left_out"] == ["achieved_goal", "task"] and fitting["bitwise"]
    assert "'env.obs_keys=[arm.joints,camera,float_camera]' env.max_steps=500" in describe(report)
    typed_in = compose(shlex.split(command_line(report.settings)), "check-env", CheckEnvConfig).env
    assert typed_in == EnvConfig(**report.settings) and make_env(typed_in)().reset(seed=0)


def test_pictures_with_channels_first_are_cameras():
    report = report_of(ChannelsFirst)
    shown = facts(report, "observations and actions")["observation"]
    assert shown["bytes"]["kind"] == "camera" and shown["light"]["kind"] == "vector"
    assert report.settings["image_range"] == [0.0, 1.0]
    assert "'bytes': camera (3, 8, 9) uint8, shown as (8, 9, 3), seen" in describe(report)
    assert facts(report, "with the settings that fit")["observed"] == {"bytes": [8, 9, 3], "light": [8, 9, 3]}


@pytest.mark.parametrize(("seconds", "envs"), [(0.001, None), (1.5, 32), (5.0, 12), (100.0, 1)])
def test_fewer_environments_are_proposed_where_they_are_slow_to_make(seconds, envs):
    seen = explore(Base, Journal(), seed=0, seconds=1.0)
    seen.seconds["make"] = seconds
    assert check_episode(seen).evaluation == ({} if envs is None else {"envs": envs})


def test_what_becomes_of_actions_outside_the_bounds():
    clipped, handed = ("\n".join(check_edges(kind, Journal(), 0, 1.0).facts) for kind in (Base, ClipsItself))
    assert "they are clipped before they reach it" in clipped
    assert "they reach it as they are, since its task declares" in handed and "before they reach" not in handed


def test_an_instance_that_was_never_reset_is_closed_too():
    closed = []

    class Closes(Base):
        def close(self):
            closed.append(self)

    env = Instance(Closes, Journal())
    env.close()
    assert closed == [env.env]
    again = Instance(Closes, Journal())
    again.reset(0)
    again.close()
    assert closed == [env.env, again.env]


def test_settings_are_printed_as_they_are_typed_and_as_a_file_has_them():
    """Hydra, the shell and YAML read them back: words that look like numbers, spaces, lists, mappings, quotes."""
    kwargs = {"name": "a b", "size": "3", "flag": "true", "at": [1.5, -2.0], "way": {"left": None}, "who": "it's"}
    odd = ["a,b", "null", "nan", "", "é", "a=b", "50%", "$HOME", "x: y", "C:\\new\\", 'it\'s "so"', 1e-5, True]
    kwargs |= {"odd": odd, **{f"odd{number}": one for number, one in enumerate(odd)}}
    settings = {"id": "tiny/Line-v0", "kwargs": kwargs, "fresh": True, "obs_keys": ["pixels.top", "2"]}
    words = shlex.split(command_line(settings))
    assert compose(words, "check-env", CheckEnvConfig).env == EnvConfig(**settings)
    assert yaml.safe_load("\n".join(yaml_lines(settings))) == {"env": settings}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Fails, "checks/Fails-v0, seed 0, step 1: RuntimeError: the simulation is unstable (test_check_env.py:"),
        (NoNumber, "step 2: the observation holds NaN"),
        (OtherShape, "the observation is float64[3]; expected float64[2]"),
    ],
)
def test_troubles_become_sentences(kind, says):
    report = report_of(kind)
    assert any(says in one for one in report.broken), report.broken
    assert all("\n" not in one for one in report.broken)


def test_looking_that_changes_an_episode_is_noted():
    (note,) = report_of(DrawnToTheEye).notes
    assert "looking changes the episode" in note


def test_from_the_command_line_in_processes_of_its_own(tmp_path):
    out = typed("check-env", "env.id=tiny/Line-v0", "env.kwargs.width=0.8", "out=report.json", cwd=tmp_path)
    assert "the same seed in another process: bitwise the same" in out and "0 broken" in out
    assert "  env.id=tiny/Line-v0 env.kwargs.width=0.8\n" in out and "    id: tiny/Line-v0" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["command_line"] == "env.id=tiny/Line-v0 env.kwargs.width=0.8" and report["broken"] == []


def test_checks_that_hang_or_die_are_told_of_and_the_others_go_on(tmp_path):
    gym.register("checks/HangsAndDies-v0", HangsAndDies, max_episode_steps=9)
    out = typed("check-env", "env.id=checks/HangsAndDies-v0", "patience=1", cwd=tmp_path, code=1)
    assert "BROKEN: seeding: it had not returned after 1 s, and its process was killed" in out
    assert "BROKEN: rendering: its process ended with exit code 7" in out
    assert "reward: -1 to -1" in out and "actions outside the bounds have the effect of clipped ones" in out
