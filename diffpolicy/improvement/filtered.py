"""Filtered cloning: a policy learns from its own successes, beside the demonstrations.

Every paper on improvement by rollouts has it as the baseline that needs nothing but success, 0 or 1 (for instance
"self-imitation", Oh et al. 2018). The weights of the time to success favor the faster successes, where the policy was
trained with them.

A good policy succeeds where its demonstrations do, so that its successes add little. What it lacks are ways out of
the states in which it fails: starts that failed can be tried again with other, and with more, noise.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.convert import SUCCESS
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work
from diffpolicy.improvement.cloning import check_clonable, train_on
from diffpolicy.improvement.experience import DONE, Experience, again, check_beyond, gather
from diffpolicy.policies import Policy
from diffpolicy.policies.execution import check_temperature
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson


@final
class Filtered(Improvement):
    """Clone the episodes that ended in success.

    Args:
        retries: how often each start that failed is tried again.
        retry_temperature: of the noise that sampling then starts from; None is the policy's own.
        steps_after_success: for which successful episodes go on, so that what is cloned does not end on the
            threshold: the last action of an episode is taught to be repeated.
        fastest: part of the successes that is kept, those that were done soonest.
        demonstrations: go on cloning the demonstrations too.
        from_scratch: start with new weights rather than with the policy's.
    """

    def __init__(
        self,
        retries: int = 0,
        retry_temperature: float | None = None,
        steps_after_success: int = 0,
        fastest: float = 1.0,
        demonstrations: bool = True,
        from_scratch: bool = False,
    ) -> None:
        require(type(retries) is int and retries >= 0, f"options.retries={retries!r}", "a number from 0 on")
        check_temperature("options.retry_temperature", retry_temperature)
        lone = f"options.retry_temperature={retry_temperature} without retries"
        require(retries or retry_temperature is None, lone, cure="name options.retries too")
        check_beyond(steps_after_success)
        require(0 < fastest <= 1, f"options.fastest={fastest}", "a part of the successes in (0, 1]")
        self.retries, self.retry_temperature = retries, retry_temperature
        self.beyond = steps_after_success
        self.fastest, self.demonstrations, self.from_scratch = fastest, demonstrations, from_scratch

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        check_clonable(policy)
        varies = not self.retries or "noise" in policy.model.supported_execution
        given = f"options.retries={self.retries}, and {type(policy.model).__name__} does not start from noise"
        require(varies, given, "a method that does", "leave it out")

    def improve(self, work: Work) -> Round:
        experience = gather(work, work.agent(), beyond=self.beyond)
        episodes, costs = experience.buffer, dict(experience.costs)
        found: dict[str, Any] = {"success_before": wilson(int(experience.succeeded.sum()), episodes.n_episodes)}
        failed = episodes.meta[SEEDS][~experience.succeeded]
        if self.retries and len(failed):
            retried = self._retried(work, failed)
            found["success_of_retries"] = wilson(int(retried.succeeded.sum()), retried.buffer.n_episodes)
            episodes = episodes.joined(retried.buffer)
            costs = {name: cost + retried.costs[name] for name, cost in costs.items()}
        kept = self._kept(episodes)
        last, seconds = train_on(work, episodes.subset(kept), self.demonstrations, self.from_scratch)
        return Round(last, {**costs, "training_seconds": seconds}, {**found, "episodes_kept": len(kept)})

    def _retried(self, work: Work, failed: np.ndarray) -> Experience:
        """The episodes that failed, tried again with other noise."""
        by = f"the policy, at temperature {self.retry_temperature}" if self.retry_temperature else "the policy"
        agent, resets = work.agent(self.retry_temperature), again(failed, self.retries)
        return gather(work, agent, by=by, resets=resets, name="retries", beyond=self.beyond)

    def _kept(self, episodes: ReplayBuffer) -> np.ndarray:
        """The numbers of the episodes to clone."""
        succeeded = np.flatnonzero(episodes.meta[SUCCESS] == 1)
        given = f"none of {episodes.n_episodes} episodes ended in success, and there is nothing to learn from them"
        require(len(succeeded), given, cure="roll out more of them into another run_dir, or take method=corrections")
        done, frames = episodes[DONE], episodes.episode_slices()
        soon = [int(np.argmax(done[frames[i]])) for i in succeeded]  # the first step after which it was done
        count = max(1, round(self.fastest * len(succeeded)))
        return np.sort(succeeded[np.argsort(soon, kind="stable")[:count]])
