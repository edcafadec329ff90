"""The comparison of policies, made by one command, which trains and evaluates what is not measured yet:

diffpolicy-compare                                      all of configs/compare.yaml
diffpolicy-compare rows='flow_206_*,ddpm_206_s0/fresh'  some runs, or some rows of them
diffpolicy-compare dry=true                             only say what there is to do
diffpolicy-compare retime=true                          on a machine with nothing else to do, time all chunks again

Every run is a job of hydra's multirun. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from diffpolicy import checkpoint
from diffpolicy.scripts._hydra import command, compose, mendable
from diffpolicy.scripts.comparison import fan, pages
from diffpolicy.scripts.comparison.estimate import evaluation_minutes, in_words, training_minutes
from diffpolicy.scripts.comparison.plan import (
    Plan,
    Row,
    Run,
    check,
    evaluation_changes,
    load_plan,
    rows_of,
    select,
    training_changes,
)
from diffpolicy.scripts.comparison.rows import RESULTS, chunk_seconds, digest, finished, measure
from diffpolicy.scripts.comparison.store import FILE, changing, read_rows


@dataclass
class Config:
    """Settings of a comparison.

    rows: which runs and rows, by their names or patterns such as flow_*; all of them unless given.
    runs_dir: where runs are trained and evaluated.
    results: the folder of comparison.json, comparison.html and the plots.
    workers: of trainings' rollouts and of evaluations, as of `diffpolicy-evaluate`; it changes no result.
    data_root: the folder of downloaded data sets, instead of DIFFPOLICY_DATA.
    again: evaluate measured rows once more, beside the first time, and say whether their episodes are equal.
    dry: only say what there is to do.
    retime: only time chunks again, one measured row after another where its checkpoint is here: what was timed beside
        other work cannot be ranked.
    file: a yaml of one's own with a plan, in place of `plan`.
    """

    rows: list[str] = field(default_factory=list)
    runs_dir: str = "runs/comparison"
    results: str = "docs/results"
    workers: int | None = None
    data_root: str | None = None
    again: bool = False
    dry: bool = False
    retime: bool = False
    file: str | None = None
    plan: Plan = field(default_factory=Plan)


class StepFailed(RuntimeError):
    """A command that the comparison ran failed; it has said why itself."""


class Comparison:
    """A plan, the runs' folder and the table of what is measured.

    Raises:
        ValueError, OSError: a plan that contradicts itself.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.runs_dir, self.results = config, Path(config.runs_dir), Path(config.results)
        self.plan = load_plan(config.file) if config.file else config.plan
        self.rows = rows_of(self.plan)
        self.out_of_reach: list[str] = []  # why rows that are not measured cannot be, a line for each run

    @functools.cached_property
    def table(self) -> dict:
        """The rows that were measured when this was asked first."""
        return read_rows(self.results)

    def to_do(self, patterns: Sequence[str]) -> dict[Run, list[Row]]:
        """The rows to be measured, by run; those there are already were measured as the plan says.

        Those of a run whose checkpoint is not here are left out, and said in `out_of_reach`.

        Raises:
            ValueError: unknown names, settings that will be refused, or something measured or trained otherwise
                than the plan says.
        """
        chosen = select(self.rows, patterns)
        left = [row for row in chosen.values() if not self._is_measured(row)]
        if self.config.again:
            if left:
                names = ", ".join(row.name for row in left)
                raise ValueError(f"again=true evaluates measured rows once more, and these are not measured: {names}")
            left = list(chosen.values())
        check(left, self.rows)
        jobs: dict[Run, list[Row]] = {}
        for row in left:
            jobs.setdefault(row.run, []).append(row)
        lost = {run: why for run, rows in jobs.items() if (why := self._check_run(run, rows))}
        self.out_of_reach = list(lost.values())
        return {run: rows for run, rows in jobs.items() if run not in lost}

    def _is_measured(self, row: Row) -> bool:
        if (kept := self.table.get(row.name)) is None:
            if (file := self.result(row)).exists():
                recorded = json.loads(file.read_text())
                changes = evaluation_changes(recorded["settings"], row)
                _refuse(changes, str(file), f"delete {file.parent} to evaluate anew")
            return False
        changes = training_changes(kept["config"], row.run) + evaluation_changes(kept["settings"], row)
        cure = f"delete the row there, and {self.folder(row.run)} if there is one, to measure anew"
        _refuse(changes, f"{row.name} in {self.results / FILE}", cure)
        return True

    def _check_run(self, run: Run, rows: Sequence[Row]) -> str | None:
        """Why these rows of a run of which others are measured cannot be, if its checkpoint is not here."""
        saved = self.saved(run)
        if not (kept := [row for row in self.table.values() if row["run"] == run.name]):
            return None
        cure = f"put that run back into place, or delete its {len(kept)} rows from {FILE} to measure all of them anew"
        if saved is None:
            return (
                f"{run.name}: {', '.join(row.evaluation for row in rows)} need the checkpoint in {self.folder(run)} "
                f"that the run's other rows were measured on, and it is not there: {cure}"
            )
        now = self.best(run).sha256["ema.safetensors"]
        if others := [row["row"] for row in kept if row["checkpoint"]["sha256"] != now]:
            raise ValueError(
                f"{', '.join(others)} in {self.results / FILE} were measured on another checkpoint than the one in "
                f"{self.folder(run)}: {cure}"
            )
        return None

    def folder(self, run: Run) -> Path:
        return self.runs_dir / run.name

    def result(self, row: Row, again: bool = False) -> Path:
        """The file that an evaluation writes."""
        return _out(self.folder(row.run), row, again) / RESULTS[row.command]

    def saved(self, run: Run) -> checkpoint.Checkpoint | None:
        """The run's last checkpoint, None without any.

        Raises:
            ValueError: it was trained otherwise than the plan says.
        """
        saved = checkpoint.latest(self.folder(run) / "checkpoints")
        if saved is not None:
            cure = "name the training otherwise, or move that folder away to train anew"
            _refuse(training_changes(saved.config, run), str(self.folder(run)), cure)
        return saved

    def best(self, run: Run) -> checkpoint.Checkpoint:
        return checkpoint.read(self.folder(run) / "checkpoints" / "best")

    def do(self, run: Run, rows: Sequence[Row]) -> None:
        """Train the run, unless it is trained, and measure the rows."""
        if not finished(self.saved(run), run):
            folder = self.folder(run)
            self._run("train", [*_train(run, folder), *(["resume=true"] if folder.exists() else [])], "evaluation_")
            if not finished(self.saved(run), run):
                raise StepFailed(f"the training of {run.name} stopped before its last step")
        for row in rows:
            if self.config.again:
                self.result(row, again=True).unlink(missing_ok=True)
                self._run(row.command, _evaluate(row, self.folder(run), again=True))
                continue
            if not self.result(row).exists():
                self._run(row.command, _evaluate(row, self.folder(run)))
            self._enter(row)

    def _enter(self, row: Row) -> None:
        """Add a row to the table, and write it, the plots and the page anew."""
        shown = Path(self.runs_dir.name if self.runs_dir.is_absolute() else self.runs_dir) / row.run.name
        commands = {"train": _train(row.run, shown), row.command: _evaluate(row, shown)}
        typed = {name: shlex.join([_console(name), *arguments]) for name, arguments in commands.items()}
        out = self.result(row).parent
        measured = measure(row, self.folder(row.run), out, typed, self.config.data_root)
        with changing(self.results, {name: row.against for name, row in self.rows.items()}) as table:
            table[row.name] = measured
        pages.write(self.results)

    def _run(self, name: str, arguments: Sequence[str], prefix: str = "") -> None:
        given = [] if self.config.workers is None else [f"{prefix}workers={self.config.workers}"]
        given += ["videos=0"] if name == "evaluate" else []
        print(f"\n{shlex.join([_console(name), *arguments])}", flush=True)
        data = {"DIFFPOLICY_DATA": self.config.data_root} if self.config.data_root else {}
        if status := _launch(name, [*arguments, *given], data):
            raise StepFailed(f"the command above failed with status {status}")

    def agenda(self, jobs: Mapping[Run, Sequence[Row]]) -> str:
        """What there is to do, in words."""
        lines, minutes = [], []
        for run, rows in jobs.items():
            trained = finished(saved := self.saved(run), run)
            missing = [row for row in rows if self.config.again or not self.result(row).exists()]
            if not trained:
                minutes.append(training_minutes(run, self.table))
            minutes += [evaluation_minutes(row, self.table) for row in missing]
            first = "trained" if trained else f"train on from step {saved.step}" if saved else "train"
            lines.append(f"{run.name}: {first}; evaluate {', '.join(row.evaluation for row in rows)}")
        lines += self.out_of_reach
        lines.append(
            f"{len(jobs)} runs, {sum(map(len, jobs.values()))} rows to measure, {len(self.table)} rows in the table; "
            + ("nothing else is left to do" if self.out_of_reach and not minutes else in_words(minutes))
        )
        return "\n".join(lines)

    def retime(self, patterns: Sequence[str]) -> int:
        """Time the chunks of the measured rows again; the exit status.

        Raises:
            ValueError: unknown names, or a row whose run was trained anew.
        """
        known = [row for row in select(self.rows, patterns).values() if row.name in self.table]
        rows = [row for row in known if not self._check_run(row.run, [row])]
        times = {}
        for row in tqdm(rows, desc="time", unit="row"):
            kept = self.table[row.name]
            times[row.name], _ = chunk_seconds(self.best(row.run).path, kept["settings"], kept["config"]["env"])
        with changing(self.results, {name: row.against for name, row in self.rows.items()}) as table:
            for name, seconds in times.items():
                table[name]["latency"] = seconds
        pages.write(self.results)
        print(f"{len(rows)} rows timed; {len(known) - len(rows)} have no checkpoint in {self.runs_dir}")
        return 0

    def finish(self, jobs: Mapping[Run, Sequence[Row]]) -> int:
        """Draw what is drawn of several runs, and say how it went: the exit status."""
        rows = [row for own in jobs.values() for row in own]
        if self.config.again:
            return 0 if all([self._is_equal(row) for row in rows]) else 1
        self.table = read_rows(self.results)
        runs = {row.run.name: row.run for row in self.rows.values()}
        if self.plan.fan:
            print(fan.draw(self.results, {name: self.folder(runs[name]) for name in self.plan.fan}))
        if self.table:
            pages.write(self.results)
        for line in self.out_of_reach:
            print(line, file=sys.stderr)
        if missing := [row.name for row in rows if row.name not in self.table]:
            print(f"not measured, for the reasons above: {', '.join(missing)}", file=sys.stderr)
        if missing or self.out_of_reach:
            return 1
        print(f"{len(self.table)} rows: {self.results / FILE}; the page: {self.results / pages.FILE}")
        return 0

    def _is_equal(self, row: Row) -> bool:
        file, first = self.result(row, again=True), self.table[row.name]
        if not file.exists():
            print(f"{row.name}: not evaluated again, for the reason above")
            return False
        equal = digest(row.command, json.loads(file.read_text())) == first["episodes"]["sha256"]
        where = "" if equal else f"; see {file} and, for the processors and versions, {self.results / FILE}"
        print(f"{row.name}: {'equal episodes' if equal else 'OTHER EPISODES'}{where}")
        return equal


def _launch(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of a command of this package, in a process of its own."""
    module = [sys.executable, "-m", f"diffpolicy.scripts.{name}"]
    return subprocess.run([*module, *arguments], env={**os.environ, **environment}).returncode


def _refuse(changes: Sequence[str], what: str, cure: str) -> None:
    if changes:
        raise ValueError(f"{what} was made with other settings than the plan's: {'; '.join(changes)}. {cure}")


def _console(name: str) -> str:
    return f"diffpolicy-{name.replace('_', '-')}"


def _out(folder: Path, row: Row, again: bool = False) -> Path:
    return folder / ("again" if again else "evaluations") / row.evaluation


def _train(run: Run, folder: Path) -> list[str]:
    return [*run.settings, f"run_dir={folder}"]


def _evaluate(row: Row, folder: Path, again: bool = False) -> list[str]:
    return [f"checkpoint={folder / 'checkpoints' / 'best'}", *row.settings, f"out={_out(folder, row, again)}"]


def run(config: Config) -> None:
    """One job: the runs and rows that `config.rows` names. What fails is said, and others go on."""
    comparison = Comparison(config)
    with _said(", ".join(config.rows)):
        jobs = comparison.to_do(config.rows)
        for one, rows in jobs.items():
            with _said(one.name):
                comparison.do(one, rows)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """What fails of `what` is said, and no more."""
    try:
        yield
    except (ValueError, OSError, checkpoint.CheckpointError, StepFailed) as error:
        print(f"{what}: {error}", file=sys.stderr, flush=True)


_jobs = command("compare", Config, run)


def _list() -> None:
    """The runs of the plan that ships, each with its rows."""
    print("Runs and their rows:\n")
    runs: dict[str, list[str]] = {}
    for row in rows_of(compose("compare", Config, []).plan).values():
        runs.setdefault(row.run.name, []).append(row.evaluation)
    for name, rows in runs.items():
        print(f"    {name}: {' '.join(rows)}")
    print()


def main() -> None:
    arguments = sys.argv[1:]
    if any(argument.startswith("-") for argument in arguments):  # hydra's own: --help, --cfg job, --multirun
        if not {"--help", "-h"}.isdisjoint(arguments):
            _list()
        _jobs()
        return
    patterns = [name for a in arguments if a.startswith("rows=") for name in a[5:].strip("[]'\" ").split(",") if name]
    others = [argument for argument in arguments if not argument.startswith("rows=")]
    with mendable("compare"):
        comparison = Comparison(compose("compare", Config, others))
        if comparison.config.retime:
            sys.exit(comparison.retime(patterns))
        jobs = comparison.to_do(patterns)
        print(comparison.agenda(jobs), flush=True)
        if comparison.config.dry:
            return
    if jobs:
        lists = [f"[{','.join(row.name for row in rows)}]" for rows in jobs.values()]
        sys.argv[1:] = ["--multirun", *others, f"rows={','.join(lists)}"]
        _jobs()
    with mendable("compare"):
        status = comparison.finish(jobs)
    sys.exit(status)


if __name__ == "__main__":
    main()
