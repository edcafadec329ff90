"""What does not fit is said before the first episode, and names what the environment gives."""

import numpy as np
import pytest
import tiny_policy
from environments import Bridge, Goals, Walk

from diffpolicy.config import EnvConfig
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.envs.pushblocks import PHRASES
from diffpolicy.evaluation import make_env
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.evaluate import check_fit
from diffpolicy.evaluation.fit import check_said
from diffpolicy.policies.texts import learns_words

SPEC = ObservationSpec({"obs": Field("vector", (2,))})


class NoReward(Walk):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class OldStep(Walk):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class OldReset(Walk):
    def reset(self):
        return np.zeros(2)


class NoSeed(Walk):
    def reset(self, *, options=None):
        return np.zeros(2), {}


class OtherShape(Walk):
    def see(self):
        return np.zeros(3)


class Declares(Walk):
    metadata = {"task": {"metrics": {"height": {"key": "height"}}}}  # noqa: RUF012


class Breaks(Walk):
    def step(self, action):
        raise IndexError("no such joint")


class SometimesBreaks(Walk):
    def reset(self, *, seed=None, options=None):
        if seed == 0:
            raise IndexError("no such joint")
        return super().reset(seed=seed)


def checked(kind, spec=SPEC, action_dim=2, **settings):
    config = EnvConfig(**{"factory": f"{kind.__module__}:{kind.__name__}", "max_steps": 4, **settings})
    return check_fit(tiny_policy.config("flow", env=config), make_env(config), spec, action_dim)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (NoReward, {}, "NoReward, seed 0, step 1: the reward is None; expected a finite number"),
        (OldStep, {}, "OldStep: step returned 4 values; expected gymnasium's five: observation, reward, terminated"),
        (OldReset, {}, r"OldReset.reset takes \(\); expected reset\(\*, seed=None, options=None\)"),
        (NoSeed, {}, r"NoSeed.reset takes \(options\); expected reset"),
        (OtherShape, {}, r"OtherShape, seed 0, reset: the observation is float32\[3\]; expected float32\[2\]"),
        (Declares, {}, "step 1: info lacks the metric's key 'height'; it has is_success, place"),
        (Walk, {"success": "solved"}, "step 1: info lacks the success key 'solved'; it has is_success, place"),
        (Breaks, {}, "Breaks, seed 0, step 1: IndexError: no such joint"),
        (Walk, {"max_steps": None}, r"Walk has no time limit.*env.max_steps=N"),
        (Walk, {"action_dim": 3}, r"Walk with {} takes actions \(2,\); expected \(3,\), as the demonstrations have"),
        (Goals, {}, r"Goals with {} shows {'desired_goal': \(2,\), 'observation': \(2,\)}; expected \(2,\)"),
    ],
)
def test_before_the_first_episode_in_words(kind, settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        checked(kind, **settings)


@pytest.mark.parametrize("success", [None, "is_success"])
def test_a_bridge_to_another_api_fits(success):
    assert checked(Bridge, success=success).main == "return"


def test_one_seed_at_which_an_environment_breaks_does_not_speak_for_all():
    assert checked(SometimesBreaks).main == "return"


def test_what_fits():
    goals = ObservationSpec({"observation": Field("vector", (2,)), "desired_goal": Field("vector", (2,))})
    assert checked(Goals, goals).main == "return"
    assert checked(Walk, success="environments:beyond").success_key == "success"


def test_words_that_no_demonstration_had_are_refused_before_training():
    make = make_env(EnvConfig(id="diffpolicy/PushBlocks-v0", kwargs={"told": True}))
    resets = [Reset(seed) for seed in range(12)]
    said = [text for mode in PHRASES.words for text in PHRASES.of(mode, "taught")]
    check_said(make, 2, {"task": said}, resets)
    says = r"the environment says '.*' as 'task' at seed \d+; expected words .*, which lack '.*'; record"
    with pytest.raises(ValueError, match=says):
        check_said(make, 2, {"task": said[:1]}, resets)
    assert learns_words({"name": "words"}) and not learns_words({"name": "pretrained"})
    parts = [{"name": "pretrained"}, {"name": "pretrained"}]
    assert not learns_words({"name": "beside", "parts": parts})
    assert learns_words({"name": "beside", "parts": [*parts, {"name": "words"}]})
