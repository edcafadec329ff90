"""The plan of a comparison: which policies are trained, on what, and how each of them is evaluated.

A *run* is a training on some demonstrations with a seed, a *measurement* is one evaluation of a run:

    flow_206_s0          the training "flow" on the demonstrations called "206", with seed 0
    flow_206_s0/fresh    this run, evaluated as the plan's evaluation "fresh" says

A plan with tasks compares on a suite: every training is done on every task, push-v3/flow_50_s0.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from diffpolicy.config import RunConfig
from diffpolicy.config.commands import EvaluateConfig, RecordConfig
from diffpolicy.config.compose import compose
from diffpolicy.util import names
from diffpolicy.util.errors import require

GIVEN_TO_TRAINING = ("run_dir", "seed", "dataset.episodes", "resume", "evaluation_workers", "data_root")
GIVEN_TO_EVALUATION = ("checkpoint", "out", "workers", "videos", "compare_to", "overwrite", "env")
GIVEN_TO_RECORDING = ("out", "workers")
"""Settings that the comparison passes itself, so that no plan may; an evaluation's environment is its training's."""
_SHOWN = "env.kwargs"
"""What an estimator is shown, which a plan may set."""


@dataclass
class TrainingPlan:
    """A training, and how its runs are evaluated.

    Args:
        settings: of `diffpolicy train`.
        demonstrations: names of the demonstrations to train on, each with every seed.
        seeds: of training.
        evaluations: names of the evaluations of every run.
        more: names of evaluations of the first run alone, the one on the first demonstrations with the first seed.
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

    Args:
        settings: of `diffpolicy evaluate`.
        against: evaluations of the same run that it is compared with.
        estimator: a training whose run, on the same demonstrations with the same seed, tells what the policy observes
            (`env.estimator`); where the plan has no such run, nothing is evaluated. Settings may then say by
            env.kwargs what the environment shows.
    """

    settings: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    estimator: str | None = None


@dataclass
class Plan:
    """What is compared.

    Args:
        demonstrations: name -> number of demonstrations trained on (dataset.episodes); None is all that are not held
            out.
        trainings: by name.
        evaluations: by name.
        fan: runs whose chunks are drawn in one state, which the first of them chooses.
        tasks: name -> settings of `diffpolicy train`, and of `diffpolicy record` if there is a `recording`, such as
            [env.task=push-v3]. Empty: the trainings name their tasks.
        settings: of `diffpolicy train`, in every training.
        recording: settings of `diffpolicy record`, which makes the demonstrations of every task; None trains on what
            the trainings name.
        runs_dir: where runs are trained and evaluated, and demonstrations recorded.
        results: folder of comparison.json, the page and the plots.
    """

    demonstrations: dict[str, int | None] = field(default_factory=dict)
    trainings: dict[str, TrainingPlan] = field(default_factory=dict)
    evaluations: dict[str, EvaluationPlan] = field(default_factory=dict)
    fan: list[str] = field(default_factory=list)
    tasks: dict[str, list[str]] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    recording: list[str] | None = None
    runs_dir: str = "runs/comparison"
    results: str = "docs/results"


@dataclass(frozen=True)
class Recording:
    """The demonstrations of a task, which the comparison makes.

    Args:
        task: name of the task in the plan.
        settings: of `diffpolicy record`.
    """

    task: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.task}/demonstrations"

    @functools.cached_property
    def config(self) -> RecordConfig:
        """What `diffpolicy record` makes of the settings."""
        return compose([*self.settings, "out=OUT"], "record", RecordConfig)


@dataclass(frozen=True)
class Run:
    """A training on some demonstrations with a seed.

    Args:
        training: name of the training in the plan.
        demonstrations: name of the demonstrations in the plan.
        seed: of training.
        settings: of `diffpolicy train`.
        task: name of the task in the plan; "" in a plan without tasks.
        recording: the demonstrations, where the comparison makes them.
    """

    training: str
    demonstrations: str
    seed: int
    settings: tuple[str, ...]
    task: str = ""
    recording: Recording | None = None

    @property
    def name(self) -> str:
        return _run_name(self.task, self.training, self.demonstrations, self.seed)

    @functools.cached_property
    def config(self) -> RunConfig:
        """What `diffpolicy train` makes of the settings."""
        return _train_config(self.settings if self.recording is None else (*self.settings, "dataset.path=DATA"))


@dataclass(frozen=True)
class Measurement:
    """One evaluation of a run.

    Args:
        run: what is evaluated.
        evaluation: name of the evaluation in the plan.
        settings: of `diffpolicy evaluate`.
        against: names of the measurements that it is compared with.
        estimator: the run whose policy tells what is observed; None observes the environment.
    """

    run: Run
    evaluation: str
    settings: tuple[str, ...]
    against: tuple[str, ...]
    estimator: Run | None = None

    @property
    def name(self) -> str:
        return f"{self.run.name}/{self.evaluation}"

    @functools.cached_property
    def config(self) -> EvaluateConfig:
        """What `diffpolicy evaluate` makes of the settings."""
        return _evaluate_config(self.settings)


def _run_name(task: str, training: str, demonstrations: str, seed: int) -> str:
    name = f"{training}_{demonstrations}_s{seed}"
    return f"{task}/{name}" if task else name


@functools.cache
def _train_config(settings: tuple[str, ...]) -> RunConfig:
    return compose([*settings, "run_dir=RUN"])


@functools.cache
def _evaluate_config(settings: tuple[str, ...]) -> EvaluateConfig:
    return compose([*settings, "checkpoint=C", "out=OUT"], "evaluate", EvaluateConfig)


def load_plan(path: str | Path) -> Plan:
    """Return the plan in a yaml.

    Raises:
        OSError: no such file.
        OmegaConfBaseException: keys or values that a plan does not have.
    """
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path)))


def measurements(plan: Plan) -> dict[str, Measurement]:
    """Return all measurements by name: those of the first seed first, so that any beginning is a comparison too.

    Raises:
        ValueError: names that the plan does not have, settings that no plan may have, or one name used twice.
    """
    _check(plan)
    found = []
    for task in plan.tasks or ("",):
        for name, training in plan.trainings.items():
            for i, demonstrations in enumerate(training.demonstrations):
                for j, seed in enumerate(training.seeds):
                    chosen = [*training.evaluations, *(training.more if i == j == 0 else ())]
                    run = _run(plan, task, name, demonstrations, seed)
                    found += [((j, i), one) for one in _of_run(plan, run, chosen)]
    by_name: dict[str, Measurement] = {}
    for _, one in sorted(found, key=lambda pair: pair[0]):  # otherwise in the plan's order
        require(one.name not in by_name, f"two measurements {one.name}", "each training, seed and evaluation once")
        by_name[one.name] = one
    _check_known("fan: run", plan.fan, {one.run.name for one in by_name.values()})
    return by_name


def _run(plan: Plan, task: str, name: str, demonstrations: str, seed: int) -> Run:
    episodes, of_task = plan.demonstrations[demonstrations], plan.tasks.get(task, [])
    settings = [*plan.settings, *plan.trainings[name].settings, *of_task]
    settings += [*(() if episodes is None else (f"dataset.episodes={episodes}",)), f"seed={seed}"]
    recording = None if plan.recording is None else Recording(task, (*plan.recording, *of_task))
    return Run(name, demonstrations, seed, tuple(settings), task, recording)


def _of_run(plan: Plan, run: Run, chosen: Sequence[str]) -> Iterator[Measurement]:
    for key in chosen:
        evaluation = plan.evaluations[key]
        against = [f"{run.name}/{other}" for other in evaluation.against]
        others = (
            _run_name(run.task, other, run.demonstrations, run.seed) for other in plan.trainings[run.training].against
        )
        against += [f"{other}/{key}" for other in others]
        estimator = None
        if evaluation.estimator is not None:
            told = plan.trainings[evaluation.estimator]
            if run.demonstrations not in told.demonstrations or run.seed not in told.seeds:
                continue
            estimator = _run(plan, run.task, evaluation.estimator, run.demonstrations, run.seed)
        yield Measurement(run, key, tuple(evaluation.settings), tuple(against), estimator)


def select(every: Mapping[str, Measurement], patterns: Sequence[str]) -> dict[str, Measurement]:
    """Return the measurements whose name, or whose run's name, fits a pattern such as `flow_*`; all without patterns.

    Raises:
        ValueError: a pattern that fits none.
    """
    known = {*every, *(one.run.name for one in every.values())}
    chosen: set[str] = set()
    for pattern in patterns:
        fits = fnmatch.filter(known, pattern)
        require(
            fits, f"no run or measurement is called {pattern!r}{names.suggest(pattern, known)}", cure="see --list"
        )
        chosen |= {name for name, one in every.items() if name in fits or one.run.name in fits}
    return {name: one for name, one in every.items() if name in chosen or not patterns}


def _check(plan: Plan) -> None:
    for name in (*plan.trainings, *plan.demonstrations, *plan.evaluations):
        require(re.fullmatch(r"\w+", name), f"a plan names {name!r}", "letters, digits and _")
    for name, evaluation in plan.evaluations.items():
        _check_known(f"evaluation {name!r}: against", evaluation.against, plan.evaluations)
        told = [] if evaluation.estimator is None else [evaluation.estimator]
        _check_known(f"evaluation {name!r}: estimator", told, plan.trainings)
        given = [one for one in evaluation.settings if not (told and one.startswith(f"{_SHOWN}."))]
        _check_own(f"evaluation {name!r}", given, GIVEN_TO_EVALUATION)
    given = (*GIVEN_TO_TRAINING, *(() if plan.recording is None else ("dataset.path",)))
    _check_own("settings", plan.settings, given)
    for name, training in plan.trainings.items():
        where = f"training {name!r}"
        _check_known(f"{where}: demonstrations", training.demonstrations, plan.demonstrations)
        _check_known(f"{where}: evaluation", [*training.evaluations, *training.more], plan.evaluations)
        _check_known(f"{where}: against", training.against, plan.trainings)
        _check_own(where, training.settings, given)
    _check_tasks(plan)


def _check_tasks(plan: Plan) -> None:
    given = () if plan.recording is None else GIVEN_TO_RECORDING
    for name, settings in plan.tasks.items():
        require(re.fullmatch(r"[\w-]+", name), f"a plan names {name!r}", "letters, digits, - and _")
        _check_own(f"task {name!r}", settings, (*GIVEN_TO_TRAINING, *given))
    _check_own("recording", plan.recording or (), given)
    require(plan.tasks or plan.recording is None, "recording without tasks", cure="name at least one task")


def _check_known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        require(name in known, f"{where}: {names.unknown('name', name, known)}")


def _check_own(where: str, settings: Sequence[str], given: Sequence[str]) -> None:
    for setting in settings:
        key = setting.partition("=")[0].lstrip("+~")
        own = not any(key == name or key.startswith(f"{name}.") for name in given)
        require(own, f"{where}: {setting}", cure="leave it to the comparison")
