"""The plan of a comparison: which policies are trained, on what, and how each of them is evaluated.

A *run* is a training on so many demonstrations with a seed, and a *row* of the table is a run's evaluation:

    flow_206_s0          the training "flow" on the demonstrations called "206", with seed 0
    flow_206_s0/fresh    this run, evaluated as the plan's evaluation "fresh" says
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from diffpolicy.evaluation import TaskSpec, episode_resets, is_same_task, make_env
from diffpolicy.policies import Execution, build_actor
from diffpolicy.policies.execution import Executor
from diffpolicy.scripts import evaluate, measure_ways, train
from diffpolicy.scripts._hydra import compose
from diffpolicy.training.loop import config_changes
from diffpolicy.util.names import suggest

COMMANDS = {"evaluate": evaluate.Config, "measure_ways": measure_ways.Config}
# Settings of these two that change no result, or that the comparison gives itself.
OURS = ("checkpoint", "out", "envs", "workers", "device", "videos", "compare_to", "overwrite")
_OF_A_RUN = ("run_dir", "seed", "dataset.episodes", "resume", "max_minutes", "data_root", "evaluation_workers")


@dataclass
class TrainingPlan:
    """A training, and what is measured of it.

    settings: of `diffpolicy-train`.
    demonstrations, seeds: it is run on each of these with each of those.
    evaluations: of every run. more: of the first one alone, on the first demonstrations with the first seed.
    against: trainings that its runs are compared with, on the same demonstrations, seeds and evaluations.
    """

    settings: list[str] = field(default_factory=list)
    demonstrations: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    evaluations: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)


@dataclass
class EvaluationPlan:
    """An evaluation of runs.

    settings: of the command.
    command: "evaluate" or "measure_ways", for `diffpolicy-evaluate` and `diffpolicy-measure-ways`.
    against: evaluations of the same run that it is compared with.
    """

    settings: list[str] = field(default_factory=list)
    command: str = "evaluate"
    against: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What is to be compared.

    demonstrations: name -> how many are trained on (dataset.episodes); null is all that are not held out.
    fan: runs whose chunks are drawn in one state; the first one chooses it.
    """

    demonstrations: dict[str, int | None] = field(default_factory=dict)
    trainings: dict[str, TrainingPlan] = field(default_factory=dict)
    evaluations: dict[str, EvaluationPlan] = field(default_factory=dict)
    fan: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A training on so many demonstrations with a seed; `settings` are those of `diffpolicy-train`."""

    training: str
    demonstrations: str
    seed: int
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.training}_{self.demonstrations}_s{self.seed}"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What `diffpolicy-train` makes of the settings."""
        composed = compose("train", train.Config, [*self.settings, "run_dir=RUN"])
        return dataclasses.asdict(composed)


@dataclass(frozen=True)
class Row:
    """A run's evaluation. `settings` are those of the command; `against`, names of rows to compare with."""

    run: Run
    evaluation: str
    command: str
    settings: tuple[str, ...]
    against: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.run.name}/{self.evaluation}"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What the command makes of the settings."""
        composed = compose(self.command, COMMANDS[self.command], [*self.settings, "checkpoint=C", "out=OUT"])
        return {key: value for key, value in dataclasses.asdict(composed).items() if key not in OURS}


def load_plan(path: str) -> Plan:
    """A plan from a yaml of one's own.

    Raises:
        OSError, OmegaConfBaseException: no such file, or keys and values that a plan does not have.
    """
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path)))


def rows_of(plan: Plan) -> dict[str, Row]:
    """All rows by name: every run's with the first seed, then the second …, so that a part is a comparison too.

    Raises:
        ValueError: names that the plan does not have, settings that are the plan's own, two rows of one name.
    """
    for name in (*plan.trainings, *plan.demonstrations, *plan.evaluations):
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"names in a plan are made of letters, digits and _; given {name!r}")
    for name, evaluation in plan.evaluations.items():
        where = f"evaluation {name!r}"
        _check_known(f"{where}: command", [evaluation.command], COMMANDS)
        _check_known(f"{where}: against", evaluation.against, plan.evaluations)
        _check_own(where, evaluation.settings, OURS)
        if evaluation.against and evaluation.command != "evaluate":
            raise ValueError(f"{where}: measurements of ways have no paired difference; leave `against` out")
    rows, found = [], {}
    for name, training in plan.trainings.items():
        where = f"training {name!r}"
        _check_known(f"{where}: demonstrations", training.demonstrations, plan.demonstrations)
        _check_known(f"{where}: evaluations", [*training.evaluations, *training.more], plan.evaluations)
        _check_known(f"{where}: against", training.against, plan.trainings)
        _check_own(where, training.settings, _OF_A_RUN)
        for i, demonstrations in enumerate(training.demonstrations):
            for j, seed in enumerate(training.seeds):
                own = [*training.evaluations, *(training.more if i == j == 0 else ())]
                rows += [((j, i), row) for row in _rows(plan, name, demonstrations, seed, own)]
    for _, row in sorted(rows, key=lambda found: found[0]):  # the plan's order otherwise
        if row.name in found:
            raise ValueError(f"the plan has two rows {row.name}; name each training, seed and evaluation once")
        found[row.name] = row
    _check_known("fan", plan.fan, {row.run.name for row in found.values()})
    return found


def _rows(plan: Plan, name: str, demonstrations: str, seed: int, evaluations: Sequence[str]) -> Iterable[Row]:
    training, episodes = plan.trainings[name], plan.demonstrations[demonstrations]
    settings = [*training.settings, *(() if episodes is None else (f"dataset.episodes={episodes}",)), f"seed={seed}"]
    run = Run(name, demonstrations, seed, tuple(settings))
    for key in evaluations:
        evaluation = plan.evaluations[key]
        against = [f"{run.name}/{other}" for other in evaluation.against]
        if evaluation.command == "evaluate":
            against += [f"{other}_{demonstrations}_s{seed}/{key}" for other in training.against]
        yield Row(run, key, evaluation.command, tuple(evaluation.settings), tuple(against))


def select(rows: Mapping[str, Row], patterns: Sequence[str]) -> dict[str, Row]:
    """The rows whose name, or whose run's name, a pattern such as `flow_*` fits; all of them without patterns.

    Raises:
        ValueError: a pattern that fits none, with the near ones.
    """
    chosen: set[str] = set()
    names = {*rows, *(row.run.name for row in rows.values())}
    for pattern in patterns:
        fits = fnmatch.filter(names, pattern)
        if not fits:
            raise ValueError(f"no run or row is called {pattern!r}{suggest(pattern, names)}; dry=true lists them all")
        chosen |= {name for name, row in rows.items() if name in fits or row.run.name in fits}
    return {name: row for name, row in rows.items() if name in chosen or not patterns}


def check(rows: Iterable[Row], every: Mapping[str, Row]) -> None:
    """That training and evaluating these will not be refused, as far as can be told before training.

    Args:
        every: all rows of the plan, with some of which these are compared.

    Raises:
        ValueError: settings that the commands, the environment or the policy refuse; says of which row.
    """
    actors: dict[str, Any] = {}
    for row in rows:
        try:
            trained, settings = row.run.config, row.config
            _check_environment(trained["env"], row.command)
            seeds = _seeds(row)
            for other in (every[name] for name in row.against if name in every):
                if not seeds & _seeds(other) or not is_same_task(trained["env"], other.run.config["env"]):
                    raise ValueError(f"{other.name}, which it is compared with, has other initial states")
            if row.run.name not in actors:
                config = {**trained, "encoder": {}, "windows": 1000}
                actors[row.run.name] = build_actor(config, obs_dim=2, action_dim=2, begins=True)
            actor = copy.deepcopy(actors[row.run.name])
            if row.command == "evaluate":
                options = settings["solver_options"] or None
                actor.configure(settings["solver"], settings["steps"], settings["grid"], options)
            horizons = trained["policy"]
            t_a = settings["action_horizon"] or horizons["action_horizon"]
            Executor(
                Execution(**settings["execution"]), actor.takes, horizons["obs_horizon"], horizons["horizon"], t_a
            )
        except ValueError as error:
            raise ValueError(f"{row.name}: {error}") from error


def _seeds(row: Row) -> set[tuple[bool, int]]:
    """The initial states of a row: whether they are the paper's, and the seed."""
    seeds = row.config["seeds"]
    with closing(make_env(row.run.config["env"]["id"])()) as env:
        resets = episode_resets(seeds, row.config["episodes"], TaskSpec.of(env))
    return {(seeds == "paper", how.seed) for how in resets}


def _check_environment(env: Mapping[str, Any], command: str) -> None:
    if env["id"] is None:
        raise ValueError("its task has no environment (env.id=null): there is nothing to evaluate it in")
    with closing(make_env(env["id"], env["options"])()) as made:
        modes = TaskSpec.of(made).modes
    if command == "measure_ways" and not modes:
        raise ValueError(f"{env['id']} has no known ways; take command: evaluate")


def training_changes(recorded: Mapping[str, Any], run: Run) -> list[str]:
    """Where a checkpoint's config differs from the plan's, a line for each setting.

    A setting that an earlier release did not record is taken to have had its default; sections that only one of the
    two has (`cameras`, a network that the method does without) follow from the others.
    """
    before, now = _filled(dataclasses.asdict(train.Config()), recorded), run.config
    shared = recorded.keys() & now.keys()
    cameras = {"cameras": recorded.get("cameras")}
    return config_changes(*({key: config[key] for key in shared} | cameras for config in (before, now)))


def evaluation_changes(recorded: Mapping[str, Any], row: Row) -> list[str]:
    """As `training_changes`, of an evaluation's settings."""
    before, now = _filled(dataclasses.asdict(COMMANDS[row.command]()), recorded), row.config
    if row.command == "measure_ways" and now["action_horizon"] is None:
        before["action_horizon"] = None  # the one that was used stands there
    return config_changes({key: before[key] for key in now}, now)


def _filled(defaults: Any, recorded: Any) -> Any:
    if not (isinstance(defaults, dict) and isinstance(recorded, Mapping)):
        return recorded
    return {**defaults, **{key: _filled(defaults.get(key), value) for key, value in recorded.items()}}


def _check_known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: unknown {name!r}{suggest(name, known)}; the plan has {sorted(known)}")


def _check_own(where: str, settings: Sequence[str], own: Sequence[str]) -> None:
    for setting in settings:
        if setting.partition("=")[0] in own:
            raise ValueError(f"{where}: {setting} is not the plan's to say; the comparison sets {', '.join(own)}")
