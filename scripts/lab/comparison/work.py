"""The work of a comparison: find what is missing, train, evaluate, store."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from comparison import fan, page
from comparison.checks import check, evaluation_changes, training_changes
from comparison.estimate import evaluation_minutes, in_words, recording_minutes, training_minutes
from comparison.plan import Measurement, Recording, Run, load_plan, measurements, select
from comparison.recordings import note_of, recording_changes, write_note
from comparison.results import EVALUATION, evaluation_digest, is_finished, make_result
from comparison.store import FILE, Result, changing, config_of, read_results, settings_of
from comparison.timing import chunk_seconds
from diffpolicy import checkpoint
from diffpolicy.config import plain
from diffpolicy.evaluation.shards import usable_cores
from diffpolicy.util import files
from diffpolicy.util.errors import explain, require

PLAN = Path(__file__).resolve().parents[1] / "configs" / "comparison.yaml"


@dataclass
class Settings:
    """Settings of a comparison.

    Args:
        names: of runs and measurements, or patterns such as flow_*; empty is all of them.
        plan: a yaml with the plan.
        runs_dir: where runs are trained and evaluated; None is the plan's.
        results: folder of comparison.json, the page and the plots; None is the plan's.
        workers: processes that roll out; None chooses by the machine; affects no result.
        data_root: folder of the downloaded data sets; None is $DIFFPOLICY_DATA.
        again: evaluate stored measurements again and compare the episodes.
    """

    names: list[str] = field(default_factory=list)
    plan: str = str(PLAN)
    runs_dir: str | None = None
    results: str | None = None
    workers: int | None = None
    data_root: str | None = None
    again: bool = False


class StepFailed(RuntimeError):
    """A command that the comparison ran failed; it has said why itself."""


class Comparison:
    """A plan, the folder of its runs, and the stored results.

    Raises:
        ValueError: a plan that contradicts itself.
        OSError: no such plan.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.plan = settings, load_plan(settings.plan)
        self.runs_dir = Path(settings.runs_dir or self.plan.runs_dir)
        self.folder = Path(settings.results or self.plan.results)
        self.every = measurements(self.plan)
        self.out_of_reach: list[str] = []  # a line for each run whose missing measurements cannot be made

    @functools.cached_property
    def stored(self) -> dict[str, Result]:
        """The results that were stored when this was first asked."""
        return read_results(self.folder)

    @property
    def _against(self) -> dict[str, tuple[str, ...]]:
        return {name: one.against for name, one in self.every.items()}

    def to_do(self) -> dict[Run, list[Measurement]]:
        """Return what has to be measured, by run; of the stored results, checks that they are the plan's.

        Runs whose checkpoint is missing, though other results of them are stored, go to `out_of_reach` instead.

        Raises:
            ValueError: unknown names, settings that would be refused, or a result made with other settings.
        """
        chosen = select(self.every, self.settings.names)
        left = [one for one in chosen.values() if not self._is_stored(one)]
        if self.settings.again:
            missing = ", ".join(one.name for one in left)
            require(not left, f"not measured yet: {missing}", cure="measure them without --again first")
            left = list(chosen.values())
        check(left, self.every)
        jobs: dict[Run, list[Measurement]] = {}
        for one in left:
            jobs.setdefault(one.run, []).append(one)
        lost = {run: why for run, missing in jobs.items() if (why := self._check_run(run, missing))}
        self.out_of_reach = list(lost.values())
        return {run: missing for run, missing in jobs.items() if run not in lost}

    def do_all(self, jobs: Mapping[Run, Sequence[Measurement]]) -> None:
        """Train and measure every run of `jobs`. A failure is printed and stops no other run."""
        for run, missing in jobs.items():
            with _reported(run.name):
                self.do(run, missing)

    def do(self, run: Run, missing: Sequence[Measurement]) -> None:
        """Train the run, unless it is trained, and make its missing measurements."""
        if run.recording is not None:
            self._demonstrate(run.recording)
        for wanted in dict.fromkeys([run, *(one.estimator for one in missing if one.estimator is not None)]):
            self._train(wanted)
        for one in missing:
            again = self.settings.again
            if again:
                self.evaluation(one, again).unlink(missing_ok=True)
            if not self.evaluation(one, again).exists():
                self._command(
                    "evaluate", [*_evaluate(one, self.runs_dir, again), "videos=0"], self._workers("workers")
                )
            if not again:
                self._store(one)

    def _train(self, run: Run) -> None:
        """Train a run, unless it is trained; another comparison may be about to."""
        folder = self.run_dir(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.lock(folder.with_suffix(".lock"), f"another comparison trains {folder}", wait=True):
            if is_finished(self.saved(run), run):
                return
            resume = ["resume=true"] if folder.exists() else []
            self._command("train", [*_train(run, self.runs_dir), *resume], self._workers("evaluation_workers"))
            if not is_finished(self.saved(run), run):
                raise StepFailed(f"the training of {run.name} stopped before its last step")

    def agenda(self, jobs: Mapping[Run, Sequence[Measurement]]) -> str:
        """Return in words what there is to do."""
        lines, minutes = [], []
        recordings = dict.fromkeys(run.recording for run in jobs if run.recording is not None)
        for recording in recordings:
            if self._recorded(recording) is None:
                minutes.append(recording_minutes(self.stored))
                lines.append(f"{recording.name}: record {recording.config.episodes} episodes")
        estimators = [one.estimator for missing in jobs.values() for one in missing if one.estimator is not None]
        for run in dict.fromkeys(estimators):
            if not is_finished(self.saved(run), run):
                minutes.append(training_minutes(run, self.stored))
                lines.append(f"{run.name}: train, an estimator")
        for run, missing in jobs.items():
            saved = self.saved(run)
            trained = is_finished(saved, run)
            if not trained:
                minutes.append(training_minutes(run, self.stored))
            again = self.settings.again
            unmade = [one for one in missing if again or not self.evaluation(one).exists()]
            minutes += [evaluation_minutes(one, self.stored) for one in unmade]
            first = "trained" if trained else f"resume training at step {saved.step}" if saved else "train"
            lines.append(f"{run.name}: {first}; evaluate {', '.join(one.evaluation for one in missing)}")
        lines += self.out_of_reach
        counts = f"{len(jobs)} runs, {sum(map(len, jobs.values()))} measurements to make, {len(self.stored)} stored"
        nothing_else = self.out_of_reach and not minutes
        lines.append(f"{counts}; {'nothing else is left to do' if nothing_else else in_words(minutes)}")
        return "\n".join(lines)

    def retime(self) -> str:
        """Time the chunks of the stored results again, and return how many were timed.

        Raises:
            ValueError: unknown names, or a result whose run was trained anew.
        """
        known = [one for one in select(self.every, self.settings.names).values() if one.name in self.stored]
        present = [one for one in known if not self._check_run(one.run, [one])]
        times = {}
        for one in tqdm(present, desc="time", unit="measurement"):
            result = self.stored[one.name]
            times[one.name] = chunk_seconds(self.best(one.run).path, settings_of(result), config_of(result))
        with changing(self.folder, self._against) as results:
            for name, seconds in times.items():
                results[name]["latency"] = seconds
        page.write(self.folder)
        return f"{len(present)} timed; {len(known) - len(present)} have no checkpoint in {self.runs_dir}"

    def finish(self, jobs: Mapping[Run, Sequence[Measurement]]) -> int:
        """Draw what is drawn of several runs, say how it went, and return the exit status."""
        wanted = [one for missing in jobs.values() for one in missing]
        if self.settings.again:
            return 0 if all([self._is_equal(one) for one in wanted]) else 1
        self.stored = read_results(self.folder)
        runs = {one.run.name: one.run for one in self.every.values()}
        if self.plan.fan:
            print(fan.draw(self.folder, {name: self.run_dir(runs[name]) for name in self.plan.fan}))
        if self.stored:
            page.write(self.folder)
        for line in self.out_of_reach:
            print(line, file=sys.stderr)
        if missing := [one.name for one in wanted if one.name not in self.stored]:
            print(f"not measured, for the reasons above: {', '.join(missing)}", file=sys.stderr)
        if missing or self.out_of_reach:
            return 1
        print(f"{len(self.stored)} results: {self.folder / FILE}; the page: {self.folder / page.FILE}")
        return 0

    def run_dir(self, run: Run) -> Path:
        return self.runs_dir / run.name

    def evaluation(self, one: Measurement, again: bool = False) -> Path:
        """Return the file that an evaluation writes."""
        return _out(self.run_dir(one.run), one, again) / EVALUATION

    def recording_dir(self, recording: Recording) -> Path:
        return self.runs_dir / recording.name

    def saved(self, run: Run) -> checkpoint.Checkpoint | None:
        """Return the run's last checkpoint, or None if there is none.

        Raises:
            ValueError: it was trained with other settings than the plan's.
        """
        saved = checkpoint.latest(self.run_dir(run) / "checkpoints")
        if saved is not None:
            cure = "rename the training, or move that folder away to train anew"
            _refuse(training_changes(saved.config, run), str(self.run_dir(run)), cure)
        return saved

    def best(self, run: Run) -> checkpoint.Checkpoint:
        return checkpoint.read(self.run_dir(run) / "checkpoints" / "best")

    def _is_stored(self, one: Measurement) -> bool:
        result = self.stored.get(one.name)
        if result is None:
            if (file := self.evaluation(one)).exists():
                recorded = json.loads(file.read_text())["settings"]
                _refuse(evaluation_changes(recorded, one), str(file), f"delete {file.parent} to evaluate anew")
            return False
        recorded = plain(settings_of(result))
        changes = training_changes(result["config"], one.run) + evaluation_changes(recorded, one)
        changes += recording_changes(result.get("recording"), one.run.recording)
        told, wanted = result.get("estimator", {}).get("training"), one.estimator and one.estimator.training
        changes += [f"estimator: was {told}, now {wanted}"] if told != wanted else []
        cure = f"delete that line, and {self.run_dir(one.run)} if there is one, to measure anew"
        _refuse(changes, f"{one.name} in {self.folder / FILE}", cure)
        return True

    def _check_run(self, run: Run, missing: Sequence[Measurement]) -> str | None:
        """Why measurements of a run cannot be made, if others of it are stored and its checkpoint is missing."""
        saved = self.saved(run)
        stored = [result for result in self.stored.values() if result["run"] == run.name]
        if not stored:
            return None
        cure = f"put that run back, or delete its {len(stored)} results from {FILE} to measure all of them anew"
        if saved is None:
            names = ", ".join(one.evaluation for one in missing)
            lacks = f"need the checkpoint of its other results, which is not in {self.run_dir(run)}"
            return f"{run.name}: {names} {lacks}; {cure}"
        now = self.best(run).sha256["ema.safetensors"]
        others = ", ".join(result["row"] for result in stored if result["checkpoint"]["sha256"] != now)
        require(
            not others, f"{others}: measured on another checkpoint than the one in {self.run_dir(run)}", cure=cure
        )
        return None

    def _recorded(self, recording: Recording) -> dict[str, Any] | None:
        """What is noted of a task's demonstrations; None if they are not made, or not all of them."""
        folder = self.recording_dir(recording)
        note = note_of(folder)
        if note is not None:
            cure = "move that folder away to record anew"
            _refuse(recording_changes(note, recording), str(folder), cure)
        return note

    def _demonstrate(self, recording: Recording) -> None:
        """Make the demonstrations of a task, unless they are made; another comparison may be about to."""
        folder = self.recording_dir(recording)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.lock(folder.with_suffix(".lock"), f"another comparison records {folder}", wait=True):
            if self._recorded(recording) is not None:
                return
            began, is_new = time.monotonic(), not folder.exists()
            workers = usable_cores() if self.settings.workers is None else max(self.settings.workers, 1)
            self._command("record", _record(recording, self.runs_dir), [f"workers={workers}"])
            write_note(folder, recording, (time.monotonic() - began) / 60 if is_new else None)

    def _workers(self, name: str) -> list[str]:
        return [] if self.settings.workers is None else [f"{name}={self.settings.workers}"]

    def _is_equal(self, one: Measurement) -> bool:
        file, first = self.evaluation(one, again=True), self.stored[one.name]
        if not file.exists():
            print(f"{one.name}: not evaluated again, for the reason above")
            return False
        equal = evaluation_digest(json.loads(file.read_text())) == first["episodes"]["sha256"]
        where = "" if equal else f"; processors and versions stand in {file} and {self.folder / FILE}"
        print(f"{one.name}: {'equal episodes' if equal else 'OTHER EPISODES'}{where}")
        return equal

    def _store(self, one: Measurement) -> None:
        """Add a result, and write the file, the plots and the page anew."""
        run, shown = one.run, Path(self.runs_dir.name if self.runs_dir.is_absolute() else self.runs_dir)
        commands = {"train": _train(run, shown), "evaluate": _evaluate(one, shown)}
        if one.estimator is not None:
            commands = {"estimator": _train(one.estimator, shown), **commands}
        if run.recording is not None:
            commands = {"record": _record(run.recording, shown), **commands}
        typed = {
            name: shlex.join(["diffpolicy", "train" if name == "estimator" else name, *arguments])
            for name, arguments in commands.items()
        }
        note = None if run.recording is None else self._recorded(run.recording)
        out = self.evaluation(one).parent
        told_by = None if one.estimator is None else self.run_dir(one.estimator)
        result = make_result(one, self.run_dir(run), out, typed, self.settings.data_root, note, told_by)
        with changing(self.folder, self._against) as results:
            results[one.name] = result
        page.write(self.folder)

    def _command(self, name: str, arguments: Sequence[str], workers: Sequence[str]) -> None:
        """Run a command of `diffpolicy` in a process of its own."""
        print(f"\n{shlex.join(['diffpolicy', name, *arguments])}", flush=True)
        data = {"DIFFPOLICY_DATA": self.settings.data_root} if self.settings.data_root else {}
        if status := launch(name, [*arguments, *workers], data):
            raise StepFailed(f"the command above failed with status {status}")


def launch(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return the exit status of `diffpolicy name`, run in a process of its own."""
    command = [sys.executable, "-m", "diffpolicy", name, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}).returncode


def _refuse(changes: Sequence[str], what: str, cure: str) -> None:
    if changes:
        raise ValueError(
            explain(f"{what} was made with other settings than the plan's: {'; '.join(changes)}", None, cure)
        )


def _out(folder: Path, one: Measurement, again: bool = False) -> Path:
    return folder / ("again" if again else "evaluations") / one.evaluation


def _record(recording: Recording, runs_dir: Path) -> list[str]:
    return [*recording.settings, f"out={runs_dir / recording.name}"]


def _train(run: Run, runs_dir: Path) -> list[str]:
    data = [] if run.recording is None else [f"dataset.path={runs_dir / run.recording.name}"]
    return [*run.settings, *data, f"run_dir={runs_dir / run.name}"]


def _evaluate(one: Measurement, runs_dir: Path, again: bool = False) -> list[str]:
    told = [] if one.estimator is None else [f"env.estimator={_best(runs_dir, one.estimator)}"]
    out = _out(runs_dir / one.run.name, one, again)
    return [f"checkpoint={_best(runs_dir, one.run)}", *one.settings, *told, f"out={out}"]


def _best(runs_dir: Path, run: Run) -> Path:
    return runs_dir / run.name / "checkpoints" / "best"


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Print what fails, and let others go on."""
    try:
        yield
    except (ValueError, OSError, checkpoint.CheckpointError, StepFailed) as error:
        print(f"{what}: {error}", file=sys.stderr, flush=True)
