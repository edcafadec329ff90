"""The policy's contract: shapes, units, keyed noise, receding horizon, and loading from checkpoints."""

import json
import shutil

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.generative.solvers import SOLVERS
from diffpolicy.policies import ActionQueue, Policy, PolicyConfig, build_actor

T_O, T_P, T_A, D, A = 2, 16, 8, 5, 2
METHODS = {
    "flow": {"path": {"name": "linear"}, "prediction": "velocity", "solver": "euler"},
    "ddpm": {
        "path": {"name": "ddpm", "steps": 20},
        "prediction": "noise",
        "times": "discrete",
        "solver": "ddim",
        "clip": 1.0,
    },
}


def _config(method="flow", steps=3):
    return {
        "policy": {"obs_horizon": T_O, "horizon": T_P, "action_horizon": T_A},
        "method": {"name": "generative", "steps": steps, **METHODS[method]},
        "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
        "env": {"id": None, "options": {}},
    }


def _normalizer():
    rng = np.random.default_rng(0)
    return Normalizer.fit({"obs": rng.uniform(0, 512, (99, D)), "action": rng.uniform(100, 400, (99, A))})


def _policy(method="flow", **options):
    torch.manual_seed(0)
    return Policy(build_actor(_config(method), D, A).eval(), _normalizer(), T_O, T_P, T_A, **options)


@pytest.fixture
def saved(tmp_path):
    def save(recipe="flow", **change):
        actor = _policy(recipe).actor
        tensors = actor.state_dict()
        groups = {"model": tensors, "ema": tensors, "normalizer": _normalizer().to_tensors()}
        return checkpoint.write(tmp_path / recipe, 7, groups, _config(recipe) | change, {})

    return save


def _obs(rows, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (rows, T_O, D)).astype(np.float32)


def test_predict_is_the_executed_part_in_the_environments_units():
    policy, again = _policy("ddpm"), _policy("ddpm")
    chunk, whole = policy.predict(_obs(3)), again.trajectories(_obs(3))
    assert chunk.shape == (3, T_A, A) and chunk.dtype == np.float32
    np.testing.assert_array_equal(chunk, whole[:, T_O - 1 : T_O - 1 + T_A])
    low, high = (_normalizer().unnormalize("action", torch.full((A,), bound)).numpy() for bound in (-1.0, 1.0))
    assert (whole >= low - 1e-3).all() and (whole <= high + 1e-3).all()  # the ddpm recipe clips to the data's range


def test_noise_is_keyed_by_episode_and_chunk():
    """A slot's chunks depend on its seed and their number, and on nothing that runs beside it."""
    obs = _obs(1)
    alone, among = _policy(block=16), _policy(block=16)
    alone.reset([0], [42])
    among.reset([0, 1, 2], [7, 42, 8])
    for _ in range(3):
        first = alone.predict(obs)
        many = among.predict(np.repeat(obs, 3, axis=0), [0, 1, 2])
        np.testing.assert_array_equal(first[0], many[1])
        assert not np.allclose(many[0], many[1])
    third = first
    alone.reset([0], [42])
    assert not np.allclose(alone.predict(obs), third)
    among.reset([1], [42])
    np.testing.assert_array_equal(among.predict(obs, [1]), _restarted(alone, obs))


def _restarted(policy, obs):
    policy.reset([0], [42])
    return policy.predict(obs)


@pytest.mark.parametrize("rows", [1, 7, 33])
def test_fixed_blocks_make_rows_independent_of_the_batch(rows):
    obs = _obs(40)
    together = _policy(block=16).predict(obs)
    parts = _policy(block=16)
    pieces = [parts.predict(obs[i : i + rows], range(i, min(i + rows, 40))) for i in range(0, 40, rows)]
    np.testing.assert_array_equal(np.concatenate(pieces), together)


def test_queue_executes_chunks_and_asks_when_dry():
    policy, reference = _policy(), _policy()
    queue = ActionQueue(policy)
    queue.reset([0], [5])
    reference.reset([0], [5])
    stream = np.random.default_rng(1).uniform(0, 512, (20, D)).astype(np.float32)
    actions = np.stack([queue.act(obs[None])[0] for obs in stream])
    histories = [np.stack([stream[max(0, k - 1)], stream[k]])[None] for k in (0, 8, 16)]
    expected = np.concatenate([reference.predict(history)[0] for history in histories])
    np.testing.assert_array_equal(actions, expected[:20])


def test_queue_copies_and_checks_what_it_observes():
    policy, reference = _policy(), _policy()
    queue, buffer = ActionQueue(policy), np.zeros((1, D), np.float32)
    queue.reset([0], [5])
    reference.reset([0], [5])
    stream = np.random.default_rng(1).uniform(0, 512, (9, D)).astype(np.float32)
    for obs in stream:  # a driver that fills one buffer again and again
        buffer[0] = obs
        action = queue.act(buffer)
    reference.predict(np.stack([stream[0], stream[0]])[None])
    np.testing.assert_array_equal(action, reference.predict(stream[None, 7:9])[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        queue.act(np.full((1, D), np.nan))  # refused between chunks too, before it enters the history
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(B, 5\)"):
        queue.act(np.zeros((1, 3)))


def test_episodes_without_seeds_differ():
    policy, obs = _policy(), _obs(1)
    chunks = []
    for _ in range(3):
        policy.reset()
        chunks.append(policy.predict(obs))
    assert not np.allclose(chunks[0], chunks[1]) and not np.allclose(chunks[1], chunks[2])
    again = _policy()
    again.reset()
    np.testing.assert_array_equal(again.predict(obs), chunks[0])


@pytest.mark.parametrize("steps", [1, 7, 20, 40])
def test_any_number_of_steps_on_ddpms_indices(saved, steps):
    config = METHODS["ddpm"] | {"name": "generative", "grid": "ddpm_trailing", "steps": 5}
    for solver in ("ddim", "heun", "ddpm"):
        policy = load_policy(saved("ddpm", method=config), solver=solver, steps=steps)
        assert np.isfinite(policy.predict(_obs(1))).all()
        assert policy.actor.sampler["grid"] == ("uniform" if steps > 20 else "ddpm_trailing")


def test_every_solver_can_be_chosen_without_retraining(saved):
    for method in METHODS:
        path = saved(method)
        for solver in SOLVERS:
            options = {"rtol": 1e-1, "atol": 1e-1} if solver == "dopri5" else None
            policy = load_policy(path, solver=solver, steps=4, solver_options=options)
            chunk = policy.predict(_obs(2))
            assert chunk.shape == (2, T_A, A) and np.isfinite(chunk).all()
            assert policy.actor.calls >= 4 and policy.actor.sampler["solver"] == solver


def test_loaded_equals_built(saved):
    np.testing.assert_array_equal(load_policy(saved()).predict(_obs(2)), _policy().predict(_obs(2)))


def test_frozen_it_acts_alike(saved):
    path = saved()
    frozen, plain = load_policy(path, freeze=True), load_policy(path)
    for _ in range(2):  # the second chunk meets times that are known already
        np.testing.assert_allclose(frozen.predict(_obs(2)), plain.predict(_obs(2)), rtol=1e-4, atol=1e-4)


def test_load_errors_say_what_to_do(saved, tmp_path):
    path = saved()
    with pytest.raises(ValueError, match="eulr.*euler"):
        load_policy(path, solver="eulr")
    with pytest.raises(ValueError, match="steps"):
        load_policy(path, steps=0)
    with pytest.raises(ValueError, match="'ema' or 'model'"):
        load_policy(path, weights="emma")
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint at .*best.*step_00000007"):
        load_policy(path.parent / "best")
    other = saved("flow", net={"name": "unet1d", "widths": [8, 24], "time_features": 8})
    assert other == path  # a step once written is kept
    shutil.rmtree(path)
    path = saved("flow", net={"name": "unet1d", "widths": [8, 24], "time_features": 8})
    with pytest.raises(checkpoint.CheckpointError, match=r"do not fit.*checkpoint \(.*network \("):
        load_policy(path)
    shutil.rmtree(path)
    path = saved("flow", net={"name": "unet1d", "width": [8, 16]})
    with pytest.raises(ValueError, match="no option 'width' \\(did you mean 'widths'"):
        load_policy(path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "info", "version"])
def test_damaged_checkpoints_are_refused(saved, damage):
    path = saved()
    file = path / "ema.safetensors"
    if damage == "flip":
        contents = bytearray(file.read_bytes())
        contents[-5] ^= 1
        file.write_bytes(contents)
        match = "ema.safetensors is damaged"
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-10])
        match = "ema.safetensors is damaged"
    elif damage == "delete":
        file.unlink()
        match = "ema.safetensors is missing"
    elif damage == "info":
        (path / "checkpoint.json").unlink()
        match = "no complete checkpoint"
    else:
        info = json.loads((path / "checkpoint.json").read_text())
        (path / "checkpoint.json").write_text(json.dumps(info | {"format_version": 99}))
        match = "format version 99"
    with pytest.raises(checkpoint.CheckpointError, match=match):
        load_policy(path)


def test_bad_observations_and_horizons_are_refused():
    policy = _policy()
    with pytest.raises(ValueError, match=r"\(2, 5\).*obs\[None\]"):
        policy.predict(_obs(1)[0])
    with pytest.raises(ValueError, match=r"\(1, 3, 5\).*\(B, 2, 5\)"):
        policy.predict(np.zeros((1, 3, 5)))
    broken = _obs(3)
    broken[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        policy.predict(broken)
    with pytest.raises(ValueError, match="T_p=16"):
        Policy(policy.actor, _normalizer(), 2, 16, 16)
    with pytest.raises(ValueError, match="one seed >= 0 per slot"):
        policy.reset([0, 1], [3])
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        ActionQueue(policy).act(np.zeros(D))
    assert PolicyConfig().action_horizon == 8
