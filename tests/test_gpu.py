"""On a GPU, where there is one: what the processor gives, up to rounding, and the same again for the same seed."""

from pathlib import Path

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from typed import typed

from diffpolicy import checkpoint, evaluate_policy, load_policy
from diffpolicy.config import ExecutionConfig, SamplerConfig
from diffpolicy.images.drawing import draw_images
from diffpolicy.images.generator import load_generator
from diffpolicy.policies import PlanRequest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

WIDE = {"name": "unet1d", "widths": [32, 64], "groups": 8, "time_features": 32}
SETTINGS = ["task=detour", "net.widths=[16,32]", "net.time_features=16", "training.batch_size=64"]
SETTINGS += ["training.checkpoint_every=10", "training.log_every=5", "training.validate_every=20", "device=cuda"]
ROLLOUT = ["evaluation_episodes=4", "training.evaluate_every=20", "training.evaluate_from=20"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.2)  # of units of hundreds


@pytest.mark.parametrize("method", tiny.METHODS)
def test_chunks_are_those_of_the_processor(tmp_path, method):
    path = tiny.save(tmp_path / "run", tiny.config(method))
    there, here = load_policy(path, device="cuda"), load_policy(path)
    for count in (1, 3):
        obs = tiny.observations(count, here.obs_horizon)
        close(there.predict(obs), here.predict(obs))


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "ddim", "dpmpp_2m", "dpmpp_3m", "ddpm", "dopri5"])
def test_so_do_those_of_every_solver_compiled_for_one_robot(tmp_path, solver):
    path = tiny.save(tmp_path / "run", tiny.config(net=WIDE))
    there, here = (load_policy(path, solver=solver, compile=on, device=d) for on, d in ((1, "cuda"), (0, "cpu")))
    for seed in range(3):  # the first one captures
        obs = tiny.observations(1, here.obs_horizon, seed=seed)
        one, other = there.plan(PlanRequest(obs, seed)), here.plan(PlanRequest(obs, seed))
        close(one.actions, other.actions)
        assert one.calls == other.calls
    captured = there.model.net.graphs(torch.zeros(1, tiny.T_P, tiny.A, device="cuda"))
    assert len(captured) == (solver not in ("ddpm", "dopri5"))


def test_other_steps_weights_and_executions_are_not_those_that_were_captured(tmp_path):
    config = tiny.config(net=WIDE)
    path, other = (tiny.save(tmp_path / f"{seed}", config, tiny.model(config, seed)) for seed in (0, 1))
    obs = tiny.observations(1)
    policy = load_policy(path, compile=True, device="cuda")
    for steps in (3, 5, 3):
        policy.model.configure(SamplerConfig(steps=steps))
        close(policy.predict(obs), load_policy(path, steps=steps).predict(obs))
    policy.model.load_state_dict(load_policy(other).model.state_dict())
    close(policy.predict(obs), load_policy(other).predict(obs))
    held = ExecutionConfig(inpaint=4, noise="zero")
    there = tiny.Episodes(load_policy(path, compile=True, device="cuda", execution=held))
    here = tiny.Episodes(load_policy(path, execution=held))
    for seed in range(3):
        obs = tiny.observations(1, seed=seed)
        close(there.next(obs).actions, here.next(obs).actions)


@pytest.mark.parametrize("method", ["flow", "mean_flow"])
def test_many_robots_compiled(tmp_path, method):
    path = tiny.save(tmp_path / "run", tiny.config(method, net=WIDE))
    there, here = load_policy(path, compile=True, device="cuda", block=8), load_policy(path, block=8)
    for seed in range(2):
        obs = tiny.observations(8, seed=seed)
        close(there.predict(obs, seed), here.predict(obs, seed))


def test_cameras(tmp_path):
    path = tiny.save(tmp_path / "run", tiny.config(cameras=tiny.CAMERAS))
    obs = tiny.observations(2, cameras=tiny.CAMERAS)
    close(load_policy(path, device="cuda").predict(obs), load_policy(path).predict(obs))


@pytest.mark.parametrize("speed", ["float32", "bfloat16", "bfloat16+network"])
def test_a_training_goes_on_to_the_same_numbers_and_acts_anywhere(tmp_path, speed):
    once, again = tmp_path / "once", tmp_path / "again"
    settings = [*SETTINGS, *ROLLOUT, f"speed={speed}", "training.steps=20"]
    typed("train", *settings, f"run_dir={once}", cwd=tmp_path)
    typed("train", *settings, f"run_dir={again}", "max_minutes=1e-6", cwd=tmp_path)
    saved = checkpoint.read(again)
    assert saved.step < 20 and saved.state["device"] == "cuda"
    typed("train", *settings, f"run_dir={again}", "resume=true", cwd=tmp_path)
    one, other = checkpoint.read(once), checkpoint.read(again)
    assert one.step == other.step == 20 and one.state["speed"] == speed
    for name, weight in one.tensors("ema").items():
        assert weight.isfinite().all()
        torch.testing.assert_close(other.tensors("ema")[name], weight, rtol=0, atol=0)
    for device in ("cpu", "cuda"):
        result = evaluate_policy(once, tmp_path / device, episodes=4, videos=0, workers=0, device=device)
        assert 0 <= result["score"]["mean"] <= 1
    shared = evaluate_policy(once, tmp_path / "shared", episodes=4, videos=0, workers=2, device="cuda")
    assert shared["episodes"] == result["episodes"]


def test_auto_takes_the_gpu(tmp_path):
    settings = [*SETTINGS[:-1], "training.steps=5", "training.evaluate_every=0"]
    typed("train", *settings, f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert checkpoint.read(tmp_path / "run").state == checkpoint.read(tmp_path / "run").state | {"device": "cuda"}


@pytest.mark.parametrize("count", [1, 4])
def test_digits_are_those_of_the_processor(count):
    labels = torch.arange(count)
    path = Path(__file__).parent / "fixtures" / "digits"
    there, here = (draw_images(load_generator(path, device=device), labels, seed=3) for device in ("cuda", "cpu"))
    torch.testing.assert_close(there.images, here.images, rtol=0, atol=0.02)
