"""From a run's config to batches: which episodes, what is done to them, and their windows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diffpolicy.config import RunConfig, StreamConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.camera_fields import camera_fields
from diffpolicy.datasets.digest import digest_of
from diffpolicy.datasets.episode_transforms import transformed, transforms_of
from diffpolicy.datasets.fitting import fit
from diffpolicy.datasets.image_windows import ImageWindows
from diffpolicy.datasets.load_episodes import choose, horizons_of
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.representations import Representations
from diffpolicy.datasets.samplers import BatchSampler
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.datasets.stream_settings import fitted
from diffpolicy.datasets.streaming import WindowStream, augmented
from diffpolicy.datasets.told import heard, texts_of, with_texts
from diffpolicy.datasets.transforms import Batch, StreamedAugmentation
from diffpolicy.datasets.weights import time_to_success_weights, unweighted
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

BatchAt = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Windows:
    """What a policy is trained on.

    Args:
        train: training windows.
        validation: windows of the episodes held out; None if there are none.
        normalizer: fitted on the training episodes, augmentations included, or the given one.
        representations: what is made of observations and actions before they are normalized.
        spec: what is observed.
        digest: SHA-256 of the training data, see `digest_of`.
        actions: as recorded, an array (L, A) for each training episode, augmentations included.
        streamed: augmentations of half of the windows of every batch, drawn at random, where images stream.
        texts: by key, the texts of the recording, of which a batch has the numbers; "" for those never trained on.
        notes: lines about the numbers, for the person who trains.
        short: how many episodes were left out since they are too short for one window.
    """

    train: WindowDataset | ImageWindows
    validation: WindowDataset | ImageWindows | None
    normalizer: Normalizer
    representations: Representations
    spec: ObservationSpec
    digest: str
    actions: Sequence[np.ndarray]
    streamed: Sequence[StreamedAugmentation] = ()
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    short: int = 0

    def normalized(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch of windows as the network sees it."""
        return self.normalizer.apply(self.representations.apply(batch))


def load_windows(
    config: RunConfig, device: str | torch.device = "cpu", normalizer: Normalizer | None = None
) -> Windows:
    """Select the episodes, transform them, cut them into windows, and fit the normalizer.

    Args:
        config: of a run: its sections `observation`, `dataset` and `policy`.
        device: where windows live whose images do not stream.
        normalizer: that of a checkpoint which is resumed or started from; None fits one.

    Raises:
        ValueError: names, numbers or horizons that do not fit the data.
        OSError: missing data that cannot be downloaded.
    """
    source, data, keys = catalog.open_demonstrations(config), config.dataset, config.observation.vectors
    observed = [*keys, *config.observation.images]
    require(observed, "observation.vectors=[] without observation.images", "vectors or images to observe")
    said = [*config.observation.texts, *config.observation.goals]
    twice = sorted({key for key in said if [*observed, *said].count(key) > 1})
    require(not twice, f"{', '.join(twice)} observed twice", "each key in one of vectors, images, texts and goals")
    recorded, horizons, told = source.recorded(), horizons_of(config), config.observation
    texts = {key: texts_of(recorded, key) for key in told.texts}
    for key in told.goals:
        check("goal in observation.goals", key, recorded.keys())
    chosen, held_out, short = choose(recorded, config)
    transforms = transforms_of(source, config)
    changed = transformed(recorded, transforms)
    copies = [with_texts(source.observed(copy), told.texts) for copy in changed]
    training = [copy.subset(chosen) for copy in copies]

    def windows(part: ReplayBuffer, weights: Tensor | None = None) -> WindowDataset | ImageWindows:
        images = source.frames(changed[0])
        if images is not None:
            return ImageWindows(part, images, keys, data.action_key, *horizons, weights, [*told.texts, *told.goals])
        return WindowDataset(part, keys, data.action_key, *horizons, device, weights, [*told.texts, *told.goals])

    streams = bool(config.observation.images)
    seen = functools.reduce(ReplayBuffer.joined, training)
    weights = None
    if data.time_to_success is not None:
        raw = recorded.subset(chosen)
        weights = time_to_success_weights(source.progress(raw), raw.episode_lengths, data.time_to_success)
        weights = weights if streams else weights.repeat(len(copies))
    train = windows(training[0] if streams else seen, weights)
    images = train.frames if isinstance(train, ImageWindows) else None
    fields = source.fields(training[0])
    if images is not None:
        fields |= camera_fields(images, recorded.subset(chosen), config.observation.ranges, source.rate_of(recorded))
    spec, notes = ObservationSpec(fields), list[str]()
    represented = Representations.of(data, spec, train.action_dim)
    if normalizer is None:
        normalizer, notes = fit(config, seen, represented)
    return Windows(
        train,
        windows(copies[0].subset(held_out)) if len(held_out) else None,
        normalizer,
        represented,
        spec,
        digest_of(recorded.subset(chosen), None if source.mode in source.drawn else images, texts),
        [seen[data.action_key][part] for part in seen.episode_slices()],
        [one for one in transforms if isinstance(one, StreamedAugmentation)] if streams else (),
        {key: heard(recorded.subset(chosen), key, every) for key, every in texts.items()},
        notes,
        short,
    )


@contextmanager
def open_batches(
    windows: Windows,
    batch_size: int,
    seed: int,
    stream: StreamConfig,
    shard: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
) -> Iterator[BatchAt]:
    """Yield a function from the step number to the training batch, see `BatchSampler` and `WindowStream`.

    Windows in memory are drawn by their weights; windows that stream come once an epoch, each with its "weight".

    Args:
        windows: all windows.
        batch_size: of all processes together.
        seed: of the order.
        stream: how images are read.
        shard: (rank, world): which part of every batch is wanted.
        device: where the windows live, if they live in memory.

    Raises:
        ValueError: sizes that do not fit, or more memory needed than allowed.
    """
    rank, world = shard
    mine = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
    if isinstance(windows.train, ImageWindows):
        with ExitStack() as opened:
            for source in (windows.train, windows.validation):
                if isinstance(source, ImageWindows):
                    opened.enter_context(source)
            stream = fitted(stream, windows.train)
            reading = (stream.pool, stream.run, stream.memory)
            batches = opened.enter_context(WindowStream(windows.train, batch_size, seed, *reading, shard))
            yield functools.partial(augmented, batches, windows.streamed, seed, batch_size, mine)
    else:
        train = windows.train
        sampler = BatchSampler(len(train), batch_size, seed, device, train.window_weights())
        yield lambda step: unweighted(train.batch(sampler[step][mine]))
