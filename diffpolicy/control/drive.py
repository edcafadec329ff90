"""What `diffpolicy drive` does: an environment by the wall clock, and a report of how well the loop kept its rate."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import load_config, plain
from diffpolicy.config.control import DriveConfig
from diffpolicy.control.guard import Guard, Limits
from diffpolicy.control.page import draw_run, write_page
from diffpolicy.control.planners import make_planner
from diffpolicy.control.planning import Planner, warm
from diffpolicy.control.robots import EnvRobot
from diffpolicy.control.runner import RealTimeRunner, Report
from diffpolicy.control.serve import TOKEN
from diffpolicy.evaluation import make_env, policy_env
from diffpolicy.evaluation.adapters import EnvFactory, names_env
from diffpolicy.evaluation.contract import Contract, Place
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.report import provenance
from diffpolicy.evaluation.report.video import VideoWriter, frame_trouble
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import write_json
from diffpolicy.util.optional import optional

RESULT, PAGE, FILM = "drive.json", "report.html", "film.mp4"


def drive(config: DriveConfig) -> dict[str, Any]:
    """Drive an environment by the wall clock and return the contents of drive.json.

    Raises:
        ValueError: settings that do not fit together, or an environment that does not fit the policy.
        FileExistsError: `out` holds a run and `overwrite` is off.
        ConnectionError: no server there.
        BrokenEnvironment: the environment broke.
    """
    out = Path(config.out)
    if (out / RESULT).exists() and not config.overwrite:
        raise FileExistsError(explain(f"{out / RESULT} exists", cure="choose another out, or overwrite=true"))
    _check(config)
    factory = _environment(config)
    with ExitStack() as opened:
        planner = _planner(config, opened)
        hold = _hold(config, planner)
        _guard(config, planner)
        place = opened.enter_context(closing(Place(factory, Contract(limited=True), Journal())))
        executor = opened.enter_context(ThreadPoolExecutor(1, "planner"))
        warm(planner)
        runs, reports, result = list[dict[str, Any]](), list[Report](), dict[str, Any]()
        for seed in range(config.seed, config.seed + config.episodes):
            robot, guard = EnvRobot(place, Reset(seed)), _guard(config, planner)
            _check_observed(robot.observe(), planner)
            rate = TaskSpec.of(place.env).fps if config.rate is None else config.rate
            if not reports and planner.metadata.fps not in (None, rate):
                print(f"{rate:g} steps a second; the recording has {planner.metadata.fps:g}", file=sys.stderr)
            runner = RealTimeRunner(robot, planner, rate, guard, hold, executor)
            report = runner.run(math.ceil(config.seconds * rate), seed, over=lambda robot=robot: robot.done)
            interventions = {} if guard is None else dict(guard.interventions)
            runs.append({**robot.end().row(), **report.summary(), "interventions": interventions})
            reports.append(report)
            print(_line(runs[-1]), file=sys.stderr)
            result = {
                "rate": rate,
                **together(reports),
                "runs": runs,
                "series": [_series(report) for report in reports],
                "settings": {**plain(config), "token": None},
                "env": plain(factory.config),
                "metadata": asdict(planner.metadata),
                **provenance(),
            }
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / RESULT, result)  # what follows may break, or be stopped
    draw_run(out / "run.png", reports[0])
    (out / FILM).unlink(missing_ok=True)
    trouble = _film(out / FILM, factory, config.seed, reports[0]) if config.film else "film=false"
    write_page(out / PAGE, result, out / "run.png", None if trouble else out / FILM, trouble)
    return result


def together(reports: Sequence[Report]) -> dict[str, Any]:
    """Return what counts of several runs: how far periods were from what was asked, in milliseconds, and counts."""
    apart = np.concatenate([np.abs(1e3 * np.diff(one.starts) - 1e3 / one.rate) for one in reports])
    return {
        "jitter_ms": {f"p{q}": float(np.percentile(apart, q)) for q in (50, 95, 99)} if len(apart) else {},
        "delays": {str(k): sum(one.delays.count(k) for one in reports) for k in _delays(reports)},
        "holds_after_the_first_chunk": sum(_later_holds(one) for one in reports),
        "over_budget": sum(one.over_budget for one in reports),
        "late": sum(one.late for one in reports),
    }


def describe(result: dict[str, Any], out: str | Path) -> str:
    """Return what the command says in the end."""
    jitter = ", ".join(f"{name} {value:.2f}" for name, value in result["jitter_ms"].items())
    lines = [f"periods, ms from {1e3 / result['rate']:.1f}: {jitter or 'one step alone'}"]
    delays = ", ".join(f"{count} of {steps}" for steps, count in result["delays"].items())
    lines += [f"chunks by their delay in steps: {delays or 'none'}"]
    counted = (
        f"{result[name]} {says}"
        for name, says in (
            ("holds_after_the_first_chunk", "holds after the first chunk"),
            ("late", "chunks too late"),
            ("over_budget", "steps over budget"),
        )
    )
    return "\n".join([*lines, "; ".join(counted), f"report: {Path(out) / PAGE}"])


def _check(config: DriveConfig) -> None:
    both = [f"{name}=…" for name in ("checkpoint", "server") if vars(config)[name] is not None]
    require(len(both) == 1, " and ".join(both) or "neither checkpoint=… nor server=…", "one of them")
    for name in ("rate", "seconds", "watchdog"):
        value = vars(config)[name]
        require(value is None or 0 < value < math.inf, f"{name}={value}", "a number above 0")
    require(config.episodes >= 1, f"episodes={config.episodes}", "at least 1")
    require(config.seed >= 0, f"seed={config.seed}", "a seed >= 0")
    require(config.token is None or config.server, "token=… without a server", cure="leave it out")
    if config.server is not None:
        own = DriveConfig(server=config.server)
        names = ("solver", "steps", "grid", "solver_options", "action_horizon", "execution", "weights", "device")
        names = (*names, "compile")
        given = [name for name in names if vars(config)[name] != vars(own)[name]]
        require(not given, f"{', '.join(given)} for a server", cure="give them to `diffpolicy serve`")
        require(names_env(config.env), "server=… without an environment", "env.id=…")


def _environment(config: DriveConfig) -> EnvFactory:
    if config.checkpoint is None:
        return make_env(config.env)
    trained = load_config(checkpoints.read(config.checkpoint).config)
    return policy_env(trained, given=config.env, line=f"diffpolicy drive checkpoint={config.checkpoint}")


def _planner(config: DriveConfig, opened: ExitStack) -> Planner:
    if config.server is None:
        return make_planner(config, config.env)
    client: Any = optional("diffpolicy.control.client", "control", "a server")
    return opened.enter_context(closing(client.RemotePlanner(config.server, config.token or os.environ.get(TOKEN))))


def _guard(config: DriveConfig, planner: Planner) -> Guard | None:
    if not config.guard:
        return None
    limits = planner.metadata.limits
    require(limits is not None, "a guard, and the limits of the actions are not known", cure="take guard=false")
    return Guard(Limits.from_plain(limits or {}), config.watchdog)


def _hold(config: DriveConfig, planner: Planner) -> Callable[[Any], np.ndarray] | None:
    if config.hold is None:
        given = "nothing says how the robot holds"
        require(planner.metadata.follows, given, cure="give hold=[…], the action with which it stays where it is")
        return None
    action, size = np.asarray(config.hold, np.float32), planner.metadata.action_dim
    fits = action.shape == (size,) and bool(np.isfinite(action).all())
    require(fits, f"hold={list(config.hold)}", f"{size} finite numbers")
    return lambda obs: action


def _check_observed(obs: Any, planner: Planner) -> None:
    """Refuse an environment that shows something else than the policy observes, before anything moves."""
    given = obs if isinstance(obs, Mapping) else {next(iter(planner.metadata.fields)): obs}
    for key, one in planner.metadata.fields.items():
        if one["kind"] == "text":
            require(key in given, f"the environment says no {key!r}", "the text by which the policy is told")
            continue
        shape = np.shape(given[key]) if key in given else None
        fits = shape is not None and np.prod(shape) == np.prod(one["shape"])
        expected = f"{tuple(one['shape'])}, as the policy observes"
        require(
            fits, f"the environment shows {key!r} of shape {shape}", expected, "take another env.id or env.kwargs"
        )


def _film(path: Path, factory: EnvFactory, seed: int, report: Report) -> str | None:
    """Carry the actions of a run out once more and film it; return why there is no film, or None."""
    try:
        with closing(Place(factory.rendering(), Contract(limited=True), Journal())) as place:
            robot = EnvRobot(place, Reset(seed))
            trouble = frame_trouble(place.env.render())
            if trouble is not None:
                return trouble
            with closing(VideoWriter(path, report.rate)) as film:
                for action in report.actions:
                    film.write(place.env.render())
                    robot.act(action)
                film.write(place.env.render())
    except Exception as error:  # of the environment, or of whatever library draws
        path.unlink(missing_ok=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _series(report: Report) -> dict[str, Any]:
    kept = ("starts", "seconds", "arrivals", "delays", "asked", "planned", "borders", "held", "changed")
    return {name: vars(report)[name] for name in kept} | {"actions": [one.tolist() for one in report.actions]}


def _delays(reports: Sequence[Report]) -> list[int]:
    return sorted({delay for one in reports for delay in one.delays})


def _later_holds(report: Report) -> int:
    return sum(step >= report.borders[0] for step in report.held) if report.borders else 0


def _line(run: dict[str, Any]) -> str:
    done = {True: "success", False: "no success", None: "ended"}[run.get("success")]
    held, rate = run["holds"], run["rate"] or math.nan
    return f"seed {run['seed']}: {done} after {run['steps']} steps at {rate:.2f} Hz, {held} of them holds"
