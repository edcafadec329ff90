"""Any environment made to fit: what is observed, what an action becomes, what success is, and how seeds hold."""

import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
import tiny
from environments import (
    Arrows,
    DrawsWhenMade,
    Globals,
    Goals,
    Nested,
    Pictures,
    Remembers,
    Reused,
    Screen,
    Walk,
    Whole,
)
from gymnasium import spaces

from diffpolicy.config import EnvConfig
from diffpolicy.evaluation import Recorder, Reset, TaskSpec, make_env, rollout
from diffpolicy.evaluation.adapting import Adapted, Fresh

RESETS = [Reset(seed) for seed in range(3)]


def adapted(kind, **settings):
    return Adapted(kind(), EnvConfig(**settings))


def walked(env, steps, action=(0.4, 0.0), seed=0):
    """The steps of an episode that always does the same."""
    env.reset(seed=seed)
    return [env.step(np.asarray(action, np.float32)) for _ in range(steps)]


def named(kind, **settings):
    return make_env(EnvConfig(factory=f"environments:{kind.__name__}", max_steps=4, **settings))


def test_a_vector_becomes_float32_without_the_bounds_of_its_space():
    env = adapted(Walk)
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.float32 and env.observation_space.contains(obs)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    np.testing.assert_array_equal(obs, np.float32(env.unwrapped.place))


def test_environments_that_fit_are_left_as_they_are():
    plain, made = gym.make(tiny.ENV_ID, images=True), make_env(tiny.ENV_ID, {"images": True})()
    assert made.observation_space == plain.observation_space and made.metadata == plain.metadata
    first, again = plain.reset(seed=3)[0], made.reset(seed=3)[0]
    assert list(again) == list(first) and all(again[key].dtype == first[key].dtype for key in first)
    for _ in range(4):
        (obs, *rest), (expected, *others) = made.step(np.float32([0.3, 9])), plain.step(np.float32([0.3, 1]))
        assert all(np.array_equal(obs[key], expected[key]) for key in expected) and rest[:3] == others[:3]


def test_goals_are_kept_and_what_is_achieved_only_where_it_is_asked_for():
    assert list(adapted(Goals).observation_space) == ["desired_goal", "observation"]
    assert list(adapted(Goals).reset(seed=0)[0]) == ["desired_goal", "observation"]
    asked = adapted(Goals, obs_keys=["observation", "achieved_goal"])
    assert list(asked.reset(seed=0)[0]) == ["observation", "achieved_goal"]
    with pytest.raises(ValueError, match=r"env.obs_keys 'observations' \(did you mean 'observation'"):
        adapted(Goals, obs_keys=["observations"])
    with pytest.raises(ValueError, match=r"env.obs_keys=\['x'\] where observations are Box.*expected a dict"):
        adapted(Walk, obs_keys=["x"])


def test_nested_observations_become_plain_keys():
    env = adapted(Nested)
    obs, _ = env.reset(seed=0)
    assert set(obs) == {"pixels.top", "pixels.wrist", "state.place", "state.rooms"} == set(env.observation_space)
    assert env.observation_space.contains(obs)
    assert obs["pixels.top"].shape == (9, 8, 3) and obs["state.rooms"].tolist() == [2.0]
    assert obs["pixels.wrist"].shape == (8, 9, 3) and obs["pixels.wrist"][..., 1].min() == 7
    assert list(adapted(Nested, obs_keys=["state.place", "pixels"]).reset(seed=0)[0]) == [
        "state.place", "pixels.top", "pixels.wrist",
    ]  # fmt: skip
    goal = adapted(Nested, obs_keys=["achieved_goal"])
    assert goal.reset(seed=0)[0]["achieved_goal.door"].shape == (2,)


def test_pictures_of_numbers_are_cameras_once_their_range_is_given():
    with pytest.raises(ValueError, match=r"shows camera as pictures of float64; expected their range; .*image_range"):
        adapted(Pictures)
    env = adapted(Pictures, image_range=[-1, 1])
    obs, _ = env.reset(seed=0)
    assert env.observation_space["camera"] == spaces.Box(0, 255, (8, 9, 3), np.uint8)
    assert obs["camera"][0, 0].tolist() == [255, 128, 0] and obs["camera"][5, 5].tolist() == [255, 0, 0]
    assert obs["depth"].shape == (8, 9, 1) and obs["depth"].dtype == np.uint16 and obs["depth"].max() == 1000
    with pytest.raises(ValueError, match=r"env.image_range=\[0, 1\], and no pictures in desired_goal, observation"):
        adapted(Goals, image_range=[0, 1])


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "holds nan to nan"), (np.inf, "to inf"), (2.0, "to 2"), (-1.01, "holds -1.01 to")]
)
def test_images_beyond_their_range_are_refused(value, says):
    class Dirty(Pictures):
        def see(self):
            seen = super().see()
            seen["camera"][2, 3, 3] = value
            return seen

    with pytest.raises(ValueError, match=rf"the image 'camera' .*{says}.*expected env.image_range=\[-1,1\]"):
        adapted(Dirty, image_range=[-1, 1]).reset(seed=0)


def test_images_may_be_beyond_their_range_by_rounding():
    class Rounded(Pictures):
        def see(self):
            return {name: one * (1 + 1e-6) if name == "camera" else one for name, one in super().see().items()}

    assert adapted(Rounded, image_range=[-1, 1]).reset(seed=0)[0]["camera"].max() == 255


def test_a_picture_alone_has_a_key():
    assert adapted(Screen).reset(seed=0)[0]["image"].shape == (9, 8, 3)


def test_what_is_neither_number_nor_text_has_to_be_left_out():
    class Listing(Walk):
        def space(self):
            return spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "seen": spaces.Sequence(spaces.Box(-1, 1, (2,)))})

    with pytest.raises(ValueError, match=r"shows seen as Sequence.*numbers, images or texts; .*obs_keys=\[place\]"):
        adapted(Listing)
    with pytest.raises(ValueError, match="env.obs_keys: seen is Sequence"):
        adapted(Listing, obs_keys=["seen"])
    assert list(adapted(Listing, obs_keys=["place"]).observation_space) == ["place"]


def test_a_text_is_observed_as_a_string():
    class Told(Walk):
        def space(self):
            return spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "mission": spaces.Text(9)})

        def see(self):
            return {"place": np.zeros(2, np.float32), "mission": "go left"}

    obs = adapted(Told).reset(seed=0)[0]
    assert obs["mission"].dtype.kind == "U" and str(obs["mission"]) == "go left"
    with pytest.raises(ValueError, match="a text of the observation is a int"):
        adapted(type("Wrong", (Told,), {"see": lambda self: {"place": [0, 0], "mission": 3}})).reset(seed=0)
    with pytest.raises(ValueError, match="alone; expected numbers or images too"):
        adapted(type("Alone", (Walk,), {"space": lambda self: spaces.Text(9)}))


def test_an_observation_that_lacks_what_its_space_says_is_named():
    class Lacking(Goals):
        def see(self):
            return {"observation": self.place, "goal": self.place}

    with pytest.raises(ValueError, match="the observation lacks 'desired_goal'; it has observation, goal"):
        adapted(Lacking).reset(seed=0)


def test_what_was_observed_does_not_change_later():
    (episode,) = rollout(tiny.Wanderer(), lambda: adapted(Reused), RESETS[:1], [Recorder()], max_steps=4)
    seen = episode.observed["recording"]["obs"]
    moved = np.clip(episode.observed["recording"]["action"], -0.5, 0.5)
    np.testing.assert_allclose(np.diff(seen, axis=0), moved[:-1], atol=1e-6)
    assert np.abs(moved).min() > 0


def test_actions_are_clipped_and_cast_in_one_place():
    env = adapted(Walk)
    walked(env, 1, (0.2, -7))
    (action,) = env.unwrapped.actions
    assert action.dtype == np.float64 and action.tolist() == [float(np.float32(0.2)), -0.5]
    np.testing.assert_array_equal(env.carried_out(np.float32([0.2, -7])), action)
    whole = adapted(Whole)
    walked(whole, 1, (1.7, 9.0))
    assert whole.unwrapped.actions[0].dtype == np.int64 and whole.unwrapped.actions[0].tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"it takes actions \(2,\); expected \(3,\), as the agent gives"):
        walked(env, 1, (0, 0, 0))
    with pytest.raises(ValueError, match=r"takes actions Discrete\(4\); expected a Box of shape \(A,\); wrap it"):
        adapted(Arrows)


def test_environments_that_clip_themselves_get_actions_as_they_are():
    class Clips(Walk):
        metadata = {"task": {"clips_actions": True}}  # noqa: RUF012

    env = adapted(Clips)
    walked(env, 1, (3, 3))
    assert env.unwrapped.actions[0].tolist() == [3, 3] and env.carried_out(np.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("success", "expected"),
    [(None, 3), ("is_success", 3), ("environments:beyond", 6), ("none", None), ("place", 1)],
)
def test_success_is_what_is_named(success, expected):
    env = adapted(Walk, success=success)
    task, found = TaskSpec.of(env), [step[-1] for step in walked(env, 8)]
    first = next((number for number, info in enumerate(found, 1) if task.succeeded(info)), None)
    assert first == expected and (success != "none" or task.succeeded(found[0]) is None)
    assert success in (None, "none") or found[0]["success"] == task.succeeded(found[0])


def test_a_success_that_is_not_there_is_named_with_what_is():
    with pytest.raises(ValueError, match="info lacks the success key 'solved'; it has is_success, place"):
        walked(adapted(Walk, success="solved"), 1)


def test_an_episode_can_end_at_its_first_success():
    ends = [step[2] for step in walked(adapted(Walk, stop_on_success=True), 4)]
    assert ends == [False, False, True, True]
    later = [step[2] for step in walked(adapted(Walk, stop_on_success=True, success="environments:beyond"), 6)]
    assert later == [False] * 5 + [True]
    assert not any(step[2] for step in walked(adapted(Walk, stop_on_success=True, success="none"), 4))


def seen(make, resets, **how):
    """The observations of episodes."""
    return [one.observed["recording"]["obs"] for one in rollout(tiny.Wanderer(), make, resets, [Recorder()], **how)]


@pytest.mark.parametrize(("kind", "setting"), [(Globals, "seed_globals"), (Remembers, "fresh")])
def test_episodes_depend_on_their_seed_alone(kind, setting):
    make = named(kind, **{setting: True})
    together, apart = seen(make, RESETS, envs=3), seen(make, RESETS[::-1], envs=1)[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))
    assert not np.array_equal(together[0], together[1])
    without = named(kind)
    loose = [*seen(without, RESETS[:1], envs=1), *seen(without, RESETS[1::-1], envs=1)[1:]]
    assert not np.array_equal(*loose), "the same seed, and another episode without the setting"


def test_episodes_depend_on_their_seed_alone_where_instances_draw_when_made():
    make = named(DrawsWhenMade, fresh=True, seed_globals=True)
    together, apart = seen(make, RESETS, envs=3), seen(make, RESETS[::-1], envs=1)[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))


def test_nothing_outside_notices_the_generators_of_an_environment():
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    walked(adapted(Globals, seed_globals=True), 2)
    after = random.getstate(), np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0] and before[1][2] == after[1][2] and np.array_equal(before[1][1], after[1][1])


def test_a_fresh_instance_replaces_one_that_is_closed():
    made = []

    class Counted(Walk):
        closed = False

        def close(self):
            self.closed = True

    env = Fresh(lambda: made.append(Counted()) or made[-1])
    for _ in range(3):
        env.reset(seed=0)
    assert [one.closed for one in made] == [True, True, False] and env.unwrapped is made[-1]


def test_nothing_is_said_of_bounds_that_are_not_true():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(tiny.Wanderer(), named(Walk), RESETS)
