"""The one training loop, given a model, batches and a callable that evaluates."""

from diffpolicy.config import TrainConfig
from diffpolicy.training.learner import LossModel
from diffpolicy.training.loop import train
from diffpolicy.training.run import NonFiniteLossError

__all__ = ["LossModel", "NonFiniteLossError", "TrainConfig", "train"]
