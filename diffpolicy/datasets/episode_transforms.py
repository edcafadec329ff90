"""The transforms that a run's config names, and the episodes that come of them."""

from __future__ import annotations

from collections.abc import Sequence

from diffpolicy.config import RunConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource
from diffpolicy.datasets.transforms import EpisodeTransform, StreamedAugmentation
from diffpolicy.util.errors import require


def transforms_of(source: DemonstrationSource, config: RunConfig) -> list[EpisodeTransform]:
    """Return the transforms of `dataset.transforms`, checked against what they are to change."""
    names, found = config.dataset.transforms, []
    require(len(set(names)) == len(names), f"dataset.transforms={names}", "each name once")
    for name in names:
        transform = catalog.transform(name)
        suits = transform.general or name in source.transforms
        says = f"dataset.transforms={names}: {name!r} does not suit dataset.name={config.dataset.name}"
        require(suits, says, f"{', '.join(source.transforms) or 'none'}, or a general one")
        if config.observation.images:
            drawn = source.mode in source.drawn
            kept = transform.keeps_images or drawn
            can = isinstance(transform, StreamedAugmentation) or (kept and not transform.adds)
            says = f"dataset.transforms={names}: {name!r} cannot change images"
            cure = "observe vectors alone, or leave it out"
            if source.drawn and not drawn:
                cure += f", or take observation.mode={source.drawn[0]}"
            require(can, says, cure=cure)
        found.append(transform)
    return found


def transformed(recorded: ReplayBuffer, transforms: Sequence[EpisodeTransform]) -> list[ReplayBuffer]:
    """Return the recording with all relabelings first, then its augmented copies."""
    copies = [recorded]
    for transform in transforms:
        changed = []
        for copy in copies:
            transform.fit(copy)
            changed.append(transform.apply(copy))
        copies = copies + changed if transform.adds else changed
    return copies
