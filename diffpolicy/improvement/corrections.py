"""Corrections: an expert takes over in states that the policy reached, and its actions join the data.

DAgger (Ross et al. 2011) asks the expert in states of the learner. Here, as in HG-DAgger (Kelly et al. 2019), the
expert takes the robot over and keeps it to the end of the episode, since an answer that is not carried out says
nothing of what comes after it. When it does is drawn by the episode's seed.

The better a policy is, the fewer of its states need a correction. So the policy can be rolled out first, and the
expert be asked in the episodes that failed alone, in each of them again and again, from other steps on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.spec import Observation
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.demonstrators import find_expert_agent
from diffpolicy.evaluation.experts import ExpertAgent
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work
from diffpolicy.improvement.cloning import check_clonable, train_on
from diffpolicy.improvement.experience import Experience, again, check_beyond, gather, original
from diffpolicy.policies import Policy
from diffpolicy.policies.controller import Batch, Controller, EnvIds
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import seed_of
from diffpolicy.util.stats import wilson

_AT_ONCE = 32  # episodes, so that little more is rolled out than the budget asks for


@final
class Corrections(Improvement):
    """Clone what an expert does after it has taken over from the policy.

    Args:
        expert_steps: budget, control steps of the expert in a round; episodes beyond the one that uses it up are
            left out.
        latest: the expert takes over at a step drawn evenly from 0 to this one.
        of_failures: correct the episodes in which the policy failed alone, up to this many times each; 0 corrects
            every episode once, whatever would have come of it.
        expert: "module:make", see `diffpolicy record`; None takes the environment's own.
        steps_after_success: for which successful episodes go on, see `Filtered`.
        demonstrations: go on cloning the demonstrations too.
        from_scratch: start with new weights rather than with the policy's.
    """

    def __init__(
        self,
        expert_steps: int = 20_000,
        latest: int = 200,
        of_failures: int = 0,
        expert: str | None = None,
        steps_after_success: int = 0,
        demonstrations: bool = True,
        from_scratch: bool = False,
    ) -> None:
        given = f"options.expert_steps={expert_steps}, options.latest={latest}"
        require(expert_steps >= 1 and latest >= 0, given, "a budget of at least 1, and a step from 0 on")
        counts = type(of_failures) is int and of_failures >= 0
        require(counts, f"options.of_failures={of_failures!r}", "a number from 0 on")
        self.expert_steps, self.latest, self.expert = expert_steps, latest, expert
        check_beyond(steps_after_success)
        self.of_failures, self.beyond = of_failures, steps_after_success
        self.demonstrations, self.from_scratch = demonstrations, from_scratch

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        check_clonable(policy)
        self._agent(make_env)

    def improve(self, work: Work) -> Round:
        together = TakeOver(work.agent(), self._agent(work.make_env), self.latest)
        by = f"the policy, and from a step up to {self.latest} on the expert {self.expert or ''}".rstrip()
        how = {"asked": functools.partial(_asked, self.latest), "budget": self.expert_steps, "at_once": _AT_ONCE}
        how |= {"beyond": self.beyond}
        found, costs = dict[str, Any](), dict[str, float]()
        if self.of_failures:
            alone = gather(work, work.agent(), beyond=self.beyond)
            found["success_before"] = wilson(int(alone.succeeded.sum()), alone.buffer.n_episodes)
            failed, costs = alone.buffer.meta[SEEDS][~alone.succeeded], alone.costs
            given = f"all {alone.buffer.n_episodes} episodes ended in success, and there is nothing to correct"
            require(len(failed) > 0, given, cure="roll out more of them, or take options.of_failures=0")
            how |= {"resets": again(failed, self.of_failures), "name": "corrections"}
        experience = gather(work, together, by=by, **how)
        costs = {name: cost + costs.get(name, 0) for name, cost in experience.costs.items()}
        corrected, corrections = self._corrections(experience)
        require(corrections, "no episode in which the expert took over succeeded", cure="take another options.latest")
        last, seconds = train_on(
            work, ReplayBuffer.from_episodes(corrections), self.demonstrations, self.from_scratch
        )
        found |= {"success_of_expert": wilson(len(corrections), corrected), "episodes_kept": len(corrections)}
        return Round(last, {**costs, "training_seconds": seconds}, found)

    def _agent(self, make_env: EnvFactory) -> ExpertAgent:
        return find_expert_agent(self.expert, make_env)

    def _corrections(self, experience: Experience) -> tuple[int, list[dict[str, np.ndarray]]]:
        """How many episodes the expert took over, and its part of those that ended in success."""
        buffer, corrected, kept = experience.buffer, 0, list[dict[str, np.ndarray]]()
        for seed, succeeded, frames in zip(
            buffer.meta[SEEDS], experience.succeeded, buffer.episode_slices(), strict=True
        ):
            first = frames.start + step_of(int(seed), self.latest)
            if first < frames.stop:
                corrected += 1
                if succeeded:
                    kept.append({name: buffer[name][first : frames.stop] for name in buffer.keys()})  # noqa: SIM118
        return corrected, kept


def _asked(latest: int, seed: int, steps: int) -> int:
    return min(steps, step_of(seed, latest))


def step_of(seed: int, latest: int) -> int:
    """Return the step of an episode at which the expert takes over, from 0 to `latest`."""
    return seed_of("take over", seed) % (latest + 1)


@final
class TakeOver(Controller):
    """A policy's agent, from which an expert takes over within each episode and keeps the robot to its end.

    Args:
        agent: acts first.
        expert: acts from the step `step_of(seed, latest)` on.
        latest: see `step_of`.
    """

    def __init__(self, agent: Controller, expert: Controller, latest: int) -> None:
        self.agent, self.expert, self.latest = agent, expert, latest
        self.replan_every = agent.replan_every
        self._left: dict[int, int] = {}  # by environment: steps until the expert takes over

    @property
    def device(self) -> Any:
        return self.agent.device

    @property
    def calls(self) -> int:
        """Network calls of the policy's last chunk."""
        return self.agent.calls

    @calls.setter
    def calls(self, value: int) -> None:
        self.agent.calls = value

    def reset(self, env_ids: EnvIds | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start new episodes; seeds are needed, but for the first call of a rollout, which names no environment.

        Where an episode is repeated (`experience.again`), the policy goes the same way, and the expert takes over at
        another step.
        """
        self.agent.reset(env_ids, None if seeds is None else [original(int(seed)) for seed in seeds])
        if env_ids is None or seeds is None:
            return
        self.expert.reset(env_ids, seeds)
        self._left |= {int(env): step_of(int(seed), self.latest) for env, seed in zip(env_ids, seeds, strict=True)}

    def act(
        self, obs: Batch, env_ids: EnvIds | None = None, infos: Sequence[Mapping[str, Any]] | None = None
    ) -> np.ndarray:
        """Return the next action of each environment; see `Controller.act`. Infos are needed."""
        infos, envs = infos or [], list(range(len(infos or []))) if env_ids is None else [int(env) for env in env_ids]
        actions: dict[int, np.ndarray] = {}
        theirs = [i for i, env in enumerate(envs) if self._left[env] == 0]
        ours = [i for i in range(len(envs)) if i not in set(theirs)]
        for who, places in ((self.agent, ours), (self.expert, theirs)):
            if places:
                given = who.act(_some(obs, places), [envs[i] for i in places], [infos[i] for i in places])
                actions |= dict(zip(places, given, strict=True))
        for i in ours:
            self._left[envs[i]] -= 1
        return np.stack([actions[i] for i in range(len(envs))])


def _some(obs: Batch, places: Sequence[int]) -> Observation:
    if isinstance(obs, Mapping):
        return {key: values[list(places)] for key, values in obs.items()}
    return np.asarray(obs)[list(places)]
