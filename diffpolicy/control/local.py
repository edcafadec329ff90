"""Chunks that a policy in this process plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import final

import numpy as np
import torch

from diffpolicy.control.guard import Limits
from diffpolicy.control.planning import Ask, Metadata, Observation, Plan, Planner
from diffpolicy.datasets.spec import stack
from diffpolicy.policies import PlanRequest, Policy
from diffpolicy.policies.chunking import Decided, Past
from diffpolicy.policies.correcting import corrected
from diffpolicy.policies.encoders import EncodedModel
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.util.errors import require


@final
class LocalPlanner(Planner):
    """Asks a policy.

    Args:
        policy: what is asked.
        fps: control steps per second of its recording, where that is known.
        limits: of its actions, where they are known.

    Raises:
        ValueError: execution settings that are the simulation's: delay, action_noise, ensemble, roll_forward,
            ask_above; or a policy with a corrector on a GPU.
    """

    def __init__(self, policy: Policy, fps: float | None = None, limits: Limits | None = None) -> None:
        how = policy.execution
        unfit = {"delay": 0, "action_noise": 0.0, "ensemble": None, "roll_forward": False, "ask_above": None}
        given = [f"execution.{name}={vars(how)[name]}" for name, usual in unfit.items() if vars(how)[name] != usual]
        require(not given, f"{' and '.join(given)} of a policy that plans for a robot", cure="leave it out")
        waits = isinstance(policy.model, Corrects) and policy.model.device.type != "cpu"
        given = f"a policy on {policy.model.device} that corrects every action, which would wait there for the chunks"
        require(not waits, given, cure="take device=cpu")
        self.policy = policy
        fields = {
            key: {"kind": one.kind, "shape": list(one.shape or ()), "unit": one.unit}
            for key, one in policy.observation.items()
        }
        for key, text in (policy.model.examples if isinstance(policy.model, EncodedModel) else {}).items():
            fields[key]["example"] = text
        self.metadata = Metadata(
            policy.obs_horizon,
            policy.horizon,
            policy.action_horizon,
            policy.action_dim,
            fields,
            fps,
            None if limits is None else limits.to_plain(),
            () if policy.motion is None else policy.motion.columns,
            asdict(policy.execution),
        )

    def corrected(self, obs: Observation, action: np.ndarray, step: int) -> np.ndarray:
        """Return an action as it is to be carried out now."""
        if not isinstance(self.policy.model, Corrects):
            return action
        return corrected(self.policy, stack([obs]), [(step, action)])[0]

    def plan(self, ask: Ask) -> Plan:
        """Return the next chunk."""
        return self.plan_all([ask])[0]

    def plan_all(self, asks: Sequence[Ask]) -> list[Plan]:
        """Return the next chunk for each request, all of them sampled in one batch.

        Raises:
            ValueError: an observation of a wrong shape, or with NaN or infinity.
        """
        obs = stack([stack(list(ask.obs)) for ask in asks])
        previous = [self._past(ask) for ask in asks]
        decided = [Decided(ask.executed, ask.pending) for ask in asks]
        chunk = self.policy.plan(PlanRequest(obs, [ask.key for ask in asks], previous, decided))
        return [Plan(trajectory, int(calls)) for trajectory, calls in zip(chunk.trajectory, chunk.calls, strict=True)]

    def _past(self, ask: Ask) -> Past | None:
        if ask.last is None:
            return None
        policy, chunk = self.policy, torch.as_tensor(np.asarray(ask.last), dtype=torch.float32)
        chunk = chunk.to(policy.model.device)
        if not policy.representations.moves:  # else a policy's memory is in units itself
            seen = torch.zeros(1, policy.obs_horizon, policy.obs_dim, device=chunk.device)
            chunk = policy.normalized(chunk[None], seen)[0]
        return Past((chunk,), chunk[:0], (ask.age,))
