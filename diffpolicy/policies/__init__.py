"""Policies: from observations to chunks of actions."""

from diffpolicy.policies.agent import Agent
from diffpolicy.policies.autoreset import EpisodeStarts
from diffpolicy.policies.controller import Controller
from diffpolicy.policies.io import build_model, build_policy, load_policy
from diffpolicy.policies.models import ChunkModel, ModelSpec, Sample
from diffpolicy.policies.policy import Chunk, PlanRequest, Policy

__all__ = [
    "Agent",
    "Chunk",
    "ChunkModel",
    "Controller",
    "EpisodeStarts",
    "ModelSpec",
    "PlanRequest",
    "Policy",
    "Sample",
    "build_model",
    "build_policy",
    "load_policy",
]
