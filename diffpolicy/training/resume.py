"""May a run continue from a checkpoint: are the settings, the data and the normalizer those that it was made with?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffpolicy.checkpoint import Checkpoint
from diffpolicy.config import RunConfig, changes, load_config, typed
from diffpolicy.training.optim import Schedule
from diffpolicy.util.errors import explain, require

SCHEDULE_ENDS = "schedule_ends"
_ALWAYS_ON = ("skips", "ordered")  # new switches whose True is what earlier releases did; of other new ones, False is
_NEW = "resume with the old ones, or choose a new run_dir (init_from=… begins it with these weights)"


def continued(saved: Checkpoint, record: Any, schedule: Schedule) -> Schedule:
    """Return the schedule with which the run of a checkpoint continues.

    Settings that affect no result may differ. `training.steps` may be larger, see `Schedule`.

    Args:
        saved: the last checkpoint of the run.
        record: the present config.
        schedule: that of a new run with the present config.

    Raises:
        ValueError: settings that affect results have changed, or the data.
    """
    before = saved_config(saved, record)
    if isinstance(record, RunConfig):
        refuse_other_data(saved, before, record)
        record = as_known(before, record)
    extended = schedule  # which has no steps where there is nothing to train
    if schedule.steps:
        extended = schedule.extended(saved.state.get(SCHEDULE_ENDS, [before.training.steps]), saved.step)
    if extended is not None:
        before = replace(before, training=replace(before.training, steps=record.training.steps))
    changed = "; ".join(changes(before, record))
    require(not changed, f"{saved.path} was made with other settings ({changed})", cure=_NEW)
    return extended or schedule


def saved_config(saved: Checkpoint, record: Any) -> Any:
    """Return the config of a checkpoint, of the kind of the present one."""
    return load_config(saved.config) if isinstance(record, RunConfig) else typed(type(record), saved.config)


def refuse_other_tensors(saved: Checkpoint, extras: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError where what is stored beside the weights, such as the normalizer, is not what it was."""
    for group, tensors in extras.items():
        before = saved.tensors(group)
        same = before.keys() == tensors.keys() and all(
            torch.equal(before[name], tensors[name].cpu()) for name in before
        )
        require(same, f"the {group} of {saved.path} is another one, so it was trained on other data", cure=_NEW)


def refuse_other_data(saved: Checkpoint, before: RunConfig, now: RunConfig) -> None:
    """Raise ValueError unless two configs, of a checkpoint and of now, were found to have the same data."""
    old, new = before.found.digest, now.found.digest
    if old is None or new is None:  # before checkpoints had digests, data were known by their path
        paths = [None if path is None else Path(path).resolve() for path in (before.dataset.path, now.dataset.path)]
        says = f"{saved.path} does not know the content of its data, and dataset.path was {before.dataset.path!r}"
        require(paths[0] == paths[1], says, cure=_NEW)
    elif old != new:
        says = f"{saved.path} was trained on other data (digest {old[:12]}…; that of the present data is {new[:12]}…)"
        raise ValueError(explain(says, cure=_NEW))


def as_known(before: RunConfig, now: RunConfig) -> RunConfig:
    """Return `now` without what makes no difference: an encoder of nothing, what an earlier release left out."""
    return replace(
        now,
        method=_known(before.method, now.method),
        net=_known(before.net, now.net) if before.net else {},
        encoder=_known(before.encoder, now.encoder) if now.observation.images else before.encoder,
        text=_text(before, now),
    )


def _text(before: RunConfig, now: RunConfig) -> dict[str, Any]:
    if not (before.found.words or before.found.texts):
        return dict(before.text)
    # Where a pretrained encoder lies may change; which one it is, `found.text` says.
    moved = {"path": before.text["path"]} if "path" in before.text and "path" in now.text else {}
    return {**_known(before.text, now.text), **moved}


def _known(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """`now` without new switches, where their value is what the earlier release did."""
    return {key: value for key, value in now.items() if key in before or value is not (key in _ALWAYS_ON)}
