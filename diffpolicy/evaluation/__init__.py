"""Rolling agents out: the one loop, environments and experts, observers, metrics, reports."""

from diffpolicy.evaluation.adapters import EnvFactory, make_env, policy_env
from diffpolicy.evaluation.contract import BrokenEnvironment
from diffpolicy.evaluation.episode import (
    VALIDATION_EPISODES,
    VALIDATION_SEED,
    Episode,
    Reset,
    Step,
    episode_resets,
    episode_rows,
)
from diffpolicy.evaluation.experts import ExpertAgent, ReplayAgent
from diffpolicy.evaluation.metrics import check_comparable, compare, is_same_task, summarize
from diffpolicy.evaluation.modes import compare_modes, mode_fractions, total_variation
from diffpolicy.evaluation.observers import Observations, Observer, Recorder, Spread, States, Timing, Video
from diffpolicy.evaluation.rollout import rollout, simulate
from diffpolicy.evaluation.shards import INFERENCE_BLOCK
from diffpolicy.evaluation.task import Metric, TaskSpec
from diffpolicy.evaluation.timing import time_chunks

__all__ = [
    "INFERENCE_BLOCK",
    "VALIDATION_EPISODES",
    "VALIDATION_SEED",
    "BrokenEnvironment",
    "EnvFactory",
    "Episode",
    "ExpertAgent",
    "Metric",
    "Observations",
    "Observer",
    "Recorder",
    "ReplayAgent",
    "Reset",
    "Spread",
    "States",
    "Step",
    "TaskSpec",
    "Timing",
    "Video",
    "check_comparable",
    "compare",
    "compare_modes",
    "episode_resets",
    "episode_rows",
    "is_same_task",
    "make_env",
    "mode_fractions",
    "policy_env",
    "rollout",
    "simulate",
    "summarize",
    "time_chunks",
    "total_variation",
]
