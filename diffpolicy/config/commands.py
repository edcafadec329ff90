"""Settings of the commands; those of `train` are a `RunConfig`, and those that plan for robots stand in `control`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffpolicy.config.schema import MISSING, any_key, as_typed, free, path_to, plain
from diffpolicy.config.sections import EnvConfig, ExecutionConfig, TrainConfig

REPORT_SEED = 200_000
"""First of the test seeds, which are never used for checkpoint selection."""


@dataclass
class ActingConfig:
    """A policy's checkpoint, and how the policy acts.

    Args:
        checkpoint: folder of a checkpoint, such as RUN/checkpoints/best, or of a run.
        solver: solver of the sampler; None keeps the training's.
        steps: steps of the sampler; None keeps the training's.
        grid: time grid of the sampler; None keeps the training's, or takes the solver's own, see `SamplerConfig`.
        solver_options: keyword arguments of the solver.
        action_horizon: T_a, actions executed before the policy is asked again; None keeps the training's.
        execution: how chunks are executed, see `ExecutionConfig`.
        weights: "ema" (moving average) or "model" (last step).
        device: "auto", "cpu", "cuda", ….
    """

    checkpoint: str = path_to(MISSING)
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = any_key()
    action_horizon: int | None = None
    execution: dict[str, Any] = any_key(("guidance",), lambda: plain(ExecutionConfig()))
    weights: str = "ema"
    device: str = free("auto")


@dataclass
class EvaluateConfig(ActingConfig):
    """Settings of an evaluation.

    Args:
        out: folder for the results.
        episodes: number of episodes.
        seeds: first of consecutive seeds, or the name of a set of seeds that the task has, such as "paper".
        envs: environments side by side in each process; affects no result.
        workers: processes that roll out; None chooses by the machine, 0 is this process; affects no result.
        videos: number of successes and number of failures to make videos of.
        modes: also measure mode coverage beside the demonstrations, for tasks that declare modes.
        compare_to: another evaluation.json, for the paired difference.
        overwrite: replace results in `out`.
        env: the environment, for a policy that was trained without one or for another one than it was trained for; or
            settings to change of the one that it was trained for.
    """

    out: str = path_to(MISSING, affects_result=False)
    episodes: int = 50
    seeds: Any = REPORT_SEED
    envs: int = free(64)
    workers: int | None = free(None)
    videos: int = free(3)
    modes: bool = False
    compare_to: str | None = path_to(None, affects_result=False)
    overwrite: bool = free(False)
    env: EnvConfig = field(default_factory=EnvConfig)


@dataclass
class RecordConfig:
    """Settings of a recording by an expert.

    Args:
        out: folder of the recording; one that was begun with the same settings is continued.
        episodes: how many to keep.
        seed: first seed; seeds are tried in order.
        noise: standard deviation of the error with which actions are carried out: in action units, one number or one
            for each dimension; or of half the action's range, as in 5%. The recording holds the actions that were
            intended, so that it shows how to recover (Laskey et al. 2017, "DART").
        starts: number of different initial states, each demonstrated again and again; None starts every episode anew.
        steps_after_success: steps recorded beyond success, so that a demonstration does not end on the threshold.
        workers: processes; the recording is the same for any number.
        expert: who acts: "module:make", where make(seed, options) returns an object with reset(obs, info) and
            act(obs, info); or the folder of a policy's checkpoint. None takes the environment's own.
        keep: "success" leaves out the episodes that are not successful at their end; "all" keeps them too, and says
            of each whether it is.
        executed: also record the actions that were carried out, as "executed_action".
        instruction: what is to be done, in words, which the recording says of every episode.
        env: the environment; without any of its settings a policy acts in the one that it was trained for.
    """

    out: str = path_to(MISSING)
    episodes: int = 200
    seed: int = 0
    noise: Any = 0.0
    starts: int | None = None
    steps_after_success: int = 0
    workers: int = 1
    expert: str | None = path_to(None)
    keep: str = "success"
    executed: bool = False
    instruction: str | None = as_typed(None)
    env: EnvConfig = field(default_factory=EnvConfig)


IMPROVEMENT_SEED = 1_000_000
"""First seed of the episodes from which policies learn, far from those that judge them."""


@dataclass
class ImproveConfig:
    """Settings of improving a policy by what it does itself.

    Args:
        checkpoint: folder of the policy's checkpoint, such as RUN/checkpoints/best, or of its run.
        run_dir: folder of the run: rollouts, checkpoints, improvement.json. One that was begun with the same settings
            is continued.
        method: how it is improved: "filtered", "corrections", "best_of", "residual", "steering", "policy_gradient" or
            "corrector"; or the name that an installed package gives.
        options: of the method, by name, see `diffpolicy.improvement`.
        rounds: how often it rolls out and trains, each time with the policy of the round before.
        episodes: rolled out in each round, at most.
        first_seed: of the first round's episodes; every round has seeds of its own.
        rollouts: run_dir of another improvement of the same policy, whose first rollouts are taken rather than made
            again.
        seed: of the training.
        training: the training of each round.
        device: "auto", "cpu", "cuda", ….
        speed: see `diffpolicy train`.
        envs: environments side by side in each process; affects no result.
        workers: processes that roll out; None chooses by the machine, 0 is this process; affects no result.
        env: the environment, for a policy that was trained without one or for another one than it was trained for; or
            settings to change of the one that it was trained for.
    """

    checkpoint: str = path_to(MISSING)
    run_dir: str = path_to(MISSING, affects_result=False)
    method: str = "filtered"
    options: dict[str, Any] = any_key()
    rounds: int = 1
    episodes: int = 1000
    first_seed: int = IMPROVEMENT_SEED
    rollouts: str | None = path_to(None, affects_result=False)
    seed: int = 0
    training: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000, lr=3e-4, evaluate_every=0))
    device: str = free("auto")
    speed: str = free("auto")
    envs: int = free(64)
    workers: int | None = free(None)
    env: EnvConfig = field(default_factory=EnvConfig)


@dataclass
class CheckEnvConfig:
    """Settings of checking an environment.

    Args:
        env: the environment, as for the other commands.
        out: JSON file for the report, replaced if there is one; None prints it only.
        seed: of the first episode; the two after it are used too.
        steps: of the episodes that are compared, at most; slow environments take fewer.
        patience: seconds that one call of the environment may take before its check is given up.
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    out: str | None = path_to(None)
    seed: int = 0
    steps: int = 60
    patience: float = 60.0


@dataclass
class ConvertConfig:
    """Settings of a conversion from another format.

    Args:
        source: a file or a folder.
        out: folder of the recording; one that was begun with the same settings is continued.
        format: name of the format; None looks at the files.
        episodes: which ones: numbers and ranges such as 0-9,12; the name of a filter of the recording; or "success";
            None takes all.
        keys: which arrays, [name, name:new_name, …]; empty takes all.
        fps: frames per second of the source, where its format does not say; None takes its word.
        every: one frame of so many is kept. Actions that are differences are not added up.
        resize: [height,width] of the images; None keeps them.
        action: where the format has no action, next:KEY takes what KEY is one kept frame later; KEY+KEY joins two.
        trim: "idle" cuts frames at head and tail of an episode in which nothing moves; "none" keeps them.
    """

    source: str = path_to(MISSING)
    out: str = path_to(MISSING)
    format: str | None = None
    episodes: Any = as_typed(None)
    keys: list[str] = field(default_factory=list)
    fps: float | None = None
    every: int = 1
    resize: list[int] | None = None
    action: str | None = None
    trim: str = "none"


@dataclass
class ExportDatasetConfig:
    """Settings of writing a recording in another project's format.

    Args:
        dataset: a recording, or anything that `convert` reads.
        out: folder to write; it must not exist.
        format: "lerobot", which is LeRobot v3.0.
        fps: frames per second; None takes the recording's.
        codec: of videos: auto, av1, h264, hevc, lossless (H.264 of RGB), or png, pictures in the data files.
        crf: constant rate factor of the codec; smaller is better and larger.
        episodes: which ones, as of `convert`; None takes all.
        task: what was to be done, for episodes that do not say it.
        robot: name of the robot; None takes the recording's.
    """

    dataset: str = path_to(MISSING)
    out: str = path_to(MISSING)
    format: str = "lerobot"
    fps: float | None = None
    codec: str = "auto"
    crf: int = 30
    episodes: Any = as_typed(None)
    task: str | None = None
    robot: str | None = None


@dataclass
class InspectConfig:
    """Settings of a look at a data set; without a path the catalog of sources is listed.

    Args:
        path: a recording of any format that `convert` reads, or the name of a source of the catalog.
        format: name of the format; None looks at the files.
        page: HTML file to write ranges, histograms, relations, pictures and findings into.
        strict: exit with status 1 where something breaks or hurts.
        verify: only compare every file of a recording with its digest.
        sheet: image file to draw trajectories into.
        key: array to draw.
    """

    path: str | None = path_to(None)
    format: str | None = None
    page: str | None = path_to(None)
    strict: bool = False
    verify: bool = False
    sheet: str | None = path_to(None)
    key: str = "action"


@dataclass
class ExportConfig:
    """Settings of an export to ONNX.

    Args:
        checkpoint: folder of a checkpoint.
        out: file to write.
        what: "chunk", from noise and observations to actions, or "network" alone.
        solver: solver of the sampler; None keeps the training's.
        steps: steps of the sampler; None keeps the training's.
        grid: time grid of the sampler; None keeps the training's, or takes the solver's own, see `SamplerConfig`.
        solver_options: keyword arguments of the solver.
        action_horizon: T_a; None keeps the training's.
        weights: "ema" or "model".
        tolerance: largest difference allowed between onnxruntime and torch, in normalized units.
        overwrite: replace `out`.
    """

    checkpoint: str = path_to(MISSING)
    out: str = path_to(MISSING)
    what: str = "chunk"
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = any_key()
    action_horizon: int | None = None
    weights: str = "ema"
    tolerance: float | None = None
    overwrite: bool = False


@dataclass
class PushConfig:
    """Settings of uploading a policy. Nothing else is ever uploaded, and nothing without this command.

    Args:
        source: a run, or the folder of a checkpoint, such as RUN/checkpoints/best, or of a run.
        to: hf://user/repo.
        evaluation: folder of an evaluation of that checkpoint, whose table and videos go into the card.
        private: make a new repository private; one that exists stays as it is.
        message: of the commit.
        dry_run: only say what would be uploaded.
    """

    source: str = path_to(MISSING)
    to: str = path_to(MISSING)
    evaluation: str | None = path_to(None)
    private: bool = True
    message: str = "Upload a policy"
    dry_run: bool = False


@dataclass
class SampleConfig:
    """Settings of drawing images from a trained generator.

    Args:
        checkpoint: folder of a checkpoint.
        out: folder for the images, as pictures and as numbers.
        guidance: scales w of classifier-free guidance, one panel each; 1 is none.
        labels: which labels, one line of images each; None takes all, or the first 12.
        texts: what is to be drawn in words, one line of images each, of a generator that is told by them.
        samples: images per label.
        solver: solver of the sampler; None keeps the training's.
        steps: steps of the sampler; None keeps the training's.
        grid: time grid of the sampler; None keeps the training's, or takes the solver's own, see `SamplerConfig`.
        solver_options: keyword arguments of the solver.
        path: probability path to sample on, such as {name: ddpm, steps: 1000}; empty is the training's.
        seed: of the noise.
        weights: "ema" or "model".
        precision: of the network, "float32" or "bfloat16".
        device: "auto", "cpu", "cuda", ….
        animation: also write the path from noise to images as an animation, for the last scale.
        overwrite: replace results in `out`.
    """

    checkpoint: str = path_to(MISSING)
    out: str = path_to(MISSING)
    guidance: list[float] = field(default_factory=lambda: [1.0, 3.0, 5.0])
    labels: list[int] | None = None
    texts: list[str] = field(default_factory=list)
    samples: int = 10
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = any_key()
    path: dict[str, Any] = any_key()
    seed: int = 0
    weights: str = "ema"
    precision: str = "float32"
    device: str = "auto"
    animation: bool = True
    overwrite: bool = False


@dataclass
class GalleryConfig:
    """Settings of drawing the gallery.

    Args:
        out: folder for the figures; None is docs/gallery, or gallery_small for a small one.
        only: names of figures to draw anew, the others stay as they are; empty draws all.
        seed: of everything random.
        small: few samples and training steps: fast, and unfinished.
        digits: checkpoint of a digit generator to draw digits from, rather than from one that the command trains.
        films: checkpoint of a training with task=moving_digits to draw films with, rather than one of the command.
        missing: draw what is not in the folder yet, and keep what is: an interrupted gallery goes on.
    """

    out: str | None = path_to(None)
    only: list[str] = field(default_factory=list)
    seed: int = 0
    small: bool = False
    digits: str | None = path_to(None)
    films: str | None = path_to(None)
    missing: bool = False
