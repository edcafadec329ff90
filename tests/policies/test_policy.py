"""A policy keeps no state: a chunk is a function of the request, in the environment's units."""

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import CAMERAS, T_A, T_O, T_P, A, D, Episodes, observations

from diffpolicy.config import ExecutionConfig, PolicyConfig, SamplerConfig
from diffpolicy.policies import PlanRequest, Policy
from diffpolicy.util.seeds import generator

ALL = ExecutionConfig("episode", 0.1, 0.5, 2)


@pytest.mark.parametrize("method", tiny.METHODS)
def test_a_chunk_is_a_function_of_its_request(method):
    policy = tiny.policy(method)
    obs = observations(3, policy.obs_horizon)
    request = PlanRequest(obs, [(5, 0), (6, 0), (5, 1)])
    chunk = policy.plan(request)
    policy.predict(obs[::-1].copy(), seed=9)  # what was asked between changes nothing
    again = policy.plan(request)
    np.testing.assert_array_equal(chunk.actions, again.actions)
    now = policy.obs_horizon - 1
    np.testing.assert_array_equal(chunk.actions, chunk.trajectory[:, now : now + policy.action_horizon])
    assert chunk.actions.shape == (3, policy.action_horizon, A) and chunk.actions.dtype == np.float32
    assert chunk.trajectory.shape == (3, policy.horizon, A)
    calls = {"flow": 3, "ddpm": 3, "tokens": 3, "refined": 3, "two_step": 2, "nearest": 0}.get(method, 1)
    assert chunk.calls.tolist() == [calls] * 3 and chunk.memory == [None] * 3
    np.testing.assert_array_equal(policy.predict(obs, seed=5)[0], chunk.actions[0])


def test_a_request_with_a_past_is_one_too():
    policy, obs = tiny.policy(execution=ALL), observations(2)
    first = policy.plan(PlanRequest(obs, [(1, 0), (2, 0)]))
    request = PlanRequest(obs, [(1, 1), (2, 1)], first.memory)
    chunks = [policy.plan(request), policy.plan(request)]
    np.testing.assert_array_equal(chunks[0].actions, chunks[1].actions)
    assert np.abs(chunks[0].actions - policy.plan(PlanRequest(obs, request.keys)).actions).max() > 1e-3


def test_actions_are_in_the_environments_units():
    chunk = tiny.policy("ddpm").plan(PlanRequest(observations(3)))
    low, high = (tiny.normalizer().unnormalize("action", torch.full((A,), bound)).numpy() for bound in (-1.0, 1.0))
    assert (chunk.trajectory >= low - 1e-3).all() and (chunk.trajectory <= high + 1e-3).all()  # ddpm clips


def test_noise_is_keyed_by_episode_and_chunk():
    """With a network that moves nothing, a chunk is its noise."""
    policy = tiny.policy()
    for parameter in policy.model.net.parameters():
        parameter.data.zero_()
    chunk = policy.plan(PlanRequest(observations(3), [(7, 0), (7, 1), (3, 4, 1)]))
    for trajectory, key in zip(chunk.trajectory, [(7, 0), (7, 1), (3, 4, 1)], strict=True):
        noise = torch.randn(T_P, A, generator=generator(*key))
        np.testing.assert_array_equal(trajectory, tiny.normalizer().unnormalize("action", noise))


@pytest.mark.parametrize("size", [1, 7, 33])
@pytest.mark.parametrize("cameras", [None, CAMERAS], ids=["vectors", "cameras"])
def test_fixed_blocks_make_samples_independent_of_the_batch(size, cameras):
    policy, count = tiny.policy(cameras=cameras, block=16), 40
    obs = observations(count, cameras=cameras)
    together = policy.predict(obs)
    pieces = []
    for i in range(0, count, size):
        part = {key: v[i : i + size] for key, v in obs.items()} if cameras else obs[i : i + size]
        pieces.append(policy.predict(part, seed=i))
    np.testing.assert_array_equal(np.concatenate(pieces), together)


def _error(policy, obs, dtype):
    """The root mean square error of actions in normalized units, after a cast of the weights."""
    before = policy.plan(PlanRequest(obs)).trajectory
    policy.model.to(dtype)
    after = policy.plan(PlanRequest(obs)).trajectory
    assert after.dtype == np.float32
    return float(np.sqrt((((after - before) / tiny.normalizer().to_tensors()["action.scale"].numpy()) ** 2).mean()))


@pytest.mark.parametrize("method", [method for method in tiny.METHODS if method != "lstm_gmm"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str)
def test_half_precision_is_near(method, dtype, error):
    """Of networks that were not trained, whose errors no later step corrects; most for the noise prediction of DDPM,
    where the first step divides by a small α."""
    assert 0 < _error(tiny.policy(method), observations(64), dtype) < error


def test_half_precision_sees_too():
    assert 0 < _error(tiny.policy(cameras=CAMERAS), observations(16, cameras=CAMERAS), torch.bfloat16) < 0.06


def test_precisions_that_are_refused():
    policy = tiny.policy()
    policy.model.to(torch.float64)
    with pytest.raises(TypeError, match=r"weights of torch.float64; expected float32, bfloat16, float16; .*to\("):
        policy.predict(observations(1))
    policy = tiny.policy("lstm_gmm")
    policy.model.to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"LSTMGMMModel with weights of torch.bfloat16; expected float32"):
        policy.predict(observations(1, 10))


def test_no_observations_are_no_actions():
    for cameras in (None, CAMERAS):
        chunk = tiny.policy(cameras=cameras, execution=ALL).plan(PlanRequest(observations(0, cameras=cameras), []))
        assert chunk.actions.shape == (0, T_A, A) and chunk.memory == []


def test_calls_are_counted_for_each_episode():
    policy = tiny.policy({**tiny.METHODS["flow"], "steps": 10}, execution=ExecutionConfig(warm_start=0.5))
    obs = observations(2)
    first = policy.plan(PlanRequest(obs))
    mixed = policy.plan(PlanRequest(obs, [(0, 1), (9, 0)], [first.memory[0], None]))
    assert first.calls.tolist() == [10, 10] and mixed.calls.tolist() == [5, 10]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.predict(observations(1)[0]), r"\(2, 5\); .*agent\.act\(\[obs\]\)"),
        (lambda p: p.predict(np.zeros((1, 3, D))), r"\(1, 3, 5\); expected .*\(B, 2, 5\)"),
        (lambda p: p.predict(np.full((3, T_O, D), np.nan)), r"NaN or infinity \(sample 0\)"),
        (lambda p: p.plan(PlanRequest(observations(3), [(0, 0)])), "1 noise keys and 3 previous chunks for 3 obs"),
        (lambda p: p.plan(PlanRequest(observations(3), 0, [None])), "3 noise keys and 1 previous chunks for 3 obs"),
        (lambda p: _with(p, PolicyConfig(2, 16, 16)), r"T_o=2, T_p=16, T_a=16; expected .*T_o - 1 \+ T_a <= T_p"),
        (lambda p: _with(p, PolicyConfig(2, 16, 0)), "T_a=0"),
        (lambda p: _with(p, PolicyConfig(), block=0), "block=0; expected a positive number"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(tiny.policy())


def _with(policy, horizons, **options):
    return Policy(policy.model, policy.normalizer, policy.observation, horizons, **options)


def test_the_sampler_can_be_changed():
    policy = tiny.policy()
    policy.model.configure(SamplerConfig("heun", 2))
    assert policy.plan(PlanRequest(observations(1))).calls[0] == 3
    assert policy.model.sampler["solver"] == "heun"


def test_episodes_of_one_request_do_not_depend_on_each_other():
    policy, obs = tiny.policy(block=16, execution=ALL), observations(3)
    together = Episodes(policy, [1, 2, 3])
    apart = [Episodes(policy, [seed]) for seed in (1, 2, 3)]
    for _ in range(3):
        expected = [each.next(obs[i : i + 1]).actions[0] for i, each in enumerate(apart)]
        np.testing.assert_array_equal(together.next(obs).actions, expected)
