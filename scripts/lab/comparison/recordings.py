"""The demonstrations that a comparison makes itself, a recording a task, and what is noted of each.

The note is written once the recording is whole, so that what was interrupted is continued.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison.plan import Recording
from diffpolicy.config import changes, effective, typed
from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.manifest import digest
from diffpolicy.evaluation.recorded import success_rate
from diffpolicy.util import files

_WHERE_AND_HOW = ("out", "workers")  # settings on which no recording depends


def note_of(folder: Path) -> dict[str, Any] | None:
    """Return what is noted of the recording in `folder`; None if it is missing, or not finished."""
    file = _note(folder)
    return json.loads(file.read_text()) if file.exists() and folder.exists() else None


def write_note(folder: Path, recording: Recording, minutes: float | None) -> None:
    """Note that a recording is finished: its settings, digest, minutes, and how often the expert succeeds.

    Args:
        folder: of the recording.
        recording: the plan's.
        minutes: None where they are not known, of a recording that was interrupted.
    """
    buffer = ReplayBuffer.open(folder, ["action"])
    note = {
        "episodes": buffer.n_episodes,
        "expert": success_rate(buffer.meta, buffer.attrs),
        "minutes": minutes,
        "settings": _stored(recording.config),
        "sha256": digest(folder),
    }
    files.write_json(_note(folder), note)


def recording_changes(recorded: Mapping[str, Any] | None, recording: Recording | None) -> list[str]:
    """Return a line for each setting that affects a recording and differs from the plan's.

    Args:
        recorded: what was noted of a recording; None if the comparison made none.
        recording: the plan's, if the comparison makes one.
    """
    if recorded is None or recording is None:
        words = {True: "the comparison's own", False: "others"}
        was, now = words[recorded is not None], words[recording is not None]
        return [] if was == now else [f"demonstrations: were {was}, now {now}"]
    known = {field.name for field in dataclasses.fields(RecordConfig)}
    settings = {name: value for name, value in recorded["settings"].items() if name in known}
    now = recording.config
    before = dataclasses.replace(typed(RecordConfig, settings), **{name: vars(now)[name] for name in _WHERE_AND_HOW})
    return changes(before, now)


def _stored(config: RecordConfig) -> dict[str, Any]:
    return {name: value for name, value in effective(config).items() if name not in _WHERE_AND_HOW}


def _note(folder: Path) -> Path:
    return folder.with_suffix(".json")
