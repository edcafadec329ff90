"""Mode coverage against closed forms, of the recorded demonstrations, and measured beside an expert."""

import gymnasium as gym
import numpy as np
import pytest
import tiny

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.sources.shipped import open_shipped
from diffpolicy.evaluation import (
    compare_modes,
    episode_resets,
    make_env,
    mode_fractions,
    rollout,
    total_variation,
)
from diffpolicy.evaluation.measure_modes import measure_modes


def test_fractions_and_entropy():
    even = mode_fractions(["a", "b"] * 8, ["a", "b"])
    assert even == {"episodes": 16, "fractions": {"a": 0.5, "b": 0.5, "none": 0.0}, "entropy": 1.0}
    assert mode_fractions(["a"] * 3, ["a", "b"])["entropy"] == 0.0
    found = mode_fractions(["a", "", None, "a"], ["a", "b"])
    assert found["fractions"] == {"a": 0.5, "b": 0.0, "none": 0.5}
    quarters = mode_fractions(list("abcd"), list("abcd"))
    assert quarters["entropy"] == pytest.approx(2.0)


def test_total_variation_is_the_largest_difference_over_events():
    rng = np.random.default_rng(0)
    p, q = (dict(enumerate(rng.dirichlet(np.ones(5)))) for _ in range(2))
    events = [[k for k in range(5) if bits >> k & 1] for bits in range(32)]
    largest = max(abs(sum(p[k] - q[k] for k in event)) for event in events)
    assert total_variation(p, q) == pytest.approx(largest)
    assert total_variation(p, p) == 0.0
    assert compare_modes(["a", "a"], ["b", ""], ["a", "b"])["total_variation"] == 1.0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="unknown modes"):
        mode_fractions(["c"], ["a", "b"])
    with pytest.raises(ValueError, match="0 episodes"):
        mode_fractions([], ["a"])
    with pytest.raises(ValueError, match="same names"):
        total_variation({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="sum to 1"):
        total_variation({"a": 0.5}, {"a": 1.0})


@pytest.mark.parametrize(("name", "id"), [("detour", "Detour"), ("pushblocks", "PushBlocks")])
def test_every_shipped_demonstration_is_done_in_a_mode_and_all_occur(name, id):
    buffer = open_shipped(name)
    env = gym.make(f"diffpolicy/{id}-v0").unwrapped
    modes = [env.mode_of(buffer["state"][part]) for part in buffer.episode_slices()]
    found = mode_fractions(modes, env.modes)["fractions"]
    assert found.pop("none") == 0.0
    even = 1 / len(env.modes)
    assert all(abs(fraction - even) < 0.07 for fraction in found.values()), found  # 3 standard errors of 500


def test_the_mode_of_a_recording_is_that_of_its_info():
    env = gym.make("diffpolicy/Detour-v0").unwrapped
    _, info = env.reset(options={"state": [256, 480, 256, 390]})
    states = [info["state"]]
    for target in [(256, 440)] + [(330, 330)] * 12 + [(331, 100)] * 12:
        *_, info = env.step(np.array(target, np.float32))
        states.append(info["state"])
    assert info["mode"] == "right"
    assert env.mode_of(np.array(states)) == "right"
    assert env.mode_of(np.array(states[:5])) == ""


def test_rollouts_are_measured_beside_demonstrations(tmp_path, line_expert):
    made, resets = make_env(tiny.ENV_ID, {"images": True}), episode_resets(0, 6)
    states = np.linspace([0.0, 0.5], [0.95, 0.5], 5, dtype=np.float32)
    buffer = ReplayBuffer({"state": np.concatenate([states, states, -states])}, [5, 10, 15])
    agent = tiny.Wanderer()
    found = measure_modes(agent, made, buffer, resets, rollout(agent, made, resets), tmp_path)
    everywhere, one = found["all_starts"], found["fixed_start"]
    assert everywhere["demonstrations"]["fractions"] == {"left": 1 / 3, "right": 2 / 3, "none": 0}
    assert one["state"] == [0, 0.5] and one["demonstrations"]["episodes"] == one["rollouts"]["episodes"] == 6
    assert one["demonstrations"]["fractions"]["none"] == 0.0 < one["rollouts"]["fractions"]["none"]
    assert found["expert"] == {"speed": 1.0} and (tmp_path / "modes.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no array 'state'"):
        measure_modes(agent, made, ReplayBuffer({"obs": states}, [5]), resets, [])
    with pytest.raises(ValueError, match="PushT-v0 declares no modes; evaluate with modes=false"):
        measure_modes(agent, make_env("diffpolicy/PushT-v0"), buffer, resets, [])
