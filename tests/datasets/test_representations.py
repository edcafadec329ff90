"""What a recording holds and what a network sees are the same, there and back."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets import ReplayBuffer, load_windows, rotations
from diffpolicy.datasets.representations import Representations

RANDOM = Rotation.random(300, random_state=0)
MATRICES = torch.tensor(RANDOM.as_matrix()).float()
VECTORS = {"eef_pos": 3, "eef_rot": 4, "state": 7}
PULL = {
    "eef_rot": "quaternion_xyzw",
    "action[0:6]": "relative_pose:axis_angle:eef_pos+eef_rot",
    "action[7]": "angle",
}


def made(declared, action_dim=8, **vectors):
    return Representations(declared, vectors or VECTORS, "action", action_dim)


def batch(count=50, t_o=2, t_p=8):
    """Windows of random poses, rotations anywhere."""
    rng = np.random.default_rng(0)

    def turns(steps):
        return Rotation.random(count * steps, random_state=steps)

    quaternion = turns(t_o).as_quat().reshape(count, t_o, 4)
    obs = np.concatenate([rng.normal(size=(count, t_o, 3)), quaternion, rng.normal(size=(count, t_o, 7))], -1)
    turn = turns(t_p).as_rotvec().reshape(count, t_p, 3)
    rest = (rng.normal(size=(count, t_p, 1)), rng.uniform(-math.pi, math.pi, (count, t_p, 1)))
    action = np.concatenate([rng.normal(size=(count, t_p, 3)), turn, *rest], -1)
    return {"obs": torch.tensor(obs).float(), "action": torch.tensor(action).float()}


def same_turn(x, y, kind):
    return torch.allclose(rotations.to_matrix(kind, x), rotations.to_matrix(kind, y), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", rotations.KINDS)
def test_every_kind_of_rotation_there_and_back(kind):
    x = rotations.from_matrix(kind, MATRICES)
    assert x.shape == (300, rotations.KINDS[kind]) and not rotations.looks_wrong(kind, x).any()
    torch.testing.assert_close(rotations.to_matrix(kind, x), MATRICES, rtol=0, atol=2e-6)
    torch.testing.assert_close(rotations.from_6d(rotations.to_6d(MATRICES)), MATRICES, rtol=0, atol=2e-6)
    one = made({"turn": kind}, turn=rotations.KINDS[kind])
    seen = one.observations(x[:, None])
    assert seen.shape == (300, 1, 6) and one.dim("obs") == 6
    torch.testing.assert_close(one.observations_back(seen)[:, 0], x, rtol=0, atol=1e-4)


def test_rotations_mean_what_scipy_means():
    def of(kind, numbers):
        return rotations.to_matrix(kind, torch.tensor(numbers).float())

    quaternion = RANDOM.as_quat()
    assert torch.allclose(of("axis_angle", RANDOM.as_rotvec()), MATRICES, atol=2e-6)
    assert torch.allclose(of("quaternion_xyzw", quaternion), MATRICES, atol=2e-6)
    assert torch.allclose(of("quaternion_wxyz", quaternion[:, [3, 0, 1, 2]]), MATRICES, atol=2e-6)
    for order in ("xyz", "zyx", "XYZ", "ZXY", "yxz"):
        assert torch.allclose(of(f"euler_{order}", RANDOM.as_euler(order)), MATRICES, atol=2e-6)
    columns = np.swapaxes(RANDOM.as_matrix(), 1, 2)[:, :2].reshape(-1, 6)
    assert torch.allclose(of("rotation_6d_columns", columns), MATRICES, atol=2e-6)
    assert torch.allclose(of("rotation_6d_rows", RANDOM.as_matrix()[:, :2].reshape(-1, 6)), MATRICES, atol=2e-6)


def test_through_pi_and_the_double_cover_nothing_jumps():
    axis = torch.tensor([0.6, 0.0, 0.8])
    angles = torch.linspace(math.pi - 0.02, math.pi + 0.02, 41)
    recorded = torch.where(angles > math.pi, angles - 2 * math.pi, angles)[:, None] * axis  # jumps by 2π at π
    assert recorded.diff(dim=0).norm(dim=1).max() > 6
    one = made({"turn": "axis_angle"}, turn=3)
    seen = one.observations(recorded[:, None])
    assert seen.diff(dim=0).norm(dim=-1).max() < 2e-3
    back = one.observations_back(seen)[:, 0]
    assert same_turn(back, recorded, "axis_angle") and (back.norm(dim=1) <= math.pi + 1e-5).all()

    q = rotations.from_matrix("quaternion_xyzw", MATRICES)[:, None]
    one = made({"turn": "quaternion_xyzw"}, turn=4)
    assert torch.equal(one.observations(q), one.observations(-q))
    torch.testing.assert_close(one.observations_back(one.observations(-q)), q, rtol=0, atol=1e-5)

    one = made({"joint": "angle"}, joint=2)
    angle = torch.stack([angles, -angles], -1)
    angle = torch.where(angle.abs() > math.pi, angle - angle.sign() * 2 * math.pi, angle)[:, None]
    seen = one.observations(angle)
    assert seen.shape[-1] == 4 and seen.diff(dim=0).norm(dim=-1).max() < 2e-3
    torch.testing.assert_close(one.observations_back(seen).cos(), angle.cos())
    torch.testing.assert_close(one.observations_back(0.3 * seen).sin(), angle.sin(), rtol=0, atol=1e-5)
    turned = made({"joint": "angle_positive"}, joint=1)
    x = torch.linspace(0.1, 6.2, 30)[:, None, None]
    torch.testing.assert_close(turned.observations_back(turned.observations(x)), x)


def test_euler_angles_come_back_where_they_lock():
    for order in ("xyz", "XYZ", "zyx", "YXZ"):
        angles = torch.tensor([[0.3, math.pi / 2, 0.2], [-1.0, -math.pi / 2, 2.0]])
        matrix = rotations.to_matrix(f"euler_{order}", angles)
        again = rotations.to_matrix(f"euler_{order}", rotations.from_matrix(f"euler_{order}", matrix))
        torch.testing.assert_close(again, matrix, rtol=0, atol=1e-6)


def test_a_mixed_action_there_and_back():
    one, raw = made(PULL), batch()
    seen = one.apply({**raw, "camera": torch.zeros(1)})
    assert seen["obs"].shape[-1] == one.dim("obs") == 16 and seen["action"].shape[-1] == one.dim("action") == 12
    assert torch.equal(seen["action"][..., 9], raw["action"][..., 6])  # the gripper, as it is
    assert len(one.labels("action")) == 12 and one.labels("action")[9] == "action[6]"
    back = one.undo(seen)
    plain = [0, 1, 2, 6]
    torch.testing.assert_close(back["action"][..., plain], raw["action"][..., plain], rtol=0, atol=1e-5)
    torch.testing.assert_close(back["action"][..., 7].cos(), raw["action"][..., 7].cos(), rtol=0, atol=1e-5)
    assert same_turn(back["action"][..., 3:6], raw["action"][..., 3:6], "axis_angle")
    assert same_turn(back["obs"][..., 3:7], raw["obs"][..., 3:7], "quaternion_xyzw")
    assert set(back) == {"obs", "action", "camera"}


def test_a_relative_pose_is_seen_from_the_pose_of_now():
    """The reference is scipy's; and moving everything together changes nothing that the network sees of actions."""
    one, raw = made(PULL), batch()
    seen = one.apply(raw)["action"]
    now = Rotation.from_quat(raw["obs"][0, -1, 3:7].numpy())
    expected = now.inv().apply((raw["action"][0, 5, :3] - raw["obs"][0, -1, :3]).numpy())
    np.testing.assert_allclose(seen[0, 5, :3].numpy(), expected, atol=1e-5)
    turn = now.inv() * Rotation.from_rotvec(raw["action"][0, 5, 3:6].numpy())
    np.testing.assert_allclose(seen[0, 5, 3:6].numpy(), turn.as_matrix()[:, 0], atol=1e-5)

    world = Rotation.from_rotvec([0.4, -1.0, 2.0])
    moved = {name: x.clone() for name, x in raw.items()}
    for x, kind, size in ((moved["obs"], "quat", 4), (moved["action"], "rotvec", 3)):
        flat = x.view(-1, x.shape[-1])
        turns = world * getattr(Rotation, f"from_{kind}")(flat[:, 3 : 3 + size].numpy())
        flat[:, :3] = torch.tensor(world.apply(flat[:, :3].numpy()) + np.array([1.0, 2.0, 3.0])).float()
        flat[:, 3 : 3 + size] = torch.tensor(getattr(turns, f"as_{kind}")()).float()
    torch.testing.assert_close(one.apply(moved)["action"], seen, rtol=0, atol=2e-5)


@pytest.mark.parametrize("t_o", [1, 2, 3])
def test_relative_actions_and_deltas(t_o):
    raw = {"obs": torch.randn(5, t_o, 3), "action": torch.randn(5, 8, 3)}
    relative = made({"action[0:2]": "relative:arm[1:3]"}, 3, arm=3)
    seen = relative.apply(raw)["action"]
    assert torch.equal(seen[..., :2], raw["action"][..., :2] - raw["obs"][:, -1:, 1:3])
    assert torch.equal(seen[..., 2], raw["action"][..., 2])
    torch.testing.assert_close(relative.undo({**raw, "action": seen})["action"], raw["action"])

    delta = made({"action": "delta:arm"}, 3, arm=3)
    seen = delta.apply(raw)["action"]
    torch.testing.assert_close(seen[:, t_o:], raw["action"][:, t_o:] - raw["action"][:, t_o - 1 : -1])
    torch.testing.assert_close(seen[:, :t_o], raw["action"][:, :t_o] - raw["obs"])
    torch.testing.assert_close(delta.actions_back(seen, raw["obs"]), raw["action"], rtol=0, atol=1e-5)
    now = delta.actions_back(seen[:, t_o - 1 : t_o + 3], raw["obs"], t_o - 1)
    torch.testing.assert_close(now, raw["action"][:, t_o - 1 : t_o + 3], rtol=0, atol=1e-5)
    assert delta.chains and delta.moves and relative.moves and not relative.chains


def test_points_seen_from_the_frame_of_others():
    rng = np.random.default_rng(0)
    obs = torch.tensor(rng.normal(size=(20, 2, 4 + 4 + 6))).float()  # a rotation before, which has other numbers
    action = torch.tensor(rng.normal(size=(20, 8, 2))).float()
    quaternion = torch.tensor(Rotation.random(40, random_state=0).as_quat().reshape(20, 2, 4)).float()
    obs[..., :4], obs[..., 8:14] = quaternion, obs[:, :1, 8:14]  # the goal stays
    declared = {"turn": "quaternion_xyzw", "seen": "frame:goal", "action": "frame:goal[0:4]"}
    one = made(declared, 2, turn=4, seen=4, goal=6)
    assert one.moves and (one.dim("obs"), one.dim("action")) == (16, 2)
    pair = obs[:, 0, 8:12].unflatten(-1, (2, 2))
    shown = one.actions(action, obs)
    for k in range(20):
        ahead = (pair[k, 1] - pair[k, 0]) / (pair[k, 1] - pair[k, 0]).norm()
        left = torch.stack([-ahead[1], ahead[0]])
        away = action[k] - pair[k].mean(0)
        torch.testing.assert_close(shown[k], torch.stack([away @ ahead, away @ left], -1))
    ends = one.actions(pair, obs)  # which lie before and behind, as far as they are apart
    torch.testing.assert_close(ends[:, 1, 0], (pair[:, 1] - pair[:, 0]).norm(dim=-1) / 2)
    torch.testing.assert_close(ends[:, 0], -ends[:, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(one.actions_back(shown, obs), action, rtol=0, atol=1e-5)
    back = one.observations_back(one.observations(obs))
    torch.testing.assert_close(back[..., 4:], obs[..., 4:], rtol=0, atol=1e-5)
    torch.testing.assert_close(one.observations(obs)[..., 10:], obs[..., 8:])
    # A scene that is moved and turned as a whole looks as before.
    turn = torch.tensor(Rotation.from_euler("z", 0.7).as_matrix()[:2, :2]).float()
    moved, drawn = obs.clone(), torch.tensor([3.0, -5.0])
    moved[..., 4:] = (obs[..., 4:].unflatten(-1, (5, 2)) @ turn.T + drawn).flatten(-2)
    torch.testing.assert_close(one.actions(action @ turn.T + drawn, moved), shown, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        one.observations(moved)[..., 6:10], one.observations(obs)[..., 6:10], rtol=0, atol=1e-5
    )
    joined = made({"state[0:4]": "frame:state[4:8]", "state[8]": "angle", "action": "frame:state[4:8]"}, 2, state=10)
    state = obs[..., 4:14]
    back = joined.observations_back(joined.observations(state))
    torch.testing.assert_close(back[..., [0, 1, 2, 3, 4, 5, 6, 7, 9]], state[..., [0, 1, 2, 3, 4, 5, 6, 7, 9]])
    obs[..., 8:14] = 1.0  # points that are one have no direction; the frame is moved and not turned
    torch.testing.assert_close(one.actions(action, obs), action - 1)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"actoin": "angle"}, r"unknown array of dataset.representations 'actoin' \(did you mean 'action'"),
        ({"action[3:6]": "axis_angel"}, r"unknown dataset.representations.action\[3:6\] 'axis_angel' \(did you mean"),
        ({"action[3-6]": "axis_angle"}, r"'action\[3-6\]'; expected an array, or a part of it as in action\[3:6\]"),
        ({"action[5:9]": "angle"}, r"action\[5:9\]=angle; expected a part of the 8 numbers of 'action'"),
        ({"action": "axis_angle"}, r"action=axis_angle, of 8 numbers; expected 3; name a part, as action\[0:3\]"),
        ({"action[0:3]": "axis_angle", "action[2]": "angle"}, r"expected parts of 'action' that do not overlap"),
        ({"state": "relative:eef_pos"}, r"state=relative:eef_pos; expected actions \('action'\), which alone"),
        (
            {"action[0:3]": "relative:pose"},
            r"'pose' is not among the observed vectors; .*name it in observation.vectors",
        ),
        ({"action[0:3]": "relative:state"}, r"state has 7 numbers, the actions 3; expected as many; name parts"),
        ({"action": "relative"}, r"action=relative; expected what it is seen from; write relative:STATE"),
        ({"action[3:6]": "axis_angle:state"}, r"expected a form alone; leave out what follows the colon"),
        ({"action[0:6]": "relative_pose:axis_angle:eef_pos"}, r"expected POSITION\+ROTATION, two observed arrays"),
        (
            {"action[0:6]": "relative_pose:axis_angle:eef_pos+eef_rot"},
            r"eef_rot is undeclared; expected to know what kind .*declare dataset.representations.eef_rot=",
        ),
        (
            {"action[0:7]": "relative_pose:axis_angle:eef_pos+eef_rot", "eef_rot": "quaternion_xyzw"},
            r"of 7 numbers; expected 6: 3 of the position, then the rotation",
        ),
        ({"action": "frame"}, r"action=frame; expected what it is seen from; write .*frame:POINTS"),
        ({"action[0:3]": "frame:eef_rot"}, r"of 3 numbers; expected points, x and y of each; name a part"),
        ({"action": "frame:eef_pos"}, r"eef_pos of 3 numbers; expected x and y of two points or more"),
        (
            {"action": "frame:eef_rot", "eef_rot": "quaternion_xyzw"},
            r"frame:eef_rot and dataset.representations.eef_rot; expected eef_rot as it is recorded",
        ),
    ],
)
def test_what_cannot_be_declared_is_refused(declared, says):
    with pytest.raises(ValueError, match=says):
        made(declared)


def test_parts_of_arrays_are_typed_on_the_command_line():
    settings = [
        "action[0:6]=relative_pose:axis_angle:eef_pos+state[3:7]",
        "action[6]=angle",
        "observation.state=relative:a[0:2]",
        "eef_rot=quaternion_xyzw",
    ]
    typed = [f"dataset.representations.{one}" for one in settings] + ["dataset.normalize.action[6]=quantiles"]
    data = compose(["task=own", "run_dir=x", *typed, "dataset.normalize.obs=gaussian"]).dataset
    assert data.representations == dict(one.split("=") for one in settings)
    assert data.normalize == {"action[6]": "quantiles", "obs": "gaussian"}


def test_a_yaml_says_the_same(tmp_path):
    text = "representations:\n  action[0:6]: relative_pose:axis_angle:a+b\n  eef_rot: quaternion_xyzw\n"
    (tmp_path / "own.yaml").write_text(text)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "own.yaml"))["representations"] == {
        "action[0:6]": "relative_pose:axis_angle:a+b",
        "eef_rot": "quaternion_xyzw",
    }


def test_actions_of_another_name_that_are_observed_too():
    one = Representations({"command": "relative:command"}, {"arm": 2, "command": 3}, "command", 3)
    raw = {"obs": torch.randn(4, 2, 5), "action": torch.randn(4, 8, 3)}
    seen = one.apply(raw)
    assert torch.equal(seen["obs"], raw["obs"])  # actions alone are relative
    assert torch.equal(seen["action"], raw["action"] - raw["obs"][:, -1:, 2:])
    angles = Representations({"command[0]": "angle"}, {"arm": 2, "command": 3}, "command", 3)
    assert angles.dim("obs") == 6 and angles.dim("action") == 4  # what it holds, it holds wherever it is
    untouched = Representations({}, {"arm": 5}, "command", 3)
    assert untouched.apply(raw)["action"] is raw["action"] and untouched.apply(raw)["obs"] is raw["obs"]


def recording(path, **changed):
    """Three episodes of 40 frames: a pose that turns through π, and an action that is the pose two frames later."""
    frames, rng = np.arange(120), np.random.default_rng(0)
    turn = Rotation.from_rotvec(np.stack([0 * frames, 0 * frames, np.linspace(2, 5, 120)], 1))
    place = np.cumsum(rng.normal(size=(120, 3)), 0)
    later = np.minimum(frames + 2, 119)
    action = np.concatenate([place[later], turn[later].as_rotvec(), rng.uniform(size=(120, 1))], 1)
    data = {"eef_pos": place, "eef_rot": turn.as_quat(), "action": action, **changed}
    ReplayBuffer(data, np.array([40, 80, 120])).save(path)
    return RunConfig(
        observation=ObservationConfig(vectors=["eef_pos", "eef_rot"]),
        dataset=DatasetConfig(path=str(path), validation=0.0),
        policy=PolicyConfig(2, 8, 4),
    )


def test_the_normalizer_is_fitted_on_what_the_network_sees(tmp_path):
    config = recording(tmp_path / "r.zarr")
    config.dataset.representations = {
        "eef_rot": "quaternion_xyzw",
        "action[0:6]": "relative_pose:axis_angle:eef_pos+eef_rot",
    }
    windows = load_windows(config)
    seen = windows.normalized(windows.train.batch(torch.arange(len(windows.train))))
    assert seen["obs"].shape[-1] == 9 and seen["action"].shape[-1] == 10 and windows.train.action_dim == 7
    assert seen["action"].abs().max() <= 1 + 1e-4 and seen["obs"].abs().max() <= 1 + 1e-4
    assert seen["action"].amax((0, 1))[[0, 1, 2, 9]].min() > 0.99  # no wider than what is there
    assert any("action[0:6] as 9 numbers, number 8" in note for note in windows.notes)  # all turn about z


def test_rotations_that_are_none_are_refused_by_frame_and_episode(tmp_path):
    quaternions = np.tile([0.0, 0, 0, 1], (120, 1))
    quaternions[57] = 0
    config = recording(tmp_path / "zero.zarr", eef_rot=quaternions)
    config.dataset.representations = {"eef_rot": "quaternion_xyzw"}
    with pytest.raises(
        ValueError, match=r"eef_rot=quaternion_xyzw: frame 17 of episode 1 is not that; expected a rot"
    ):
        load_windows(config)
    config.dataset.representations = {"action[6]": "angle_positive"}
    config = recording(tmp_path / "angles.zarr", action=np.full((120, 7), -1.0))
    config.dataset.representations = {"action[6]": "angle_positive"}
    with pytest.raises(
        ValueError, match=r"frame 0 of episode 0 is not that; expected angles in \[0, 2π\), or angle d"
    ):
        load_windows(config)
