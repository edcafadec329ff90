"""A trained policy as an ONNX file, to be run without this package and without torch.

    what="chunk"     noise (B, T_p, A), obs (B, T_o, D) -> actions (B, T_a, A), trajectory (B, T_p, A)
                     what `Policy.predict` and `Policy.trajectories` do, in the environment's units: normaliser,
                     network and the sampler's steps. The caller draws the noise from N(0, I), and what binds a
                     chunk to those before it (`execution.Execution`) is the caller's too: zero noise, one noise for
                     an episode, ensembles of the trajectories. Warm starts and inpainting take what="network".
    what="network"   x (B, T_p, A), t (B,), cond (B, T_o·D) -> output (B, T_p, A)
                     the network alone, in normalised units, for a sampler of one's own; cond is the normalised
                     observation history, oldest first.

A flow map's network, which takes two times, is exported in chunks alone. All float32; the axis B is dynamic and
called "batch". The file's metadata are JSON texts: `what`, `version` (of this package), `checkpoint_step`,
`prediction` ("average_velocity" of a flow map), `path`, `clip` and `sampler` as in the run's config, `times` of the
sampler with the path's `alpha` and `sigma` there, `horizons` (T_o, T_p, T_a), and `normalizer` (y = (x − center) /
scale).
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy import checkpoint
from diffpolicy.generative.flow_maps import AverageVelocity
from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field, ModelField
from diffpolicy.generative.shapes import randn
from diffpolicy.generative.solvers import DormandPrince
from diffpolicy.nets.temporal import TemporalConv
from diffpolicy.policies.actors import GenerativeActor
from diffpolicy.policies.build import load_policy
from diffpolicy.policies.few_step import FlowMapActor
from diffpolicy.policies.policy import Policy
from diffpolicy.util import names
from diffpolicy.util.condition import Condition

OPSET = 18
# A chunk's is wider: where a sampler starts, the estimate of the data from a noise prediction divides by α, 5e-4 in
# the DDPM recipe, and rounding with it.
TOLERANCE = {"chunk": 1e-3, "network": 1e-4}
INPUTS = {"chunk": ("noise", "obs"), "network": ("x", "t", "cond")}
OUTPUTS = {"chunk": ("actions", "trajectory"), "network": ("output",)}


class ExportError(RuntimeError):
    """An export that cannot be made here, or whose file does not compute what the policy does."""


def export_onnx(
    path: str | FilePath,
    out: str | FilePath,
    what: str = "chunk",
    solver: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    solver_options: Mapping[str, Any] | None = None,
    action_horizon: int | None = None,
    weights: str = "ema",
    tolerance: float | None = None,
    overwrite: bool = False,
) -> float:
    """Write the policy of a checkpoint as an ONNX file that onnxruntime was seen to run as torch runs the policy.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/best.
        out: the file to write; nothing is written before the comparison has passed.
        what: "chunk" or "network", see the top of this file.
        solver, steps, grid, solver_options, action_horizon, weights: as of `load_policy`. A chunk needs a solver
            that draws no noise and whose number of steps is fixed.
        tolerance: largest difference allowed between onnxruntime and torch, on random batches of 1 and of 7, in
            normalised units and as a share of the largest output where that is above 1; None takes `TOLERANCE`.
        overwrite: whether an existing file may be replaced.

    Returns:
        The largest difference found, in the unit of `tolerance`.

    Raises:
        ExportError: missing packages, or a difference beyond the tolerance.
        FileExistsError: `out` exists.
        CheckpointError, ValueError: as `load_policy`; a policy or solver that cannot be exported.
    """
    names.check("export", what, INPUTS)
    tolerance = TOLERANCE[what] if tolerance is None else tolerance
    out = FilePath(out)
    if out.is_dir() or (out.exists() and not overwrite):
        why = "is a folder; choose a file" if out.is_dir() else "exists; choose another out, or say overwrite=true"
        raise FileExistsError(f"{out} {why}")
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError(f'{error}; pip install "diffpolicy[onnx]" brings what the export needs') from None
    policy = load_policy(path, solver, steps, grid, dict(solver_options or {}) or None, action_horizon, weights)
    saved = checkpoint.read(path)
    _check_exportable(policy, saved.config["method"]["name"], what)
    model = onnx.load_from_string(_trace(policy, what))
    for key, value in _metadata(policy, saved, what).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more would wait for each other, spinning, where a few rows are no work
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    differences = [
        _difference(policy, session.run(list(expected), given), expected) for given, expected in _cases(policy, what)
    ]
    difference = float(np.max(differences))
    if not difference <= tolerance:  # refuses NaN too, which np.max, unlike max, hands on
        raise ExportError(
            f"onnxruntime and torch differ by {difference:.2g}, more than the tolerance {tolerance:.2g} (normalised "
            f"units): {out} was not written; if that is close enough for your robot, say so by a larger tolerance"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(out)
    return difference


class _Network(nn.Module):
    """net(x, t, cond[, r]) as ONNX has its operators; one time may stand for all rows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        for module in list(self.net.modules()):
            for name, child in module.named_children():
                if isinstance(child, TemporalConv):
                    setattr(module, name, _Conv1d(child))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, **later: Tensor) -> Tensor:
        later = {name: r.expand(x.shape[0]) for name, r in later.items()}
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
        self.net = _Network(policy.actor.net)
        self.policy = policy

    def forward(self, noise: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        policy, actor = self.policy, self.policy.actor
        cond = policy.normalizer.normalize("obs", obs).flatten(1)
        if isinstance(actor, FlowMapActor):
            flow = AverageVelocity(self.net)
        else:
            field = _with_net(actor.method.field(actor.net), self.net)
            flow = actor.method.solver.bind(field, actor.method.sampling_path)
        x, (times, _) = noise, _grid(actor)
        # Not `sample`, which gives every row its time: one time for all makes the solver's coefficients constants,
        # so that what it decides by them while traced holds for any batch and no float64 is left in the file.
        for t, s in pairwise(times[:, None]):
            x = flow(x, t, s, cond)
        trajectory = policy.normalizer.unnormalize("action", x)
        return trajectory[:, policy.obs_horizon - 1 :][:, : policy.action_horizon], trajectory


def _grid(actor: GenerativeActor | FlowMapActor) -> tuple[Tensor, Path]:
    """The times of its sampler, and the path that they are of."""
    return (actor.times, actor.path) if isinstance(actor, FlowMapActor) else (actor.method.times, actor.method.path)


def _with_net(field: Field, net: nn.Module) -> Field:
    if isinstance(field, ModelField):
        return replace(field, net=net)
    return replace(field, field=_with_net(field.field, net))


def _check_exportable(policy: Policy, method: str, what: str) -> None:
    if policy.cameras:
        raise ValueError("policies that see pictures are not exported yet: only those that observe numbers are")
    if isinstance(policy.actor, FlowMapActor):
        if what == "network":
            raise ValueError(
                "a flow map's network takes two times, which a sampler of one's own has no use for: export what=chunk"
            )
        return
    if not isinstance(policy.actor, GenerativeActor):
        raise ValueError(
            f"only flow matching, diffusion and mean flow policies are exported; this checkpoint is of {method}"
        )
    solver = policy.actor.method.solver
    if what == "chunk" and (solver.stochastic or isinstance(solver, DormandPrince)):
        why = "draws noise at every step" if solver.stochastic else "chooses its steps while it runs"
        raise ValueError(
            f"{solver} {why}, which an exported chunk cannot; take solver=ddim (or euler, heun, rk4, dpmpp_2m, "
            "dpmpp_3m) or export what=network"
        )


def _trace(policy: Policy, what: str) -> bytes:
    # One row for a chunk: the solver checks that its times, of which there is one for all, are as many as the rows.
    examples = tuple(torch.from_numpy(array) for array in _inputs(policy, what, 1, torch.Generator()).values())
    module = (_Network(policy.actor.net) if what == "network" else _Chunk(policy)).eval()
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
    actor, method = policy.actor, saved.config["method"]
    times, path = _grid(actor)
    stats = policy.normalizer.to_tensors()
    return {
        "what": what,
        "version": importlib.metadata.version("diffpolicy"),
        "checkpoint_step": saved.step,
        "prediction": method.get("prediction", "average_velocity"),
        "path": method["path"],
        "clip": method.get("clip"),
        "sampler": actor.sampler,
        "times": times.tolist(),
        "alpha": path.alpha(times).tolist(),
        "sigma": path.sigma(times).tolist(),
        "horizons": {"T_o": policy.obs_horizon, "T_p": policy.horizon, "T_a": policy.action_horizon},
        "normalizer": {
            key: {part: stats[f"{key}.{part}"].tolist() for part in ("center", "scale")} for key in ("obs", "action")
        },
    }


def _inputs(policy: Policy, what: str, rows: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Noise, and observations within the range that the normaliser was fitted on; for a network times from 0 on."""
    noise = torch.randn(rows, policy.horizon, policy.action_dim, generator=generator)
    obs = 2 * torch.rand(rows, policy.obs_horizon, policy.obs_dim, generator=generator) - 1
    if what == "network":
        given = (noise, torch.linspace(0, 0.999, rows), obs.flatten(1))
    else:
        given = (noise, policy.normalizer.unnormalize("obs", obs))
    return {name: tensor.numpy() for name, tensor in zip(INPUTS[what], given, strict=True)}


def _cases(policy: Policy, what: str) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs by name and, by name, what torch makes of them with the policy as it is."""
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 7, 7):
        given = _inputs(policy, what, rows, generator)
        if what == "network":
            with torch.no_grad():
                x, t, cond = map(torch.from_numpy, given.values())
                yield given, {"output": policy.actor.net(x, t, Condition(cond)).numpy()}
            continue
        policy.reset(seeds=range(rows))
        generators = [policy._next_generator(slot) for slot in range(rows)]
        given["noise"] = randn(given["noise"].shape, generators, dtype=torch.float32, device="cpu").numpy()
        policy.reset(seeds=range(rows))  # the same noise again
        trajectory = policy.trajectories(given["obs"])
        policy.reset(seeds=range(rows))
        yield given, {"actions": policy.predict(given["obs"]), "trajectory": trajectory}


def _difference(policy: Policy, outputs: Sequence[np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference in normalised units, as a share of the largest output where that is above 1."""
    found = []
    for name, output, reference in zip(expected, outputs, expected.values(), strict=True):
        pair = [torch.from_numpy(array) for array in (output, reference)]
        if name != "output":
            pair = [policy.normalizer.normalize("action", tensor) for tensor in pair]
        found.append((pair[0] - pair[1]).abs().max() / pair[1].abs().max().clamp(min=1))
    return float(torch.stack(found).max())
