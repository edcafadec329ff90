"""Filtered cloning: a policy learns from its own successes, beside the demonstrations.

Every paper on improvement by rollouts has it as the baseline that needs nothing but success, 0 or 1 (for instance
"self-imitation", Oh et al. 2018). The weights of the time to success favor the faster successes, where the policy was
trained with them.
"""

from __future__ import annotations

from typing import final

import numpy as np

from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work
from diffpolicy.improvement.cloning import check_clonable, train_on
from diffpolicy.improvement.experience import DONE, gather
from diffpolicy.policies import Policy
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson


@final
class Filtered(Improvement):
    """Clone the episodes that ended in success.

    Args:
        fastest: part of these that is kept, those that were done soonest.
        demonstrations: go on cloning the demonstrations too.
        from_scratch: start with new weights rather than with the policy's.
    """

    def __init__(self, fastest: float = 1.0, demonstrations: bool = True, from_scratch: bool = False) -> None:
        require(0 < fastest <= 1, f"options.fastest={fastest}", "a part of the successes in (0, 1]")
        self.fastest, self.demonstrations, self.from_scratch = fastest, demonstrations, from_scratch

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        check_clonable(policy)

    def improve(self, work: Work) -> Round:
        experience = gather(work, work.agent())
        succeeded = np.flatnonzero(experience.succeeded)
        tried = experience.buffer.n_episodes
        given = f"none of {tried} episodes ended in success, and there is nothing to learn from them"
        require(len(succeeded), given, cure="roll out more of them into another run_dir, or take method=corrections")
        done, frames = experience.buffer[DONE], experience.buffer.episode_slices()
        soon = [int(np.argmax(done[frames[i]])) for i in succeeded]  # the first step after which it was done
        count = max(1, round(self.fastest * len(succeeded)))
        kept = np.sort(succeeded[np.argsort(soon, kind="stable")[:count]])
        last, seconds = train_on(work, experience.buffer.subset(kept), self.demonstrations, self.from_scratch)
        found = {"success_before": wilson(len(succeeded), tried), "episodes_kept": len(kept)}
        return Round(last, {**experience.costs, "training_seconds": seconds}, found)
