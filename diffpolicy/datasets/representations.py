"""The form in which a network sees what a recording holds, declared by array, and undone when acting.

    dataset.representations.eef_rot=quaternion_xyzw              a rotation, as its 6D representation (`rotations`)
    dataset.representations.action[3:6]=axis_angle               a part of an array: its numbers 3, 4 and 5
    dataset.representations.joint=angle                          angles in [-π, π), as sines and cosines;
                                                                 `angle_positive`: in [0, 2π)
    dataset.representations.action[0:7]=relative:state[0:7]      actions minus the state of now
    dataset.representations.action=delta:state                   each action minus the one before it
    dataset.representations.action[0:6]=relative_pose:axis_angle:eef_pos+eef_rot
                                                                 position and rotation, seen from the pose of now, as
                                                                 in UMI (Chi et al. 2024); what kind of rotation
                                                                 `eef_rot` holds is declared for itself
    dataset.representations.action=frame:desired_goal            points x, y, … of a plane, observed ones or actions,
                                                                 in a frame whose origin is the mean of other
                                                                 observed points, and whose x-axis runs from the
                                                                 first of these to the second

"Now" is the last observation of a window, and when acting the one that a chunk is planned from. Actions before now
that belong to a `delta` are minus the state of their own step. States have to be observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from diffpolicy.config import DatasetConfig
from diffpolicy.datasets import rotations
from diffpolicy.datasets.representation_parts import (
    Angle,
    Delta,
    Frame,
    Part,
    Plain,
    Relative,
    RelativePose,
    Rotation,
)
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.datasets.transforms import ActingTransform, Batch
from diffpolicy.util.errors import require
from diffpolicy.util.names import check, sliced

ANGLES = ("angle", "angle_positive")
MOVING = ("relative", "relative_pose", "delta")
FRAME = "frame"
OF_OTHERS = (*MOVING, FRAME)
NAMES = (*rotations.KINDS, *ANGLES, *OF_OTHERS)
"""What an array, or a part of one, can be declared to hold."""


class _Array(NamedTuple):
    """Where an array lies among the joined numbers."""

    first: int
    size: int


@final
class Representations(ActingTransform):
    """Observations and actions in the form that a network sees, part by part; the rest as it is.

    Args:
        declared: array or part of one -> what it holds, see `NAMES`.
        vectors: array -> its numbers per frame, in the order in which they make up an observation.
        action_key: the array of actions.
        action_dim: its numbers per frame.

    Raises:
        ValueError: unknown arrays or forms, sizes that do not fit, parts that overlap, or states that are not
            observed.
    """

    def __init__(
        self, declared: Mapping[str, str], vectors: Mapping[str, int], action_key: str, action_dim: int
    ) -> None:
        self.declared, self.recorded_action_dim, self.action_key = dict(declared), action_dim, action_key
        self._vectors: dict[str, _Array] = {}
        for key, size in vectors.items():
            self._vectors[key] = _Array(sum(array.size for array in self._vectors.values()), size)
        groups = {"obs": self._vectors, "action": {action_key: _Array(0, action_dim)}}
        for name in declared:
            check("array of dataset.representations", sliced(name)[0], [*vectors, action_key])
        self._parts = {group: self._layout(group, arrays) for group, arrays in groups.items()}

    @classmethod
    def of(cls, data: DatasetConfig, observation: ObservationSpec, action_dim: int) -> Representations:
        """Return what a run's config declares.

        Args:
            data: the config's section.
            observation: what is observed, with known shapes where anything is declared.
            action_dim: numbers per action, as recorded.

        Raises:
            ValueError: see the class.
        """
        sizes = {key: field.size for key, field in observation.vectors.items()}
        known = {key: size for key, size in sizes.items() if size is not None}
        if len(known) < len(sizes):  # a checkpoint of version 1, which has no representations
            known = {"obs": observation.vector_dim}
        return cls(data.representations, known, data.action_key, action_dim)

    @property
    def moves(self) -> bool:
        """Whether actions depend on the observation of now."""
        return any(part.moves for _, part in self._parts["action"])

    @property
    def chains(self) -> bool:
        """Whether actions depend on the ones before them."""
        return any(isinstance(part, Delta) for _, part in self._parts["action"])

    def dim(self, group: str) -> int:
        """Return the numbers of "obs" or "action" that the network sees."""
        return sum(part.width for _, part in self._parts[group])

    def labels(self, group: str) -> list[str]:
        """Return a name for each of these numbers."""
        return [label for _, part in self._parts[group] for label in part.labels()]

    def observations(self, obs: Tensor) -> Tensor:
        """Return observations (B, T_o, D) as the network sees them."""
        return self._map("obs", obs, obs)

    def observations_back(self, obs: Tensor) -> Tensor:
        """Return what `observations` was given, up to rounding and equal rotations."""
        return self._map("obs", obs, obs, undo=0)

    def actions(self, actions: Tensor, obs: Tensor) -> Tensor:
        """Return actions (B, T, A) as the network sees them, beside recorded observations (B, T_o, D)."""
        return self._map("action", actions, obs)

    def actions_back(self, actions: Tensor, obs: Tensor, start: int = 0) -> Tensor:
        """Return what `actions` was given.

        Args:
            actions: as the network sees them, (B, T, width).
            obs: recorded observations (B, T_o, D), the last of which is that of now.
            start: the step of the window that the first action belongs to; at most T_o - 1, which is now.
        """
        return self._map("action", actions, obs, undo=start)

    def apply(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch of recorded windows as the network sees it; see `ActingTransform.apply`."""
        changed, obs = dict(batch), batch.get("obs")
        if "action" in batch:
            changed["action"] = self._map("action", batch["action"], obs)
        return changed if obs is None else {**changed, "obs": self._map("obs", obs, obs)}

    def undo(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `apply` was given, up to rounding and equal rotations."""
        changed, obs = dict(batch), batch.get("obs")
        if obs is not None:
            changed["obs"] = obs = self.observations_back(obs)
        if "action" in batch:
            changed["action"] = self._map("action", batch["action"], obs, undo=0)
        return changed

    def wrong(self, group: str, x: Tensor) -> tuple[int, str, str] | None:
        """Return a frame of recorded x (N, D) that is not what was declared, the declaration, and what it expects."""
        for where, part in self._parts[group]:
            found = part.wrong(x[:, where])
            if found.any():
                return int(found.nonzero()[0]), f"{part.name}={self.declared[part.name]}", part.expects
        return None

    def _map(self, group: str, x: Tensor, obs: Tensor | None, undo: int | None = None) -> Tensor:
        parts = self._parts[group]
        if all(isinstance(part, Plain) for _, part in parts):
            return x
        obs = x if obs is None else obs  # where none is given, no part of it is read
        if undo is None:
            return torch.cat([part.apply(x[..., where], obs) for where, part in parts], -1)
        pieces = [
            y if isinstance(part, Frame) else part.undo(y, obs, undo)
            for y, (_, part) in zip(x.split([part.width for _, part in parts], -1), parts, strict=True)
        ]
        if group == "obs":
            obs = torch.cat(pieces, -1)  # in which what frames are seen from is as it was recorded
        return torch.cat(
            [
                part.undo(y, obs, undo) if isinstance(part, Frame) else y
                for y, (_, part) in zip(pieces, parts, strict=True)
            ],
            -1,
        )

    def _layout(self, group: str, arrays: Mapping[str, _Array]) -> list[tuple[slice, Part]]:
        """The parts of all arrays of a group in order, each with its place among the joined numbers."""
        layout: list[tuple[slice, Part]] = []
        for key, (first, size) in arrays.items():
            named = [(sliced(name)[1] or slice(0, size), name) for name in self.declared if sliced(name)[0] == key]
            at = 0
            for part, name in sorted(named, key=lambda one: one[0].start):
                says = f"dataset.representations.{name}={self.declared[name]}"
                require(part.stop <= size, says, f"a part of the {size} numbers of {key!r}")
                require(part.start >= at, says, f"parts of {key!r} that do not overlap, of {[n for _, n in named]}")
                if group == "obs" and key == self.action_key and self.declared[name].split(":")[0] in MOVING:
                    continue  # of an array that is both, the actions alone are relative
                if part.start > at:
                    layout.append((slice(first + at, first + part.start), Plain(key, at, part.start - at)))
                made = self._made(group, name, part.stop - part.start, says)
                layout.append((slice(first + part.start, first + part.stop), made))
                at = part.stop
            if at < size:
                layout.append((slice(first + at, first + size), Plain(key, at, size - at)))
        return layout

    def _made(self, group: str, name: str, size: int, says: str) -> Part:
        form, *given = self.declared[name].split(":", 1)
        check(f"dataset.representations.{name}", form, NAMES)
        require(bool(given) == (form in OF_OTHERS), says, *_USAGE[form in OF_OTHERS])
        if form in rotations.KINDS:
            needed = rotations.KINDS[form]
            require(size == needed, f"{says}, of {size} numbers", f"{needed}", f"name a part, as {name}[0:{needed}]")
            return Rotation(name, form)
        if form in ANGLES:
            return Angle(name, size, form == "angle_positive")
        if form == FRAME:
            return self._frame(name, size, given[0], says)
        require(group == "action", says, f"actions ({self.action_key!r}), which alone can be relative")
        if form == "relative_pose":
            return self._pose(name, size, given[0], says)
        state = self._state(given[0], says)
        found = state.stop - state.start
        require(found == size, f"{says}: {given[0]} has {found} numbers, the actions {size}", "as many", "name parts")
        return Delta(name, state) if form == "delta" else Relative(name, state)

    def _frame(self, name: str, size: int, given: str, says: str) -> Part:
        points = self._state(given, says)
        count = points.stop - points.start
        require(size % 2 == 0, f"{says}, of {size} numbers", "points, x and y of each", "name a part")
        require(count >= 4 and count % 2 == 0, f"{says}: {given} of {count} numbers", "x and y of two points or more")
        for other in self.declared:
            key, part = sliced(other)
            if key not in self._vectors:
                continue
            first, whole = self._vectors[key]
            part = part or slice(0, whole)
            apart = first + part.stop <= points.start or points.stop <= first + part.start
            cure = "declare other numbers, or take other points"
            require(apart, f"{says} and dataset.representations.{other}", f"{given} as it is recorded", cure)
        return Frame(name, size, points)

    def _pose(self, name: str, size: int, given: str, says: str) -> Part:
        kind, _, states = given.partition(":")
        check(f"rotation of dataset.representations.{name}", kind, rotations.KINDS)
        of_now = states.split("+")
        require(len(of_now) == 2, says, "POSITION+ROTATION, two observed arrays, as in eef_pos+eef_rot")
        position, rotation = (self._state(state, says) for state in of_now)
        needed = 3 + rotations.KINDS[kind]
        require(size == needed, f"{says}, of {size} numbers", f"{needed}: 3 of the position, then the rotation")
        require(position.stop - position.start == 3, f"{says}: the position {of_now[0]}", "3 numbers")
        declared = self.declared.get(of_now[1], "")
        expected = "to know what kind of rotation it holds"
        cure = f"declare dataset.representations.{of_now[1]}=quaternion_xyzw, or what it is"
        require(declared in rotations.KINDS, f"{says}: {of_now[1]} is {declared or 'undeclared'}", expected, cure)
        return RelativePose(name, kind, position, rotation, declared)

    def _state(self, name: str, says: str) -> slice:
        """Where an observed array, or a part of one, lies in an observation."""
        key, part = sliced(name)
        seen: Sequence[str] = list(self._vectors)
        given, cure = f"{says}: {key!r} is not among the observed vectors", "name it in observation.vectors"
        require(key in seen, given, f"one of {seen}", cure)
        first, size = self._vectors[key]
        part = part or slice(0, size)
        require(part.stop <= size, f"{says}: {name}", f"a part of the {size} numbers of {key!r}")
        return slice(first + part.start, first + part.stop)


_USAGE = {
    True: (
        "what it is seen from",
        "write relative:STATE, delta:STATE, relative_pose:KIND:POSITION+ROTATION or frame:POINTS",
    ),
    False: ("a form alone", "leave out what follows the colon"),
}
