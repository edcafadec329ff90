"""Which environments there are is decided by what is registered and installed here."""

import pickle

import gymnasium as gym
import pytest
import tiny

from diffpolicy import registry
from diffpolicy.config import EnvConfig, ObservationConfig, RunConfig
from diffpolicy.evaluation import make_env, policy_env
from diffpolicy.evaluation.adapters import declared_task


def test_a_registered_environment_with_its_options():
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
        assert env.unwrapped.width == 0.4 and isinstance(env, gym.wrappers.TimeLimit)
        assert declared_task("other/Line").main == "best"
    finally:
        registry.known.cache_clear()


@pytest.mark.parametrize("id", ["os:system-v0", "tiny:tiny/Line-v0", "tiny/Lin-v0", "nothing", None])
def test_no_id_makes_this_process_import_anything(id):
    with pytest.raises(ValueError, match=f"unknown environment {id!r}.*import the package that registers it"):
        make_env(id)


def test_options_that_an_environment_does_not_have_are_refused_in_words():
    with pytest.raises(ValueError, match="tiny/Line-v0 with {'wdth': 1}: .*wdth"):
        make_env(tiny.ENV_ID, {"wdth": 1})()


def test_the_environment_of_a_run_is_observed_as_the_policy_observes():
    config = RunConfig(env=EnvConfig("diffpolicy/PushT-v0"), observation=ObservationConfig(mode="corners"))
    assert policy_env(config)().observation_space.shape == (18,)
    with pytest.raises(ValueError, match="without an environment"):
        policy_env(RunConfig())


def test_a_declared_task_is_known_without_making_the_environment():
    assert declared_task(tiny.ENV_ID).display_options == ["images"]
    assert declared_task("nothing") is None
