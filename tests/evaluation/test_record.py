"""Demonstrations through the rollout loop: what is recorded, what is left out, and what never changes."""

import gymnasium as gym
import numpy as np
import pytest
import tiny

from diffpolicy.config import EnvConfig
from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.sources.shipped import open_shipped
from diffpolicy.evaluation import ExpertAgent, Reset, make_env, rollout
from diffpolicy.evaluation.record import demonstrate, demonstration_env, record
from diffpolicy.evaluation.wrappers import NOISE_SEED, ActionNoise, StepsAfterSuccess, within

LINE = make_env(tiny.ENV_ID)


def arrays(agent, make, reset):
    """Return the arrays of one successful demonstration."""
    (episode,) = demonstrate(agent, make, [reset])
    assert episode.success_at_end and episode.seed == reset.seed
    return episode.observed["recording"]


def test_an_expert_drives_many_environments_each_by_its_own_seed(line_expert):
    resets = [Reset(seed) for seed in range(8)]
    together = rollout(ExpertAgent(tiny.ENV_ID), LINE, resets, envs=5)
    assert {episode.mode for episode in together} == {"left", "right"}
    assert [e.row() for e in together] == [e.row() for e in rollout(ExpertAgent(tiny.ENV_ID), LINE, resets, envs=1)]


def test_an_expert_sees_the_observation_of_its_own_episode(line_expert):
    seen = {}

    class Looks:
        def __init__(self, seed, options):
            self.obs, self.options = seen.setdefault(seed, []), options

        def reset(self, obs, info):
            assert obs["obs"][0] == np.float32(info["place"])
            self.obs.append(obs)

        def act(self, obs, info):
            self.obs.append(obs)
            return np.array([1.0 if obs["obs"][0] > 0 else -1.0, 0.0])

    agent = ExpertAgent(tiny.ENV_ID, {"images": True}, Looks)
    resets = [Reset(seed) for seed in range(3)]
    episodes = rollout(agent, make_env(tiny.ENV_ID, {"images": True}), resets, envs=2)
    assert all(episode.success_at_end for episode in episodes) and agent.settings == {}
    for episode in episodes:
        obs = seen[episode.seed]
        assert len(obs) == episode.steps + 1 and obs[0]["image"].shape == (8, 8, 3)
        assert obs[0]["obs"][0] == obs[1]["obs"][0] != obs[2]["obs"][0]


def test_failures_are_left_out_and_seeds_are_tried_in_order(line_expert, tmp_path):
    config = RecordConfig(str(tmp_path / "A"), episodes=4, seed=88, env=EnvConfig(tiny.ENV_ID))
    says = record(config)
    assert "4 episodes of 5 tried: the expert succeeds in 80.0%" in says
    buffer = ReplayBuffer.open(tmp_path / "A")
    assert buffer.n_episodes == 4 and set(buffer.keys()) == {"state", "action"}
    assert buffer.attrs["expert"] == {"speed": 1.0} and buffer.attrs["first_seed"] == 88
    longer = RecordConfig(**{**vars(config), "episodes": 5})
    assert "5 episodes of 7 tried" in record(longer)
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / "A")["state"][: buffer.n_steps], buffer["state"])


def test_an_expert_without_success_ends_it(line_expert, tmp_path):
    env = EnvConfig(tiny.ENV_ID, {"width": 2.0})
    with pytest.raises(
        ValueError, match=r"failed 50 times running \(seed 49: not done at its end, step 12\); this task is not"
    ):
        record(RecordConfig(str(tmp_path / "A"), episodes=80, env=env))
    with pytest.raises(ValueError, match="no expert for env.id='tiny/Lin-v0'.*did you mean 'tiny/Line-v0'"):
        ExpertAgent("tiny/Lin-v0")
    assert ExpertAgent(f"some_module:{tiny.ENV_ID}").make is ExpertAgent(tiny.ENV_ID).make


def test_noise_is_carried_out_and_not_recorded(line_expert):
    made = demonstration_env(LINE, noise=0.3)
    agent = ExpertAgent(tiny.ENV_ID)
    runs = [arrays(agent, made, Reset(3, env_seed=1, options={NOISE_SEED: seed})) for seed in (3, 3, 4)]
    assert set(np.unique(np.abs(runs[0]["action"][:, 0]))) == {1.0}
    np.testing.assert_array_equal(runs[0]["state"], runs[1]["state"])
    assert not np.array_equal(runs[0]["state"][:3], runs[2]["state"][:3])
    plain = arrays(agent, demonstration_env(LINE), Reset(3, env_seed=1))
    assert np.abs(np.diff(plain["state"][:, 0])).std() < 1e-6 < np.abs(np.diff(runs[0]["state"][:, 0])).std()


def test_an_action_is_recorded_as_the_environment_takes_it():
    """Rounded for integers, as the adapter does it; in the dtype of the agent's actions."""
    steps = gym.spaces.Box(-3, 3, (3,), np.int64)
    taken = within(steps, np.array([0.6, -1.4, 9.0], np.float32))
    assert taken.tolist() == [1, -1, 3] and taken.dtype == np.float32
    assert within(gym.spaces.Discrete(4), np.array(2)) == 2


def test_the_error_has_the_asked_deviation_and_a_memory():
    env = ActionNoise(tiny.LineEnv(), 0.5)
    seen = []
    env.env.step = lambda action: seen.append(action) or (None, 0.0, False, False, {})
    env.reset(seed=0, options={NOISE_SEED: 7})
    for _ in range(20_000):
        env.step(np.zeros(2))
    errors = np.array(seen)
    assert errors.std(0) == pytest.approx([0.5, 0.5], rel=0.05)
    assert (errors[1:] * errors[:-1]).mean() / errors.var() == pytest.approx(0.8, abs=0.02)


def test_steps_after_success(line_expert):
    env = StepsAfterSuccess(LINE(), 3)
    env.reset(seed=0)
    ends = [env.step(np.ones(2))[2] for _ in range(8)]
    first = next(k for k, place in enumerate(np.arange(8)) if ends[k])
    again = LINE()
    again.reset(seed=0)
    assert next(k for k in range(8) if again.step(np.ones(2))[2]) == first - 3
    agent = ExpertAgent(tiny.ENV_ID)
    plain = arrays(agent, demonstration_env(LINE), Reset(0))
    longer = arrays(agent, demonstration_env(LINE, None, 3), Reset(0))
    assert len(longer["state"]) == len(plain["state"]) + 3
    np.testing.assert_array_equal(longer["state"][: len(plain["state"])], plain["state"])


@pytest.mark.parametrize(
    ("name", "id", "settings"),
    [("detour", "Detour", {}), ("pushblocks", "PushBlocks", {"steps_after_success": 8})],
)
def test_the_shipped_recordings_are_made_again_to_the_bit(tmp_path, name, id, settings):
    shipped = open_shipped(name)
    config = RecordConfig(
        str(tmp_path / "A"), 2, noise=5.0, starts=40, env=EnvConfig(f"diffpolicy/{id}-v0"), **settings
    )
    record(config)
    again = ReplayBuffer.open(tmp_path / "A")
    versions = [dict(one.attrs.pop("versions"), diffpolicy="any") for one in (again, shipped)]
    if versions[0] != versions[1]:
        pytest.skip("recorded with other versions of the physics")
    assert again.attrs.pop("fps") == 10  # which the shipped ones do not say
    assert again.attrs == shipped.attrs
    for key in ("state", "action"):
        np.testing.assert_array_equal(again[key], shipped[key][: again.n_steps])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"episodes": 0}, "episodes=0.*>= 1"),
        ({"noise": float("inf")}, "noise=inf"),
        ({"keep": "some"}, "unknown keep 'some'; choose from success, all"),
        ({"noise": [0.1, 0.1, 0.1]}, r"noise=\[0.1, 0.1, 0.1\]; expected a number >= 0, one for each of"),
        ({"noise": "much"}, "noise=much; expected .* as in 5%"),
        ({"noise": -1}, "noise=-1; expected a number >= 0"),
        ({"expert": "runs/away"}, "expert=runs/away: no such folder; expected a checkpoint's folder, or module:make"),
        ({"env": EnvConfig(tiny.ENV_ID, {"wdth": 1.0})}, "tiny/Line-v0 with {'wdth': 1.0}: .*wdth"),
    ],
)
def test_settings_are_checked_before_anything_is_written(line_expert, tmp_path, changed, says):
    with pytest.raises(ValueError, match=says):
        record(RecordConfig(**{**vars(RecordConfig(str(tmp_path / "A"), env=EnvConfig(tiny.ENV_ID))), **changed}))
    assert not (tmp_path / "A").exists()
