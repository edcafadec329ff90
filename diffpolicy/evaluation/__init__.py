"""The one rollout loop, given a policy and environments; metrics and reports."""

from diffpolicy.evaluation.metrics import bootstrap, check_comparable, compare, summarize, wilson
from diffpolicy.evaluation.rollout import EnvConfig, Episode, environment, episode_resets, rollout

__all__ = [
    "EnvConfig",
    "Episode",
    "bootstrap",
    "check_comparable",
    "compare",
    "environment",
    "episode_resets",
    "rollout",
    "summarize",
    "wilson",
]
