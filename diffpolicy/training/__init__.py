"""The one training loop, given a loss, batches and an `evaluate` callable."""

from diffpolicy.training.loop import NonFiniteLossError, TrainConfig, train

__all__ = ["NonFiniteLossError", "TrainConfig", "train"]
