"""Settings of the commands that plan for robots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.config.schema import MISSING, any_key, path_to, plain
from diffpolicy.config.sections import EnvConfig, ExecutionConfig


@dataclass
class ServeConfig:
    """Settings of a server, which plans for robots on other machines.

    Args:
        checkpoint: folder of the policy's checkpoint.
        host: address to listen on; the usual one is reached from this machine alone, 0.0.0.0 from everywhere.
        port: to listen on; 0 takes a free one.
        token: that robots have to name; None lets all in. Better in the environment variable DIFFPOLICY_TOKEN, where
            no list of processes shows it.
        batch: requests that are answered together, at most.
        solver: solver of the sampler; None keeps the training's.
        steps: steps of the sampler; None keeps the training's.
        grid: time grid of the sampler; None keeps the training's, or takes the solver's own, see `SamplerConfig`.
        solver_options: keyword arguments of the solver.
        action_horizon: T_a, actions after which robots ask again; None keeps the training's.
        execution: how chunks are made consistent, see `ExecutionConfig`; the delay is the robot's own.
        weights: "ema" or "model".
        device: "auto", "cpu", "cuda", ….
        compile: compile the policy first, for one request at a time; see `load_policy`.
    """

    checkpoint: str = path_to(MISSING)
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    batch: int = 64
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = any_key()
    action_horizon: int | None = None
    execution: dict[str, Any] = field(default_factory=lambda: plain(ExecutionConfig()))
    weights: str = "ema"
    device: str = "auto"
    compile: bool = False


@dataclass
class DriveConfig:
    """Settings of driving an environment by the wall clock, as a robot is driven: it does not wait for its policy.

    Args:
        checkpoint: folder of the policy's checkpoint; None asks a server.
        server: address of a `diffpolicy serve`, such as ws://policy.lab:8765; None plans here.
        token: that the server asks for; better in the environment variable DIFFPOLICY_TOKEN.
        out: folder for drive.json, report.html and the film.
        rate: control steps per second; None is the environment's own.
        seconds: of an episode, at most.
        episodes: one after the other.
        seed: of the first episode.
        guard: whether actions pass a guard, see `control.guard`; its limits are those of the recording.
        watchdog: seconds that a chunk is waited for before the robot holds.
        hold: the action with which the robot stays where it is; None takes the numbers of the observation that follow
            the action, where the environment says which.
        solver: solver of the sampler; None keeps the training's.
        steps: steps of the sampler; None keeps the training's.
        grid: time grid of the sampler; None keeps the training's, or takes the solver's own, see `SamplerConfig`.
        solver_options: keyword arguments of the solver.
        action_horizon: T_a, actions after which the policy is asked again; None keeps the training's.
        execution: how chunks are made consistent, see `ExecutionConfig`; the delay is the machine's own.
        weights: "ema" or "model".
        device: "auto", "cpu", "cuda", ….
        compile: compile the policy first, see `load_policy`.
        film: draw the first episode, by carrying its actions out once more, when all is over.
        overwrite: replace results in `out`.
        env: the environment, for a server or for a policy that was trained without one; or settings to change of the
            one that it was trained for.
    """

    checkpoint: str | None = path_to(None)
    server: str | None = None
    token: str | None = None
    out: str = path_to(MISSING)
    rate: float | None = None
    seconds: float = 30.0
    episodes: int = 1
    seed: int = REPORT_SEED
    guard: bool = True
    watchdog: float = 1.0
    hold: list[float] | None = None
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = any_key()
    action_horizon: int | None = None
    execution: dict[str, Any] = field(default_factory=lambda: plain(ExecutionConfig()))
    weights: str = "ema"
    device: str = "auto"
    compile: bool = False
    film: bool = True
    overwrite: bool = False
    env: EnvConfig = field(default_factory=EnvConfig)
