"""gymnasium's vector environments: episodes there are those of the rollout, action for action, in every mode."""

import functools
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny_policy
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from vector_env import NUM_ENVS, drift

import diffpolicy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import Recorder, Reset, rollout
from diffpolicy.policies import Agent, EpisodeStarts, build_model, build_policy

EPISODES = 3  # per environment
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "vector_environments.md"


@functools.cache
def _policy(key="obs", dim=2, block=16):
    """Untrained: each of its actions depends on two observations and on the noise."""
    run, spec = (
        tiny_policy.config(tiny_policy.METHODS["flow"] | {"steps": 1}),
        ObservationSpec({key: Field("vector", (dim,))}),
    )
    torch.manual_seed(0)
    limits = np.stack([np.full(dim, -1.0), np.full(dim, 1.0)])
    normalizer = Normalizer.fit({"obs": limits, "action": limits[:, :2]})
    return build_policy(run, spec, build_model(run, spec, 2).eval(), normalizer, block=block)


@functools.cache
def _expected():
    """The recordings of the plain rollout, by seed."""
    resets = [Reset(seed) for seed in range(NUM_ENVS * EPISODES)]
    episodes = rollout(Agent(_policy()), drift, resets, [Recorder()], envs=4)
    assert len({episode.steps for episode in episodes}) > 3, "they should end at different times"
    return {episode.seed: episode.observed["recording"] for episode in episodes}


def _episodes(envs, by_key=False, place="right"):
    """Drive a vector environment, and return what was recorded of its first episodes, by seed."""
    agent, starts = Agent(_policy("agent") if by_key else _policy()), EpisodeStarts(envs)
    seeds = np.arange(envs.num_envs)
    found = {int(seed): {"obs": [], "action": []} for seed in seeds}
    ignored = np.zeros(envs.num_envs, bool)  # with next-step autoreset: the step that resets
    obs, _ = envs.reset(seed=seeds.tolist())
    agent.reset(range(envs.num_envs), seeds.tolist())
    while len(found) < envs.num_envs * (EPISODES + 1):
        actions = agent.act(obs)
        for i in np.flatnonzero(~ignored):
            found[int(seeds[i])]["obs"].append(np.array(obs["agent"][i] if by_key else obs[i]))
            found[int(seeds[i])]["action"].append(np.clip(actions[i], -1, 1))  # as a recorder keeps it
        obs, _, terminated, truncated, _ = envs.step(actions)
        ended = terminated | truncated
        begun = starts(terminated, truncated)
        ignored = ended if starts.mode is AutoresetMode.NEXT_STEP else ignored
        seeds = seeds + envs.num_envs * begun
        found |= {int(seed): {"obs": [], "action": []} for seed in seeds[begun]}
        if starts.mode is AutoresetMode.DISABLED and begun.any():
            obs, _ = envs.reset(seed=seeds.tolist(), options={"reset_mask": begun})
        where = begun if place == "right" else ended
        agent.reset(where, seeds[where].tolist())
    return found


def _differing(found):
    return [
        seed
        for seed, recording in _expected().items()
        if not all(np.array_equal(recording[key], np.array(found[seed][key])) for key in ("obs", "action"))
    ]


@pytest.mark.parametrize(
    ("mode", "by_key"), [*((mode, False) for mode in AutoresetMode), (AutoresetMode.NEXT_STEP, True)]
)
def test_episodes_are_those_of_the_rollout(mode, by_key):
    envs = SyncVectorEnv([functools.partial(drift, by_key)] * NUM_ENVS, autoreset_mode=mode)
    assert _differing(_episodes(envs, by_key)) == []


def test_resetting_the_agent_at_the_end_mixes_episodes():
    """What the helper is for: with next-step autoreset the obvious place is one step too early."""
    envs = SyncVectorEnv([drift] * NUM_ENVS)
    assert _differing(_episodes(envs, place="obvious")) == list(range(NUM_ENVS, NUM_ENVS * EPISODES))


def test_so_they_are_in_processes():
    envs = AsyncVectorEnv([drift] * NUM_ENVS, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        assert _differing(_episodes(envs)) == []
    finally:
        envs.close()


def test_a_vector_environment_says_when_it_resets():
    envs = SyncVectorEnv([drift])
    for mode in ("SameStep", "SAME_STEP", AutoresetMode.SAME_STEP):
        envs.metadata = {"autoreset_mode": mode}
        assert EpisodeStarts(envs).mode is AutoresetMode.SAME_STEP
    envs.metadata = {}
    with pytest.raises(ValueError, match=r"SyncVectorEnv.metadata has autoreset_mode=None; expected .*NEXT_STEP"):
        EpisodeStarts(envs)


def test_a_list_of_observations_is_a_batch():
    for key in ("obs", "agent"):
        agent, one, other = Agent(_policy(key)), np.array([0.1, 0.2], np.float32), np.array([0.3, 0.4], np.float32)
        agent.reset(seeds=[3, 4])
        batch = agent.act({key: np.stack([one, other])})
        agent.reset(seeds=[3, 4])
        assert np.array_equal(agent.act([{key: one, "x": one}, {key: other, "x": one}]), batch)
        agent.reset(seeds=[3, 4])
        assert np.array_equal(agent.act([one, other]), batch)
    with pytest.raises(
        ValueError, match=r"obs\['agent'\] has shape \(2,\).*give `act` a list of observations, \[obs\]"
    ):
        Agent(_policy("agent")).act({"agent": one})


@pytest.mark.parametrize("number", range(4))
def test_the_pages_code_runs(number, monkeypatch):
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(code) == 4
    monkeypatch.setattr(diffpolicy, "load_policy", lambda path: _policy(dim=20, block=None), raising=False)
    scope = {"__name__": "page"}
    exec(code[number], scope)
    if "envs" in scope:
        assert isinstance(scope["envs"], gym.vector.VectorEnv) and scope["episodes"] > 0
