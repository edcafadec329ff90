"""Policies act in the recording's own units and form, whatever their networks see."""

import copy

import numpy as np
import onnxruntime
import pytest
import tiny_policy as tiny
import torch
from scipy.spatial.transform import Rotation
from tiny_policy import T_A, T_O, T_P

from diffpolicy import checkpoint, load_policy
from diffpolicy.config import ExecutionConfig, plain
from diffpolicy.datasets import Normalizer
from diffpolicy.datasets.representations import Representations
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.policies import Agent, PlanRequest, build_model, build_policy
from diffpolicy.policies.export_onnx import export_onnx

LEARNING = ("flow", "ddpm", "mean_flow", "two_step", "regression", "lstm_gmm")
POSE = {
    "eef_rot": "quaternion_xyzw",
    "action[0:6]": "relative_pose:axis_angle:eef_pos+eef_rot",
}
FRAMED = {"action[0:2]": "frame:eef_rot", "eef_pos[0:2]": "frame:eef_rot"}  # four numbers are two points
RELATIVE = {"action[0:3]": "relative:eef_pos", "action[3:6]": "axis_angle"}


def recorded(count=400, t_o=T_O, t_p=T_P):
    """Windows (raw) of a pose and an action near it, as position, axis-angle and a gripper."""
    rng = np.random.default_rng(3)
    turn = Rotation.random(count, random_state=1)
    place = rng.uniform(-1, 1, (count, 3))
    obs = np.concatenate([place, turn.as_quat()], 1)[:, None].repeat(t_o, 1)
    steps = [turn * Rotation.from_rotvec(rng.normal(size=(count, 3)) * 0.3) for _ in range(t_p)]
    turns = np.stack([step.as_rotvec() for step in steps], 1)
    action = np.concatenate([place[:, None] + rng.normal(size=(count, t_p, 3)) * 0.1, turns], -1)
    action = np.concatenate([action, rng.uniform(size=(count, t_p, 1))], -1)
    return {"obs": torch.tensor(obs).float(), "action": torch.tensor(action).float()}


def run_of(method, declared, raw, **changes):
    """The config of a run on `recorded`, its spec, model and normalizer."""
    run = tiny.config(method, **changes)
    run.dataset.representations, run.found.action_dim = dict(declared), raw["action"].shape[-1]
    if run.found.windows:
        run.found.windows = len(raw["obs"])
    spec = ObservationSpec({"eef_pos": Field("vector", (3,)), "eef_rot": Field("vector", (4,))})
    run.observation.vectors, run.found.observation = list(spec), spec.to_plain()
    represented = Representations.of(run.dataset, spec, run.found.action_dim)
    seen = represented.apply(raw)
    normalizer = Normalizer.fit({"obs": seen["obs"], "action": seen["action"]})
    torch.manual_seed(0)
    model = build_model(run, spec, run.found.action_dim).eval()
    if not model.learns:
        model.remember([normalizer.apply(seen)])
    return run, spec, model, normalizer


def policy_of(method, declared, raw=None, execution=None, t_a=None):
    run, spec, model, normalizer = run_of(method, declared, recorded() if raw is None else raw)
    return build_policy(run, spec, model, normalizer, execution=execution, action_horizon=t_a)


def observations(count, seed=5):
    rng = np.random.default_rng(seed)
    turn = Rotation.random(count * T_O, random_state=seed).as_quat()
    place = rng.uniform(-1, 1, (count * T_O, 3))
    return {"eef_pos": place.reshape(count, T_O, 3), "eef_rot": turn.reshape(count, T_O, 4)}


@pytest.mark.parametrize(
    "declared", [{}, POSE, RELATIVE, FRAMED, {"action[3:6]": "axis_angle"}, {"action[0:3]": "delta:eef_pos"}]
)
def test_a_policy_gives_back_what_was_recorded(declared):
    """The nearest demonstration's actions, in the recording's units, form and place."""
    raw = recorded()
    policy = policy_of("nearest", declared, raw)
    assert policy.action_dim == 7 and policy.obs_dim == 7
    chunk = policy.plan(
        PlanRequest({"eef_pos": raw["obs"][:9, :, :3].numpy(), "eef_rot": raw["obs"][:9, :, 3:].numpy()})
    )
    expected = raw["action"][:9].numpy()
    np.testing.assert_allclose(chunk.trajectory[..., [0, 1, 2, 6]], expected[..., [0, 1, 2, 6]], rtol=0, atol=1e-5)
    turns = (Rotation.from_rotvec(x[..., 3:6].reshape(-1, 3)) for x in (chunk.trajectory, expected))
    assert (next(turns).inv() * next(turns)).magnitude().max() < 2e-3
    now = chunk.trajectory[:, T_O - 1 : T_O - 1 + T_A]
    np.testing.assert_allclose(chunk.actions[..., [0, 1, 2, 6]], now[..., [0, 1, 2, 6]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", LEARNING)
def test_constant_and_tiny_dimensions_for_any_weights(method):
    """A constant comes out exactly so; a dimension of range 8e-5 as far out as one of range 2, in its own range."""
    rng = np.random.default_rng(0)
    wave = rng.uniform(-1, 1, (500, 1))
    action = np.concatenate([wave, 0 * wave + 1.5708, 0.7 + 4e-5 * wave], 1).astype(np.float32)
    run = tiny.config(method)
    normalizer = Normalizer.fit({"obs": rng.uniform(0, 512, (99, tiny.D)), "action": action})
    torch.manual_seed(0)
    model = build_model(run, tiny.spec(), 3).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    chunk = build_policy(run, tiny.spec(), model, normalizer).plan(
        PlanRequest(tiny.observations(4, run.policy.obs_horizon))
    )
    assert (chunk.trajectory[..., 1] == np.float32(1.5708)).all() and (
        chunk.actions[..., 1] == np.float32(1.5708)
    ).all()
    drawn = normalizer.normalize("action", torch.from_numpy(chunk.trajectory))
    assert 1e-4 < drawn[..., 0].abs().max() < 20, "the weights draw something"
    assert np.abs(chunk.trajectory[..., 2] - 0.7).max() <= 4e-5 * max(4.0, 2 * float(drawn[..., 0].abs().max()))


def test_relative_actions_of_two_agents():
    """Each is relative to what its own agent observes, whoever asks in between."""
    policy = policy_of("ddpm", RELATIVE)  # which draws within ±1 of the normalized, whatever its weights
    reach = 1.2 * policy.normalizer.to_tensors()["action.scale"][:3].max().item()
    places = {"here": 0.0, "there": 100.0}
    obs = {name: {k: v[:, 0] for k, v in observations(1).items()} for name in places}
    for name, place in places.items():
        obs[name]["eef_pos"] = np.full((1, 3), place)
    alone = {}
    for name in places:
        agent = Agent(policy)
        agent.reset([0], [7])
        alone[name] = [agent.act(obs[name])[0] for _ in range(2 * T_A)]
    first, second = Agent(policy), Agent(policy)
    first.reset([0], [7])
    second.reset([0], [7])
    for step in range(2 * T_A):
        for agent, name in ((first, "here"), (second, "there")):
            action = agent.act(obs[name])[0]
            np.testing.assert_array_equal(action, alone[name][step])
            assert np.abs(action[:3] - places[name]).max() < reach


@pytest.mark.parametrize("declared", [RELATIVE, POSE, FRAMED, {"action[3:6]": "axis_angle"}])
@pytest.mark.parametrize("execution", [{"ensemble": [0.5, 0.5]}, {"inpaint": 1}, {"warm_start": 0.5}])
def test_chunks_before_are_brought_to_what_is_observed_now(declared, execution):
    policy = policy_of("flow", declared, execution=ExecutionConfig(**execution), t_a=4)
    before, now = observations(2), observations(2, seed=6)
    first = policy.plan(PlanRequest(before))
    memory = copy.deepcopy(first.memory)
    second = policy.plan(PlanRequest(now, [(0, 1), (1, 1)], first.memory))
    again = policy.plan(PlanRequest(now, [(0, 1), (1, 1)], memory))
    np.testing.assert_array_equal(again.actions, second.actions)  # stateless
    places, start = [0, 1, 2, 6], T_O - 1
    planned = first.trajectory[:, start + 4 :]
    if "ensemble" in execution and declared is not POSE:  # of positions in one frame of reference
        mean = (planned[:, :4] + second.trajectory[:, start : start + 4]) / 2
        np.testing.assert_allclose(second.actions[..., places], mean[..., places], rtol=0, atol=1e-4)
    if "inpaint" in execution:  # one step ahead, and T_o - 1 steps back
        held, expected = second.trajectory[:, : start + 1], first.trajectory[:, 4 : start + 5]
        np.testing.assert_allclose(held[..., places], expected[..., places], rtol=0, atol=1e-4)
        turns = (Rotation.from_rotvec(x[..., 3:6].reshape(-1, 3)) for x in (held, expected))
        assert (next(turns).inv() * next(turns)).magnitude().max() < 2e-3


def test_what_cannot_be_combined_is_refused():
    deltas = {"action[0:3]": "delta:eef_pos"}
    assert policy_of("flow", deltas).plan(PlanRequest(observations(1))).actions.shape == (1, T_A, 7)
    with pytest.raises(ValueError, match="execution.ensemble with delta actions.*; set them to null"):
        policy_of("flow", deltas, execution=ExecutionConfig(ensemble=0.1), t_a=4)
    run = tiny.config("ddpm")
    for mode in ({"action": "quantiles"}, {"action[1]": "quantiles"}):
        run.dataset.normalize = mode
        with pytest.raises(
            ValueError, match=r"within ±1, and dataset.normalize.action=quantiles needs more.*method.clip"
        ):
            build_model(run, tiny.spec(), 2, for_training=True)
    run.dataset.normalize = {"action": "limits", "obs": "quantiles"}
    build_model(run, tiny.spec(), 2, for_training=True)


@pytest.mark.parametrize(
    "declared",
    [POSE, FRAMED, {"eef_rot": "quaternion_xyzw", "action[0:3]": "delta:eef_pos", "action[3:6]": "axis_angle"}],
)
def test_a_checkpoint_and_its_onnx_file_act_alike(declared, tmp_path):
    raw = recorded()
    raw["action"][..., 6] = 1.5708
    run, spec, model, normalizer = run_of({**tiny.METHODS["flow"], "steps": 1}, declared, raw)
    tensors = model.state_dict()
    groups = {"model": tensors, "ema": tensors, "normalizer": normalizer.to_tensors()}
    path = checkpoint.write(tmp_path, 7, groups, plain(run), {})
    policy, obs = load_policy(path), observations(3)
    request = PlanRequest(obs, keys=0)
    expected = build_policy(run, spec, model, normalizer).plan(request)
    np.testing.assert_array_equal(policy.plan(request).actions, expected.actions)
    assert (expected.actions[..., 6] == np.float32(1.5708)).all()

    assert export_onnx(path, tmp_path / "chunk.onnx") < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "chunk.onnx")
    noise = torch.randn(3, *policy.model.shape, generator=torch.Generator().manual_seed(0)).numpy()
    joined = np.concatenate([obs["eef_pos"], obs["eef_rot"]], -1).astype(np.float32)
    actions, trajectory = session.run(["actions", "trajectory"], {"noise": noise, "obs": joined})
    assert actions.shape == (3, T_A, 7) and trajectory.shape == (3, T_P, 7)
    assert (actions[..., 6] == np.float32(1.5708)).all()
    with pytest.raises(ValueError, match=r"the network alone lacks dataset.representations=.*expected what=chunk"):
        export_onnx(path, tmp_path / "network.onnx", "network")
