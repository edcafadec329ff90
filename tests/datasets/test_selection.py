"""Which episodes are trained on: by number, by name, and long enough."""

import numpy as np
import pytest

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.datasets import ReplayBuffer, load_windows
from diffpolicy.datasets.selection import episode_numbers, select_episodes


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
        ({"n_episodes": 1}, r"leaves none to train on; take dataset\.validation=0"),
    ],
)
def test_impossible_selections(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_episodes(**arguments)


# --- by number


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([3, 0, 3], [0, 3]),
        (["0-2", 5, "7 - 7"], [0, 1, 2, 5, 7]),
        ("1,4-6", [1, 4, 5, 6]),
        ("9", [9]),
        (np.array([2, 1]), [1, 2]),
    ],
)
def test_numbers_and_ranges(wanted, expected):
    assert episode_numbers(wanted, 10).tolist() == expected


def test_a_file_of_numbers(tmp_path):
    file = tmp_path / "good.txt"
    file.write_text("# those that worked\n3\n\n  5-7  # in one go\n0\n")
    for path in (file, str(file)):
        assert episode_numbers(path, 10).tolist() == [0, 3, 5, 6, 7]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"good\.txt is no text; expected a number, a list"):
        episode_numbers(file, 10)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], r"dataset\.episodes=\[\]; expected at least one number"),
        ([10], r"there is no episode 10; expected numbers from 0 to 9"),
        (["7-12"], r"there is no episode 7-12; expected numbers from 0 to 9"),
        (["5-3"], r"the range 5-3 is empty"),
        ([-1], r"dataset\.episodes=\[-1\]: -1; expected numbers and ranges"),
        ([1.5], r"1\.5; expected numbers"),
        (1.5, r"dataset\.episodes=1\.5; expected how many, or numbers"),
        (["good"], r"'good'; expected numbers"),
    ],
)
def test_what_names_no_episodes(wanted, message):
    with pytest.raises(ValueError, match=message):
        episode_numbers(wanted, 10)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt; expected a number, a list of numbers, or a file"):
        episode_numbers(tmp_path / "nowhere.txt", 10)


def test_named_episodes_are_those_to_choose_from():
    named = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    train, held_out = select_episodes(40, named, validation=0.2)
    assert len(held_out) == 2 and sorted([*train, *held_out]) == named
    everything, nothing = select_episodes(40, named, validation=0.0)
    assert everything.tolist() == named and not len(nothing)
    whole = select_episodes(40, list(range(40)), seed=3), select_episodes(40, None, seed=3)
    for one, other in zip(*whole, strict=True):
        np.testing.assert_array_equal(one, other)


# --- long enough


LENGTHS = (12, 3, 20, 4, 15, 9, 30, 2)


@pytest.fixture
def recording(tmp_path):
    numbers = np.repeat(np.arange(8.0), LENGTHS)[:, None]
    ReplayBuffer({"obs": numbers, "action": numbers}, np.cumsum(LENGTHS)).save(tmp_path / "own.zarr")
    return tmp_path / "own.zarr"


def config(path, **settings):
    data = DatasetConfig(path=str(path), **{"validation": 0.2, **settings})
    return RunConfig(observation=ObservationConfig(), dataset=data, policy=PolicyConfig(2, 8, 4))


def seen(windows):
    return set() if windows is None else set(windows.all_actions()[:, 0].int().tolist())


def test_short_episodes_are_left_out_and_counted(recording):
    windows = load_windows(config(recording, short="skip"))
    assert windows.short == 2  # 4 frames are enough: 8 - 2 - 4 + 2
    assert seen(windows.train) | seen(windows.validation) == {0, 2, 3, 4, 5, 6}
    assert not seen(windows.train) & seen(windows.validation)
    named = load_windows(config(recording, short="skip", episodes=["0-3"], validation=0.0))
    assert named.short == 1 and seen(named.train) == {0, 2, 3}


def test_short_episodes_are_refused_with_the_setting_that_leaves_them_out(recording):
    says = r"episode 7 has 2 frames, too few .*leave the 2 short ones out by dataset\.short=skip"
    with pytest.raises(ValueError, match=says):
        load_windows(config(recording, validation=0.0))
    assert load_windows(config(recording, episodes=[0, 2, 4], validation=0.0)).short == 0
    with pytest.raises(ValueError, match=r"unknown dataset\.short 'skp' \(did you mean 'skip'"):
        load_windows(config(recording, short="skp"))
    with pytest.raises(ValueError, match=r"none of 2 episodes has 4 frames.*policy\.horizon"):
        load_windows(config(recording, short="skip", episodes=[1, 7]))


def test_skipping_changes_nothing_where_none_is_short(recording):
    picked = {"episodes": [0, 2, 3, 4, 5, 6]}
    one, other = (load_windows(config(recording, short=short, **picked)) for short in ("refuse", "skip"))
    assert one.digest == other.digest and seen(one.validation) == seen(other.validation)
