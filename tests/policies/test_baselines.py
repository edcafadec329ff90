"""The baselines: the recurrent mixture, and the nearest demonstration."""

import math

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.policies import Policy, baselines, build_actor
from diffpolicy.policies.onnx import export_onnx

D, A, WINDOWS = 3, 2, 50
CONFIGS = {
    "lstm_gmm": {
        "policy": {"obs_horizon": 10, "horizon": 10, "action_horizon": 1},
        "method": {"name": "lstm_gmm", "hidden": 16, "modes": 2},
    },
    "nearest": {
        "policy": {"obs_horizon": 2, "horizon": 16, "action_horizon": 8},
        "method": {"name": "nearest"},
        "windows": WINDOWS,
    },
}
ENCODER = {"name": "image", "crop": 12, "widths": [8], "keypoints": 3}


def _actor(name, **method):
    config = CONFIGS[name]
    torch.manual_seed(0)
    actor = build_actor({**config, "method": config["method"] | method}, D, A)
    if name == "nearest":
        actor.remember([_windows()])
    return actor


def _windows(rows=WINDOWS, seed=0):
    """Normalised windows for the nearest neighbour."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "cond": torch.rand(rows, 2 * D, generator=generator) * 2 - 1,
        "data": torch.rand(rows, 16, A, generator=generator) * 2 - 1,
    }


def _normalizer():
    rng = np.random.default_rng(0)
    return Normalizer.fit({"obs": rng.uniform(0, 512, (99, D)), "action": rng.uniform(0, 512, (99, A))})


def _policy(name, **options):
    horizons = CONFIGS[name]["policy"]
    return Policy(_actor(name, **options.pop("method", {})).eval(), _normalizer(), **horizons, **options)


def _obs(name, rows, seed=0):
    steps = CONFIGS[name]["policy"]["obs_horizon"]
    return np.random.default_rng(seed).uniform(0, 512, (rows, steps, D)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    def save(name, **change):
        tensors = _actor(name).state_dict()
        groups = {"model": tensors, "ema": tensors, "normalizer": _normalizer().to_tensors()}
        return checkpoint.write(tmp_path / name, 7, groups, CONFIGS[name] | change, {})

    return save


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded(saved, name):
    policy, loaded, obs = _policy(name), load_policy(saved(name), freeze=True), _obs(name, 4)
    horizons = CONFIGS[name]["policy"]
    for each in (policy, loaded):
        each.reset(range(4), [3, 4, 5, 6])
    chunk = policy.predict(obs)
    assert chunk.shape == (4, horizons["action_horizon"], A) and chunk.dtype == np.float32
    np.testing.assert_array_equal(loaded.predict(obs), chunk)
    policy.reset(range(4), [3, 4, 5, 6])
    now = horizons["obs_horizon"] - 1
    np.testing.assert_array_equal(policy.trajectories(obs)[:, now : now + horizons["action_horizon"]], chunk)
    assert policy.predict(obs[:0], []).shape == (0, horizons["action_horizon"], A)


@pytest.mark.parametrize("name", CONFIGS)
def test_seeds_give_the_same_again_and_rows_do_not_depend_on_their_batch(name):
    policy, obs = _policy(name, block=4, method={"std": None} if name == "lstm_gmm" else {"k": 3}), _obs(name, 6)
    policy.reset(range(6), range(6))
    together = policy.predict(obs)
    policy.reset(range(6), range(6))
    np.testing.assert_array_equal(policy.predict(obs), together)
    policy.reset(range(6), range(6))
    apart = [policy.predict(obs[i : i + 1], [i])[0] for i in range(6)]
    np.testing.assert_array_equal(np.stack(apart), together)
    policy.reset(range(6), range(1, 7))
    assert np.array_equal(policy.predict(obs), together) == (name == "nearest")


@pytest.mark.parametrize(("name", "says"), [("lstm_gmm", "without a solver"), ("nearest", "draws nothing")])
def test_there_is_no_solver_to_choose_and_nothing_to_export(saved, tmp_path, name, says):
    path = saved(name)
    with pytest.raises(ValueError, match=f"{says}: leave solver"):
        load_policy(path, solver="heun")
    with pytest.raises(
        ValueError, match=f"only flow matching, diffusion and mean flow .*this checkpoint is of {name}"
    ):
        export_onnx(path, tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()


def test_two_ways_are_learned_as_two():
    """The loss comes down to the entropy of two narrow modes, and draws are of both, in even shares."""
    actor, spread = _actor("lstm_gmm"), 0.05
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)

    def batch(rows):
        side = torch.randint(0, 2, (rows, 10, 1), generator=generator) - 0.5
        return {
            "data": side + spread * torch.randn(rows, 10, A, generator=generator),
            "cond": torch.zeros(rows, 10 * D),
        }

    for _ in range(300):
        optimizer.zero_grad()
        actor.loss(batch(64), generator).mean().backward()
        optimizer.step()
    entropy = math.log(2) + A / 2 * math.log(2 * math.pi * math.e * spread**2)
    losses = actor.eval().loss(batch(500), generator)
    assert losses.shape == (500,) and losses.mean().item() == pytest.approx(entropy, abs=0.1)
    for std, around in ((None, spread), (1e-4, 1e-4)):
        actor.std = std
        actions = actor.act(torch.zeros(500, 10 * D), [torch.Generator().manual_seed(i) for i in range(500)])
        left = actions[:, :, 0] < 0
        assert actions.shape == (500, 10, A) and left.float().mean().item() == pytest.approx(0.5, abs=0.05)
        for side, centre in ((left, -0.5), (~left, 0.5)):
            assert actions[side].mean().item() == pytest.approx(centre, abs=0.03)
        assert actions[:, -1][left[:, -1]].std(0).max().item() == pytest.approx(around, rel=0.25)
        # Drawn anew at every step: whichever way it was before.
        assert (left[:, 1:] == left[:, :-1]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_pictures_reach_the_step_they_were_taken_at():
    config = CONFIGS["lstm_gmm"] | {"encoder": ENCODER, "cameras": {"front": [16, 16, 3], "wrist": [12, 14, 1]}}
    torch.manual_seed(0)
    actor = build_actor(config, D, A).eval()
    generators = [torch.Generator().manual_seed(0)]
    seen = {
        "cond": torch.randn(1, 10 * D),
        "front": torch.randint(0, 256, (1, 10, 16, 16, 3), dtype=torch.uint8),
        "wrist": torch.randint(0, 256, (1, 10, 12, 14, 1), dtype=torch.uint8),
    }
    before = actor.act(seen, generators)
    for name in seen:
        later = seen[name].clone().unflatten(1, (10, -1))
        later[:, 7] = 255 - later[:, 7]
        after = actor.act(seen | {name: later.reshape(seen[name].shape)}, [torch.Generator().manual_seed(0)])
        torch.testing.assert_close(after[:, :7], before[:, :7])
        assert ((after - before)[:, 7:].abs().amax(-1) > 0).all(), name


def test_steps_and_actions_must_be_as_many():
    config = CONFIGS["lstm_gmm"] | {"policy": {"obs_horizon": 2, "horizon": 16, "action_horizon": 8}}
    with pytest.raises(ValueError, match=r"obs_horizon=2 and policy.horizon=16: take 10 for both"):
        build_actor(config, D, A)
    with pytest.raises(ValueError, match=r"std must be at least 0"):
        _actor("lstm_gmm", std=-1.0)


def test_a_bounded_mixture_needs_bounded_actions():
    how = {"dataset": {"normalize": {"action": "gaussian"}}}
    with pytest.raises(ValueError, match=r"within ±1 .*lstm_gmm.*action=gaussian.*take limits"):
        build_actor(CONFIGS["lstm_gmm"] | how, D, A, begins=True)
    build_actor(CONFIGS["lstm_gmm"] | how, D, A)  # one that was trained comes back
    build_actor(CONFIGS["nearest"] | how, D, A, begins=True)
    flow = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity"}
    own = {"policy": CONFIGS["nearest"]["policy"], "net": {"name": "unet1d", "widths": [8, 8]}}
    build_actor(own | how | {"method": flow}, D, A, begins=True)
    build_actor(own | how | {"method": flow | {"clip": 5.0}}, D, A, begins=True)
    build_actor(own | {"method": flow | {"clip": 1.0}}, D, A, begins=True)
    for clip, normalised in ((1.0, how), (0.5, {})):
        with pytest.raises(ValueError, match=rf"within ±{clip:g} .*take limits, or another method.clip"):
            build_actor(own | normalised | {"method": flow | {"clip": clip}}, D, A, begins=True)


def _by_hand(cond, windows, k):
    """Row by row, in float64."""
    answers = []
    for query in cond.double():
        distances = [(query - memory).norm().item() for memory in windows["cond"].double()]
        order = np.argsort(distances, kind="stable")[:k]
        weights = np.exp(-np.array(distances)[order])
        answers.append(sum(w * windows["data"][i].double() for w, i in zip(weights, order, strict=True)))
        answers[-1] /= weights.sum()
    return torch.stack(answers).float()


@pytest.mark.parametrize("k", [1, 3, WINDOWS])
def test_the_nearest_windows_answer(monkeypatch, k):
    actor, asked = _actor("nearest", k=k), _windows(40, seed=1)
    found = actor.act(asked["cond"], [])
    torch.testing.assert_close(found, _by_hand(asked["cond"], _windows(), k))
    torch.testing.assert_close(
        actor.loss(asked, torch.Generator()), (found - asked["data"]).square().mean((1, 2)), atol=1e-6, rtol=0
    )
    monkeypatch.setattr(baselines, "_BLOCK", 7 * WINDOWS)  # distances in blocks of 7 rows
    torch.testing.assert_close(actor.act(asked["cond"], []), found)
    assert actor.calls == 0 and actor.act(asked["cond"][:0], []).shape == (0, 16, A)


def test_neighbours_closer_than_a_product_rounds_are_told_apart():
    """Far from the origin, a dozen windows that differ by less than a squared length does; of equals the first."""
    actor, windows = _actor("nearest"), _windows()
    windows["cond"][:12] = 1 + 1e-5 * torch.arange(12)[:, None]
    windows["cond"][12] = windows["cond"][5]
    actor.remember([windows])
    torch.testing.assert_close(actor.act(windows["cond"][:13], []), windows["data"][[*range(12), 5]])


def test_what_a_memory_refuses():
    for k in (0, WINDOWS + 1):
        with pytest.raises(ValueError, match=f"k must lie in 1 to {WINDOWS}.*given {k}"):
            _actor("nearest", k=k)
    actor = build_actor(CONFIGS["nearest"], D, A)
    assert actor.act(_windows()["cond"], []).isnan().all()  # nothing remembered
    with pytest.raises(ValueError, match=f"made for {WINDOWS} windows; given {WINDOWS + 4}"):
        actor.remember([_windows(), _windows(4)])
    with pytest.raises(ValueError, match="windows"):
        build_actor({key: value for key, value in CONFIGS["nearest"].items() if key != "windows"}, D, A)
    seeing = CONFIGS["nearest"] | {"encoder": ENCODER, "cameras": {"front": [16, 16, 3]}}
    with pytest.raises(ValueError, match=r"'nearest' learns nothing.*\['front'\]: observe numbers alone"):
        build_actor(seeing, D, A)


def test_a_memory_of_another_size_does_not_load(saved):
    with pytest.raises(checkpoint.CheckpointError, match=r"actions: checkpoint \(50, 16, 2\), network \(51, 16, 2\)"):
        load_policy(saved("nearest", windows=WINDOWS + 1))
