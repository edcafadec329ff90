"""What a policy observes, by key. Data set, environment, policy and checks all read this one description."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from gymnasium import spaces

from diffpolicy.datasets.observation_checks import (
    check_array,
    check_entries,
    check_finite,
    check_image,
    check_text,
    check_vector,
)
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

KINDS = ("vector", "image", "text", "goal")
"""vector: numbers, flattened per frame. image: (H, W, C) uint8, or uint16 for depth, which has a range. text: a
string. goal: numbers that say what to do."""

Observation = np.ndarray | Mapping[str, np.ndarray]
"""One array of numbers, or a mapping of numbers and images by key, as gymnasium's Dict spaces give it."""


@final
@dataclass(frozen=True)
class Field:
    """One entry of an observation.

    Args:
        kind: one of `KINDS`.
        shape: of one frame, without batch or time; None where it is not known, as in checkpoints of version 1.
        unit: of its numbers, in words, for example "px"; None if not known.
        rate: frames per second; None if not known.
        range: of depth images, (nearest, farthest) in their unit, which networks see as 0 to 1; None for all else.

    Raises:
        ValueError: an unknown kind, or a shape or range that the kind cannot have.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    unit: str | None = None
    rate: float | None = None
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check("kind of observation", self.kind, KINDS)
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
            require(all(size > 0 for size in self.shape), f"a {self.kind} of shape {self.shape}", "positive sizes")
        require(self.rate is None or self.rate > 0, f"a rate of {self.rate}", "frames per second above 0, or None")
        if self.kind == "image":
            require(
                self.shape and len(self.shape) == 3, f"an image of shape {self.shape}", "(height, width, channels)"
            )
        if self.range is not None:
            object.__setattr__(self, "range", tuple(float(end) for end in self.range))
            fits = len(self.range) == 2 and 0 <= self.range[0] < self.range[1] and self.kind == "image"
            require(fits, f"a {self.kind} of range {self.range}", "a depth image, and (nearest, farthest)")
            require(self.shape and self.shape[2] == 1, f"a depth image of shape {self.shape}", "one channel")

    @property
    def dtype(self) -> np.dtype:
        """The dtype of images."""
        return np.dtype(np.uint8 if self.range is None else np.uint16)

    @property
    def size(self) -> int | None:
        """Numbers per frame; None if the shape is not known."""
        return None if self.shape is None else math.prod(self.shape)


@final
class ObservationSpec(Mapping[str, Field]):
    """An ordered mapping of keys to fields.

    The vectors, flattened and joined in this order, make up the D numbers of an observation.

    Args:
        fields: key -> field.
        vector_dim: D; None sums the sizes of the vectors.

    Raises:
        ValueError: `vector_dim` is neither given nor follows from the shapes, or contradicts them.
    """

    def __init__(self, fields: Mapping[str, Field], vector_dim: int | None = None) -> None:
        self._fields = dict(fields)
        sizes = [field.size for field in self.vectors.values()]
        known = sum(size for size in sizes if size is not None)
        if vector_dim is None:
            require(None not in sizes, f"vectors {list(self.vectors)} of unknown shapes", "vector_dim, their numbers")
            vector_dim = known
        fits = vector_dim >= known if None in sizes else vector_dim == known
        require(fits, f"vector_dim={vector_dim}", f"{known}, the sizes of {list(self.vectors)} together")
        self.vector_dim = vector_dim

    def __getitem__(self, key: str) -> Field:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        """Compare fields and their order, on which the joined vector depends."""
        return isinstance(other, ObservationSpec) and list(self.items()) == list(other.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ObservationSpec({self._fields})"

    def _of_kind(self, kind: str) -> dict[str, Field]:
        return {key: field for key, field in self._fields.items() if field.kind == kind}

    @property
    def vectors(self) -> dict[str, Field]:
        """The vectors, in the order in which they are joined."""
        return self._of_kind("vector")

    @property
    def images(self) -> dict[str, Field]:
        """The cameras."""
        return self._of_kind("image")

    @property
    def told(self) -> dict[str, Field]:
        """The texts and goals."""
        return {key: field for key, field in self._fields.items() if field.kind in ("text", "goal")}

    def told_in(self, obs: Observation, batch: int, steps: int) -> dict[str, np.ndarray]:
        """Return texts (B,) and goals (B, G) float32 of the newest of T_o observations (B, T_o, …).

        Args:
            obs: as `split` took it.
            batch: B.
            steps: T_o.

        Raises:
            TypeError: a text that is no string.
            ValueError: an entry of another shape.
        """
        assert isinstance(obs, Mapping)  # as `split` demands
        found = {}
        for key, field in self.told.items():
            values = np.asarray(obs[key])
            if field.kind == "text":
                check_text(key, values, (batch, steps))
                found[key] = values[:, -1]
                continue
            check_vector(key, values, field.size, (batch, steps))
            found[key] = values[:, -1].reshape(len(values), -1).astype(np.float32)
        return found

    def to_plain(self) -> dict[str, dict[str, Any]]:
        """Return the spec as mappings, lists, strings and numbers: key -> {kind, shape, unit, rate, range}."""
        plain = {key: {**asdict(field), "shape": _listed(field.shape)} for key, field in self._fields.items()}
        for field in plain.values():
            ends = field.pop("range")
            field |= {} if ends is None else {"range": list(ends)}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Mapping[str, Any]], vector_dim: int | None = None) -> ObservationSpec:
        """Return the spec that `to_plain` wrote.

        Raises:
            ValueError: settings that no field has, or impossible ones.
        """
        known = ("kind", "shape", "unit", "rate", "range")
        for name in (name for field in plain.values() for name in field):
            check("setting of an observation", name, known)
        return cls({key: Field(**field) for key, field in plain.items()}, vector_dim)

    @classmethod
    def of_checkpoint(
        cls, found: Mapping[str, Mapping[str, Any]], vectors: Sequence[str], vector_dim: int
    ) -> ObservationSpec:
        """Return the spec of a checkpoint, whose version 1 names the cameras' shapes alone.

        Args:
            found: `RunConfig.found.observation`.
            vectors: `RunConfig.observation.vectors`.
            vector_dim: D, which the checkpoint's normalizer knows.
        """
        shape = [vector_dim] if len(vectors) == 1 else None
        missing = {key: {"kind": "vector", "shape": shape} for key in vectors if key not in found}
        return cls.from_plain({**missing, **found}, vector_dim)

    def split(self, obs: Observation, steps: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the joined vectors and the images of a batch of observations, checked.

        Args:
            obs: a mapping, which may hold more than is observed; without cameras also the joined vectors alone.
            steps: T_o, the observations on axis 1; None for one moment each, which has no such axis and gets one of
                length 1.

        Returns:
            vector: (B, steps, D) float32.
            images: key -> (B, steps, H, W, C), uint8, or uint16 for depth.

        Raises:
            TypeError: no mapping where there are cameras, or images of another dtype.
            ValueError: an entry that is missing or of another shape, NaN or infinity.
        """
        images: dict[str, np.ndarray] = {}
        if isinstance(obs, Mapping):
            check_entries(obs, [*self.images, *self.vectors, *self.told], self._says())
            leading = _leading(np.asarray(obs[next(iter([*self.images, *self.vectors]))]), steps)
            for key, field in self.images.items():
                values = np.asarray(obs[key])
                check_image(key, values, field.shape or (), leading, field.dtype)
                images[key] = values.reshape(leading[0], steps or 1, *values.shape[len(leading) :])
            parts = []
            for key, field in self.vectors.items():
                values = np.asarray(obs[key])
                check_vector(key, values, field.size, leading)
                parts.append(values.reshape(leading[0], steps or 1, math.prod(values.shape[len(leading) :])))
            nothing = np.zeros((leading[0], steps or 1, 0), np.float32)
            joined = np.concatenate(parts, axis=2) if parts else nothing
            says = f"the vectors {', '.join(map(repr, self.vectors))} together have {joined.shape[2]} numbers"
            require(joined.shape[2] == self.vector_dim, says, str(self.vector_dim))
        else:
            joined = np.asarray(obs)
            given = f"obs is {type(obs).__name__} of shape {joined.shape}"
            require(not (self.images or self.told), given, f"a mapping with {self._says()}", error=TypeError)
            check_array(joined, (self.vector_dim,) if steps is None else (steps, self.vector_dim))
            joined = joined.reshape(len(joined), steps or 1, self.vector_dim)
        joined = joined.astype(np.float32)
        check_finite(joined)
        return joined, images

    def _says(self) -> str:
        """What is observed, in words."""
        parts = [f"{field.kind} {key!r} {field.shape or ''}".rstrip() for key, field in self._fields.items()]
        return ", ".join(parts)

    def check_space(
        self,
        space: spaces.Space,
        action_space: spaces.Space | None = None,
        action_dim: int | None = None,
        env: str = "the environment",
        whose: str = "the demonstrations have",
        cure: str = "let observation and env.kwargs agree, or take env.id=null",
    ) -> None:
        """Raise ValueError unless an environment shows and takes what the demonstrations or a policy do.

        Args:
            space: its observation space.
            action_space: its action space.
            action_dim: numbers per action.
            env: what the message calls the environment.
            whose: who has these observations and actions, in the words of the message.
            cure: what the message advises.
        """
        if isinstance(space, spaces.Dict):
            shown: Any = {key: "text" if _is_text(part) else part.shape for key, part in space.items()}
            sizes = [math.prod(shown[key]) for key in self.vectors if key in shown and shown[key] is not None]
            fits = len(sizes) == len(self.vectors) and sum(sizes) == self.vector_dim
            fits = fits and all(shown.get(key) == field.shape for key, field in self.images.items())
            fits = fits and all(_is_told(space, key, field) for key, field in self.told.items())
        else:
            shown = space.shape
            fits = not (self.images or self.told) and shown == (self.vector_dim,)
        expected = self._says() if self.images or self.told or len(self.vectors) > 1 else f"({self.vector_dim},)"
        require(fits, f"{env} shows {shown}", f"{expected}, as {whose}", cure)
        for key in self.images:
            dtype, wanted = space[key].dtype, self._fields[key].dtype
            says = "uint8 images, 0 to 255" if wanted == np.uint8 else "depth in uint16"
            require(dtype == wanted, f"{env} shows {key!r} as {dtype}", says, cure)
        if action_space is not None and action_dim is not None:
            given = f"{env} takes actions {action_space.shape}"
            require(action_space.shape == (action_dim,), given, f"({action_dim},), as {whose}", cure)


def stack(observations: Iterable[Observation]) -> Observation:
    """Return observations of one kind along a new first axis, copied."""
    observations = list(observations)
    if len(observations) == 1:  # one environment: np.stack would take longer than all else around a step
        (only,) = observations
        return {key: np.array(only[key])[None] for key in only} if isinstance(only, Mapping) else np.array(only)[None]
    if isinstance(observations[0], Mapping):
        return {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return np.stack(observations)


def _leading(first: np.ndarray, steps: int | None) -> tuple[int, ...]:
    """The sizes of the batch axis and, with `steps`, of the time axis, which all entries share."""
    count = len(first) if first.ndim else 0
    return (count,) if steps is None else (count, steps)


def _is_text(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Text)


def _is_told(space: spaces.Dict, key: str, field: Field) -> bool:
    """Whether a dict of spaces has a text or a goal."""
    if key not in space.spaces:
        return False
    return _is_text(space[key]) if field.kind == "text" else math.prod(space[key].shape or ()) == field.size


def _listed(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else list(shape)
