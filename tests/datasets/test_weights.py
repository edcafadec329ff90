"""Time-to-success weights: what they are on episodes of known speed, and how they reach the loss."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig, StreamConfig
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.load import load_windows, open_batches
from diffpolicy.datasets.sources.pusht import PUSHT
from diffpolicy.datasets.weights import time_to_success_weights


def _walks(speeds):
    """Walks from 0 to 1 along a line, each at its speed, with a second coordinate that says nothing."""
    walks = [torch.linspace(0, 1, round(60 / speed)) for speed in speeds]
    return torch.cat([torch.stack([walk, torch.full_like(walk, 7.0)], 1) for walk in walks]), [len(w) for w in walks]


def test_by_hand():
    """Two bins of distance, whose times left are known."""
    lengths = np.array([30, 30, 40])
    obs = torch.cat([torch.linspace(1, 0, n) for n in lengths])[:, None] + torch.tensor([[5.0]])
    found = time_to_success_weights(obs, lengths, 0.5)
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
    of_walks = time_to_success_weights(obs, np.array(lengths), 1.0).split(lengths)
    begin = [weights[: len(weights) // 2].mean().item() for weights in of_walks]
    assert begin[4] < begin[0] < begin[3]
    assert begin[0] == pytest.approx(begin[1], rel=0.05)


def test_what_differs_in_the_end_hardly_counts():
    """The walker's own place is anywhere when the block lies where it should."""
    rng = np.random.default_rng(0)
    obs, lengths = _walks([1.0, 0.7, 1.3] * 4)
    block = time_to_success_weights(obs, np.array(lengths), 1.0)
    seen = obs.clone()
    seen[:, 0] += torch.from_numpy(rng.normal(0, 1e-3, len(obs))).float()
    seen[:, 1] = torch.from_numpy(rng.uniform(0, 1, len(obs))).float()
    found = time_to_success_weights(seen, np.array(lengths), 1.0)
    assert np.corrcoef(found, block)[0, 1] > 0.95


def test_what_cannot_be_weighted():
    obs, lengths = _walks([4.0, 4.0])
    with pytest.raises(ValueError, match="30 frames in 2 episodes; expected 50 frames of several"):
        time_to_success_weights(obs, np.array(lengths), 1.0)
    with pytest.raises(ValueError, match="60 frames in 1 episodes"):
        time_to_success_weights(*_walks([1.0]), 1.0)
    with pytest.raises(ValueError, match=r"time_to_success=0.0; expected .*above 0"):
        time_to_success_weights(obs, np.array(lengths), 0.0)


def own(path, images=(), **settings):
    return RunConfig(
        observation=ObservationConfig(images=list(images)),
        dataset=DatasetConfig(name="zarr", path=str(path), **settings),
        policy=PolicyConfig(3, 8, 4),
    )


@pytest.fixture
def recording(tmp_path):
    rng = np.random.default_rng(0)
    data = {
        "obs": rng.normal(size=(300, 3)),
        "action": rng.normal(size=(300, 2)),
        "camera": rng.integers(0, 256, (300, 4, 4, 3)).astype(np.uint8),
    }
    ReplayBuffer(data, np.cumsum([90, 100, 110])).save(tmp_path / "own.zarr")
    return tmp_path / "own.zarr"


def test_windows_carry_the_weight_of_their_frame_now(recording):
    windows = load_windows(own(recording, validation=0.0, time_to_success=0.5))
    obs = ReplayBuffer.open(recording)["obs"].astype(np.float32)
    weights = time_to_success_weights(torch.from_numpy(obs), np.array([90, 100, 110]), 0.5)
    batch = windows.train.batch(torch.arange(len(windows.train)))
    frame = {tuple(row): i for i, row in enumerate(obs.tolist())}
    now = [frame[tuple(row)] for row in batch["obs"][:, -1].tolist()]
    torch.testing.assert_close(batch["weight"], weights[now])
    plain = load_windows(own(recording, validation=0.34))
    assert "weight" not in plain.train.batch(torch.arange(3))
    held_out = load_windows(own(recording, validation=0.34, time_to_success=0.5))
    assert "weight" not in held_out.validation.batch(torch.arange(3))


@pytest.mark.skipif(
    not (Path(os.environ.get("DIFFPOLICY_DATA", "")) / PUSHT.folder).exists(),
    reason=f"set DIFFPOLICY_DATA to a folder that holds {PUSHT.folder} to run this test",
)
def test_mirror_images_have_the_weights_of_what_they_mirror():
    data = DatasetConfig(name="pusht", episodes=8, transforms=["mirror"], time_to_success=1.0)
    windows = load_windows(RunConfig(dataset=data))
    half = len(windows.train) // 2
    first, second = (windows.train.batch(torch.arange(half) + start)["weight"] for start in (0, half))
    torch.testing.assert_close(first, second)
    assert first.std() > 0.1


def test_windows_in_memory_are_drawn_by_their_weights(recording):
    windows = load_windows(own(recording, validation=0.0, time_to_success=0.5))
    everything = windows.train.batch(torch.arange(len(windows.train)))
    torch.testing.assert_close(windows.train.window_weights(), everything["weight"])
    counts, epochs = {}, 60
    with open_batches(windows, len(windows.train), 3, StreamConfig()) as batch_at:
        for epoch in range(epochs):
            batch = batch_at(epoch)
            assert "weight" not in batch, "its losses count alike"
            for row in map(tuple, batch["obs"][:, -1].tolist()):
                counts[row] = counts.get(row, 0) + 1
    found = torch.tensor([counts.get(tuple(row), 0) / epochs for row in everything["obs"][:, -1].tolist()])
    expected = everything["weight"] / everything["weight"].mean()
    assert (found - expected).abs().max() < 0.5 and (found - expected).abs().mean() < 0.06
    assert load_windows(own(recording, validation=0.0)).train.window_weights() is None


def test_windows_with_images_carry_the_same_weights(recording):
    blind = load_windows(own(recording, validation=0.0, time_to_success=0.5)).train
    seeing = load_windows(own(recording, ["camera"], validation=0.0, time_to_success=0.5)).train
    everything = torch.arange(len(blind))
    with seeing:
        batch = seeing.batch(everything)
    assert batch["camera"].shape == (len(blind), 3, 4, 4, 3)
    torch.testing.assert_close(batch["weight"], blind.batch(everything)["weight"])
