import numpy as np
import pytest
import torch

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.writer import EpisodeWriter


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


# --- what is kept of each episode


def test_numbers_of_episodes_come_along(tmp_path):
    meta = {"seed": np.array([7, 8, 9]), "score": np.array([0.5, 1.0, 0.25]), "success": [True, False, True]}
    buffer = ReplayBuffer.from_episodes(make(), meta=meta)
    part = buffer.subset([2, 0])
    assert part.meta["seed"].tolist() == [9, 7] and part.meta["success"].tolist() == [True, True]
    assert part.with_arrays({"x": np.zeros(5)}).meta["score"].tolist() == [0.25, 0.5]
    both = part.joined(ReplayBuffer.from_episodes(make(), meta={"seed": np.arange(3)}))
    assert {name: values.tolist() for name, values in both.meta.items()} == {"seed": [9, 7, 0, 1, 2]}
    for name in ("x.zarr", "x.zarr.zip"):
        part.save(tmp_path / name)
        again = ReplayBuffer.open(tmp_path / name)
        for key, values in part.meta.items():
            assert again.meta[key].dtype == values.dtype
            np.testing.assert_array_equal(again.meta[key], values)
    buffer.meta["seed"][0] = 5  # a copy
    assert buffer.meta["seed"][0] == 7


def test_numbers_that_are_not_of_episodes():
    with pytest.raises(ValueError, match=r"meta 'seed' of shape \(2,\).*\(3,\), a number of each episode"):
        ReplayBuffer.from_episodes(make(), meta={"seed": np.arange(2)})
    with pytest.raises(TypeError, match=r"meta 'seed' .*real numbers"):
        ReplayBuffer.from_episodes(make(), meta={"seed": ["a", "b", "c"]})


# --- what scripts record


def test_episodes_of_other_dtypes_widen_the_array():
    wide = ReplayBuffer.from_episodes(
        [{"x": np.arange(3)}, {"x": np.array([0.5])}, {"x": np.arange(2, dtype=np.int8)}]
    )
    assert wide["x"].dtype == np.float64 and wide["x"].tolist() == [0, 1, 2, 0.5, 0, 1]


def test_many_episodes_are_one_array():
    episodes = [{"x": np.full((n % 5 + 1, 3), n, np.float32)} for n in range(300)]
    buffer = ReplayBuffer.from_episodes(iter(episodes))
    np.testing.assert_array_equal(buffer["x"], np.concatenate([episode["x"] for episode in episodes]))
    assert buffer["x"].dtype == np.float32 and len(buffer["x"]) == buffer.n_steps


def test_tensors_and_lists(tmp_path):
    moving = torch.arange(6.0).reshape(3, 2).requires_grad_() * 2
    episode = {"x": moving, "y": [[1, 2], [3, 4], [5, 6]], "z": torch.ones(3, dtype=torch.bfloat16)}
    buffer = ReplayBuffer.from_episodes([episode])
    np.testing.assert_array_equal(buffer["x"], [[0, 2], [4, 6], [8, 10]])
    EpisodeWriter(tmp_path / "r", {}).add(episode)
    again = ReplayBuffer.open(tmp_path / "r")
    np.testing.assert_array_equal(again["x"], buffer["x"])
    np.testing.assert_array_equal(again["z"], [1, 1, 1])
    np.testing.assert_array_equal(ReplayBuffer({"x": moving}, np.array([3]))["x"], buffer["x"])


def test_ragged_lists_are_named(tmp_path):
    ragged = {"x": np.zeros((2, 2)), "y": [[1, 2], [3]]}
    with pytest.raises(ValueError, match=r"episode 1: 'y' is a list whose entries have different lengths; .*pad it"):
        ReplayBuffer.from_episodes([{"x": np.zeros((2, 2)), "y": [[1, 2], [3, 4]]}, ragged])
    with pytest.raises(ValueError, match=r"'y' is a list whose entries"):
        EpisodeWriter(tmp_path / "r", {}).add(ragged)


def test_one_observation_more_than_actions(tmp_path):
    episode = {"obs": np.zeros((61, 3)), "action": np.zeros((60, 2))}
    cure = r"'obs': 61, 'action': 60\}; expected equally long .*; leave out its last frame, obs\[:-1\]"
    with pytest.raises(ValueError, match=r"episode 0 has arrays of lengths \{" + cure):
        ReplayBuffer.from_episodes([episode])
    with pytest.raises(ValueError, match=cure):
        EpisodeWriter(tmp_path / "r", {}).add(episode)
    with pytest.raises(ValueError, match=r"leave out the last frame of eye, obs, which no action follows"):
        ReplayBuffer.from_episodes([{**episode, "eye": np.zeros(61)}])
