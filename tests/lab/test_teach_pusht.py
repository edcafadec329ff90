"""The corrections that ship with Push-T's demonstrations."""

import sys

import numpy as np
import pytest

import teach_pusht
from diffpolicy import ReplayBuffer, train_policy
from diffpolicy.config import DatasetConfig, ObservationConfig, RunConfig
from diffpolicy.datasets.load_episodes import load_demonstrations
from diffpolicy.datasets.manifest import verify
from diffpolicy.datasets.sources.shipped import shipped_path


def test_states_follow_from_what_is_observed():
    def read(mode):
        data = DatasetConfig(name="expert_pusht", transforms=[])
        return load_demonstrations(RunConfig(dataset=data, observation=ObservationConfig(mode)))["obs"]

    apart = teach_pusht.state_of(read("corners")) - read("state")
    apart[:, 4] = (apart[:, 4] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(apart).max() < 1e-4


def test_the_experts_part_of_successes_is_added(tmp_path, monkeypatch, capsys):
    small = ["net.widths=[16]", "net.groups=4", "training.steps=1", "training.batch_size=2"]
    run = ["task=pusht_expert", "speed=float32", "training.evaluate_every=0", "dataset.episodes=3", *small]
    made = train_policy([*run, "dataset.validation=0", f"run_dir={tmp_path / 'run'}"])
    few = tmp_path / "few.zarr"
    ReplayBuffer.open(shipped_path("pusht"), list(teach_pusht.KEPT)).subset([0, 1]).save(few)
    monkeypatch.setattr(teach_pusht, "AT_ONCE", 2)
    out = tmp_path / "more.zarr"
    options = ["--expert-steps", "20", "--latest", "3", "--first-seed", "7"]
    monkeypatch.setattr(sys, "argv", ["teach_pusht.py", str(made), str(few), "--out", str(out), *options])
    teach_pusht.main()
    whole, before = ReplayBuffer.open(out), ReplayBuffer.open(few)
    assert verify(out) == [] and f"{whole.n_episodes} episodes, {whole.n_steps} frames" in capsys.readouterr().out
    assert whole.n_episodes == 3, "one episode uses the budget up"
    assert whole.meta["seeds"].tolist() == [*before.meta["seeds"], 7]
    for name in teach_pusht.KEPT:
        assert np.array_equal(whole[name][: before.n_steps], before[name])
    *earlier, corrected = whole.attrs["corrected"]
    assert earlier == before.attrs["corrected"]
    assert corrected["expert_steps"] == 20 and len(corrected["policy"]) == 64
    last = whole["state"][-1]
    assert np.hypot(*(last[2:4] - 256)) < 10, "the expert brought the block to its goal"
    with pytest.raises(ValueError, match="exists; choose another one"):
        teach_pusht.main()
    sys.argv[-1:] = ["7", "--episodes", "1", "--out", str(tmp_path / "cut.zarr")]
    with pytest.raises(ValueError, match="--episodes 1 of a recording that holds corrections; expected all of them"):
        teach_pusht.main()
