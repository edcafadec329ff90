"""Exported policies run in onnxruntime as in torch, from the file alone, or are not written."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import T_A, T_O, A, D

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig, SamplerConfig
from diffpolicy.generative.shapes import randn
from diffpolicy.policies import PlanRequest
from diffpolicy.policies.export_onnx import ExportError, export_onnx
from diffpolicy.util.seeds import generator

METHODS = {
    "regression": tiny.METHODS["regression"],
    "mean_flow": {**tiny.METHODS["mean_flow"], "steps": 2},
    "flow": {**tiny.METHODS["flow"], "steps": 2},
    "ddpm": {**tiny.METHODS["ddpm"], "steps": 2, "grid": "ddpm_trailing"},
}
NETS = {
    "unet1d": tiny.NET,
    "transformer": {"name": "transformer", "width": 16, "layers": 2, "features": 16, "time_features": 8},
}


@pytest.fixture
def saved(tmp_path):
    def save(method="flow", horizon=16, net="unet1d", cameras=None, features=0):
        run = tiny.config(METHODS[method], cameras, net=NETS[net])
        run.policy.horizon, run.policy.features = horizon, features
        model = tiny.model(run)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # a transformer's output starts at 0
        return tiny.save(tmp_path / method, run, model)

    return save


def _session(file):
    session = onnxruntime.InferenceSession(file)
    meta = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    return session, meta


def _draws(policy, count):
    """Observations, and the noise that `policy` draws for them by the seeds 0, 1, …"""
    generators = [generator(seed, 0) for seed in range(count)]
    noise = randn((count, policy.horizon, A), generators, dtype=torch.float32, device="cpu").numpy()
    return tiny.observations(count, seed=1), noise


# the U-Net's stride of 2 does not divide 11
@pytest.mark.parametrize(
    ("net", "horizon", "features"), [("unet1d", 16, 0), ("unet1d", 11, 8), ("transformer", 11, 0)]
)
def test_network_at_other_batch_sizes_than_the_traced_one(saved, tmp_path, net, horizon, features):
    path, file = saved(horizon=horizon, net=net, features=features), tmp_path / "new" / "net.onnx"
    assert export_onnx(path, file, "network") < 1e-5
    session, _ = _session(file)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("x", ["batch", horizon, A]),
        ("t", ["batch"]),
        ("cond", ["batch", T_O * D]),
    ]
    model = load_policy(path).model
    for count in (1, 3, 20):
        x, t, cond = torch.randn(count, horizon, A), torch.rand(count), torch.randn(count, T_O * D)
        (output,) = session.run(["output"], {"x": x.numpy(), "t": t.numpy(), "cond": cond.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model.net(x, t, model.told(cond)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("net", "method", "solver", "features"),
    [
        ("unet1d", "flow", None, 8),
        ("unet1d", "ddpm", None, 0),
        ("transformer", "ddpm", "dpmpp_2m", 8),
        ("unet1d", "mean_flow", None, 8),
        ("transformer", "mean_flow", None, 0),
    ],
)
def test_chunk_is_what_the_policy_predicts_from_the_same_noise(saved, tmp_path, net, method, solver, features):
    path, file = saved(method, net=net, features=features), tmp_path / "chunk.onnx"
    assert export_onnx(path, file, sampler=SamplerConfig(solver), action_horizon=5) < 1e-3
    session, meta = _session(file)
    assert meta["sampler"]["solver"] == (solver or {"flow": "euler", "ddpm": "ddim"}.get(method, "flow_map"))
    assert len(meta["times"]) == METHODS[method]["steps"] + 1
    policy = load_policy(path, solver=solver)
    obs, noise = _draws(policy, 4)
    actions, trajectory = session.run(["actions", "trajectory"], {"noise": noise, "obs": obs})
    np.testing.assert_allclose(
        trajectory, policy.plan(PlanRequest(obs)).trajectory, atol=0.05, rtol=0
    )  # of 300: 3e-4 normalized
    np.testing.assert_array_equal(actions, trajectory[:, T_O - 1 : T_O - 1 + 5])


def test_the_policys_temperature_is_in_the_file(tmp_path):
    run = tiny.config("flow")
    run.policy.temperature = 0.5
    path, file = tiny.save(tmp_path / "checkpoints", run), tmp_path / "chunk.onnx"
    assert export_onnx(path, file) < 1e-3  # compared with the policy
    session, meta = _session(file)
    assert meta["temperature"] == 0.5
    policy = load_policy(path)
    obs, noise = _draws(policy, 3)
    (cool,) = session.run(["trajectory"], {"noise": noise, "obs": obs})
    warm = load_policy(path, execution=ExecutionConfig(temperature=1.0)).plan(PlanRequest(obs)).trajectory
    np.testing.assert_allclose(cool, policy.plan(PlanRequest(obs)).trajectory, atol=0.05, rtol=0)
    assert np.abs(cool - warm).max() > 1


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
    np.testing.assert_allclose(actions, policy.plan(PlanRequest(obs)).trajectory, atol=0.05, rtol=0)


def test_nothing_is_overwritten_unless_asked(saved, tmp_path):
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
    with pytest.raises(ExportError, match=r"differ by .* was not written; expected at most the tolerance 1e-12"):
        export_onnx(path, folder / "policy.onnx", "network", tolerance=1e-12)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"what": "chnuk"}, "did you mean 'chunk'"),
        ({"sampler": SamplerConfig("ddpm")}, "draws noise at every step.*solver=ddim"),
        ({"sampler": SamplerConfig("euler_maruyama")}, "draws noise"),
        ({"sampler": SamplerConfig("dopri5")}, "chooses its steps"),
    ],
)
def test_what_cannot_be_exported_is_refused(saved, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        export_onnx(saved(), tmp_path / "policy.onnx", **options)


def test_methods_that_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="takes two times.*what=chunk"):
        export_onnx(saved("mean_flow"), tmp_path / "policy.onnx", "network")
    with pytest.raises(ValueError, match="RegressionModel cannot be exported; expected flow matching, diffusion or"):
        export_onnx(saved("regression"), tmp_path / "policy.onnx")
    with pytest.raises(ValueError, match="the policy sees images of 'front', 'wrist'"):
        export_onnx(saved("flow", cameras=tiny.CAMERAS), tmp_path / "policy.onnx")


def test_missing_packages_are_named_with_the_cure(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r'onnxruntime.*pip install "diffpolicy\[onnx\]"'):
        export_onnx(saved(), tmp_path / "policy.onnx")
