"""Typed settings of every command. Importing them imports neither torch nor hydra, so that help is quick."""

from diffpolicy.config.migrate import VERSION, load_config, migrate
from diffpolicy.config.run import RunConfig
from diffpolicy.config.schema import MISSING, changes, effective, free, plain, typed
from diffpolicy.config.sections import (
    LAST,
    DatasetConfig,
    EnvConfig,
    ExecutionConfig,
    FoundInData,
    ImageConfig,
    ObservationConfig,
    PolicyConfig,
    SamplerConfig,
    StreamConfig,
    TrainConfig,
)

__all__ = [
    "LAST",
    "MISSING",
    "VERSION",
    "DatasetConfig",
    "EnvConfig",
    "ExecutionConfig",
    "FoundInData",
    "ImageConfig",
    "ObservationConfig",
    "PolicyConfig",
    "RunConfig",
    "SamplerConfig",
    "StreamConfig",
    "TrainConfig",
    "changes",
    "effective",
    "free",
    "load_config",
    "migrate",
    "plain",
    "typed",
]
