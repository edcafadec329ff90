import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from diffpolicy.datasets.build import DatasetConfig, load_windows, open_batches
from diffpolicy.datasets.downloads import PUSHT, check_digest
from diffpolicy.datasets.pusht import CORNERS, GOAL, align, block_corners, load_pusht, mirror
from diffpolicy.datasets.replay_buffer import ReplayBuffer
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.envs.tee import GOAL_POSE

# The data set's nine points in the block's frame, px.
KEYPOINTS = np.array(
    [
        (9.269, 90.023),
        (-60.992, -1.187),
        (60.907, -1.393),
        (-0.270, 25.544),
        (-14.064, 122.811),
        (39.000, 32.861),
        (-39.955, 32.734),
        (-16.822, 62.872),
        (23.541, -1.700),
    ]
)


@pytest.fixture(scope="module")
def published() -> Path:
    root = os.environ.get("DIFFPOLICY_DATA")
    if not root or not (Path(root) / PUSHT.folder).exists():
        pytest.skip(f"set DIFFPOLICY_DATA to a folder that holds {PUSHT.folder} to run this test")
    return Path(root) / PUSHT.folder


def test_published_digests(published):
    low = ("action", "keypoint", "n_contacts", "state")
    buffer = ReplayBuffer.open(published)
    assert sorted(buffer.keys()) == sorted(low)
    for key in low:
        check_digest(PUSHT, f"data/{key}", [buffer[key]], str(published), "")
    check_digest(PUSHT, "meta/episode_ends", [buffer.episode_ends], str(published), "")
    assert (buffer.n_episodes, buffer.n_steps) == (206, 25650)


def test_images_have_the_published_form(published):
    """All of them would take half a minute: the first ones stand for the rest."""
    with ZarrArchive(published) as archive:
        assert archive.array("data/img").shape == (25650, 96, 96, 3)
        first = next(archive.slabs("data/img"))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, first.astype(np.uint8))


@pytest.mark.parametrize(("obs", "size"), [("keypoints", 20), ("corners", 18), ("state", 5)])
def test_observations(published, obs, size):
    buffer = load_pusht(obs)
    raw = ReplayBuffer.open(published)
    assert buffer.keys() == ["obs", "action"]
    assert buffer["obs"].shape == (25650, size) and buffer["obs"].dtype == np.float32
    agent = buffer["obs"][:, :2] if obs == "state" else buffer["obs"][:, -2:]
    np.testing.assert_array_equal(agent, raw["state"][:, :2])
    if obs == "keypoints":
        np.testing.assert_array_equal(buffer["obs"][:, :18].reshape(-1, 9, 2), raw["keypoint"])
    np.testing.assert_array_equal(buffer["action"], raw["action"])
    np.testing.assert_array_equal(buffer.episode_ends, raw.episode_ends)


def test_the_pose_moves_points_as_the_data_set_does(published):
    """position + R(angle)·p with the same code as the corners, on points that the data set recorded."""
    raw = ReplayBuffer.open(published)
    pose = raw["state"][:, 2:].astype(np.float64)
    corners = block_corners(pose)
    # the map from the block's frame to the world is affine: three corners determine it
    frame = np.concatenate([CORNERS, np.ones((8, 1))], axis=1)
    weights = np.linalg.lstsq(frame.T, np.concatenate([KEYPOINTS, np.ones((9, 1))], axis=1).T, rcond=None)[0]
    error = np.abs(np.einsum("ck,ncd->nkd", weights, corners) - raw["keypoint"]).max((1, 2))
    assert np.median(error) < 0.05  # the points above are rounded means
    assert (error > 0.2).mean() < 0.003  # a few frames, after quick turns, lag behind by up to two pixels


def test_corners_in_their_order():
    still = block_corners(np.array([100.0, 200.0, 0.0]))
    np.testing.assert_allclose(still, CORNERS + np.array([100, 200]))
    assert CORNERS[0].tolist() == [-60, 0] and CORNERS[4].tolist() == [15, 120]
    quarter = block_corners(np.array([[100.0, 200.0, np.pi / 2]]))
    np.testing.assert_allclose(quarter[0, 0], [100 - 0, 200 - 60], atol=1e-12)  # (x, y) -> (−y, x)
    assert block_corners(np.zeros((4, 5, 3), np.float32)).shape == (4, 5, 8, 2)
    assert block_corners(np.zeros((4, 3), np.float32)).dtype == np.float32


def test_mirror_is_the_reflection_in_the_goals_axis():
    """Against the definition: reflect the corners in x + y = 512, where the T's two sides change places."""
    rng = np.random.default_rng(0)
    agent, pose = rng.uniform(0, 512, (6, 2)), np.column_stack([rng.uniform(0, 512, (6, 2)), rng.uniform(0, 6, 6)])
    points = block_corners(pose)[:, [0, 3, 4]]
    image = rng.integers(0, 256, (6, 96, 96, 3)).astype(np.uint8)
    frames = {"state": np.hstack([agent, pose]), "action": agent, "keypoint": points, "img": image}
    seen = mirror(frames)
    np.testing.assert_allclose(seen["action"], 512 - agent[:, ::-1])
    np.testing.assert_array_equal(seen["state"][:, :2], seen["action"])
    other_side = [1, 0, 7, 6, 5, 4, 3, 2]
    reflected = 512 - block_corners(pose)[:, other_side][..., ::-1]
    np.testing.assert_allclose(block_corners(seen["state"][:, 2:]), reflected, atol=1e-9)
    np.testing.assert_allclose(seen["keypoint"], reflected[:, [0, 3, 4]], atol=1e-9)
    np.testing.assert_array_equal(seen["img"][:, 95 - 30, 95 - 20], image[:, 20, 30])  # row y, column x
    goal = np.array([[0, 0, 256, 256, np.pi / 4]])
    np.testing.assert_allclose(mirror({"state": goal})["state"][0, 2:], goal[0, 2:])
    again = mirror(seen)
    for name, values in frames.items():
        np.testing.assert_allclose(again[name], values, atol=1e-9)


def test_mirror_images_are_demonstrations_too(published):
    """Acted out in the environment they take the block where they say; only the walls differ, by a pixel."""
    state = load_pusht("state", mirrored=True)
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="state", max_episode_steps=10_000)
    for episode in state.episode_slices()[:40:10]:
        obs, _ = env.reset(options={"state": state["obs"][episode][0]})
        for action in state["action"][episode][:-1]:
            obs, *_ = env.step(action)
        np.testing.assert_allclose(obs[2:4], state["obs"][episode][-1, 2:4], atol=0.1)


def test_aligning_moves_each_episode_as_one_rigid_body():
    rng = np.random.default_rng(0)
    agent, pose = rng.uniform(0, 512, (7, 2)), np.column_stack([rng.uniform(0, 512, (7, 2)), rng.uniform(0, 6, 7)])
    frames = {
        "state": np.hstack([agent, pose]),
        "action": rng.uniform(0, 512, (7, 2)),
        "keypoint": block_corners(pose)[:, [0, 3, 4]],
    }
    ends = np.array([3, 7])
    moved = align(frames, ends)
    last = moved["state"][ends - 1]
    np.testing.assert_allclose(last[:, 2:], np.tile(GOAL, (2, 1)))
    np.testing.assert_allclose(moved["keypoint"], block_corners(moved["state"][:, 2:])[:, [0, 3, 4]], atol=1e-9)

    def distances(seen, episode):
        """Between all points of an episode, of all frames: what a rigid motion, and no other, leaves as it is."""
        points = np.concatenate([seen["state"][episode, :2], seen["action"][episode], *seen["keypoint"][episode]])
        return np.linalg.norm(points[:, None] - points, axis=-1)

    for episode in (slice(0, 3), slice(3, 7)):
        np.testing.assert_allclose(distances(moved, episode), distances(frames, episode), atol=1e-9)
        turned = [
            np.linalg.det(seen["keypoint"][episode][0, 1:] - seen["keypoint"][episode][0, :1])
            for seen in (moved, frames)
        ]
        np.testing.assert_allclose(*turned)  # a mirror image has the other sign
    again = align(moved, ends)
    for name, values in moved.items():
        np.testing.assert_allclose(again[name], values, atol=1e-9)


def test_aligned_demonstrations_finish_what_people_left(published):
    """Acted out in the environment: as recorded hardly one reaches a coverage of 0.95, aligned nearly all do."""
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="state", max_episode_steps=10_000)
    successes = {}
    for aligned in (False, True):
        state = load_pusht("state", aligned=aligned)
        successes[aligned] = 0
        for episode in state.episode_slices()[:200:10]:
            env.reset(options={"state": state["obs"][episode][0]})
            ended = [env.step(action)[2] for action in state["action"][episode]]
            successes[aligned] += any(ended)
    assert successes[False] <= 2 and successes[True] >= 18, successes


@pytest.mark.parametrize(("obs", "block"), [("keypoints", slice(18)), ("corners", slice(16)), ("state", slice(2, 5))])
def test_aligned_whatever_is_observed(published, obs, block):
    """All demonstrations end with the block in one place, the mirrored ones too where its points are symmetric."""
    windows = load_windows(DatasetConfig(obs=obs, episodes=20, mirror=True, align=True), 16, 2, 8)
    ends = load_pusht(obs, aligned=True).episode_ends
    last = load_pusht(obs, aligned=True)["obs"][ends - 1, block]
    assert np.ptp(last, axis=0).max() < (1.0 if obs == "keypoints" else 1e-3)  # some recorded keypoints lag behind
    if obs == "state":
        np.testing.assert_allclose(last[0], GOAL, atol=1e-5)
        mirrored = load_pusht(obs, mirrored=True, aligned=True)["obs"][ends - 1, block]
        np.testing.assert_allclose(mirrored, last, atol=1e-4)
    plain = load_windows(DatasetConfig(obs=obs, episodes=20, mirror=True), 16, 2, 8)
    assert len(windows.train) == len(plain.train)
    seen, recorded = (np.unique(w.train.all_obs()[:, block].round(decimals=2), axis=0) for w in (windows, plain))
    frames = {tuple(row) for row in seen.tolist()} & {tuple(row) for row in last.round(2).tolist()}
    assert frames and not frames & {tuple(row) for row in recorded.tolist()}  # the goal is seen where it is aligned


def test_aligning_leaves_the_weights_by_pace_alone(published):
    aligned, plain = (load_windows(DatasetConfig(episodes=9, pace=1.0, align=how), 16, 2, 8) for how in (True, False))
    batch = torch.arange(len(plain.train))
    assert torch.equal(aligned.train.batch(batch)["weight"], plain.train.batch(batch)["weight"])
    assert plain.train.batch(batch)["weight"].std() > 0.1


def test_the_goal_and_the_corners_are_the_environments():
    np.testing.assert_array_equal(GOAL, GOAL_POSE)
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="corners")
    obs, info = env.reset(seed=3)
    np.testing.assert_allclose(obs[:16].reshape(8, 2), block_corners(info["state"][2:]), atol=1e-3)
    np.testing.assert_array_equal(info["goal_pose"], GOAL)


def test_mirrored_angles_are_observed_ones(published):
    angles = load_pusht("state", mirrored=True)["obs"][:, 4]
    assert angles.min() >= 0 and angles.max() < 2 * np.pi + 1e-6


def test_images_cannot_be_aligned():
    for obs in ("pixels", "agent"):
        with pytest.raises(ValueError, match=r"cannot be aligned.*dataset\.align=false"):
            load_pusht(obs, aligned=True)
    with pytest.raises(ValueError, match=r"only Push-T's goal is known.*dataset\.align=false"):
        load_windows(DatasetConfig(name="detour", align=True), 16, 2, 8)


def test_mirror_images_of_the_training_episodes_alone(published):
    plain, mirrored = (load_windows(DatasetConfig(episodes=5, mirror=how), 16, 2, 8) for how in (False, True))
    assert len(mirrored.train) == 2 * len(plain.train)
    assert len(mirrored.validation) == len(plain.validation)
    torch.testing.assert_close(
        mirrored.train.all_actions()[: len(plain.train.all_actions())], plain.train.all_actions()
    )


def test_windows_of_the_demonstrations(published):
    buffer = load_pusht("keypoints")
    windows = WindowDataset(buffer, ["obs"], "action", horizon=16, obs_horizon=2, action_horizon=8)
    assert len(windows) == sum(n - 16 + 1 + 7 + 1 for n in buffer.episode_lengths) == 24208


def test_an_unknown_kind_of_observation():
    with pytest.raises(
        ValueError, match=r"'keypoint'.*Did you mean 'keypoints'.*agent, corners, keypoints, pixels, state"
    ):
        load_pusht("keypoint")


def test_other_data_under_the_name_are_refused_and_kept(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / PUSHT.folder
    data = {"state": rng.normal(size=(9, 5)), "action": rng.normal(size=(9, 2))}
    ReplayBuffer(data, np.array([9])).save(path)
    with pytest.raises(ValueError, match=r"data/state of .*is not the published array.*move it away"):
        load_pusht("state", root=tmp_path)
    assert path.exists()


def test_pixels(tmp_path, monkeypatch):
    """The form of the pixel observations, on a data set small enough; its digests are taken as published."""
    rng = np.random.default_rng(0)
    data = {
        "img": rng.integers(0, 256, (9, 96, 96, 3)).astype(np.uint8),
        "state": rng.normal(size=(9, 5)).astype(np.float32),
        "action": rng.normal(size=(9, 2)).astype(np.float32),
    }
    ReplayBuffer(data, np.array([4, 9])).save(tmp_path / PUSHT.folder)
    checked = []
    monkeypatch.setattr("diffpolicy.datasets.pusht.check_digest", lambda _, name, *__: checked.append(name))
    buffer = load_pusht("pixels", root=tmp_path)
    assert checked == ["data/img", "data/state", "data/action", "meta/episode_ends"]
    assert buffer.keys() == ["image", "agent", "action"]
    np.testing.assert_array_equal(buffer["image"], data["img"])
    np.testing.assert_array_equal(buffer["agent"], data["state"][:, :2])
    checked.clear()
    windows = load_windows(
        DatasetConfig(obs="pixels", obs_keys=["agent"], validation=0), 3, 1, 2, str(tmp_path)
    ).train
    assert sorted(checked) == ["data/action", "data/img", "data/state", "meta/episode_ends"]
    assert windows.image_shapes == {"image": (96, 96, 3)} and windows.obs_dim == 2
    batch = windows.batch(torch.arange(len(windows)))
    np.testing.assert_array_equal(batch["image"][:, 0], data["img"][[0, 1, 2, 4, 5, 6, 7]])
    np.testing.assert_array_equal(batch["obs"][:, 0], data["state"][[0, 1, 2, 4, 5, 6, 7], :2])


def test_half_of_the_windows_with_images_are_mirrored(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    data = {
        "img": rng.integers(0, 256, (9, 96, 96, 3)).astype(np.uint8),
        "state": rng.uniform(0, 512, (9, 5)).astype(np.float32),
        "action": rng.uniform(0, 512, (9, 2)).astype(np.float32),
    }
    ReplayBuffer(data, np.array([4, 9])).save(tmp_path / PUSHT.folder)
    monkeypatch.setattr("diffpolicy.datasets.pusht.check_digest", lambda *_: None)
    config = DatasetConfig(obs="pixels", obs_keys=["agent"], mirror=True, validation=0)
    loaded = load_windows(config, 3, 1, 2, str(tmp_path))
    with open_batches(loaded, 14, 0, config.stream) as at:
        batch = at(0)
        again = at(1), at(0)
    for name, values in batch.items():
        assert torch.equal(again[1][name], values)

    def mirrored(of):
        seen = mirror({"state": of["state"], "action": of["action"], "img": of["img"]})
        return {"obs": seen["state"][:, :2], "action": seen["action"], "image": seen["img"]}

    plain = {"obs": data["state"][:, :2], "action": data["action"], "image": data["img"]}
    kinds = (plain, mirrored(data))
    found = []
    for row in range(14):
        first = {name: values[row, 0].numpy() for name, values in batch.items()}
        is_it = [[all(np.allclose(kind[n][f], first[n]) for n in first) for f in range(9)] for kind in kinds]
        assert np.sum(is_it) == 1  # one frame of one kind, in picture, numbers and action alike
        found.append(int(np.any(is_it[1])))
    assert 2 <= sum(found) <= 12
    # the normaliser knows both
    seen = np.concatenate([kind["action"] for kind in kinds])
    low, high = loaded.normalizer.unnormalize("action", torch.tensor([[-1.0, -1.0], [1.0, 1.0]])).numpy()
    np.testing.assert_allclose(low, seen.min(0), rtol=1e-5)
    np.testing.assert_allclose(high, seen.max(0), rtol=1e-5)
