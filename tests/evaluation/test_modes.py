"""The measure of multimodality against closed forms, and the ways of the recorded demonstrations."""

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.datasets.sources.shipped import open_shipped
from diffpolicy.evaluation import compare_modes, mode_fractions, total_variation


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
def test_every_shipped_demonstration_takes_a_way_and_all_are_taken(name, id):
    buffer = open_shipped(name)
    env = gym.make(f"diffpolicy/{id}-v0").unwrapped
    ways = [env.mode_of(buffer["state"][part]) for part in buffer.episode_slices()]
    found = mode_fractions(ways, env.modes)["fractions"]
    assert found.pop("none") == 0.0
    even = 1 / len(env.modes)
    assert all(abs(share - even) < 0.07 for share in found.values()), found  # 3 standard errors of 500


def test_a_recorded_way_is_the_one_that_the_environment_told():
    env = gym.make("diffpolicy/Detour-v0").unwrapped
    _, info = env.reset(options={"state": [256, 480, 256, 390]})
    states = [info["state"]]
    for target in [(256, 440)] + [(330, 330)] * 12 + [(331, 100)] * 12:
        *_, info = env.step(np.array(target, np.float32))
        states.append(info["state"])
    assert info["mode"] == "right"
    assert env.mode_of(np.array(states)) == "right"
    assert env.mode_of(np.array(states[:5])) == ""
