"""Which environments there are: registered, installed, or imported for whoever asks; never for a checkpoint alone."""

import json
import pickle
import re
import sys

import gymnasium as gym
import pytest
import tiny
import tiny_policy
from typed import typed

from diffpolicy import evaluate_policy, registry
from diffpolicy.config import EnvConfig, ObservationConfig, RunConfig
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.config.compose import compose
from diffpolicy.config.schema import asked_for
from diffpolicy.evaluation import make_env, policy_env
from diffpolicy.evaluation.adapters import declared_task
from diffpolicy.evaluation.contract import has_time_limit

MODULE = """
import gymnasium as gym
import tiny
gym.register("{id}", entry_point=lambda **kwargs: tiny.LineEnv(**kwargs), max_episode_steps=9)
def make(width=0.9):
    return tiny.LineEnv(width=width)
def at_the_right(info):
    return info["place"] > 0.9
def old(**kwargs):
    return "an environment of another API"
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """The name of a module in the working folder, and the id of the environment that it registers."""
    name = f"foreign_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(id=f"{name}/Line-v0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *sys.path])
    yield name
    gym.registry.pop(f"{name}/Line-v0", None)


def test_a_registered_environment_with_its_arguments():
    factory = make_env(EnvConfig(tiny.ENV_ID, {"width": 0.5}))
    env = factory()
    assert env.unwrapped.width == 0.5 and env.spec.max_episode_steps == tiny.LIMIT and env.render_mode is None
    assert factory.rendering()().render_mode == "rgb_array"
    shorter = make_env(tiny.ENV_ID, {"images": True}, max_steps=3)()
    assert shorter.spec.max_episode_steps == 3 and shorter.unwrapped.images


def test_a_factory_goes_to_workers_with_what_was_registered_here(monkeypatch):
    packed = pickle.dumps(make_env(tiny.ENV_ID))
    monkeypatch.delitem(gym.registry, tiny.ENV_ID)  # as in a process in which nobody has registered it
    assert pickle.loads(packed)().unwrapped.width == 0.9
    with pytest.raises(ValueError, match="unknown environment"):
        make_env(tiny.ENV_ID)


def test_an_environment_of_an_installed_package(monkeypatch):
    monkeypatch.setitem(registry._OWN, "env", {"other/Line": "tiny:LineEnv"})
    registry.known.cache_clear()
    try:
        env = make_env("other/Line", {"width": 0.4}, max_steps=7)()
        assert env.unwrapped.width == 0.4 and has_time_limit(env)
        assert declared_task("other/Line").main == "best"
    finally:
        registry.known.cache_clear()


def test_the_task_of_a_suite_is_an_argument():
    factory = make_env(EnvConfig(tiny.ENV_ID, {"width": 0.3}, task="door"))
    assert factory.kwargs == {"width": 0.3, "task": "door"}
    with pytest.raises(ValueError, match="'task': 'door'}: .*unexpected keyword argument 'task'"):
        factory()


def test_an_id_with_its_module_is_imported_here_and_in_workers(foreign):
    factory = make_env(f"{foreign}:{foreign}/Line-v0", {"width": 0.2})
    assert factory().unwrapped.width == 0.2 and factory().spec.max_episode_steps == 9
    del gym.registry[f"{foreign}/Line-v0"]
    sys.modules.pop(foreign)
    again = pickle.loads(pickle.dumps(factory))  # though a registration by a lambda cannot be pickled
    assert again().unwrapped.width == 0.2


def test_a_factory_by_its_import_path(foreign):
    factory = make_env(EnvConfig(factory=f"{foreign}:make", kwargs={"width": 0.4}, max_steps=5))
    env = pickle.loads(pickle.dumps(factory))()
    assert env.unwrapped.width == 0.4 and has_time_limit(env) and factory.id == f"{foreign}:make"
    assert not has_time_limit(make_env(EnvConfig(factory=f"{foreign}:make"))())
    says = rf"{foreign}:old returned a str; expected a gymnasium.Env: reset\(seed=, options=\) .*step five values"
    with pytest.raises(TypeError, match=says):
        make_env(EnvConfig(factory=f"{foreign}:old"))()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            EnvConfig("tiny/Lin-v0"),
            r"unknown environment 'tiny/Lin-v0' \(did you mean 'tiny/Line-v0'\?\); write modul",
        ),
        (EnvConfig("nothing"), "unknown environment 'nothing'; write module:id"),
        (EnvConfig(), "unknown environment None"),
        (EnvConfig("tiny:tiny/Lin-v0"), r"tiny registers no environment 'tiny/Lin-v0' \(did you mean 'tiny/Line-v0'"),
        (
            EnvConfig(tiny.ENV_ID, factory="tiny:LineEnv"),
            "env.id=tiny/Line-v0 and env.factory=.*expected one of them",
        ),
        (EnvConfig(factory="LineEnv"), 'env.factory=LineEnv; expected "module:name"'),
        (EnvConfig(tiny.ENV_ID, max_steps=0), "env.max_steps=0; expected at least 1"),
        (EnvConfig(tiny.ENV_ID, timeout=0), "env.timeout=0; expected seconds above 0"),
        (EnvConfig(tiny.ENV_ID, image_range=[1, 0]), r"env.image_range=\[1, 0\]; expected \[lowest,highest\]"),
        (EnvConfig(tiny.ENV_ID, success="tiny:at_the_left"), "env.success=tiny:at_the_left: unknown name"),
    ],
)
def test_settings_of_no_environment_are_refused_in_words(config, says):
    with pytest.raises(ValueError, match=says):
        make_env(config)


def test_a_module_that_is_not_there_is_refused_in_words():
    with pytest.raises(ImportError, match="env.id=gone_away:X-v0 cannot be imported: there is no such module"):
        make_env("gone_away:X-v0")


def test_arguments_that_an_environment_does_not_have_are_refused_in_words():
    with pytest.raises(ValueError, match="tiny/Line-v0 with {'wdth': 1}: .*wdth"):
        make_env(tiny.ENV_ID, {"wdth": 1})()


def test_the_environment_of_a_run_is_observed_as_the_policy_observes():
    config = RunConfig(env=EnvConfig("diffpolicy/PushT-v0"), observation=ObservationConfig(mode="corners"))
    assert policy_env(config)().observation_space.shape == (18,)
    without = RunConfig(observation=config.observation)
    with pytest.raises(ValueError, match="without an environment: diffpolicy evaluate checkpoint=… env.id=…"):
        policy_env(without)
    assert policy_env(without, given=EnvConfig("diffpolicy/PushT-v0"))().observation_space.shape == (18,)
    assert policy_env(without, given=EnvConfig(tiny.ENV_ID)).kwargs == {}  # which has no such argument


def test_settings_of_the_same_environment_are_put_over_those_of_the_run():
    run = RunConfig(env=EnvConfig(tiny.ENV_ID, {"width": 0.5, "images": True}, stop_on_success=True))
    changed = policy_env(run, given=EnvConfig(kwargs={"width": 0.7}, max_steps=4)).config
    assert changed == EnvConfig(tiny.ENV_ID, {"width": 0.7, "images": True}, stop_on_success=True, max_steps=4)
    assert policy_env(run, given=EnvConfig(tiny.ENV_ID)).config == run.env
    assert policy_env(run, given=EnvConfig("diffpolicy/Detour-v0")).config == EnvConfig("diffpolicy/Detour-v0")


USUAL = {"stop_on_success": False, "max_steps": None, "fresh": False, "obs_keys": []}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A policy that was trained with other settings than the usual ones."""
    env = EnvConfig(tiny.ENV_ID, stop_on_success=True, max_steps=2, fresh=True, seed_globals=True)
    run = tiny_policy.config("regression", env=env)
    run.found.observation = tiny_policy.spec(dim=2).to_plain()
    return tiny_policy.save(tmp_path_factory.mktemp("run") / "checkpoints", run)


def test_settings_can_be_put_back_to_their_defaults_from_python(checkpoint):
    found = evaluate_policy(checkpoint, episodes=1, seeds=0, workers=0, env=USUAL)
    assert (
        USUAL.items() <= found["env"].items() and found["env"]["seed_globals"] and found["env"]["id"] == tiny.ENV_ID
    )
    assert found["episodes"][0]["steps"] > 2
    with pytest.raises(ValueError, match="setting 'env.max_stps'.*did you mean 'env.max_steps'"):
        evaluate_policy(checkpoint, env={"max_stps": 1})


def test_settings_can_be_put_back_to_their_defaults_by_the_command(checkpoint, tmp_path):
    typed_as = {"stop_on_success": "false", "max_steps": "null", "fresh": "false", "obs_keys": "[]"}
    given = [f"checkpoint={checkpoint}", "episodes=1", "seeds=0", "workers=0", "videos=0"]
    typed("evaluate", *given, "out=OUT", *(f"env.{name}={one}" for name, one in typed_as.items()), cwd=tmp_path)
    found = json.loads((tmp_path / "OUT" / "evaluation.json").read_text())["env"]
    assert USUAL.items() <= found.items() and found["seed_globals"] is True
    typed("evaluate", "-m", *given, "out=OUT_${env.max_steps}", "env.max_steps=null,3", cwd=tmp_path)
    swept = [json.loads((tmp_path / f"OUT_{n}" / "evaluation.json").read_text()) for n in ("None", "3")]
    assert [one["env"]["max_steps"] for one in swept] == [None, 3] and swept[0]["env"]["stop_on_success"] is True
    composed = compose([*given, "out=X", "env={fresh: false}"], "evaluate", EvaluateConfig).env
    assert asked_for(composed) == {"fresh"} and composed == EnvConfig()


@pytest.mark.parametrize("setting", ["id", "factory", "success"])
def test_no_checkpoint_alone_makes_this_process_import_anything(foreign, setting):
    named = {"id": f"{foreign}:{foreign}/Line-v0", "factory": f"{foreign}:make", "success": f"{foreign}:at_the_right"}
    known = {"id": tiny.ENV_ID} if setting == "success" else {}
    run = RunConfig(env=EnvConfig(**{**known, setting: named[setting]}, max_steps=5))
    allows = f"if you trust it: diffpolicy evaluate checkpoint=X env.{setting}={named[setting]}"
    with pytest.raises(ValueError, match=re.escape(allows) + "$") as refused:
        policy_env(run, line="diffpolicy evaluate checkpoint=X")
    assert f"the checkpoint asks for env.{setting}={named[setting]}" in str(refused.value)
    assert foreign not in sys.modules
    given = EnvConfig(**{setting: named[setting]})
    assert policy_env(run, given=given)().unwrapped.width == 0.9
    assert policy_env(run, given=given).config == run.env


def test_no_checkpoint_names_an_import_by_an_argument(foreign):
    run = RunConfig(env=EnvConfig("GymV26Environment-v0", {"env_id": f"{foreign}:{foreign}/Line-v0"}, max_steps=5))
    for given in (None, EnvConfig(run.env.id)):
        with pytest.raises(ValueError, match=r"the checkpoint asks for .*env\.kwargs=.*, which would run code"):
            policy_env(run, given=given)
    assert foreign not in sys.modules


def test_what_is_registered_here_needs_no_consent():
    run = RunConfig(env=EnvConfig(f"nowhere:{tiny.ENV_ID}"))
    assert policy_env(run).id == tiny.ENV_ID  # and nothing called nowhere is imported


def test_a_declared_task_is_known_without_making_the_environment():
    assert declared_task(tiny.ENV_ID).display_options == ["images"]
    assert declared_task(f"tiny:{tiny.ENV_ID}").display_options == ["images"]
    assert declared_task("nothing") is None and declared_task(None) is None
