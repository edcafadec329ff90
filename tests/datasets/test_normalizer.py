import numpy as np
import pytest
import safetensors.torch
import torch

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.normalizer import CONSTANT, Normalizer
from diffpolicy.datasets.selection import select_episodes
from diffpolicy.datasets.windows import WindowDataset


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    scale = np.array([500.0, 1.0, 0.01])
    return {"obs": rng.normal(size=(1000, 3)) * scale + 3 * scale, "action": rng.uniform(12, 511, (1000, 2))}


def test_limits_map_to_minus_one_and_one(data):
    x = torch.tensor(data["action"], dtype=torch.float32)
    y = Normalizer.fit(data).normalize("action", x)
    torch.testing.assert_close(y.amin(0), -torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.amax(0), torch.ones(2), rtol=0, atol=1e-6)


def test_gaussian_has_mean_zero_and_deviation_one(data):
    y = Normalizer.fit(data, {"obs": "gaussian"}).normalize("obs", torch.from_numpy(data["obs"]))
    torch.testing.assert_close(y.mean(0), torch.zeros(3, dtype=y.dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(3, dtype=y.dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["limits", "gaussian"])
@pytest.mark.parametrize("leading", [(), (7,), (5, 16)])
def test_round_trip_over_any_leading_dimensions(data, mode, leading):
    normalizer = Normalizer.fit(data, {"obs": mode})
    x = torch.from_numpy(data["obs"][: int(np.prod(leading))]).float().reshape(*leading, 3)
    y = normalizer.normalize("obs", x)
    assert y.shape == x.shape and y.dtype == torch.float32
    torch.testing.assert_close(normalizer.unnormalize("obs", y), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["limits", "gaussian", "quantiles"])
def test_constant_dimensions_map_to_zero_and_back(mode):
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.4, 0.4, 500) * CONSTANT
    data = np.stack([np.full(500, 256.0), rng.normal(size=500), 0.7 + noise], 1)
    normalizer = Normalizer.fit({"obs": data}, {"obs": mode})
    x = torch.from_numpy(data).float()
    y = normalizer.normalize("obs", x)
    assert (y[:, 0] == 0).all()
    assert y[:, 2].abs().max() < CONSTANT
    torch.testing.assert_close(normalizer.unnormalize("obs", y)[:, :2], x[:, :2], rtol=0, atol=1e-6)
    assert normalizer.constant("obs").tolist() == [True, False, True]
    # whatever is drawn for a constant dimension
    drawn = normalizer.unnormalize("obs", 3 * torch.randn(500, 3))
    assert (drawn[:, 0] == 256).all() and (drawn[:, 2] == drawn[0, 2]).all() and abs(drawn[0, 2] - 0.7) < CONSTANT
    # what was constant in training and moves in use stays in its own unit
    assert normalizer.normalize("obs", torch.tensor([257.0, 0, 0]))[0] == 1


@pytest.mark.parametrize("mode", ["limits", "gaussian", "quantiles"])
def test_a_tiny_range_is_a_range(mode):
    """What is above the rounding of float32 is scaled like anything else, whatever its unit."""
    wave = np.sin(np.arange(500))
    data = np.stack([wave, 0.7 + 4e-5 * wave, 300 + 0.01 * wave, 4e-9 * wave, 300 + 1e-4 * wave], 1)
    normalizer = Normalizer.fit({"obs": data}, {"obs": mode})
    y = normalizer.normalize("obs", torch.from_numpy(data))
    assert normalizer.constant("obs").tolist() == [False, False, False, True, True]
    torch.testing.assert_close(y[:, 1], y[:, 0], rtol=0, atol=5e-3)  # steps of float32 in the center
    torch.testing.assert_close(y[:, 2], y[:, 0], rtol=0, atol=5e-3)
    drawn = normalizer.unnormalize("obs", torch.full((1, 5), -1.5))
    assert abs(drawn[0, 1] - 0.7) < 2 * 4e-5 * (1.5 if mode == "gaussian" else 1)


def test_quantiles_leave_single_frames_out():
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, (1000, 2))
    data[123, 0] = 1e4
    limits, quantiles = (Normalizer.fit({"action": data}, {"action": mode}) for mode in ("limits", "quantiles"))
    x = torch.from_numpy(data)
    assert limits.normalize("action", x)[:, 0].std() < 0.1
    assert limits.normalize("action", x)[np.arange(1000) != 123, 0].std() < 1e-3  # squeezed
    y = quantiles.normalize("action", x)
    within = (y.abs() <= 1 + 1e-6).double().mean(0)
    assert (within - 0.98).abs().max() < 0.002 and y[123, 0] > 9000  # linear beyond
    torch.testing.assert_close(quantiles.unnormalize("action", y), x)
    tiny = np.where(data > 100, data, 4e-5 * data)[:, :1]  # whatever the size of the one frame
    scaled = Normalizer.fit({"action": tiny}, {"action": "quantiles"}).normalize("action", torch.from_numpy(tiny))
    torch.testing.assert_close(scaled[np.arange(1000) != 123, 0], y[np.arange(1000) != 123, 0], rtol=0, atol=1e-3)
    # a dimension for itself, the rest as it was
    mixed = Normalizer.fit({"action": data}, {"action": "gaussian", "action[0]": "quantiles"}).to_tensors()
    gaussian = Normalizer.fit({"action": data}, {"action": "gaussian"}).to_tensors()
    assert mixed["action.scale"][0] == quantiles.to_tensors()["action.scale"][0]
    assert mixed["action.scale"][1] == gaussian["action.scale"][1]
    # what hardly ever moves is scaled by its limits
    seldom = np.zeros((1000, 1))
    seldom[500] = 1
    assert Normalizer.fit({"obs": seldom}, {"obs": "quantiles"}).to_tensors()["obs.scale"] == 0.5
    few = Normalizer.fit({"obs": np.array([[0.0], [1.0], [2.0], [500.0]])}, {"obs": "quantiles"})
    assert few.to_tensors()["obs.scale"] == 0.5  # 1 to 2: of four frames the outermost do not count


def test_saved_and_loaded_it_is_the_same(data, tmp_path):
    normalizer = Normalizer.fit({**data, "robot.arm": data["obs"]}, {"obs": "gaussian"})
    tensors = normalizer.to_tensors()
    assert sorted(tensors)[:2] == ["action.center", "action.scale"]
    safetensors.torch.save_file(tensors, tmp_path / "normalizer.safetensors")
    again = Normalizer.from_tensors(safetensors.torch.load_file(tmp_path / "normalizer.safetensors"))
    assert (again.dim("obs"), again.dim("action"), again.dim("robot.arm")) == (3, 2, 3)
    for key, values in again.to_tensors().items():
        assert torch.equal(values, tensors[key])
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.normalize("obs", x), normalizer.normalize("obs", x))


def test_checkpoints_of_before_act_as_before():
    """They gave constant dimensions scale 1, and what a network drew for them was added."""
    old = Normalizer.from_tensors({"action.center": torch.tensor([256.0]), "action.scale": torch.tensor([1.0])})
    assert not old.constant("action").any()
    assert old.unnormalize("action", torch.tensor([0.5])) == 256.5 and old.to_tensors()["action.scale"] == 1


def test_fitted_on_training_episodes_only():
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.normal(size=(20, 2)), "action": rng.normal(size=(20, 2))} for _ in range(20)]
    train, validation = select_episodes(20, seed=1, validation=0.2)
    for i in validation:
        episodes[i]["action"] += 1000
    windows = WindowDataset(ReplayBuffer.from_episodes(episodes).subset(train), ["obs"], "action", 16, 2, 8)
    normalizer = Normalizer.fit({"action": windows.all_actions()})
    recorded = np.concatenate([episodes[i]["action"] for i in train])
    middle = (recorded.max(0) + recorded.min(0)) / 2
    torch.testing.assert_close(normalizer.to_tensors()["action.center"], torch.tensor(middle).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_dtypes_are_never_lowered(data, dtype):
    x = torch.tensor([[100, 200]]).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert Normalizer.fit(data).normalize("action", x).dtype == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fit_refuses_what_is_not_finite(data, bad):
    data["action"][3, 1] = bad
    with pytest.raises(ValueError, match=r"'action': the data hold NaN or infinity"):
        Normalizer.fit(data)


def test_errors_name_what_is_wrong(data):
    normalizer = Normalizer.fit(data)
    with pytest.raises(ValueError, match=r"'obs' of shape \(5, 2\); expected \(\.\.\., 3\)"):
        normalizer.normalize("obs", torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"'action' of shape \(\); expected \(\.\.\., 2\)"):
        normalizer.unnormalize("action", torch.tensor(1.0))
    with pytest.raises(KeyError, match=r"unknown key of the normalizer 'actions' \(did you mean 'action'"):
        normalizer.normalize("actions", torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"unknown dataset.normalize.obs 'gausian' \(did you mean 'gaussian'"):
        Normalizer.fit(data, {"obs": "gausian"})
    with pytest.raises(ValueError, match=r"unknown key of dataset.normalize 'osb' \(did you mean 'obs'"):
        Normalizer.fit(data, {"osb": "limits"})
    with pytest.raises(
        ValueError, match=r"dataset.normalize.action\[2\]; expected a part of the 2 numbers of 'action'"
    ):
        Normalizer.fit(data, {"action[2]": "limits"})
    with pytest.raises(ValueError, match=r"'obs' of shape \(0, 3\)"):
        Normalizer.fit({"obs": np.zeros((0, 3))})


def test_loading_refuses_what_cannot_be(data):
    tensors = Normalizer.fit(data).to_tensors()
    broken = dict(tensors)
    del broken["obs.scale"]
    with pytest.raises(ValueError, match=r"unmatched obs\.scale"):
        Normalizer.from_tensors(broken)
    with pytest.raises(ValueError, match=r"unmatched obs\.offset"):
        Normalizer.from_tensors({**tensors, "obs.offset": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'obs' with center \(3,\) and scale \(2,\); expected both \(D,\)"):
        Normalizer.from_tensors({**tensors, "obs.scale": torch.ones(2)})
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"'obs': .*expected finite, and scale not negative"):
            Normalizer.from_tensors({**tensors, "obs.scale": torch.full((3,), value)})
