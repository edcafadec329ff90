"""The catalog of data sets: names of configs -> sources that open them.

A source holds everything that is known about one data set: where it lies, which arrays it has, what can be observed
of it, in which unit and at which rate. Everything else in this package knows no task. Another package adds sources by
an entry point:

    [project.entry-points."diffpolicy.source"]
    my_data = "my_package.data:MySource"
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from diffpolicy.config import DatasetConfig, ObservationConfig, RunConfig
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.frames import FrameSource
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources import SOURCES, TRANSFORMS
from diffpolicy.datasets.spec import Field
from diffpolicy.datasets.transforms import EpisodeTransform
from diffpolicy.datasets.windows import joined_frames
from diffpolicy.registry import known
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check


class Source(ABC):
    """One data set of the catalog, for the settings of one run.

    Args:
        dataset: the settings of the data set.
        observation: what is observed of it.
        data_root: folder of the downloaded data sets, see `downloads.data_root`.

    Raises:
        ValueError: settings that the data set does not have.
    """

    kind: ClassVar[str]
    """"demonstrations" or "images"."""

    summary: ClassVar[str] = ""
    """What it is, in a line, for the list of the catalog."""

    def __init__(self, dataset: DatasetConfig, observation: ObservationConfig, data_root: str | None = None) -> None:
        self.dataset, self.observation, self.data_root = dataset, observation, data_root


class DemonstrationSource(Source):
    """Recorded episodes of observations and actions."""

    kind = "demonstrations"

    modes: ClassVar[Mapping[str, str]] = {}
    """What can be observed: names for `observation.mode` -> what it is. The first one is the default."""

    transforms: ClassVar[tuple[str, ...]] = ()
    """Names of the transforms that suit this data set, beside general ones."""

    rate: ClassVar[float | None] = None
    """Frames per second; None where the recording's attribute "fps" says it, if anything does."""

    drawn: ClassVar[tuple[str, ...]] = ()
    """Those of `modes` whose images are drawn of the recorded arrays, and follow what transforms do to these."""

    units: ClassVar[Mapping[str, str]] = {}
    """Units of the arrays, by name, beside those that the recording's attribute "units" names."""

    def __init__(self, dataset: DatasetConfig, observation: ObservationConfig, data_root: str | None = None) -> None:
        super().__init__(dataset, observation, data_root)
        self.mode = observation.mode or next(iter(self.modes), None)
        if self.mode is not None:
            says = f"observation.mode={self.mode}"
            cure = "leave it out"
            require(self.modes, says, f"none, which {dataset.name} has", cure)
            check("observation.mode", self.mode, self.modes)

    @abstractmethod
    def recorded(self) -> ReplayBuffer:
        """Return the vectors as they were recorded, without images; transforms change these.

        Raises:
            ValueError: damaged data, or others than the published ones.
            OSError: missing data that cannot be downloaded.
        """

    def observed(self, recorded: ReplayBuffer) -> ReplayBuffer:
        """Return what a policy sees of recorded frames: the arrays of `observation.vectors`, and the actions."""
        return recorded

    def progress(self, recorded: ReplayBuffer) -> Tensor:
        """Return (N, D) numbers that tell how far a frame is from done, for time-to-success weighting."""
        return joined_frames(self.observed(recorded), self.observation.vectors)

    def rate_of(self, recorded: ReplayBuffer) -> float | None:
        """Return the frames per second; None if they are not known."""
        return recorded.attrs.get("fps", self.rate)

    def fields(self, observed: ReplayBuffer) -> dict[str, Field]:
        """Return the fields of the vectors that a policy observes, and of the texts and goals that it is told."""
        units = {**self.units, **observed.attrs.get("units", {})}
        rate = self.rate_of(observed)
        kinds = {"vector": self.observation.vectors, "goal": self.observation.goals}
        found = {
            key: Field(kind, observed[key].shape[1:], units.get(key), rate) for kind in kinds for key in kinds[kind]
        }
        return found | {key: Field("text") for key in self.observation.texts}

    def frames(self, recorded: ReplayBuffer) -> FrameSource | None:
        """Return the images of `observation.images`, or None without any.

        Args:
            recorded: all episodes, relabeled by the transforms; images that are drawn are drawn of these.

        Raises:
            ValueError: images that the data set does not have.
        """
        says = f"observation.images={self.observation.images}"
        require(
            not self.observation.images, says, f"none, which {self.dataset.name} has", "take observation.images=[]"
        )
        return None


class ImageSource(Source):
    """Labeled images, for generation."""

    kind = "images"

    shape: ClassVar[tuple[int, int, int]]
    """(C, H, W)."""

    classes: ClassVar[int]
    """Labels are 0 to classes - 1."""

    texts: ClassVar[tuple[str, ...]] = ()
    """What each label says, for images that are told by words; empty where labels are numbers."""

    @abstractmethod
    def images(self, split: str) -> LabeledImages:
        """Return the images of "train" or "test".

        Raises:
            ValueError: an unknown split, or damaged files.
            OSError: missing files that cannot be downloaded.
        """


def names(kind: str = "source") -> list[str]:
    """Return the names that configs can use, those of installed packages included.

    Args:
        kind: "source" or "transform".
    """
    return list(_targets(kind))


def lookup(name: str) -> type[Source]:
    """Return the class of the source called `name`.

    Raises:
        ValueError: an unknown name, with the close ones, or a package that cannot be imported.
    """
    return _load("source", name, "data set (dataset.name)", Source)


def transform(name: str) -> EpisodeTransform:
    """Return a new transform called `name`, for `dataset.transforms`.

    Raises:
        ValueError: an unknown name, with the close ones, or one that is no change of episodes.
    """
    return _load("transform", name, "transform (dataset.transforms)", EpisodeTransform)()


def open_source(config: RunConfig) -> Source:
    """Return the source that a run's config names, for its settings.

    Raises:
        ValueError: an unknown name, or settings that the data set does not have.
    """
    return lookup(config.dataset.name)(config.dataset, config.observation, config.data_root)


def open_demonstrations(config: RunConfig) -> DemonstrationSource:
    """Return the source that a run's config names, which has to hold demonstrations. Raises as `open_source`."""
    source = open_source(config)
    if isinstance(source, DemonstrationSource):
        return source
    raise ValueError(explain(f"dataset.name={config.dataset.name} holds {source.kind}", "demonstrations"))


def _targets(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Where each name leads to, those of this project first; a package cannot replace these."""
    own = {"source": SOURCES, "transform": TRANSFORMS}[kind]
    ours = {name: importlib.metadata.EntryPoint(name, target, f"diffpolicy.{kind}") for name, target in own.items()}
    return ours | {name: point for name, point in known(kind).items() if name not in ours}


def _load(kind: str, name: str, called: str, base: type[Any]) -> Any:
    targets = _targets(kind)
    check(called, name, targets)
    try:
        found = targets[name].load()
    except (ImportError, AttributeError) as error:
        says = f"{kind} {name!r} ({targets[name].value}) cannot be imported ({error})"
        raise ValueError(explain(says, cure="install the package again")) from error
    fits = isinstance(found, type) and issubclass(found, base)
    require(fits, f"{kind} {name!r} is {found!r}", f"a subclass of {base.__name__}")
    return found
