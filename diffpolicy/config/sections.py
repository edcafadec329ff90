"""The sections of a run's config. Each field says what it means; those made by `free` affect no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diffpolicy.config.schema import any_key, by_array, free, path_to


@dataclass
class StreamConfig:
    """How images are read from disk during training.

    Args:
        pool: runs of frames that batches are mixed from at any time; null takes 16, or as many as fit in `memory`.
        run: frames per run, read one after another; null takes 256, or as many as let 16 runs fit in `memory`.
        memory: bound of what they take, in MiB.
    """

    pool: int | None = None
    run: int | None = None
    memory: float = free(1024)


@dataclass
class ObservationConfig:
    """What the policy observes, named once for the data set and the environment.

    Args:
        mode: for tasks that can be observed in several ways, the name of one, such as "keypoints"; else None.
        vectors: keys of the arrays of numbers that make up the vector observation, in this order; [] where images are
            all that is observed.
        images: keys of the cameras.
        ranges: nearest and farthest of depth images, in their unit, by camera (observation.ranges.depth=[0,2000]);
            without, what the recording's attribute "ranges" says, or 0 to the largest value in some of its frames.
        texts: keys of the texts that say what to do, such as "task"; of a recording they are one per episode.
        goals: keys of the arrays of numbers that say what to do, of which the newest frame counts.
    """

    mode: str | None = None
    vectors: list[str] = field(default_factory=lambda: ["obs"])
    images: list[str] = field(default_factory=list)
    ranges: dict[str, list[float]] = any_key()
    texts: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)


@dataclass
class DatasetConfig:
    """Which demonstrations to train on, and what is done to them before.

    Args:
        name: a source of the catalog (`diffpolicy inspect` lists them); "zarr" is your own recording at `path`.
        path: where your own recording is: a replay buffer, or a recording of another format, which is converted into
            the data root first.
        action_key: the array of actions; for an estimator, the numbers that it is to tell, see `EnvConfig.estimator`.
        stream: how images are read from disk.
        episodes: how many to train on, drawn with `seed`; or the numbers of those to choose from, held-out ones
            included: a list such as [0,3,8-20], or a file of such numbers, one a line. None takes all.
        short: "refuse" episodes that are too short for one window, or "skip" them.
        seed: of the choice of episodes.
        validation: fraction of the episodes held out for the validation loss.
        transforms: names of transforms, in order; see `diffpolicy.datasets.transforms`.
        time_to_success: temperature of the weights that favor demonstrations which were soon done; None weights all
            alike. For demonstrations that end when the task is done.
        representations: what arrays hold, by name of an array or of a part of one such as "action[3:6]", where the
            network is to see it in another form: "axis_angle", "relative:state", …; see
            `diffpolicy.datasets.representations`. Policies take and give the form of the recording.
        normalize: "limits", "gaussian" or "quantiles" by key ("obs", "action"), or for a part of one ("action[6]")
            as the network sees it; limits unless named.
    """

    name: str = "zarr"
    path: str | None = path_to(None, affects_result=False)
    action_key: str = "action"
    stream: StreamConfig = field(default_factory=StreamConfig)
    episodes: Any = None
    short: str = "refuse"
    seed: int = 42
    validation: float = 0.05
    transforms: list[str] = field(default_factory=list)
    time_to_success: float | None = None
    representations: dict[str, str] = by_array()
    normalize: dict[str, str] = by_array()


@dataclass
class EnvConfig:
    """Which environment to roll out in, and how it is made to fit.

    Args:
        id: its gymnasium id, with "module:" before it where a module that registers it is to be imported; None rolls
            nothing out.
        kwargs: keyword arguments of the environment.
        task: name of a task within a suite, handed to the environment as its keyword argument `task`.
        factory: for environments without an id: "module:function", called with `kwargs`.
        obs_keys: keys of a dict observation to keep, nested ones as "pixels.top"; empty keeps all but those named
            achieved_goal.
        image_range: [low, high] of pictures in floating-point numbers; None where pictures are uint8.
        estimator: checkpoint of an estimator: a policy whose answers are observed in place of what the environment
            shows, which it reads. None observes the environment itself.
        success: what says that the task is done: a key of `info`; "module:function", called with `info`; or "none".
            None takes what the environment declares, else "success" or "is_success" where `info` has it.
        stop_on_success: end an episode at its first success.
        max_steps: time limit of an episode; None takes the registered one.
        fresh: make a new instance for every episode, for environments whose instances remember earlier ones.
        seed_globals: seed the generators of `random` and `numpy.random` before every reset, for environments that
            draw from them.
        timeout: seconds that one making, reset or step may take; None waits without end.
    """

    id: str | None = None
    kwargs: dict[str, Any] = any_key()
    task: str | None = None
    factory: str | None = None
    obs_keys: list[str] = field(default_factory=list)
    image_range: list[float] | None = None
    estimator: str | None = path_to(None)
    success: str | None = None
    stop_on_success: bool = False
    max_steps: int | None = None
    fresh: bool = False
    seed_globals: bool = False
    timeout: float | None = free(None)


@dataclass
class PolicyConfig:
    """Horizons, in control steps, and what the network is told of observations.

    Args:
        obs_horizon: T_o, observations that the policy sees.
        horizon: T_p, actions that it predicts, the first T_o - 1 of which lie in the past.
        action_horizon: T_a, actions that are executed before it is asked again.
        features: numbers that a perceptron makes of the observations, for the network; 0 hands them over as they are.
        temperature: standard deviation of the noise that sampling starts from, 1 in training. Below 1, samples keep
            to where data are densest (as for Glow; Kingma and Dhariwal 2018, section 6). Methods that start from no
            noise ignore it. A trained policy may be given another one, see `ExecutionConfig`.
        history_dropout: share of the training windows whose older observations are replaced by the newest one, so
            that a policy does not stand still because it stood still (ChauffeurNet's "past motion dropout"; Bansal
            et al. 2018). Methods that learn an action after every observation (lstm_gmm) or nothing ignore it.
        prefix: the most pending actions that a chunk is taught to go on from: half of the training windows know their
            first actions, 1 to `prefix` of them and those of the past; 0 teaches no window so. With
            `execution.inpaint` of a delay it is what a robot that does not wait needs (flow and diffusion alone).
        condition_dropout: by text or goal, the share of the training windows that are not told it: for policies that
            also act on an empty text or a goal of NaN, and for `execution.guidance`.
    """

    obs_horizon: int = 2
    horizon: int = 16
    action_horizon: int = 8
    features: int = 0
    temperature: float = 1.0
    history_dropout: float = 0.0
    prefix: int = 0
    condition_dropout: dict[str, float] = any_key()


@dataclass
class SamplerConfig:
    """How samples are drawn; None keeps what the policy was trained with.

    Args:
        solver: name of a solver, see `diffpolicy.generative.solvers`.
        steps: number of steps.
        grid: name of a time grid, see `diffpolicy.generative.sampling`; None with another solver than the training's
            is that solver's own, if it has one and the method named none.
        options: keyword arguments of the solver.
    """

    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    options: dict[str, Any] | None = None


@dataclass
class ExecutionConfig:
    """How chunks are executed, see `diffpolicy.policies.chunking`.

    Args:
        noise: what sampling starts from: "random" noise for each chunk, the same for all chunks of an "episode", or
            "zero".
        ensemble: temporal ensembling: a decay rate, or weights by age, newest first; None executes the newest chunk.
        warm_start: time in (0, 1) at which sampling starts, from the last chunk; None starts from noise.
        inpaint: number of coming steps at which a new chunk is held to the last one; None holds nothing.
        temperature: standard deviation of the noise that sampling starts from; None is the policy's own, see
            `PolicyConfig`.
        guide: schedule of weights by which a new chunk is drawn towards the last one: "exponential", "linear", "ones"
            or "zeros"; None does not.
        guide_bound: the most that this may weigh, in velocities.
        guide_jacobian: differentiate the network for it.
        candidates: how many chunks are sampled; the one nearest to the last chunk is executed.
        weaker: folder of an earlier checkpoint of the same run; the chunk that is executed is also to be near the
            other candidates, and far from what this one samples.
        delay: control steps between a chunk's request and its first action; or a list of the weights of 0, 1, 2, …
            steps, drawn for each chunk.
        roll_forward: plan as of the step at which the pending actions have been executed, where it is known how what
            is observed follows them.
        action_noise: standard deviation of the error with which actions are carried out, in their units.
        costs: costs of a chunk's actions while it is sampled, {name: keep_out, center: …, …} each, see
            `policies.costs`.
        ask_above: spread of candidates, in normalized units, above which the policy asks `Agent.ask` what to do, or
            holds where it is until its next chunk; None never asks.
        ask_after: how many chunks in a row have to be above it, this one included; it asks until one is not.
        guidance: by text or goal, the scale w of classifier-free guidance: 1 is none and costs nothing, 0 does as if
            it were not told, above 1 exaggerates what it changes, below 0 does the opposite. Each takes one network
            call more.
    """

    noise: str = "random"
    ensemble: float | Sequence[float] | None = None
    warm_start: float | None = None
    inpaint: int | None = None
    temperature: float | None = None
    guide: str | None = None
    guide_bound: float = 5.0
    guide_jacobian: bool = True
    candidates: int = 1
    weaker: str | None = path_to(None)
    delay: int | Sequence[float] = 0
    roll_forward: bool = False
    action_noise: float = 0.0
    costs: list[dict[str, Any]] = field(default_factory=list)
    ask_above: float | None = None
    ask_after: int = 1
    guidance: dict[str, float] = any_key()


@dataclass
class ImageConfig:
    """Generation of images.

    Args:
        condition_dropout: probability with which training replaces a label by the null label.
        guidance: default scale w of classifier-free guidance; 1 is none.
        dequantize: spreads every gray level over its width in training (uniform dequantization, Theis et al. 2016,
            section 3.1), without which a density of images, which all lie on one lattice, has no bound.
        autoencoder: checkpoint of a training with task=mnist_autoencoder; images are generated as its latents and
            then decoded (Rombach et al. 2022). The new checkpoint holds it; null generates pixels.
    """

    condition_dropout: float = 0.1
    guidance: float = 3.0
    dequantize: bool = False
    autoencoder: str | None = path_to(None)


LAST = "last"
"""The value of `TrainConfig.choose` by which the newest checkpoint is the best."""


@dataclass
class TrainConfig:
    """Settings of the training loop.

    A finished run is extended by resuming it with more steps. With the cosine schedule the added steps have a warm-up
    and a decay of their own; a constant rate continues. Weights, average and optimizer continue in both cases.

    Args:
        steps: optimization steps; the learning-rate schedule runs over them whatever stops the run.
        batch_size: samples per step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        betas: of AdamW.
        warmup_steps: steps of linear warm-up before the schedule.
        schedule: of the learning rate: "cosine", which ends at 0 after `steps`, or "constant".
        grad_clip: bound of the gradient's norm.
        ema_power: the average's decay at step k is min(ema_max, 1 - (1 + k)^-ema_power).
        ema_max: see `ema_power`.
        evaluate_every: steps between rollouts; 0 for the end only.
        evaluate_from: first step at which to evaluate.
        checkpoint_every: steps between checkpoints; 0 for the end only.
        validate_every: steps between validation losses; 0 for never.
        log_every: steps between lines of the log; 0 for never.
        choose: which checkpoint is the run's `best`: "last" is the newest; a metric of the rollouts, such as
            "success", takes that with the highest mean over validation episodes; "score" is the task's main metric.
        keep_best: how many checkpoints that were rolled out to keep beside the last: the best by `choose`.
        tensorboard: write the log for TensorBoard too, which the extra "tensorboard" installs.
    """

    steps: int = 4000
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 200
    schedule: str = "cosine"
    grad_clip: float = 1.0
    ema_power: float = 0.75
    ema_max: float = 0.9999
    evaluate_every: int = free(500)
    evaluate_from: int = free(1500)
    checkpoint_every: int = free(500)
    validate_every: int = free(250)
    log_every: int = free(25)
    choose: str = free(LAST)
    keep_best: int = free(3)
    tensorboard: bool = free(False)


@dataclass
class FoundInData:
    """What training found in its data and a policy needs to be built again; written with the config, never typed.

    Args:
        kind: what was trained, "policy", "images" or "autoencoder".
        digest: SHA-256 of the selected training data as recorded; None in checkpoints of version 1.
        observation: the `ObservationSpec` as plain data: key -> {kind, shape, unit, rate}.
        action_dim: numbers per action as recorded; None in earlier checkpoints, whose normalizer tells.
        windows: number of training windows, for methods that remember them.
        words: by text, the words that training saw.
        text: digest of a pretrained text encoder's files; None of one that was trained here.
        limits: of the actions, for a robot's guard, see `control.guard.Limits`; None in earlier checkpoints.
        image_shape: (C, H, W) of training images.
        labels: number of labels of training images.
        texts: what each label says, where images are told by words.
        autoencoder: what decodes generated latents: its "net", {"name": …, options}, and "step" and "sha256" of the
            checkpoint that it came from.
    """

    kind: str = free("policy")
    digest: str | None = free(None)
    observation: dict[str, Any] = free(default_factory=dict)
    action_dim: int | None = free(None)
    windows: int | None = free(None)
    words: dict[str, list[str]] = free(default_factory=dict)
    text: str | None = free(None)
    limits: dict[str, Any] | None = free(None)
    image_shape: list[int] | None = free(None)
    labels: int | None = free(None)
    texts: list[str] = free(default_factory=list)
    autoencoder: dict[str, Any] | None = free(None)
