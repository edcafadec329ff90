"""Goals that were reached on the way, told as those that were to be reached."""

import numpy as np
import pytest
import torch

from diffpolicy.config.compose import compose
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.hindsight import ACHIEVED, DESIRED, Hindsight
from diffpolicy.datasets.load import load_windows


def recording(count=6, frames=30):
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        path = np.cumsum(rng.normal(size=(frames, 2)), 0)
        goal = np.tile(path[-1:], (frames, 1))
        episodes.append({"observation": path, ACHIEVED: path, DESIRED: goal, "action": rng.normal(size=(frames, 1))})
    return ReplayBuffer.from_episodes(episodes, {"fps": 10})


def test_a_goal_is_what_the_episode_comes_to():
    before, hindsight = recording(), Hindsight()
    hindsight.fit(before)
    after = hindsight.apply(before)
    steps = []
    for part in after.episode_slices():
        own, goals = before[ACHIEVED][part], after[DESIRED][part]
        changes = np.flatnonzero((np.diff(goals, axis=0) != 0).any(1))
        assert len(changes) <= 1
        step = int(changes[0]) if len(changes) else len(own) - 1
        steps.append(step)
        np.testing.assert_array_equal(goals[: step + 1], np.tile(own[step], (step + 1, 1)))
        np.testing.assert_array_equal(goals[step + 1 :], np.tile(own[-1], (len(own) - step - 1, 1)))
    assert min(steps) >= 10 and len(set(steps)) > 2
    for name in ("observation", ACHIEVED, "action"):
        np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(hindsight.undo(after)[DESIRED], before[DESIRED])


def test_an_episode_gets_the_same_goals_whatever_stands_beside_it():
    every, hindsight = recording(), Hindsight()
    alone = every.subset([4])
    hindsight.fit(every)
    part = hindsight.apply(every)[DESIRED][every.episode_slices()[4]]
    np.testing.assert_array_equal(hindsight.apply(alone)[DESIRED], part)


def test_windows_have_the_goal_of_now(tmp_path):
    recording().save(tmp_path / "goals.zarr")
    settings = ["task=own", f"dataset.path={tmp_path / 'goals.zarr'}", "run_dir=r", "dataset.validation=0"]
    settings += ["observation.vectors=[observation]", "observation.goals=[desired_goal]"]
    plain = load_windows(compose(settings))
    both = load_windows(compose([*settings, "dataset.transforms=[hindsight]"]))
    assert len(both.train) == 2 * len(plain.train) and both.spec["desired_goal"].kind == "goal"
    mine, theirs = (one.train.batch(torch.arange(len(plain.train))) for one in (plain, both))
    assert torch.equal(mine["desired_goal"], theirs["desired_goal"])
    later = both.train.batch(torch.arange(len(plain.train), len(both.train)))
    assert not torch.equal(later["desired_goal"], theirs["desired_goal"])
    assert torch.equal(later["obs"], theirs["obs"])


def test_what_cannot_be_relabeled_is_refused():
    buffer = recording()
    without = buffer.with_arrays({name: buffer[name] for name in ("observation", DESIRED, "action")})
    with pytest.raises(ValueError, match="without achieved_goal; expected both arrays; record them by env.obs_keys"):
        Hindsight().fit(without)
    other = buffer.with_arrays({**{name: buffer[name] for name in buffer.keys()}, DESIRED: buffer["action"]})  # noqa: SIM118
    with pytest.raises(ValueError, match="expected one shape"):
        Hindsight().fit(other)
