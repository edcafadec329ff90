"""The folder of a run: who writes it, where it continues, its checkpoints, their ranking, and its log."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from diffpolicy import checkpoint
from diffpolicy.config import LAST, TrainConfig, plain
from diffpolicy.training.distributed import Ranks
from diffpolicy.training.learner import Learner
from diffpolicy.training.log import METRICS, Console, MetricsLog, read_metrics
from diffpolicy.training.optim import Schedule
from diffpolicy.training.resume import SCHEDULE_ENDS, continued, refuse_other_tensors, saved_config
from diffpolicy.training.retention import point, prune
from diffpolicy.util import files, names
from diffpolicy.util.errors import Interrupted, explain, require

_LOCK = ".lock"
_UNFINISHED = "unfinished"
_EVALUATION = "evaluation/"  # before the names of metrics in the log


class NonFiniteLossError(RuntimeError):
    """The gradient became NaN or infinite; the last good checkpoint is kept."""


class Run:
    """A run's folder, claimed by `claimed`.

    Args:
        run_dir: gets `checkpoints/` and `metrics.jsonl`.
        record: the run's config, stored with every checkpoint.
        extras: further tensors for every checkpoint.
        config: settings of the loop.
        ranks: processes that train together; the first one writes.
        progress: print to the terminal.
    """

    def __init__(
        self,
        run_dir: Path,
        record: Any,
        extras: Mapping[str, Mapping[str, Tensor]],
        config: TrainConfig,
        ranks: Ranks,
        progress: bool,
    ) -> None:
        self.run_dir, self.folder = run_dir, run_dir / "checkpoints"
        self.schedule = Schedule(config, (config.steps,))
        self.state: dict[str, Any] = {"best": []}
        self.console = Console(quiet=not (progress and ranks.writes))
        self._record, self._extras, self._config, self._ranks = record, extras, config, ranks
        self._log: MetricsLog | None = None
        self._written: int | None = None

    @contextmanager
    def claimed(self, resume: bool) -> Iterator[Run]:
        """Hold the folder while the block runs.

        Raises:
            FileExistsError: it holds a run already and `resume` is off, or another process trains into it.
        """
        log = self.run_dir / METRICS  # empty, where a first step was refused
        exists = self.folder.exists() or (log.exists() and log.stat().st_size > 0)
        cure = "continue it by resume=true (from its start, if it has no checkpoint yet), or choose another run_dir"
        require(resume or not exists, f"{self.run_dir} holds a run already", cure=cure, error=FileExistsError)
        self._ranks.wait()  # before the first one writes there
        with ExitStack() as stack:
            if self._ranks.writes:
                self.run_dir.mkdir(parents=True, exist_ok=True)
                busy = f"another process is training into {self.run_dir}"
                cure = "wait for it or stop it, or choose another run_dir"
                stack.enter_context(files.lock(self.run_dir / _LOCK, explain(busy, cure=cure)))
            stack.callback(self._close)
            yield self

    def begin(self, learner: Learner, resume: bool, start_from: str | Path | None) -> None:
        """Bring a learner to where the run stands.

        Raises:
            ValueError: settings that affect results have changed, or the data.
            CheckpointError: a checkpoint is damaged or of another model, or the ranks see different ones.
            DiskFullError: there is no room for the next checkpoint.
        """
        if not learner.trained:
            self.schedule = Schedule(self._config, (0,))
        saved = checkpoint.latest(self.folder) if resume else None
        if saved is not None:
            self._continue(learner, saved)
        elif resume:
            self.console.say(f"no checkpoint in {self.run_dir} yet: starts at step 0")
        if saved is None and start_from is not None:
            source = checkpoint.read(start_from)
            learner.start_from(source)
            self.console.say(f"starts with the averaged weights of {source.path}")
        require(
            self._ranks.first(learner.step) == learner.step,  # also waits until all have read it, before links change
            f"rank {self._ranks.rank} finds step {learner.step} in {self.run_dir}, and the first rank another",
            cure="put run_dir where all machines see it",
            error=checkpoint.CheckpointError,
        )
        if self._ranks.writes:
            if saved is None or learner.step < self.schedule.steps:
                extras = sum(value.nbytes for tensors in self._extras.values() for value in tensors.values())
                with self._writing():
                    files.require_space(self.folder, learner.bytes() + extras + checkpoint.OTHER_BYTES)
            self._log = MetricsLog(self.run_dir, learner.step, self._config.tensorboard)
            if saved is not None:
                self._link(learner.step)
        self.console.start(learner.step, self.schedule.steps)

    def _continue(self, learner: Learner, saved: checkpoint.Checkpoint) -> None:
        self.schedule = continued(saved, self._record, self.schedule)
        refuse_other_tensors(saved, self._extras)
        learner.restore(saved)
        self.state, self._written = copy.deepcopy(saved.state), saved.step
        self._rank_again(saved_config(saved, self._record).training.choose)
        self.console.say(f"continues from step {saved.step}")
        ends = self.schedule.ends
        if len(ends) > 1:
            self.state[SCHEDULE_ENDS] = list(ends)
        if len(ends) > 1 and saved.step == ends[-2]:
            self.console.say(
                f"extends the run from {ends[-2]} to {ends[-1]} steps: a warm-up and a decay over the added steps, "
                "from the last weights, average and optimizer"
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append to the log."""
        if self._log is not None:
            with self._writing():
                self._log.write(step, values)

    def rank(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log an evaluation and rank its step by `training.choose`, before the checkpoint that carries the ranking.

        Where episodes were broken off, a metric is of the others: the step ranks below those of whole evaluations.

        Raises:
            ValueError: `training.choose` is not among the metrics.
        """
        self.log(step, {f"{_EVALUATION}{name}": value for name, value in metrics.items()})
        self.console.say(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        names.check("training.choose", self._config.choose, [LAST, *metrics])
        entry = [self._value(step, metrics), step, *([True] if metrics.get("broken_off") else [])]
        self.state["best"] = self._ranked([*self.state["best"], entry])

    def _value(self, step: int, metrics: Mapping[str, float]) -> float:
        return step if self._config.choose == LAST else metrics[self._config.choose]

    def _ranked(self, entries: list[list[Any]]) -> list[list[Any]]:
        """The entries to keep, the best first: value, step, and True if its rollouts were broken off."""
        newest = self._config.choose == LAST
        ordered = sorted(entries, key=lambda one: (len(one) > 2 and not newest, -one[0], -one[1]))
        return ordered[: self._config.keep_best]

    def _rank_again(self, before: str) -> None:
        """Rank the checkpoints of a resumed run, which were chosen by `before`, by what was logged.

        Raises:
            ValueError: `training.choose` was not logged.
        """
        choose, logged = self._config.choose, dict[int, dict[str, float]]()
        if choose == before:
            return
        for row in read_metrics(self.run_dir / METRICS):
            found = {name.removeprefix(_EVALUATION): x for name, x in row.items() if name.startswith(_EVALUATION)}
            logged.setdefault(row["step"], {}).update(found)
        unknown = [step for _, step, *_ in self.state["best"] if choose not in {LAST, *logged.get(step, {})}]
        given = f"training.choose={choose}, which the log lacks of step {', '.join(map(str, unknown))}"
        require(not unknown, given, cure=f"resume with training.choose={before} or {LAST}")
        entries = [
            [self._value(step, logged.get(step, {})), step, *broken] for _, step, *broken in self.state["best"]
        ]
        self.state["best"] = self._ranked(entries)

    @property
    def unfinished(self) -> list[str]:
        """What was due at the step of the last checkpoint, and is still to be done."""
        return list(self.state.get(_UNFINISHED, ()))

    @unfinished.setter
    def unfinished(self, names: list[str]) -> None:
        self.state.pop(_UNFINISHED, None)
        if names:
            self.state[_UNFINISHED] = names

    def saved(self, step: int) -> bool:
        """Return whether the checkpoint of a step is the last one that was written."""
        return self._written == step

    def save(self, learner: Learner, together: bool = True) -> Path:
        """Write the checkpoint of the present step, if it is not there yet, and return its path.

        Args:
            learner: what is saved.
            together: wait for the other ranks before and after.

        Raises:
            NonFiniteLossError: the gradient became NaN or infinite.
            DiskFullError: there is no room.
        """
        if not self.saved(learner.step):
            self.check_finite(learner)
            if together:
                self._ranks.wait()
            if self._ranks.writes:
                with self._writing():
                    groups = {**learner.tensors(), **self._extras}
                    checkpoint.write(self.folder, learner.step, groups, plain(self._record), self.state)
                    self._link(learner.step)
            self._written = learner.step
            if together:
                self._ranks.wait()
        return self.folder / checkpoint.step_name(learner.step)

    def restate(self, step: int) -> None:
        """Note in the checkpoint of a step, which is there already, what was done since."""
        if self._ranks.writes:
            with self._writing():
                checkpoint.restate(self.folder / checkpoint.step_name(step), self.state)
                self._link(step)

    def check_finite(self, learner: Learner) -> None:
        """Raise NonFiniteLossError if a gradient was NaN or infinite."""
        if bad := learner.bad_step():
            says = f"the gradient of step {bad} is NaN or infinite; {self._last_good()}"
            cure = f"lower training.lr (now {self._config.lr:g}) or take speed=float32"
            raise NonFiniteLossError(explain(says, cure=cure))

    def interrupted(self, number: int, saved: Path) -> Interrupted:
        """Return the exception with which a run ends by a signal."""
        says = f"stopped by {signal.Signals(number).name}; the present state is {saved.resolve()}"
        return Interrupted(explain(says, cure="the same command with resume=true continues from there"), 128 + number)

    def _link(self, step: int) -> None:
        best = [checkpoint.step_name(ranked) for _, ranked, *_ in self.state["best"]]
        point(self.folder, "last", checkpoint.step_name(step))
        newest = self._config.choose == LAST
        point(self.folder, "best", checkpoint.step_name(step) if newest else next(iter(best), None))
        prune(self.folder, {checkpoint.step_name(step), *best})

    def _last_good(self) -> str:
        if self._written is None:
            return "no checkpoint was written yet"
        return f"the last good checkpoint is {(self.folder / checkpoint.step_name(self._written)).resolve()}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the last good checkpoint if the disk is full."""
        cure = f"{self._last_good()}; make room and continue by resume=true"
        try:
            yield
        except files.DiskFullError as error:
            raise files.DiskFullError(error.path, error.needed, cure) from None
        except OSError as error:
            if files.is_disk_full(error):
                raise files.DiskFullError(error.filename or self.run_dir, 1, cure) from None
            raise

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
        self.console.close()
