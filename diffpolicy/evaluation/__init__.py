"""The one rollout loop, given a policy and environments; metrics and reports."""

from diffpolicy.evaluation.metrics import bootstrap, check_comparable, compare, is_same_task, summarize, wilson
from diffpolicy.evaluation.rollout import Episode, environment, episode_resets, rollout
from diffpolicy.evaluation.ways import compare_ways, total_variation, way_shares

__all__ = [
    "Episode",
    "bootstrap",
    "check_comparable",
    "compare",
    "compare_ways",
    "environment",
    "episode_resets",
    "is_same_task",
    "rollout",
    "summarize",
    "total_variation",
    "way_shares",
    "wilson",
]
