import numpy as np
import pytest

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.selection import select_episodes


def make(lengths=(3, 5, 2), seed=0):
    rng = np.random.default_rng(seed)
    return [{"obs": rng.normal(size=(n, 4)), "action": rng.normal(size=(n, 2))} for n in lengths]


def test_from_episodes_keeps_every_episode():
    episodes = make()
    buffer = ReplayBuffer.from_episodes((e for e in episodes), {"robot": "arm"})
    assert (buffer.n_episodes, buffer.n_steps, buffer.keys()) == (3, 10, ["obs", "action"])
    assert buffer.attrs == {"robot": "arm"}
    assert "obs" in buffer and "image" not in buffer
    np.testing.assert_array_equal(buffer.episode_lengths, [3, 5, 2])
    np.testing.assert_array_equal(buffer.episode_ends, [3, 8, 10])
    for episode, frames in zip(episodes, buffer.episode_slices(), strict=True):
        for key in episode:
            np.testing.assert_array_equal(buffer[key][frames], episode[key])
    assert repr(buffer) == "ReplayBuffer(3 episodes, 10 steps: obs (4,) float64, action (2,) float64)"


def test_the_ends_cannot_be_changed_from_outside():
    ends = np.array([3, 10])
    buffer = ReplayBuffer({"x": np.zeros(10)}, ends)
    ends[0] = 9
    buffer.episode_ends[0] = 9
    np.testing.assert_array_equal(buffer.episode_ends, [3, 10])


def test_subset_takes_copies_in_the_given_order():
    episodes = make()
    buffer = ReplayBuffer.from_episodes(episodes)
    part = buffer.subset(np.array([2, 0]))
    np.testing.assert_array_equal(part["obs"], np.concatenate([episodes[2]["obs"], episodes[0]["obs"]]))
    np.testing.assert_array_equal(part.episode_ends, [2, 5])
    part["obs"][:] = 0
    np.testing.assert_array_equal(buffer["obs"][:3], episodes[0]["obs"])


def test_joined_keeps_the_episodes_of_both():
    first = ReplayBuffer({"a": np.arange(5.0)}, np.array([2, 5]), {"rate": 10})
    second = ReplayBuffer({"a": np.arange(10.0, 14.0)}, np.array([1, 4])).subset([1])
    both = first.joined(second)
    assert both["a"].tolist() == [0, 1, 2, 3, 4, 11, 12, 13]
    assert both.episode_ends.tolist() == [2, 5, 8] and both.episode_numbers.tolist() == [0, 1, 1]
    assert both.attrs == {"rate": 10} and first.n_steps == 5
    with pytest.raises(ValueError, match=r"different frames: \{'a': \(\)\} and \{'a': \(2,\)\}"):
        first.joined(ReplayBuffer({"a": np.zeros((3, 2))}, np.array([3])))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "no episodes"),
        ([0, 3], "no episode 3; expected 0 to 2"),
        ([-1], "no episode -1"),
        ([1, 1], "once"),
    ],
)
def test_bad_subsets(indices, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer.from_episodes(make()).subset(indices)


@pytest.mark.parametrize(
    ("ends", "error", "message"),
    [
        ([3, 3, 10], ValueError, "episode 1 starts at 3 and ends at 3"),
        ([0, 10], ValueError, "episode 0 starts at 0 and ends at 0"),
        ([8, 5, 10], ValueError, "episode 1 starts at 8 and ends at 5"),
        ([-4, 10], ValueError, "episode 0 starts at 0 and ends at -4"),
        ([4, 12], ValueError, "overrun the data: episode 1 ends at frame 12, but 'x' has 10"),
        ([4, 8], ValueError, "do not cover the data: the last one is 8, but 'x' has 10"),
        ([], TypeError, "dtype float64; expected integers"),
        (np.zeros(0, np.int64), ValueError, "at least one episode"),
        ([[4, 10]], ValueError, r"\(1, 2\); expected \(E,\)"),
        ([4.0, 10.0], TypeError, "dtype float64; expected integers"),
    ],
)
def test_bad_episode_ends(ends, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer({"x": np.zeros((10, 2))}, np.asarray(ends))


def test_unsigned_ends_that_fall_are_no_huge_episode():
    with pytest.raises(ValueError, match=r"episode 1 starts at 8 and ends at 5"):
        ReplayBuffer({"x": np.zeros(10)}, np.array([8, 5, 10], dtype=np.uint64))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_located(bad):
    values = np.zeros((10, 3, 2), np.float32)
    values[7, 2, 1] = bad
    with pytest.raises(ValueError, match=r"'x' holds NaN or infinity at frame 7 \(frame 3 of episode 1\)"):
        ReplayBuffer({"ok": np.zeros(10), "x": values}, np.array([4, 10]))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({}, ValueError, "without arrays; expected at least one"),
        ({"x": np.zeros(4, complex)}, TypeError, "'x' has dtype complex128"),
        ({"x": np.array(["a"] * 4)}, TypeError, "real numbers"),
        ({"x": np.array([None] * 4)}, TypeError, "object"),
        ({"x": np.zeros(())}, ValueError, r"'x' has shape \(\)"),
        ({"x": np.zeros((4, 0))}, ValueError, r"'x' has shape \(4, 0\)"),
        ({"x": np.zeros(4), "y": np.zeros(5)}, ValueError, "'y' has 5"),
        ({"image": np.zeros((4, 8, 8, 3), np.float32)}, TypeError, "'image'.*float32; expected uint8"),
        ({"a/b": np.zeros(4)}, ValueError, "plain word"),
        ({"": np.zeros(4)}, ValueError, "plain word"),
    ],
)
def test_bad_arrays(data, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(data, np.array([4]))


def test_attributes_that_could_not_be_saved_are_refused_early():
    with pytest.raises(TypeError, match=r"JSON"):
        ReplayBuffer({"x": np.zeros(4)}, np.array([4]), {"x": np.zeros(2)})


def test_bad_episodes_are_named():
    good = make((3,))[0]
    cases = [
        ([], "no episodes"),
        ([{}], "episode 0 holds the arrays"),
        ([good, {"obs": good["obs"]}], r"episode 1 holds the arrays \['obs'\]; expected \['action', 'obs'\]"),
        ([good, {**good, "action": good["action"][:2]}], "episode 1 has arrays of lengths .*equally long"),
        ([good, {k: v[:0] for k, v in good.items()}], "episode 1 has arrays .*not empty"),
        ([good, {**good, "obs": good["obs"][:, :3]}], r"episode 1: a frame of 'obs' has shape \(3,\)"),
        ([{"obs": 1.0}], "episode 0: 'obs' is a single number"),
    ]
    for episodes, message in cases:
        with pytest.raises(ValueError, match=message):
            ReplayBuffer.from_episodes(episodes)


def test_unknown_key_names_the_near_one():
    with pytest.raises(KeyError, match=r"'actions'.*did you mean 'action'.*obs, action"):
        ReplayBuffer.from_episodes(make())["actions"]


# --- choice of episodes


@pytest.mark.parametrize(
    ("episodes", "validation", "n_train", "n_val"),
    [
        (None, 0.05, 196, 10),
        (None, 0.0, 206, 0),
        (90, 0.05, 90, 10),
        (90, 0.0, 90, 0),
        (200, 0.05, 200, 6),
        (206, 0.05, 206, 0),
        (1, 0.001, 1, 1),
    ],
)
def test_numbers_of_selected_episodes(episodes, validation, n_train, n_val):
    train, val = select_episodes(206, episodes, validation=validation)
    assert (len(train), len(val)) == (n_train, n_val)
    both = np.concatenate([train, val])
    assert len(set(both.tolist())) == len(both) and both.min() >= 0 and both.max() < 206
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()


def test_selection_is_seeded_nested_and_validates_on_the_same_episodes():
    train, val = select_episodes(206, 90, seed=42)
    np.testing.assert_array_equal(train, select_episodes(206, 90, seed=42)[0])
    assert not np.array_equal(train, select_episodes(206, 90, seed=43)[0])
    for more in (120, 196, None):
        larger, same = select_episodes(206, more, seed=42)
        assert set(train) <= set(larger)
        np.testing.assert_array_equal(val, same)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_episodes": 0}, "n_episodes=0; expected at least 1"),
        ({"n_episodes": 206, "episodes": 207}, "training on 207 episodes; expected 1 to 206"),
        ({"n_episodes": 206, "episodes": 0}, "training on 0 episodes"),
        ({"n_episodes": 206, "validation": 1.0}, r"validation=1.0; .*\[0, 1\)"),
        ({"n_episodes": 206, "validation": -0.1}, "validation=-0.1"),
        ({"n_episodes": 1}, "leaves none to train on; take validation=0"),
    ],
)
def test_impossible_selections(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_episodes(**arguments)
