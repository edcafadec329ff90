"""Agents keep the state of acting: histories, queues and noise keys, each its own."""

import copy
import pickle

import numpy as np
import pytest
import tiny_policy as tiny
from tiny_policy import CAMERAS, T_A, A, D, observations

from diffpolicy.config import ExecutionConfig
from diffpolicy.policies import Agent, PlanRequest
from diffpolicy.policies.controller import env_numbers

ALL = ExecutionConfig("episode", 0.1, 0.4, 1)


def _stream(steps, count=1, seed=1):
    return np.random.default_rng(seed).uniform(0, 512, (steps, count, D)).astype(np.float32)


def _run(agent, stream, **how):
    return np.stack([agent.act(obs, **how) for obs in stream])


def _agent(policy, seeds=(5,), env_ids=None):
    agent = Agent(policy)
    agent.reset(env_ids, list(seeds))
    return agent


def test_chunks_are_executed_and_asked_for_when_they_end():
    policy = tiny.policy()
    stream = _stream(20)
    actions = _run(_agent(policy), stream)[:, 0]
    histories = [np.stack([stream[max(0, k - 1), 0], stream[k, 0]])[None] for k in (0, 8, 16)]
    chunks = [policy.plan(PlanRequest(obs, [(5, k)])).actions[0] for k, obs in enumerate(histories)]
    np.testing.assert_array_equal(actions, np.concatenate(chunks)[:20])
    assert Agent(policy).replan_every == T_A and Agent(policy).device == policy.model.device


@pytest.mark.parametrize("execution", [None, ALL], ids=["plain", "all"])
def test_agents_of_one_policy_do_not_disturb_each_other(execution):
    """Used in turn, with alternatives drawn between, they act as if each were alone."""
    policy, streams = tiny.policy(execution=execution), [_stream(20, seed=seed) for seed in (1, 2)]
    alone = [_run(_agent(policy, [seed]), stream) for seed, stream in enumerate(streams)]
    agents = [_agent(policy, [seed]) for seed in range(2)]
    for step in range(20):
        for agent, stream, expected in zip(agents, streams, alone, strict=True):
            np.testing.assert_array_equal(agent.act(stream[step]), expected[step])
            policy.predict(observations(4), seed=step)


@pytest.mark.parametrize("execution", [None, ALL], ids=["plain", "all"])
def test_an_environments_actions_do_not_depend_on_those_beside_it(execution):
    """Episodes that start at different times, in environments used before, as if each were alone."""
    policy, stream = tiny.policy(t_a=4, block=16, execution=execution), _stream(24, 5)
    starts = {0: [0, 1], 8: [2], 12: [1, 3, 4]}  # step -> environments
    agent, seeds, together = Agent(policy), {}, {}
    for step, obs in enumerate(stream):
        for env in starts.get(step, []):
            seeds[env] = 100 * step + env
            agent.reset([env], [seeds[env]])
        envs = list(seeds)[::-1]
        for env, action in zip(envs, agent.act(obs[envs], envs), strict=True):
            together.setdefault(seeds[env], []).append(action)
    assert len(together) == 6
    for seed, actions in together.items():
        start, env = divmod(seed, 100)
        alone = _agent(policy, [seed], [7])
        again = [alone.act(obs[env][None], [7])[0] for obs in stream[start : start + len(actions)]]
        np.testing.assert_array_equal(actions, again)


def test_episodes_without_seeds_differ_and_come_again():
    policy, obs, chunks = tiny.policy(block=4), _stream(1)[0], []
    agent = Agent(policy)
    for _ in range(3):
        agent.reset()
        chunks.append(agent.act(obs))
        agent.reset([0])
        chunks.append(agent.act(obs))
    assert len({chunk.tobytes() for chunk in chunks}) == 6
    again = Agent(policy)
    np.testing.assert_array_equal(again.act(obs), chunks[0])
    keys = [(0, number, 0) for number in range(2)]  # environment, episode, chunk
    expected = policy.plan(PlanRequest(np.stack([obs[0]] * 2)[None].repeat(2, 0), keys)).actions[:, 0]
    np.testing.assert_array_equal(np.stack(chunks[:2])[:, 0], expected)


def test_a_boolean_mask_is_a_mask():
    policy, stream = tiny.policy(), _stream(6, 3)
    agent, other = _agent(policy, [1, 2, 3]), _agent(policy, [1, 2, 3])
    for obs in stream[:3]:
        agent.act(obs), other.act(obs)
    agent.reset(np.array([True, False, True]), [8, 9])
    other.reset([0, 2], [8, 9])
    for obs in stream[3:]:
        np.testing.assert_array_equal(agent.act(obs), other.act(obs))
    np.testing.assert_array_equal(agent.act(obs[1:], [False, True, True]), other.act(obs[1:], [1, 2]))
    assert env_numbers([True, False, True]) == [0, 2] and env_numbers([]) == [] and env_numbers(range(2)) == [0, 1]


def test_alternatives_are_looked_at_in_copies():
    policy, stream = tiny.policy(execution=ALL), _stream(20)
    agent, alone = _agent(policy), _run(_agent(policy), stream)
    actions = []
    for obs in stream:
        look = copy.copy(agent)
        _run(look, _stream(9, seed=3))
        look.reset()
        actions.append(agent.act(obs))
    assert look.policy is policy
    np.testing.assert_array_equal(actions, alone)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
@pytest.mark.parametrize("cameras", [None, CAMERAS], ids=["vectors", "cameras"])
def test_a_copy_continues_alike(clone, cameras):
    agent = _agent(tiny.policy(t_a=4, cameras=cameras, execution=ALL))
    stream = [observations(1, None, cameras, seed) for seed in range(15)]
    for obs in stream[:6]:
        agent.act(obs)
    other = clone(agent)
    np.testing.assert_array_equal(_run(agent, stream[6:]), _run(other, stream[6:]))
    assert other.calls == agent.calls > 0


def test_what_is_observed_is_copied_and_checked():
    policy, buffer = tiny.policy(), np.zeros((1, D), np.float32)
    agent, stream = _agent(policy), _stream(9)
    for obs in stream:  # a driver that fills one buffer again and again
        buffer[:] = obs
        action = agent.act(buffer)
    chunk = policy.plan(PlanRequest(stream[None, 7:9, 0], [(5, 1)]))
    np.testing.assert_array_equal(action, chunk.actions[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        agent.act(np.full((1, D), np.nan))  # between chunks too, before it enters the history
    with pytest.raises(ValueError, match=r"\(1, 3\); expected \(B, D\) = \(B, 5\)"):
        agent.act(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"add the batch axis with agent.act\(\[obs\]\)"):
        agent.act(np.zeros(D))


def test_the_history_of_images_is_kept():
    policy = tiny.policy(cameras=CAMERAS)
    seen = [observations(2, None, CAMERAS, seed) for seed in range(T_A + 1)]
    agent = _agent(policy, [5, 6])
    for obs in seen:
        reused = {key: values.copy() for key, values in obs.items()}
        actions = agent.act(reused)
        for values in reused.values():
            values[:] = 0  # a driver fills its buffers again
    histories = {key: np.stack([seen[-2][key], seen[-1][key]], axis=1) for key in (*CAMERAS, "agent", "grip")}
    chunk = policy.plan(PlanRequest(histories, [(5, 1), (6, 1)]))
    np.testing.assert_array_equal(actions, chunk.actions[:, 0])


def test_calls_are_those_of_a_chunk_that_follows_another():
    flow = {**tiny.METHODS["flow"], "steps": 10}
    agent = Agent(tiny.policy(flow, t_a=1, execution=ExecutionConfig(warm_start=0.5)))
    obs, found = _stream(1, 2)[0], []
    for seeds in ([1, 2], None, [3, 4]):
        if seeds:
            agent.reset(None, seeds)
        agent.act(obs)
        found.append(agent.calls)
    assert found == [10, 5, 5]


@pytest.mark.parametrize("t_a", [1, 3, 8])
def test_any_action_horizon(t_a):
    agent = _agent(tiny.policy(t_a=t_a, execution=ALL), [5, 6])
    actions = _run(agent, _stream(20, 2))
    assert actions.shape == (20, 2, A) and np.isfinite(actions).all()
    assert np.abs(np.diff(actions, axis=0)).max(axis=(1, 2)).min() > 0


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda a: a.reset([0, 1], [3]), r"seeds \[3\] for 2 environments; expected one seed >= 0 for each"),
        (lambda a: a.reset([0], [-3]), r"seeds \[-3\]"),
        (lambda a: a.reset([-1]), r"env_ids=\[-1\]; expected numbers >= 0, or a boolean mask"),
        (lambda a: a.reset([0.5]), r"env_ids=\[0.5\]"),
        (lambda a: a.reset(3), "env_ids=3"),
        (lambda a: a.act(np.zeros((3, D)), [0, 1]), r"environments \[0, 1\] for 3 observations"),
        (lambda a: a.act(np.zeros((3, D)), [0, 1, 1]), r"one for each, no one twice"),
    ],
)
def test_what_is_refused(ask, says):
    with pytest.raises(ValueError, match=says):
        ask(Agent(tiny.policy()))
