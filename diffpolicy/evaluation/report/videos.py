"""Some episodes of an evaluation once more, to be looked at: videos, actions over time, what the policy considers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.contract import BrokenEnvironment, Contract, MakeEnv, Place
from diffpolicy.evaluation.episode import Episode, Reset, Step
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.observers import Observations, Observer, Video
from diffpolicy.evaluation.report.curves import draw_actions, draw_fan_curves
from diffpolicy.evaluation.report.page import Clip
from diffpolicy.evaluation.report.plots import can_draw_chunks, draw_fan
from diffpolicy.evaluation.report.video import VideoWriter, frame_trouble
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.evaluation.wrappers import within
from diffpolicy.policies.agent import Agent

FAN, ACTIONS = "fan.png", "actions.png"


@final
class VideoFiles(Observer):
    """Writes the rendered frames of each episode to a video as they come; `observed["video_file"]` is its path.

    Args:
        folder: of the videos episode_SEED.mp4.
        fps: control steps per second.
    """

    name = "video_file"

    def __init__(self, folder: Path, fps: float) -> None:
        super().__init__()
        self.folder, self.fps = folder, fps
        self._writers: dict[int, VideoWriter] = {}

    def on_reset(self, episode: Episode, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> None:
        path = self.folder / f"episode_{episode.seed}.mp4"
        episode.observed[self.name] = path
        self._writers[episode.number] = VideoWriter(path, self.fps)
        self._writers[episode.number].write(env.render())

    def on_step(self, step: Step) -> None:
        self._writers[step.episode.number].write(step.env.render())

    def on_end(self, episode: Episode) -> None:
        self._writers.pop(episode.number).close()

    def close(self) -> None:
        """Delete the videos of episodes that did not come to their end."""
        while self._writers:
            _, writer = self._writers.popitem()
            with suppress(Exception):  # of a file in which there is no frame yet
                writer.close()
            writer.path.unlink(missing_ok=True)


@final
class Actions(Observer):
    """Keeps the actions within the bounds of their space, as an array `observed["actions"]` (steps, A)."""

    name = "actions"

    def on_step(self, step: Step) -> None:
        step.episode.observed[self.name].append(within(step.env.action_space, np.array(step.action)))

    def on_end(self, episode: Episode) -> None:
        episode.observed[self.name] = np.array(episode.observed[self.name])


def write_videos(
    out: Path,
    agent: Agent,
    make_env: MakeEnv,
    rendering: MakeEnv,
    resets: Sequence[Reset],
    episodes: Sequence[Episode],
    task: TaskSpec,
    videos: int,
) -> tuple[list[Clip], str | None]:
    """Write videos of some successes and failures, and draw their actions and what the policy considers in the first.

    The same episodes are rolled out again, so that rendering slows no measurement.

    Args:
        out: folder; what an earlier evaluation left there is removed.
        agent: that was evaluated.
        make_env: makes environments.
        rendering: makes environments that render frames.
        resets: of the evaluation.
        episodes: of the evaluation.
        task: what results mean.
        videos: number of successes and number of failures to make videos of.

    Returns:
        The videos, and why there are none: None where there are, or none were asked for.
    """
    for old in [*out.glob("episode_*.mp4"), out / FAN, out / ACTIONS]:
        old.unlink(missing_ok=True)
    whole = [episode for episode in episodes if episode.error is None]
    kinds = [[e.number for e in whole if bool(e.success) is wanted] for wanted in (True, False)]
    chosen = [number for kind in kinds for number in kind[:videos]]
    if not chosen:
        return [], None
    trouble = rendering_trouble(rendering, resets[chosen[0]])
    observers: list[Observer] = [Observations(first=1), Actions()]
    with closing(VideoFiles(out, task.fps)) as files:
        if trouble is None:
            observers += [files, Video(first=1)]
        make = make_env if trouble else rendering
        try:
            again = rollout(agent, make, [resets[i] for i in chosen], observers, task=task)
        except Exception as error:  # of the environment, or of whatever library draws; the page is written without
            files.close()
            for video in out.glob("episode_*.mp4"):
                video.unlink()
            return [], _trouble(error)
    again = [episode for episode in again if episode.error is None]
    draw_actions(out / ACTIONS, again)
    if again[0].number == 0:  # the first one, whose observations were kept, was not broken off
        if trouble is None and can_draw_chunks(task, agent.policy):
            draw_fan(out / FAN, agent.policy, again[0], task)
        else:
            draw_fan_curves(out / FAN, agent.policy, again[0])
    name = VideoFiles.name
    return [Clip(one.observed[name], one.row()) for one in again if name in one.observed], trouble


def rendering_trouble(rendering: MakeEnv, how: Reset) -> str | None:
    """Return why an environment renders no frames of a video, in a sentence; None if it does."""
    try:
        with closing(Place(rendering, Contract(limited=True), Journal())) as place:
            place.start(Episode(how.seed), how)
            return frame_trouble(place.env.render())
    except Exception as error:  # of whatever library draws
        return _trouble(error)


def _trouble(error: Exception) -> str:
    """An error in a sentence."""
    if isinstance(error, BrokenEnvironment):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
