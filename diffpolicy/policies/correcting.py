"""Actions as they are carried out, where a model looks at every step; see `models.capabilities.Corrects`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffpolicy.datasets.spec import Observation
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.policies.policy import Policy


@torch.no_grad()
def corrected(policy: Policy, obs: Observation, planned: Sequence[tuple[int, np.ndarray]]) -> Sequence[np.ndarray]:
    """Return the actions (A,) of B episodes as they are to be carried out now.

    Args:
        policy: whose chunks they are of; few change anything.
        obs: what is observed now, (B, D) or a mapping.
        planned: for each episode how many steps ago its chunk was asked for, below 0 for an action of no chunk, and
            the action.
    """
    if not isinstance(policy.model, Corrects):
        return [action for _, action in planned]
    vector, _ = policy.observation.split(obs, None)
    seen = torch.from_numpy(vector).to(policy.model.device)
    shown = policy.normalizer.apply(policy.representations.apply({"obs": seen}))["obs"][:, 0]
    actions = torch.from_numpy(np.stack([one for _, one in planned]).astype(np.float32))[:, None].to(seen.device)
    places = torch.tensor([max(step, 0) + policy.obs_horizon - 1 for step, _ in planned], device=seen.device)
    found = policy.model.corrected(shown, policy.normalized(actions, seen)[:, 0], places)
    found = policy.in_units(found[:, None], seen)[:, 0].cpu().numpy()
    return [old if step < 0 else new for (step, old), new in zip(planned, found, strict=True)]
