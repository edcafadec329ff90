"""Methods of drawing chunks of actions, one file each."""

from diffpolicy.policies.models.base import ChunkModel, ModelSpec, Sample
from diffpolicy.policies.models.capabilities import Exportable, Remembers
from diffpolicy.policies.models.network import NetworkModel

__all__ = ["ChunkModel", "Exportable", "ModelSpec", "NetworkModel", "Remembers", "Sample"]
