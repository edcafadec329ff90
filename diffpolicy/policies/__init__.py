"""Policies: what a robot calls."""

from diffpolicy.policies.actors import Actor, GenerativeActor
from diffpolicy.policies.agent import Agent, Controller
from diffpolicy.policies.baselines import LSTMGMMActor, NearestActor
from diffpolicy.policies.build import build_actor, load_policy, observed_by
from diffpolicy.policies.execution import Execution
from diffpolicy.policies.observations import stack
from diffpolicy.policies.policy import ActionQueue, Policy

__all__ = [
    "ActionQueue",
    "Actor",
    "Agent",
    "Controller",
    "Execution",
    "GenerativeActor",
    "LSTMGMMActor",
    "NearestActor",
    "Policy",
    "build_actor",
    "load_policy",
    "observed_by",
    "stack",
]
