"""`comparison.json`: a list of results, one a line, and the paired differences between them.

Results of earlier releases stay as they were written, with the settings' names of their time; `config_of`,
`settings_of` and `modes_of` read all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpolicy.config import RunConfig, load_config, typed
from diffpolicy.config.commands import EvaluateConfig
from diffpolicy.evaluation import compare
from diffpolicy.evaluation.metrics import metric_names
from diffpolicy.util import files

FILE = "comparison.json"
DIGITS = 5  # to which the metrics of episodes are stored

Result = dict[str, Any]
"""An entry of the file; "row" is its name."""


def read_results(folder: Path) -> dict[str, Result]:
    """Return the results in `folder`/comparison.json by name, none if there is no file.

    Raises:
        ValueError: the file is no list of results.
    """
    file = folder / FILE
    if not file.exists():
        return {}
    try:
        return {result["row"]: result for result in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no list of results ({error}); restore it or move it away") from None


def config_of(result: Result) -> RunConfig:
    """Return the config that a result's policy was trained with."""
    return _config(json.dumps(result["config"]))


@functools.lru_cache
def _config(text: str) -> RunConfig:
    return load_config(json.loads(text))


def settings_of(result: Result) -> EvaluateConfig:
    """Return the settings that a result was evaluated with."""
    known = {field.name for field in dataclasses.fields(EvaluateConfig)}
    settings = {name: value for name, value in result["settings"].items() if name in known}
    if modes_of(result) and "modes" not in settings:  # earlier releases recorded the horizon in use
        settings |= {"modes": True, "action_horizon": None}
    return typed(EvaluateConfig, settings)


def modes_of(result: Result) -> dict[str, Any] | None:
    """Return the mode coverage that a result holds, if it measured any: {"all_starts": …, "fixed_start": …}."""
    return result.get("modes") or result.get("ways")


def lock(folder: Path) -> Any:
    """Return a context in which other processes that want to write to `folder` wait."""
    folder.mkdir(parents=True, exist_ok=True)
    return files.lock(folder / f".{FILE}.lock", f"another comparison writes to {folder}", wait=True)


@contextmanager
def changing(folder: Path, planned: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Result]]:
    """Yield the results by name, to be changed; they are written with their differences when the block ends.

    Args:
        folder: where comparison.json is.
        planned: the plan's measurements in order, name -> names of those it is compared with. Other results of the
            file stay, at its end.
    """
    with lock(folder):
        results = read_results(folder)
        yield results
        place = {name: i for i, name in enumerate(planned)}
        ordered = sorted(results.values(), key=lambda result: place.get(result["row"], len(place)))
        for result in ordered:
            result["against"] = list(planned.get(result["row"], result["against"]))
            result["differences"] = _differences(result, results)
        lines = ",\n".join(json.dumps(result) for result in ordered)
        files.write_text(folder / FILE, f"[\n{lines}\n]\n")


def _differences(result: Result, results: Mapping[str, Result]) -> dict[str, Any]:
    """The paired differences to the results it is against; those of unchanged pairs are kept."""
    found, before = {}, result.get("differences", {})
    for name in result["against"]:
        if name in results and _seeds(result) & _seeds(results[name]):  # the other may have to be measured again
            of = [result["episodes"]["sha256"], results[name]["episodes"]["sha256"]]
            kept = before.get(name, {})
            found[name] = kept if kept.get("of") == of else {"of": of, **paired_difference(result, results[name])}
    return found


def _seeds(result: Result) -> set[tuple[bool, int]]:
    """The initial states: whether they are a named set's, and the seeds."""
    if "first_seed" not in result["episodes"]:
        return set()
    first = result["episodes"]["first_seed"]
    named = isinstance(result["settings"]["seeds"], str)
    return {(named, seed) for seed in range(first, first + episode_count(result))}


def paired_difference(first: Result, second: Result) -> dict[str, Any]:
    """Return `evaluation.compare` of two results: differences first - second on the seeds that both have.

    Raises:
        ValueError: they have no seeds in common.
    """
    return compare(_evaluation(first), _evaluation(second))


def _evaluation(result: Result) -> dict[str, Any]:
    """The parts of evaluation.json that `compare` reads."""
    checkpoint = {"config": {"env": result["config"]["env"]}}
    return {"settings": result["settings"], "checkpoint": checkpoint, "episodes": list(episodes_of(result))}


def episodes_of(result: Result) -> Iterator[dict[str, Any]]:
    """Yield the episodes of a result as evaluation.json has them, to `DIGITS` digits."""
    columns = _columns(result)
    for i, values in enumerate(zip(*columns.values(), strict=True)):
        metrics = (value == "1" if isinstance(value, str) else value for value in values)
        yield {"seed": result["episodes"]["first_seed"] + i, **dict(zip(columns, metrics, strict=True))}


def episode_count(result: Result) -> int:
    """Return the number of episodes of a result."""
    return len(next(iter(_columns(result).values())))


def _columns(result: Result) -> dict[str, Sequence[Any]]:
    """What is stored of every episode: a list of numbers, or a string of the digits 0 and 1."""
    return {name: values for name, values in result["episodes"].items() if name not in ("first_seed", "sha256")}


def compact(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return episodes of consecutive seeds as a few lists, with a digest of all that is known of them.

    What is true or false of an episode is a digit of one string.

    Raises:
        ValueError: the seeds are not consecutive.
    """
    seeds = [episode["seed"] for episode in episodes]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"episodes of seeds {seeds[:8]} …; expected consecutive seeds")
    columns = {name: [episode[name] for episode in episodes] for name in metric_names(episodes)}
    return {
        "first_seed": seeds[0],
        **{
            name: "".join("01"[value] for value in values)
            if all(isinstance(value, bool) for value in values)
            else [round(value, DIGITS) for value in values]
            for name, values in columns.items()
        },
        "sha256": digest(episodes),
    }


def digest(content: Any) -> str:
    """Return a digest of plain data; evaluations with the same one have equal episodes to the last bit."""
    return files.sha256(json.dumps(content, sort_keys=True).encode())
