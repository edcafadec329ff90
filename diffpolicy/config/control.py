"""Settings of the commands that plan for robots."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffpolicy.config.commands import REPORT_SEED, ActingConfig
from diffpolicy.config.schema import MISSING, path_to
from diffpolicy.config.sections import EnvConfig


@dataclass
class ServeConfig(ActingConfig):
    """Settings of a server, which plans for robots on other machines.

    The delay is the robot's own, and no setting of `execution`.

    Args:
        host: address to listen on; the usual one is reached from this machine alone, 0.0.0.0 from everywhere.
        port: to listen on; 0 takes a free one.
        token: that robots have to name; None lets all in. Better in the environment variable DIFFPOLICY_TOKEN, where
            no list of processes shows it.
        batch: requests that are answered together, at most.
        compile: compile the policy first, for one request at a time; see `load_policy`.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    batch: int = 64
    compile: bool = False


@dataclass
class DriveConfig(ActingConfig):
    """Settings of driving an environment by the wall clock, as a robot is driven: it does not wait for its policy.

    The delay is the machine's own, and no setting of `execution`.

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
    compile: bool = False
    film: bool = True
    overwrite: bool = False
    env: EnvConfig = field(default_factory=EnvConfig)
