"""The config of a training run, which is also that of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffpolicy.config.schema import MISSING, any_key, free, path_to
from diffpolicy.config.sections import (
    DatasetConfig,
    EnvConfig,
    FoundInData,
    ImageConfig,
    ObservationConfig,
    PolicyConfig,
    TrainConfig,
)


@dataclass
class RunConfig:
    """Everything a training run is made of.

    Args:
        run_dir: folder of the run: checkpoints, metrics, pictures.
        seed: of the weights, the batches and the noise.
        resume: continue from the last checkpoint of `run_dir`, or begin if there is none.
        init_from: a checkpoint whose weights and normalizer a new run begins with.
        device: "auto", "cpu", "cuda", ….
        speed: precision and compilation, see `diffpolicy.training.precision`; "auto" measures.
        max_minutes: stop after so long; resuming continues.
        data_root: folder of the downloaded data sets; None is $DIFFPOLICY_DATA, or the user's cache.
        evaluation_episodes: validation rollouts, from seed 10000.
        evaluation_workers: processes that roll out; None chooses by the machine, 0 is this process.
        observation: what the policy observes.
        dataset: which demonstrations.
        env: in which environment the policy is evaluated while it trains.
        policy: horizons.
        method: the generative method, {"name": …, options}, see configs/method.
        net: the network, {"name": …, options}, see configs/net.
        encoder: the image encoder, {"name": …, options}, see configs/encoder.
        text: the encoder of texts, {"name": …, options}, see configs/text.
        images: for generation of images.
        training: the training loop.
        found: what training found in its data; not to be set.
        version: of this schema.
    """

    run_dir: str = path_to(MISSING, affects_result=False)
    seed: int = 0
    resume: bool = free(False)
    init_from: str | None = path_to(None)
    device: str = free("auto")
    speed: str = free("auto")
    max_minutes: float | None = free(None)
    data_root: str | None = path_to(None, affects_result=False)
    evaluation_episodes: int = free(50)
    evaluation_workers: int | None = free(None)
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    method: dict[str, Any] = any_key(("path", "solver_options"))
    net: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    images: ImageConfig = field(default_factory=ImageConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    found: FoundInData = free(default_factory=FoundInData)
    version: int = free(4)
