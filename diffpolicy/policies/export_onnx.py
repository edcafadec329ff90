"""A trained policy as an ONNX file, to be run without this package and without torch.

    what="chunk"     noise (B, T_p, A), obs (B, T_o, D) -> actions (B, T_a, A), trajectory (B, T_p, A)
                     what `Policy.plan` does, in the environment's units: normalizer, network and the sampler's steps.
                     The caller draws the noise from N(0, I), and temporal consistency between chunks
                     (`ExecutionConfig`) is the caller's too: zero noise, one noise for an episode, ensembles of the
                     trajectories. Warm starts and inpainting need what="network".
    what="network"   x (B, T_p, A), t (B,), cond (B, T_o·D) -> output (B, T_p, A)
                     the network alone, in normalized units, for a sampler of one's own; cond is the normalized
                     observation history, oldest first.

Which models can be exported is declared by `Exportable`. All tensors are float32; the axis B is dynamic and called
"batch". The file's metadata are JSON texts: `what`, `version` (of this package), `checkpoint_step`, `prediction`,
`path`, `clip` and `sampler` as in the run's config, `temperature` of the noise, which a chunk applies itself, `times`
of the sampler with the path's `alpha` and `sigma` there, `horizons` (T_o, T_p, T_a), `representations`, which a chunk
undoes, and `normalizer` (y = (x - center) / scale; where scale is 0, y = x - center, and back always the center).
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy import checkpoint
from diffpolicy.config import SamplerConfig, load_config
from diffpolicy.generative.shapes import randn
from diffpolicy.nets.temporal import TemporalConv
from diffpolicy.policies.io import load_policy
from diffpolicy.policies.models.capabilities import Exportable
from diffpolicy.policies.policy import PlanRequest, Policy
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import write_bytes
from diffpolicy.util.names import check
from diffpolicy.util.seeds import generator

OPSET = 18
# A chunk's is wider: where a sampler starts, the estimate of the data from a noise prediction divides by α, 5e-4 in
# the DDPM recipe, and rounding with it.
TOLERANCE = {"chunk": 1e-3, "network": 1e-4}
INPUTS = {"chunk": ("noise", "obs"), "network": ("x", "t", "cond")}
OUTPUTS = {"chunk": ("actions", "trajectory"), "network": ("output",)}


class ExportError(RuntimeError):
    """An export that cannot be made here, or whose file does not compute what the policy does."""


def export_onnx(
    path: str | Path,
    out: str | Path,
    what: str = "chunk",
    sampler: SamplerConfig | None = None,
    *,
    action_horizon: int | None = None,
    weights: str = "ema",
    tolerance: float | None = None,
    overwrite: bool = False,
) -> float:
    """Write the policy of a checkpoint as an ONNX file, once onnxruntime was seen to run it as torch runs the policy.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/best.
        out: the file to write; nothing is written before the comparison has passed.
        what: "chunk" or "network", see the top of this file.
        sampler: how chunks are sampled; None keeps the training's. A chunk needs a solver that draws no noise and
            whose number of steps is fixed.
        action_horizon: T_a; None keeps the training's.
        weights: "ema" or "model", see `load_policy`.
        tolerance: largest difference allowed between onnxruntime and torch, on random batches of 1 and of 7, in
            normalized units and relative to the largest output where that is above 1; None takes `TOLERANCE`.
        overwrite: whether an existing file may be replaced.

    Returns:
        The largest difference found, in the unit of `tolerance`.

    Raises:
        ExportError: missing packages, or a difference beyond the tolerance.
        FileExistsError: `out` exists.
        CheckpointError: see `load_policy`.
        ValueError: a policy or sampler that cannot be exported.
    """
    check("export", what, INPUTS)
    tolerance = TOLERANCE[what] if tolerance is None else tolerance
    out = Path(out)
    require(not out.is_dir(), f"{out} is a folder", "a file", error=FileExistsError)
    free = overwrite or not out.exists()
    require(free, f"{out} exists", cure="choose another out, or overwrite=true", error=FileExistsError)
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError(explain(str(error), cure='pip install "diffpolicy[onnx]"')) from None
    policy = load_policy(path, sampler, action_horizon=action_horizon, weights=weights)
    saved = checkpoint.read(path)
    _check_exportable(policy, what)
    model = onnx.load_from_string(_trace(policy, what))
    for key, value in _metadata(policy, saved, what).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more would wait for each other, spinning, where there is little work
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    differences = [
        _difference(policy, given, session.run(list(expected), given), expected)
        for given, expected in _cases(policy, what)
    ]
    difference = float(np.max(differences))
    given = f"onnxruntime and torch differ by {difference:.2g} in normalized units, so {out} was not written"
    cure = "if that is close enough for your robot, set a larger tolerance"  # NaN is refused too
    require(difference <= tolerance, given, f"at most the tolerance {tolerance:.2g}", cure, ExportError)
    write_bytes(out, content)
    return difference


class _Network(nn.Module):
    """net(x, t, cond[, r]) as ONNX has its operators; one time may stand for all samples.

    Args:
        net: the network.
        reader: what reads the condition's numbers first; None takes them as they are.
    """

    def __init__(self, net: nn.Module, reader: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.reader = copy.deepcopy(net), reader
        for module in list(self.net.modules()):
            for name, child in module.named_children():
                if isinstance(child, TemporalConv):
                    setattr(module, name, _Conv1d(child))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, **later: Tensor) -> Tensor:
        later = {name: r.expand(x.shape[0]) for name, r in later.items()}
        cond = cond if self.reader is None else self.reader(cond)
        return self.net(x, t.expand(x.shape[0]), Condition(cond), **later)


class _Conv1d(nn.Module):
    """A `TemporalConv` as the convolution it is: its product over gathered taps has no counterpart in ONNX."""

    def __init__(self, conv: TemporalConv) -> None:
        super().__init__()
        state = conv.state_dict()  # in Conv1d's shapes
        self.weight = nn.Parameter(state["weight"].contiguous(), requires_grad=False)
        self.bias = nn.Parameter(state["bias"], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        return functional.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=padding).transpose(1, 2)


class _Chunk(nn.Module):
    """(noise, obs) -> (actions, trajectory) of a policy."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.net = _Network(policy.model.net)
        self.policy = policy

    def forward(self, noise: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        policy, model = self.policy, self.policy.model
        seen = policy.normalizer.normalize("obs", policy.representations.observations(obs)).flatten(1)
        cond = model.told(seen).vector
        flow_map, x = model.flow_map(self.net), model.process.sampling_path.start_scale * noise
        x = x if policy.temperature == 1 else policy.temperature * x
        # Not `sample`, which gives every sample its time: one time for all makes the solver's coefficients constants,
        # so that what it decides by them while traced holds for any batch and no float64 is left in the file.
        for t, s in pairwise(model.times[:, None]):
            x = flow_map(x, t, s, cond)
        trajectory = policy.in_units(x, obs)
        return trajectory[:, policy.obs_horizon - 1 :][:, : policy.action_horizon], trajectory


def _check_exportable(policy: Policy, what: str) -> None:
    cameras = ", ".join(map(repr, policy.observation.images))
    require(not cameras, f"the policy sees images of {cameras}", "a policy that observes vectors alone")
    told = ", ".join(map(repr, policy.observation.told))
    require(not told, f"the policy is told {told}", "a policy that observes vectors alone")
    name = type(policy.model).__name__
    require(
        isinstance(policy.model, Exportable),
        f"{name} cannot be exported",
        "flow matching, diffusion or mean flow from noise",
    )
    policy.model.check_exportable(what)
    given = f"the network alone lacks dataset.representations={policy.representations.declared}"
    require(what == "chunk" or not policy.representations.declared, given, "what=chunk, which holds them")


def _trace(policy: Policy, what: str) -> bytes:
    # One sample: the solver checks that its times, of which there is one for all, are as many as the samples.
    examples = tuple(torch.from_numpy(array) for array in _inputs(policy, what, 1, torch.Generator()).values())
    network = _Network(policy.model.net, policy.model.reader)
    module = (network if what == "network" else _Chunk(policy)).eval()
    axes = {name: {0: "batch"} for name in INPUTS[what] + OUTPUTS[what]}
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The warnings are of decisions by shapes and times, which are constants here, as the comparison makes sure;
        # and of the newer exporter, which needs one more package and cannot decide by tensors at all.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            file,
            input_names=list(INPUTS[what]),
            output_names=list(OUTPUTS[what]),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _metadata(policy: Policy, saved: checkpoint.Checkpoint, what: str) -> dict[str, Any]:
    model: Any = policy.model
    stats = policy.normalizer.to_tensors()
    return {
        "what": what,
        "version": importlib.metadata.version("diffpolicy"),
        "checkpoint_step": saved.step,
        "prediction": model.prediction,
        "path": load_config(saved.config).method["path"],
        "clip": model.clip,
        "sampler": model.sampler,
        "temperature": policy.temperature,
        "start_scale": model.process.sampling_path.start_scale,
        "times": model.times.tolist(),
        "alpha": model.path.alpha(model.times).tolist(),
        "sigma": model.path.sigma(model.times).tolist(),
        "horizons": {"T_o": policy.obs_horizon, "T_p": policy.horizon, "T_a": policy.action_horizon},
        "representations": policy.representations.declared,
        "normalizer": {
            key: {part: stats[f"{key}.{part}"].tolist() for part in ("center", "scale")} for key in ("obs", "action")
        },
    }


def _inputs(policy: Policy, what: str, count: int, source: torch.Generator) -> dict[str, np.ndarray]:
    """Noise, and observations within the range that the normalizer was fitted on; for a network times from 0 on."""
    noise = torch.randn(count, *policy.model.shape, generator=source)
    obs = 2 * torch.rand(count, policy.obs_horizon, policy.normalizer.dim("obs"), generator=source) - 1
    if what == "network":
        given = (noise, torch.linspace(0, 0.999, count), obs.flatten(1))
    else:
        given = (noise, policy.representations.observations_back(policy.normalizer.unnormalize("obs", obs)))
    return {name: tensor.numpy() for name, tensor in zip(INPUTS[what], given, strict=True)}


def _cases(policy: Policy, what: str) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs by name and, by name, what torch makes of them with the policy as it is."""
    source = torch.Generator().manual_seed(0)
    for count in (1, 7, 7):
        given = _inputs(policy, what, count, source)
        if what == "network":
            with torch.no_grad():
                x, t, cond = map(torch.from_numpy, given.values())
                yield given, {"output": policy.model.net(x, t, policy.model.told(cond)).numpy()}
            continue
        generators = [generator(seed, 0) for seed in range(count)]  # as the policy keys first chunks
        given["noise"] = randn(given["noise"].shape, generators, dtype=torch.float32, device="cpu").numpy()
        chunk = policy.plan(PlanRequest(given["obs"], keys=0))
        yield given, {"actions": chunk.actions, "trajectory": chunk.trajectory}


def _difference(
    policy: Policy, given: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray], expected: Mapping[str, np.ndarray]
) -> float:
    """The largest difference in normalized units, relative to the largest output where that is above 1."""
    found = []
    for name, output, reference in zip(expected, outputs, expected.values(), strict=True):
        pair = [torch.from_numpy(array) for array in (output, reference)]
        if name != "output":
            pair = [_as_drawn(policy, tensor, expected["trajectory"], given["obs"]) for tensor in pair]
        found.append((pair[0] - pair[1]).abs().max() / pair[1].abs().max().clamp(min=1))
    return float(torch.stack(found).max())


def _as_drawn(policy: Policy, actions: Tensor, around: np.ndarray, obs: np.ndarray) -> Tensor:
    """Actions as the model draws them, where equal rotations are equal; of fewer than T_p among those around."""
    if actions.shape[1] < policy.horizon:
        first, whole = policy.obs_horizon - 1, torch.from_numpy(around).clone()
        whole[:, first : first + actions.shape[1]] = actions
        actions = whole
    return policy.normalized(actions, torch.from_numpy(obs))
