"""Methods of drawing chunks of actions, one file each."""

from diffpolicy.policies.models.base import ChunkModel, ModelSpec, NetworkModel, Sample
from diffpolicy.policies.models.capabilities import Exportable, Remembers

__all__ = ["ChunkModel", "Exportable", "ModelSpec", "NetworkModel", "Remembers", "Sample"]
