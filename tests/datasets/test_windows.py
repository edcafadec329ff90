import numpy as np
import pytest
import torch

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.samplers import BatchSampler, epoch_permutation, times_drawn
from diffpolicy.datasets.windows import WindowDataset


def make_buffer(lengths, seed=0):
    """The first number of every observation and action is its frame, so that a window tells what it shows."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    frame = np.arange(n, dtype=np.float64)
    data = {
        "points": np.concatenate([frame[:, None], rng.normal(size=(n, 3))], 1).reshape(n, 2, 2),
        "agent": rng.normal(size=(n, 2)),
        "action": np.stack([frame, rng.normal(size=n)], 1),
    }
    return ReplayBuffer(data, np.cumsum(lengths))


def slow_windows(buffer, obs_keys, t_p, t_o, t_a):
    """The published sampling written out: pad each episode by repetition, slide a window along it."""
    obs_windows, action_windows = [], []
    for frames in buffer.episode_slices():
        obs = [np.concatenate([buffer[k][i].ravel() for k in obs_keys]) for i in range(frames.start, frames.stop)]
        action = [buffer["action"][i].ravel() for i in range(frames.start, frames.stop)]
        obs = [obs[0]] * (t_o - 1) + obs + [obs[-1]] * (t_a - 1)
        action = [action[0]] * (t_o - 1) + action + [action[-1]] * (t_a - 1)
        for start in range(len(action) - t_p + 1):
            obs_windows.append(obs[start : start + t_o])
            action_windows.append(action[start : start + t_p])
    return np.float32(obs_windows), np.float32(action_windows)


HORIZONS = [(16, 2, 8), (16, 1, 16), (16, 2, 15), (8, 3, 4), (1, 1, 1), (5, 5, 1), (10, 1, 1)]


@pytest.mark.parametrize(("t_p", "t_o", "t_a"), HORIZONS)
def test_windows_equal_the_slow_ones(t_p, t_o, t_a):
    rng = np.random.default_rng(t_p + 100 * t_o)
    shortest = max(1, t_p - t_o - t_a + 2)
    lengths = [shortest, *rng.integers(shortest, 40, 6)]
    buffer = make_buffer(lengths)
    keys = ["points", "agent"]
    windows = WindowDataset(buffer, keys, "action", t_p, t_o, t_a)
    obs, action = slow_windows(buffer, keys, t_p, t_o, t_a)
    assert len(windows) == len(obs) == sum(n - t_p + t_o - 1 + t_a - 1 + 1 for n in lengths)
    order = torch.from_numpy(rng.permutation(len(windows)))
    batch = windows.batch(order)
    assert batch["obs"].dtype == batch["action"].dtype == torch.float32
    np.testing.assert_array_equal(batch["obs"], obs[order])
    np.testing.assert_array_equal(batch["action"], action[order])
    assert (windows.obs_dim, windows.action_dim) == (6, 2)


def test_a_window_by_hand():
    windows = WindowDataset(make_buffer([4, 12]), ["agent"], "action", horizon=6, obs_horizon=2, action_horizon=3)
    shown = windows.batch(torch.arange(len(windows)))["action"][:, :, 0].int().tolist()
    assert shown[:2] == [[0, 0, 1, 2, 3, 3], [0, 1, 2, 3, 3, 3]]
    assert shown[2] == [4, 4, 5, 6, 7, 8]
    assert shown[-1] == [12, 13, 14, 15, 15, 15]


@pytest.mark.parametrize("window", [-1, 12])
def test_a_window_that_does_not_exist(window):
    windows = WindowDataset(make_buffer([4, 12]), ["agent"], "action", horizon=6, obs_horizon=2, action_horizon=3)
    assert windows.window_counts.tolist() == [2, 10] and len(windows) == 12
    with pytest.raises(IndexError, match=r"windows .*; expected 0 to 11"):
        windows.batch(torch.tensor([window, 3]))


def test_the_executed_chunk_begins_with_the_action_of_now():
    t_o, t_a = 2, 8
    windows = WindowDataset(make_buffer([30]), ["points"], "action", 16, t_o, t_a)
    batch = windows.batch(torch.arange(len(windows)))
    now = batch["obs"][:, t_o - 1, 0]
    torch.testing.assert_close(batch["action"][:, t_o - 1, 0], now, rtol=0, atol=0)
    assert now[0] == 0 and batch["action"][-1, t_o - 1 : t_o - 1 + t_a, 0][-1] == 29 - (16 - t_o - t_a + 1) + 7


def test_all_frames_are_given_unpadded():
    buffer = make_buffer([20, 25])
    windows = WindowDataset(buffer, ["agent", "points"], "action", 16, 2, 8)
    np.testing.assert_array_equal(windows.all_actions(), np.float32(buffer["action"]))
    expected = np.concatenate([buffer["agent"], buffer["points"].reshape(45, 4)], 1)
    np.testing.assert_array_equal(windows.all_obs(), np.float32(expected))


def test_the_shortest_episode_is_named():
    buffer = make_buffer([20, 30, 7, 3])
    with pytest.raises(ValueError, match=r"episode 3 has 3 frames, too few for one window; expected 8"):
        WindowDataset(buffer, ["agent"], "action", 16, 2, 8)
    with pytest.raises(ValueError, match=r"episode 2 has 7 frames"):  # its number before the selection
        WindowDataset(buffer.subset([1, 2]).subset([0, 1]), ["agent"], "action", 16, 2, 8)
    assert len(WindowDataset(make_buffer([8]), ["agent"], "action", 16, 2, 8)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["agent"], "action", 8, 2, 8), "horizon=8, .*which is 9, at most horizon"),
        ((["agent"], "action", 8, 0, 8), "obs_horizon=0.*at least 1 frame"),
        ((["agent"], "action", 8, 1, 0), "action_horizon=0"),
        (("agent", "action", 8, 1, 8), "list"),
        (
            (["wide"], "action", 8, 1, 8),
            r"'wide' has 4097 numbers per frame; expected at most 4096 .*observation\.images",
        ),
        ((["image"], "action", 8, 1, 8), "'image' holds images"),
        ((["huge"], "action", 8, 1, 8), "'huge' holds values beyond float32"),
    ],
)
def test_bad_windows(arguments, message):
    data = {
        "agent": np.zeros((20, 2)),
        "action": np.zeros((20, 2)),
        "image": np.zeros((20, 4, 4, 3), np.uint8),
        "huge": np.full(20, 1e39),
        "wide": np.zeros((20, 4097), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        WindowDataset(ReplayBuffer(data, np.array([20])), *arguments)


def test_an_unknown_key():
    with pytest.raises(KeyError, match=r"'agnet'.*did you mean 'agent'"):
        WindowDataset(make_buffer([20]), ["agnet"], "action", 8, 1, 8)


# --- order of the data


def test_every_epoch_is_another_permutation():
    orders = [epoch_permutation(100, seed, epoch) for seed in (0, 1) for epoch in range(3)]
    for order in orders:
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(100))
    assert len({tuple(o.tolist()) for o in orders}) == 6
    torch.testing.assert_close(epoch_permutation(100, 1, 2), orders[-1])


@pytest.mark.parametrize(("n", "batch_size"), [(10, 5), (10, 4), (10, 10), (3, 8), (1, 1), (97, 16)])
def test_batches_are_the_row_of_permutations(n, batch_size):
    steps = 4 * n // batch_size + 3
    row = torch.cat([epoch_permutation(n, 7, e) for e in range(steps * batch_size // n + 1)])
    sampler = BatchSampler(n, batch_size, seed=7)
    for step in range(steps):
        expected = row[step * batch_size : (step + 1) * batch_size]
        assert torch.equal(sampler[step], expected)
        assert torch.equal(BatchSampler(n, batch_size, 7)[step], expected)


def test_resuming_at_any_step_gives_the_same_batches():
    unbroken = BatchSampler(50, 8, seed=3)
    batches = [unbroken[step] for step in range(40)]
    resumed = BatchSampler(50, 8, seed=3)
    for step in [17, 39, 0, 18, 6, 5]:  # also backwards, over epochs
        assert torch.equal(resumed[step], batches[step])


def test_samples_come_as_often_as_their_weights_say():
    weights = torch.tensor([0.1, 5.0, 1.0, 0.7, 2.2, 0.0, 1.0, 0.4])
    expected = (8 * weights / weights.sum()).double()
    for offset in np.linspace(0, 0.999, 50):
        times = times_drawn(weights, offset)
        assert times.sum() == 8 and ((times - expected).abs() < 1).all(), "rounded down or up"
    mean = torch.stack([times_drawn(weights, (i + 0.5) / 5000) for i in range(5000)]).double().mean(0)
    torch.testing.assert_close(mean, expected, atol=2e-4, rtol=0)
    assert times_drawn(torch.ones(1000), 0.3).tolist() == [1] * 1000
    torch.manual_seed(0)
    many = torch.rand(100_003) ** 4
    assert times_drawn(many, 0.999).sum() == 100_003 and (times_drawn(many, 0.0) >= 0).all()


def test_batches_by_weight_have_the_gradient_of_weighted_losses_and_less_noise():
    torch.manual_seed(0)
    n, losses, weights = 400, torch.randn(400, dtype=torch.float64), torch.rand(400, dtype=torch.float64) ** 3
    weights = weights / weights.mean()
    drawn, plain = BatchSampler(n, 40, 5, weights=weights), BatchSampler(n, 40, 5)
    by_weight = torch.stack([losses[drawn[step]].mean() for step in range(4000)])
    weighted = torch.stack([(losses * weights)[plain[step]].mean() for step in range(4000)])
    exact = (losses * weights).mean()
    assert abs(by_weight.mean() - exact) < 0.01 and abs(weighted.mean() - exact) < 1e-6
    assert by_weight.var() < 0.6 * weighted.var(), "as of more samples"
    resumed = BatchSampler(n, 40, 5, weights=weights)
    assert all(torch.equal(resumed[step], drawn[step]) for step in (17, 39, 0, 18, 3999))


def test_the_caches_are_not_handed_out():
    sampler = BatchSampler(10, 10, seed=0)
    first = sampler[0].clone()
    sampler[0].zero_()
    assert torch.equal(sampler[0], first)


def test_bad_orders():
    with pytest.raises(ValueError, match=r"n=0"):
        epoch_permutation(0, 0, 0)
    with pytest.raises(ValueError, match=r"batch_size=0"):
        BatchSampler(4, 0, 0)
    with pytest.raises(IndexError, match=r"-1"):
        BatchSampler(4, 2, 0)[-1]
