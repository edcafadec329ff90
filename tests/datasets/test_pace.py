"""Weights by pace: what they are on episodes whose paces are known, and how they reach the loss."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpolicy.datasets.build import DatasetConfig, load_windows
from diffpolicy.datasets.downloads import PUSHT
from diffpolicy.datasets.pace import pace_weights
from diffpolicy.datasets.replay_buffer import ReplayBuffer


def _walks(speeds):
    """Walks from 0 to 1 along a line, each at its speed, with a second coordinate that says nothing."""
    walks = [torch.linspace(0, 1, round(60 / speed)) for speed in speeds]
    return torch.cat([torch.stack([walk, torch.full_like(walk, 7.0)], 1) for walk in walks]), [len(w) for w in walks]


def test_by_hand():
    """Two bins of distance, whose times left are known."""
    lengths = np.array([30, 30, 40])
    obs = torch.cat([torch.linspace(1, 0, n) for n in lengths])[:, None] + torch.tensor([[5.0]])
    found = pace_weights(obs, lengths, 0.5)
    left = np.concatenate([np.arange(n)[::-1] for n in lengths])
    near = np.argsort(np.abs(obs[:, 0].numpy() - 5.0), kind="stable")
    wanted = np.empty(100)
    for frames in (near[:50], near[50:]):
        wanted[frames] = (left[frames].mean() - left[frames]) / left[frames].std()
    wanted = np.clip(np.exp(wanted / 0.5), 0.1, 5.0)
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-5)
    assert found.mean().item() == pytest.approx(1.0)


def test_fast_walks_count_more_and_equal_ones_alike():
    obs, lengths = _walks([1.0, 1.0, 1.0, 2.0, 0.5])
    of_walks = pace_weights(obs, np.array(lengths), 1.0).split(lengths)
    begin = [weights[: len(weights) // 2].mean().item() for weights in of_walks]
    assert begin[4] < begin[0] < begin[3]
    assert begin[0] == pytest.approx(begin[1], rel=0.05)


def test_what_differs_in_the_end_hardly_counts():
    """The walker's own place is anywhere when the block lies where it should."""
    rng = np.random.default_rng(0)
    obs, lengths = _walks([1.0, 0.7, 1.3] * 4)
    block = pace_weights(obs, np.array(lengths), 1.0)
    seen = obs.clone()
    seen[:, 0] += torch.from_numpy(rng.normal(0, 1e-3, len(obs))).float()
    seen[:, 1] = torch.from_numpy(rng.uniform(0, 1, len(obs))).float()
    found = pace_weights(seen, np.array(lengths), 1.0)
    assert np.corrcoef(found, block)[0, 1] > 0.95


def test_what_has_no_pace():
    obs, lengths = _walks([4.0, 4.0])
    with pytest.raises(ValueError, match="compares 50 frames of several episodes; given 30 in 2"):
        pace_weights(obs, np.array(lengths), 1.0)
    with pytest.raises(ValueError, match="given 60 in 1"):
        pace_weights(*_walks([1.0]), 1.0)
    with pytest.raises(ValueError, match=r"above 0.*given 0"):
        pace_weights(obs, np.array(lengths), 0.0)


def test_windows_carry_the_weight_of_their_frame_now(tmp_path):
    rng = np.random.default_rng(0)
    lengths = [90, 100, 110]
    data = {"obs": rng.normal(size=(300, 3)), "action": rng.normal(size=(300, 2))}
    ReplayBuffer(data, np.cumsum(lengths)).save(tmp_path / "own.zarr")
    config = DatasetConfig(name="zarr", path=str(tmp_path / "own.zarr"), validation=0.0, pace=0.5)
    windows = load_windows(config, 8, 3, 4)
    weights = pace_weights(torch.from_numpy(data["obs"].astype(np.float32)), np.array(lengths), 0.5)
    batch = windows.train.batch(torch.arange(len(windows.train)))
    frame = {tuple(row): i for i, row in enumerate(data["obs"].astype(np.float32).tolist())}
    now = [frame[tuple(row)] for row in batch["obs"][:, -1].tolist()]
    torch.testing.assert_close(batch["weight"], weights[now])
    plain = load_windows(DatasetConfig(name="zarr", path=config.path, validation=0.34), 8, 3, 4)
    assert "weight" not in plain.train.batch(torch.arange(3))
    held_out = load_windows(DatasetConfig(name="zarr", path=config.path, validation=0.34, pace=0.5), 8, 3, 4)
    assert "weight" not in held_out.validation.batch(torch.arange(3))


@pytest.mark.skipif(
    not (Path(os.environ.get("DIFFPOLICY_DATA", "")) / PUSHT.folder).exists(),
    reason=f"set DIFFPOLICY_DATA to a folder that holds {PUSHT.folder} to run this test",
)
def test_mirror_images_have_the_weights_of_what_they_mirror():
    config = DatasetConfig(episodes=8, mirror=True, pace=1.0)
    windows = load_windows(config, 16, 2, 8)
    half = len(windows.train) // 2
    first, second = (windows.train.batch(torch.arange(half) + start)["weight"] for start in (0, half))
    torch.testing.assert_close(first, second)
    assert first.std() > 0.1


def test_windows_with_images_carry_the_same_weights(tmp_path):
    rng = np.random.default_rng(0)
    lengths = [90, 100, 110]
    data = {
        "obs": rng.normal(size=(300, 3)),
        "action": rng.normal(size=(300, 2)),
        "camera": rng.integers(0, 256, (300, 4, 4, 3)).astype(np.uint8),
    }
    ReplayBuffer(data, np.cumsum(lengths)).save(tmp_path / "own.zarr")
    own = {"name": "zarr", "path": str(tmp_path / "own.zarr"), "validation": 0.0, "pace": 0.5}
    blind = load_windows(DatasetConfig(**own), 8, 3, 4).train
    seeing = load_windows(DatasetConfig(**own, image_keys=["camera"]), 8, 3, 4).train
    everything = torch.arange(len(blind))
    with seeing:
        batch = seeing.batch(everything)
    assert batch["camera"].shape == (len(blind), 3, 4, 4, 3)
    torch.testing.assert_close(batch["weight"], blind.batch(everything)["weight"])
