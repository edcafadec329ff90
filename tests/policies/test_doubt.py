"""How far candidates are apart, and whom a policy asks where they are."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_policy
import torch

from diffpolicy.config import ExecutionConfig
from diffpolicy.evaluation import Spread, rollout
from diffpolicy.evaluation.episode import Reset
from diffpolicy.policies import Agent, PlanRequest, build_policy
from diffpolicy.policies.doubt import spread_of
from diffpolicy.policies.motion import Motion


def policy(**execution):
    return tiny_policy.policy("flow", execution=ExecutionConfig(**execution))


def test_the_spread_is_the_deviation_of_what_is_executed():
    chunks = torch.randn(7, 16, 2, generator=torch.Generator().manual_seed(0))
    found = spread_of(chunks, 3, 2, start=1, steps=8)
    expected = [chunks[k * 3 : k * 3 + 3, 1:9].numpy().var(0).mean() ** 0.5 for k in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert spread_of(chunks[:1].repeat(4, 1, 1), 4, 1, 1, 8).item() == 0


def test_a_chunk_says_it_where_there_are_candidates():
    obs = tiny_policy.observations(5)
    many = policy(candidates=4).plan(PlanRequest(obs))
    assert many.spread.shape == (5,) and (many.spread > 0).all()
    assert policy().plan(PlanRequest(obs)).spread is None
    alone = policy(candidates=4).plan(PlanRequest(obs[3:4], [(3, 0)]))
    np.testing.assert_allclose(alone.spread, many.spread[3:4], rtol=1e-4)
    cold = policy(candidates=4, temperature=0.01).plan(PlanRequest(obs))
    assert (cold.spread < many.spread / 5).all()


def test_an_agent_asks_where_it_is_not_sure_and_nowhere_else():
    obs = list(tiny_policy.observations(6, steps=None))
    spread = policy(candidates=4).plan(PlanRequest(np.stack([np.stack([one, one]) for one in obs]))).spread
    above = float(np.median(spread))
    asked = []

    def ask(env, history):
        asked.append(env)
        return np.full((8, 2), 7.0)

    agent = Agent(policy(candidates=4, ask_above=above), ask)
    agent.reset(seeds=range(6))
    first = agent.act(obs)
    unsure = {env for env in range(6) if agent.spread[env] > above}
    assert set(asked) == unsure == {env for env, count in agent.asked.items() if count} and 0 < len(unsure) < 6
    np.testing.assert_array_equal(first[sorted(unsure)], 7.0)
    plain = Agent(policy(candidates=4))
    plain.reset(seeds=range(6))
    sure = sorted(set(range(6)) - unsure)
    np.testing.assert_array_equal(first[sure], plain.act(obs)[sure])
    np.testing.assert_array_equal(copy.copy(agent).act(obs), agent.act(obs))
    agent.reset(seeds=range(6))
    assert not any(agent.asked.values()) and not agent.spread


def test_an_agent_asks_after_as_many_chunks_in_a_row():
    obs = list(tiny_policy.observations(1, steps=None))
    agent = Agent(policy(candidates=4, ask_above=1e-6, ask_after=3), lambda env, history: np.full((8, 2), 7))
    agent.reset(seeds=[0])
    counts = []
    for step in range(40):
        agent.act(obs)
        counts.append(agent.asked[0])
        if step == 31:  # a chunk that it is sure of begins a new row
            agent.policy = policy(candidates=4, ask_above=1e6, ask_after=3)
    assert counts[::8] == [0, 0, 1, 2, 2]
    agent.policy = policy(candidates=4, ask_above=1e-6, ask_after=3)
    for _ in range(17):
        agent.act(obs)
    assert agent.asked[0] == 3


@pytest.mark.parametrize("how", [{}, {"inpaint": 1}, {"ensemble": 0.1}, {"delay": 2}])
def test_a_chunk_that_was_not_carried_out_is_forgotten(how):
    obs = list(tiny_policy.observations(1, steps=None))
    count = 8 + how.get("delay", 0)
    agent = Agent(policy(candidates=4, ask_above=1e-6, **how), lambda env, history: np.full((count, 2), 7))
    agent.reset(seeds=[0])
    for _ in range(9):
        agent.act(obs)
    assert agent.asked[0] == 2 and agent._episodes[0].past is None


def test_a_robot_without_anybody_to_ask_holds():
    agent = Agent(policy(candidates=4, ask_above=1e-6))
    obs = list(tiny_policy.observations(1, steps=None))
    agent.reset(seeds=[0])
    with pytest.raises(
        ValueError,
        match=r"is not sure of \(spread .*\), and no answer; expected .*make Agent\(policy, ask=FUNCTION\)",
    ):
        agent.act(obs)
    agent.policy.motion = Motion((0, 1))
    agent.reset(seeds=[0])
    for _ in range(8):
        np.testing.assert_allclose(agent.act(obs)[0], obs[0][:2], rtol=1e-6)
    agent.ask = lambda env, history: np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"an answer of shape \(3, 2\); expected \(8, 2\)"):
        agent.act(obs)


def test_rollouts_keep_the_spread_of_every_chunk():
    run, seen = tiny_policy.config("flow"), tiny_policy.spec(dim=2)
    run.found.observation = seen.to_plain()
    how = ExecutionConfig(candidates=3)
    made = build_policy(run, seen, tiny_policy.model(run), tiny_policy.normalizer(2), execution=how)
    episodes = rollout(Agent(made), tiny.LineEnv, [Reset(seed, limit=20) for seed in range(3)], [Spread()])
    for episode in episodes:
        assert len(episode.observed["spread"]) == -(-episode.steps // 8)
        assert episode.asked is None and "asked" not in episode.row()
    above = float(np.median([one for episode in episodes for one in episode.observed["spread"]]))
    asking = build_policy(
        run, seen, tiny_policy.model(run), tiny_policy.normalizer(2), execution=replace(how, ask_above=above)
    )
    asking.motion = Motion((0, 1))
    for episode in rollout(Agent(asking), tiny.LineEnv, [Reset(seed, limit=20) for seed in range(3)], [Spread()]):
        assert episode.asked == sum(one > above for one in episode.observed["spread"]) == episode.row()["asked"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ask_above": 0.1}, "candidates=1; expected several that can be apart"),
        ({"ask_above": 0.0, "candidates": 2}, "a spread above 0"),
        ({"ask_above": "much", "candidates": 2}, "a spread above 0"),
        ({"ask_above": 0.1, "ask_after": 0, "candidates": 2}, "a number of chunks from 1 on"),
        ({"ask_after": 2, "candidates": 2}, "ask_after=2 without ask_above; take ask_above=0.01 and candidates=8"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        policy(**settings)
