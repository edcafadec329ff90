"""Policies from checkpoints: as they were saved, with other samplers, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import CAMERAS, METHODS, WINDOWS, observations

from diffpolicy import checkpoint, load_policy
from diffpolicy.config import SamplerConfig
from diffpolicy.generative.solvers import SOLVERS
from diffpolicy.policies import PlanRequest


@pytest.fixture
def saved(tmp_path):
    def save(method="flow", cameras=None, **changes):
        return tiny.save(tmp_path / str(len(list(tmp_path.iterdir()))), tiny.config(method, cameras, **changes))

    return save


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("freeze", [False, True])
def test_loaded_equals_built(saved, method, freeze):
    built, loaded = tiny.policy(method), load_policy(saved(method), freeze=freeze)
    obs = observations(2, built.obs_horizon)
    for _ in range(2):  # the second chunk meets times that are known already
        np.testing.assert_allclose(loaded.predict(obs), built.predict(obs), rtol=0, atol=0.1 if freeze else 0)
    assert loaded.observation == built.observation and loaded.action_horizon == built.action_horizon


def test_a_policy_with_cameras_comes_back(saved):
    built, loaded = tiny.policy(cameras=CAMERAS), load_policy(saved(cameras=CAMERAS))
    obs = observations(2, cameras=CAMERAS)
    np.testing.assert_array_equal(loaded.predict(obs), built.predict(obs))
    assert loaded.observation == built.observation


@pytest.mark.parametrize("method", ["flow", "ddpm"])
def test_the_history_of_loss_aware_times_comes_back(tmp_path, method):
    run = tiny.config({**METHODS[method], "times": "loss_aware"})
    trained = tiny.model(run).train()
    loss = trained.loss(tiny.windows(5), torch.Generator().manual_seed(0))
    assert loss.shape == (5,) and loss.requires_grad
    noted = load_policy(tiny.save(tmp_path / "run", run, trained)).model.process.objective
    assert int(noted.counts.sum()) == 5 and noted.losses.sum() == pytest.approx(loss.sum().item(), rel=1e-5)


def test_every_solver_can_be_chosen_without_retraining(saved):
    for method in ("flow", "ddpm"):
        path = saved(method)
        for solver in set(SOLVERS) - {"ddpm_learned"}:
            options = {"rtol": 1e-1, "atol": 1e-1} if solver == "dopri5" else None
            policy = load_policy(path, SamplerConfig(solver, 4, options=options))
            chunk = policy.plan(PlanRequest(observations(2)))
            assert np.isfinite(chunk.actions).all() and chunk.calls.min() >= 4
            assert policy.model.sampler["solver"] == solver
        short = load_policy(path, solver="heun", steps=3, solver_options={}, action_horizon=4)
        assert short.model.sampler | {"grid": 0} == {"solver": "heun", "steps": 3, "grid": 0, "options": {}}
        assert short.predict(observations(1)).shape == (1, 4, 2)


def test_a_policy_with_a_learned_variance(tmp_path):
    run = tiny.config({**METHODS["ddpm"], "learned_variance": True})
    made = tiny.model(run).train()
    assert made.loss(tiny.windows(4), torch.Generator().manual_seed(0)).shape == (4,)
    path, obs = tiny.save(tmp_path / "run", run, made), observations(2)
    x, cond = torch.randn(2, *made.shape), made.told(torch.zeros(2, made.spec.cond_dim))
    assert made.net(x, torch.zeros(2), cond).shape == (2, made.shape[0], 2 * made.shape[1])
    chunks = {name: load_policy(path, solver=name, steps=20) for name in ("ddpm", "ddpm_learned", "ddim")}
    drawn = {name: policy.predict(obs) for name, policy in chunks.items()}
    assert all(np.isfinite(actions).all() for actions in drawn.values())
    assert (drawn["ddpm"] != drawn["ddpm_learned"]).any()
    with pytest.raises(ValueError, match=r"a learned variance; expected what=chunk"):
        chunks["ddim"].model.check_exportable("network")
    chunks["ddim"].model.check_exportable("chunk")


@pytest.mark.parametrize("steps", [1, 7, 20, 40])
def test_any_number_of_steps_on_ddpms_indices(saved, steps):
    path = saved({**METHODS["ddpm"], "grid": "ddpm_trailing", "steps": 5})
    for solver in ("ddim", "heun", "ddpm"):
        policy = load_policy(path, solver=solver, steps=steps)
        assert np.isfinite(policy.predict(observations(1))).all()
        assert policy.model.sampler["grid"] == ("uniform" if steps > 20 else "ddpm_trailing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": "eulr"}, "eulr.*euler"),
        ({"steps": 0}, "steps"),
        ({"solver": "ddpm", "grid": "ddpm_trailing"}, r"on LinearPath\(\); .* DiscretePath; .*take grid=uniform"),
        (
            {"solver": "ddpm_learned"},
            r"none was learned .*take solver=ddpm, or train .*method\.learned_variance=true",
        ),
        ({"weights": "emma"}, r"unknown weights 'emma' \(did you mean 'ema'"),
        ({"device": "cuda"}, "device=cuda is not available .*take device=auto"),
        ({"device": "mps"}, "device=mps is not available .*take device=auto"),
        ({"device": "gpu"}, "device=gpu is not available .*take device=auto"),
        ({"action_horizon": 16}, "T_a=16"),
        ({"sampler": SamplerConfig("heun"), "steps": 3}, "expected one of the two"),
    ],
)
def test_settings_that_are_refused(saved, monkeypatch, options, says):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=says):
        load_policy(saved(), **options)


def test_a_missing_checkpoint_names_those_there(saved):
    path = saved()
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint at .*best.*step_00000007"):
        load_policy(path.parent / "best")


def test_a_network_that_does_not_fit_its_weights(saved, tmp_path):
    model = tiny.model(tiny.config())
    path = tiny.save(tmp_path, tiny.config(net={**tiny.NET, "widths": [8, 24]}), model)
    with pytest.raises(checkpoint.CheckpointError, match=r"do not fit.*checkpoint \(.*network \("):
        load_policy(path)
    shutil.rmtree(path)
    path = tiny.save(tmp_path, tiny.config(net={"name": "unet1d", "width": [8, 16]}), model)
    with pytest.raises(checkpoint.CheckpointError, match=r"no policy: .*no option 'width' \(did you mean 'widths'"):
        load_policy(path)
    run = tiny.config("nearest")
    run.found.windows = WINDOWS + 1
    path = tiny.save(tmp_path / "nearest", run, tiny.model(tiny.config("nearest")))
    with pytest.raises(checkpoint.CheckpointError, match=r"actions: checkpoint \(50, 16, 2\), network \(51, 16, 2\)"):
        load_policy(path)


def test_a_network_of_images_is_refused():
    with pytest.raises(ValueError, match=r"'unet2d' does not take dim, horizon"):
        tiny.model(tiny.config("mean_flow", net={"name": "unet2d", "widths": [8]}))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "info", "version"])
def test_damaged_checkpoints_are_refused(saved, damage):
    path = saved()
    file = path / "ema.safetensors"
    if damage == "flip":
        contents = bytearray(file.read_bytes())
        contents[-5] ^= 1
        file.write_bytes(contents)
        match = "ema.safetensors is damaged"
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-10])
        match = "ema.safetensors is damaged"
    elif damage == "delete":
        file.unlink()
        match = "ema.safetensors is missing"
    elif damage == "info":
        (path / "checkpoint.json").unlink()
        match = "no complete checkpoint"
    else:
        info = json.loads((path / "checkpoint.json").read_text())
        (path / "checkpoint.json").write_text(json.dumps(info | {"format_version": 99}))
        match = "version 99"
    with pytest.raises(checkpoint.CheckpointError, match=match):
        load_policy(path)
