"""Columns that are equal but for one frame, in arrays as they are read and through a conversion."""

import h5py
import numpy as np
import pytest
import recordings

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.importers.twins import Stills, odd_twin


def _arrays(length=12):
    state = recordings.walk(length, 5, 0)
    return {"state": state, "goal": state[:, 1:3].copy(), "action": recordings.walk(length, 2, 1)}


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_changed_number_is_found_at_every_frame(dtype, at):
    arrays = {name: values.astype(dtype) for name, values in _arrays().items()}
    assert odd_twin(arrays) == ""
    arrays["goal"][at, 1] += dtype(1) / 64
    assert f"'state'[2] and 'goal'[1] are equal but at frame {at}, " in odd_twin(arrays)


def test_columns_that_are_no_twins_are_left_in_peace():
    arrays = _arrays()
    arrays["goal"][[2, 7], 0] += 1  # two frames: another quantity
    arrays["other"] = arrays["state"][:, :1].astype(np.float32)
    arrays["other"][3] += 1  # another dtype
    still = np.zeros((12, 2))
    still[-1] = [1, 0]  # flags that stand still
    assert odd_twin({**arrays, "still": still, "count": np.arange(12)}) == ""
    short = {name: values[:7] for name, values in _arrays().items()}
    short["goal"][3] += 1
    assert odd_twin(short) == ""


@pytest.mark.parametrize("at", range(12))
def test_a_number_that_stands_still_but_for_one_frame(at):
    """Once five other episodes tell that it does stand still, before or after it."""
    healthy = {"goal": np.tile([0.25, 0.7, 3.0, 0.0], (12, 1)), "count": np.arange(12)}
    damaged = {**healthy, "goal": healthy["goal"].copy()}
    damaged["goal"][at, 1:] += 1 / 64
    says = f"'goal'[1] is 0.7, and 0.715625 at frame {at} alone: that may be damaged"
    expected = [("b", says)] if 0 < at < 11 else []
    for episodes in ("baaaaa", "aaabaa", "aaaaab"):
        stills = Stills()
        found = [stills.look(name, damaged if name == "b" else healthy) for name in episodes]
        assert found == [[], [], [], [], [], expected]
    damaged["goal"][(at + 3) % 12, 1] = 0.1
    assert [said for name in "abc" for said in Stills().look(name, damaged)] == []


def test_healthy_numbers_may_change_for_a_frame():
    """A gripper at its end stop and a contact do, each in some episodes at another frame."""
    stills = Stills()
    for number in range(20):
        gripper, contact = np.full((12, 1), 0.04, np.float32), np.full((12, 1), 0.5)
        gripper[1 + number % 10] += 0.0001 * (number % 2)
        contact[1 + number % 7 : 1 + number % 7 + number % 3] = 1
        assert stills.look(f"episode {number}", {"gripper": gripper, "contact": contact}) == []


def test_what_is_not_a_number_in_both_is_no_difference():
    arrays = _arrays()
    arrays["state"][[2, 5], 2] = arrays["goal"][[2, 5], 1] = np.nan
    assert odd_twin(arrays) == ""
    arrays["goal"][7, 1] += 1
    assert "at frame 7" in odd_twin(arrays)


def test_a_changed_twin_is_said_with_file_and_episode(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["joints"] = demo["states"][:, 1:3]
        file["data/demo_10/joints"][4, 0] *= 2
    done = convert(ConvertConfig(str(path), str(tmp_path / "out")), progress=False)
    (finding,) = [said for said in done.findings if "changed" in said]
    assert finding.startswith("demo.hdf5: demo_10: ") and "at frame 4" in finding
