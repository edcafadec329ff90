"""Training from Python: a run knows its data by content, keeps its normalizer, and starts from other weights."""

import shutil

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import diffpolicy
from diffpolicy import ReplayBuffer, checkpoint, load_policy, train_policy

TINY = [
    "task=own",
    "net.widths=[8,16]",
    "net.time_features=8",
    "training.batch_size=16",
    "speed=float32",
    "device=cpu",
]


def recording(path, episodes, length, seed=0):
    draw = np.random.default_rng(seed)
    walks = [np.cumsum(draw.normal(size=(length, 3)), 0).astype(np.float32) for _ in range(episodes)]
    ReplayBuffer.from_episodes({"obs": walk, "action": walk[:, :2]} for walk in walks).save(path)


def trained(folder, *settings):
    return train_policy([*TINY, f"run_dir={folder / 'run'}", *settings])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    recording(folder / "demos.zarr", 12, 60)
    trained(folder, f"dataset.path={folder / 'demos.zarr'}", "training.steps=4")
    return folder


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def test_public_names_come_from_the_package_itself():
    assert {"load_policy", "train_policy", "evaluate_policy", "Agent", "ReplayBuffer", "rollout", "make_env"} <= {
        name for name in diffpolicy.__all__ if getattr(diffpolicy, name) is not None
    }
    with pytest.raises(AttributeError, match="no attribute 'train_polizy'"):
        _ = diffpolicy.train_polizy


def test_other_data_at_the_same_path_are_refused(copied):
    """30 × 70 frames where 12 × 60 were: the weights would meet another normalizer."""
    shutil.rmtree(copied / "demos.zarr")
    recording(copied / "demos.zarr", 30, 70, seed=1)
    with pytest.raises(ValueError, match="trained on other data"):
        trained(copied, f"dataset.path={copied / 'demos.zarr'}", "training.steps=4", "resume=true")


def test_the_same_data_elsewhere_are_the_same_data(copied):
    (copied / "demos.zarr").rename(copied / "moved.zarr")
    data = f"dataset.path={copied / 'moved.zarr'}/"
    last = trained(copied, data, "training.steps=4", "training.log_every=1", "evaluation_episodes=3", "resume=true")
    assert last.resolve().name == "step_00000004"


def test_more_steps_extend_a_finished_run_with_its_normalizer(copied):
    before = checkpoint.read(copied / "run").tensors("normalizer")
    last = trained(copied, f"dataset.path={copied / 'demos.zarr'}", "training.steps=7", "resume=true")
    saved = checkpoint.read(last)
    assert saved.step == 7
    assert all(torch.equal(before[name], value) for name, value in saved.tensors("normalizer").items())


def test_a_changed_setting_that_affects_results_is_refused(copied):
    with pytest.raises(ValueError, match=r"training.lr: was 0.001, now 0.01"):
        trained(
            copied, f"dataset.path={copied / 'demos.zarr'}", "training.steps=4", "training.lr=1e-2", "resume=true"
        )


def test_a_new_run_starts_from_old_weights_and_their_normalizer(run, tmp_path):
    recording(tmp_path / "others.zarr", 5, 40, seed=2)
    start = run / "run/checkpoints/last"
    settings = [f"dataset.path={tmp_path / 'others.zarr'}", f"init_from={start}", "training.steps=1"]
    last = trained(tmp_path, *settings, "training.lr=0", "training.weight_decay=0")
    old, new = checkpoint.read(start), checkpoint.read(last)
    for group, source in (("normalizer", "normalizer"), ("model", "ema")):  # a rate of 0 leaves weights as they were
        assert all(torch.equal(value, new.tensors(group)[name]) for name, value in old.tensors(source).items())
    assert load_policy(last).predict(np.zeros((1, 2, 3), np.float32)).shape == (1, 8, 2)


def test_a_run_with_declared_representations_acts_and_resumes(tmp_path, capsys):
    """Poses whose quaternions change their sign, and a gripper that never moves; far from where it was trained."""
    draw = np.random.default_rng(0)
    place, signs = np.cumsum(draw.normal(size=(240, 3)) * 0.01, 0), draw.choice([-1.0, 1.0], (240, 1))
    turn = Rotation.from_rotvec(np.outer(np.linspace(2, 5, 240), [0, 0.6, 0.8]))
    action = np.concatenate([place, turn.as_rotvec(), np.full((240, 1), 1.5708)], 1)
    data = {"eef_pos": place, "eef_rot": turn.as_quat() * signs, "action": action}
    ReplayBuffer(data, np.array([80, 160, 240])).save(tmp_path / "poses.zarr")
    settings = [f"dataset.path={tmp_path / 'poses.zarr'}", "observation.vectors=[eef_pos,eef_rot]"]
    pose = "dataset.representations.action[0:6]=relative_pose:axis_angle:eef_pos+eef_rot"
    settings += ["dataset.representations.eef_rot=quaternion_xyzw", pose]
    last = trained(tmp_path, *settings, "training.steps=3")
    assert "constant in all training episodes, and comes back exactly so: action[6]" in capsys.readouterr().out

    policy = load_policy(last)
    here = {"eef_pos": place[None, 100:102] + 5, "eef_rot": turn[100:102].as_quat()[None]}
    actions = policy.predict(here)
    assert actions.shape == (1, 8, 7) and (actions[..., 6] == np.float32(1.5708)).all()
    assert np.abs(actions[..., :3] - here["eef_pos"][:, -1:]).max() < 1.5  # relative to where it is now
    flipped = policy.predict({**here, "eef_rot": -here["eef_rot"]})
    np.testing.assert_array_equal(flipped, actions)

    last = trained(tmp_path, *settings, "training.steps=4", "resume=true")
    assert "constant in" not in capsys.readouterr().out  # said once
    with pytest.raises(
        ValueError, match=r"was trained with dataset.representations=.*start from it with the same ones"
    ):
        train_policy([*TINY, *settings[:-1], f"run_dir={tmp_path / 'other'}", f"init_from={last}"])
