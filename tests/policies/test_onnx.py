"""Exported policies run in onnxruntime as in torch, from the file alone, or are not written."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.generative.shapes import randn
from diffpolicy.policies import build_actor
from diffpolicy.policies.onnx import ExportError, export_onnx
from diffpolicy.util.condition import Condition

T_O, T_A, D, A = 2, 8, 5, 2
METHODS = {
    "regression": {"name": "regression"},
    "mean_flow": {
        "name": "flow_map",
        "steps": 3,
        "path": {"name": "linear"},
        "objective": {"name": "mean_flow"},
    },
    "flow": {
        "name": "generative",
        "steps": 2,
        "path": {"name": "linear"},
        "prediction": "velocity",
        "solver": "euler",
    },
    "ddpm": {
        "name": "generative",
        "steps": 2,
        "path": {"name": "ddpm", "steps": 20},
        "prediction": "noise",
        "times": "discrete",
        "solver": "ddim",
        "grid": "ddpm_trailing",
        "clip": 1.0,
    },
}


NETS = {
    "unet1d": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
    "transformer": {"name": "transformer", "width": 16, "layers": 2, "features": 16, "time_features": 8},
}


@pytest.fixture
def saved(tmp_path):
    def save(method="flow", horizon=16, net="unet1d"):
        config = {
            "policy": {"obs_horizon": T_O, "horizon": horizon, "action_horizon": T_A},
            "method": METHODS[method],
            "net": NETS[net],
            "env": {"id": None, "options": {}},
        }
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        normalizer = Normalizer.fit({"obs": rng.uniform(0, 512, (99, D)), "action": rng.uniform(100, 400, (99, A))})
        actor = build_actor(config, D, A)
        for parameter in actor.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # a transformer's output starts at 0
        weights = actor.state_dict()
        groups = {"model": weights, "ema": weights, "normalizer": normalizer.to_tensors()}
        return checkpoint.write(tmp_path / method, 7, groups, config, {})

    return save


def _session(file):
    session = onnxruntime.InferenceSession(file)
    meta = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    return session, meta


def _draws(policy, rows):
    """Observations, and the noise that `policy` draws for them once reset by seeds 0, 1, …"""
    obs = np.random.default_rng(1).uniform(0, 512, (rows, T_O, D)).astype(np.float32)
    policy.reset(seeds=range(rows))
    generators = [policy._next_generator(slot) for slot in range(rows)]
    policy.reset(seeds=range(rows))
    return obs, randn((rows, policy.horizon, A), generators, dtype=torch.float32, device="cpu").numpy()


# the U-Net's stride of 2 does not divide 11
@pytest.mark.parametrize(("net", "horizon"), [("unet1d", 16), ("unet1d", 11), ("transformer", 11)])
def test_network_at_other_batch_sizes_than_the_traced_one(saved, tmp_path, net, horizon):
    path, file = saved(horizon=horizon, net=net), tmp_path / "new" / "net.onnx"
    assert export_onnx(path, file, "network") < 1e-5
    session, _ = _session(file)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("x", ["batch", horizon, A]),
        ("t", ["batch"]),
        ("cond", ["batch", T_O * D]),
    ]
    net = load_policy(path).actor.net
    for rows in (1, 3, 20):
        x, t, cond = torch.randn(rows, horizon, A), torch.rand(rows), torch.randn(rows, T_O * D)
        (output,) = session.run(["output"], {"x": x.numpy(), "t": t.numpy(), "cond": cond.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), net(x, t, Condition(cond)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("net", "method", "solver"),
    [
        ("unet1d", "flow", None),
        ("unet1d", "ddpm", None),
        ("unet1d", "ddpm", "dpmpp_2m"),
        ("transformer", "ddpm", None),
        ("unet1d", "mean_flow", None),
        ("transformer", "mean_flow", None),
    ],
)
def test_chunk_is_what_the_policy_predicts_from_the_same_noise(saved, tmp_path, net, method, solver):
    path, file = saved(method, net=net), tmp_path / "chunk.onnx"
    assert export_onnx(path, file, solver=solver, action_horizon=5) < 1e-3
    session, meta = _session(file)
    assert meta["sampler"]["solver"] == (solver or METHODS[method].get("solver", "flow_map"))
    assert len(meta["times"]) == METHODS[method]["steps"] + 1
    policy = load_policy(path, solver=solver)
    obs, noise = _draws(policy, 4)
    actions, trajectory = session.run(["actions", "trajectory"], {"noise": noise, "obs": obs})
    np.testing.assert_allclose(trajectory, policy.trajectories(obs), atol=0.05, rtol=0)  # of 300: 3e-4 normalised
    np.testing.assert_array_equal(actions, trajectory[:, T_O - 1 : T_O - 1 + 5])


def test_the_file_says_all_that_a_sampler_needs(saved, tmp_path):
    """DDIM by hand, from what the network's file holds, equals the policy."""
    path, file = saved("ddpm"), tmp_path / "net.onnx"
    export_onnx(path, file, "network")
    session, meta = _session(file)
    assert (meta["prediction"], meta["path"]["name"], meta["checkpoint_step"]) == ("noise", "ddpm", 7)
    assert meta["horizons"] == {"T_o": T_O, "T_p": 16, "T_a": T_A} and meta["version"]
    policy = load_policy(path)
    obs, x = _draws(policy, 3)
    stats = {key: {part: np.float32(row) for part, row in at.items()} for key, at in meta["normalizer"].items()}
    cond = ((obs - stats["obs"]["center"]) / stats["obs"]["scale"]).reshape(3, -1)
    times, alpha, sigma = (np.float32(meta[key]) for key in ("times", "alpha", "sigma"))
    for i in range(meta["sampler"]["steps"]):
        (noise,) = session.run(["output"], {"x": x, "t": np.full(3, times[i]), "cond": cond})
        data = np.clip((x - sigma[i] * noise) / alpha[i], -meta["clip"], meta["clip"])
        x = alpha[i + 1] * data + sigma[i + 1] * (x - alpha[i] * data) / sigma[i]
    actions = x * stats["action"]["scale"] + stats["action"]["center"]
    np.testing.assert_allclose(actions, policy.trajectories(obs), atol=0.05, rtol=0)


def test_nothing_is_overwritten_unless_told(saved, tmp_path):
    path, file = saved(), tmp_path / "net.onnx"
    file.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        export_onnx(path, file, "network")
    assert file.read_bytes() == b"mine"
    with pytest.raises(FileExistsError, match="folder"):
        export_onnx(path, tmp_path, "network", overwrite=True)
    export_onnx(path, file, "network", overwrite=True)
    assert _session(file)[1]["what"] == "network"


def test_a_difference_beyond_the_tolerance_leaves_no_file(saved, tmp_path):
    path, folder = saved(), tmp_path / "out"
    with pytest.raises(ExportError, match=r"differ by .*, more than the tolerance 1e-12"):
        export_onnx(path, folder / "policy.onnx", "network", tolerance=1e-12)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"what": "chnuk"}, "did you mean chunk"),
        ({"solver": "ddpm"}, "draws noise at every step.*solver=ddim"),
        ({"solver": "euler_maruyama"}, "draws noise"),
        ({"solver": "dopri5"}, "chooses its steps"),
    ],
)
def test_what_cannot_be_exported_is_refused(saved, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        export_onnx(saved(), tmp_path / "policy.onnx", **options)


def test_methods_that_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="takes two times.*what=chunk"):
        export_onnx(saved("mean_flow"), tmp_path / "policy.onnx", "network")
    with pytest.raises(ValueError, match="checkpoint is of regression"):
        export_onnx(saved("regression"), tmp_path / "policy.onnx")


def test_missing_packages_are_named_with_the_cure(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r'onnxruntime.*pip install "diffpolicy\[onnx\]"'):
        export_onnx(saved(), tmp_path / "policy.onnx")
