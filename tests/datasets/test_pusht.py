"""Push-T: what is recorded, what is observed of it, and the two symmetries that change it."""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.downloads import check_digest
from diffpolicy.datasets.load import load_windows, open_batches
from diffpolicy.datasets.load_episodes import load_demonstrations
from diffpolicy.datasets.sources import pusht
from diffpolicy.datasets.sources.pusht import CORNERS, GOAL, PUSHT, Align, LeftRight, Mirror, block_corners, observe
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.envs import tee
from diffpolicy.registry import lookup


def config(mode="keypoints", transforms=(), **settings):
    pixels = mode in ("pixels", "drawn")
    observation = ObservationConfig(mode, ["agent" if pixels else "obs"], ["image"] if pixels else [])
    return RunConfig(
        observation=observation, dataset=DatasetConfig(name="pusht", transforms=list(transforms), **settings)
    )


def load(mode, *transforms):
    """All demonstrations, relabeled."""
    return load_demonstrations(config(mode, transforms))


def mirrored(mode, *transforms):
    """The mirror images of all demonstrations."""
    source = pusht.HumanPushT(DatasetConfig(name="pusht", time_to_success=1.0), ObservationConfig(mode))
    frames = source.recorded()
    if transforms:
        align = Align()
        align.fit(frames)
        frames = align.apply(frames)
    return source.observed(Mirror().apply(frames))


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
    buffer = load(obs)
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


def test_reflected_places_are_found_in_the_recording(published):
    """The environment has the places of the keypoints by themselves."""
    mirror = Mirror()
    mirror.fit(ReplayBuffer.open(published, ["keypoint", "state"]))
    seen = mirror._swaps[9].numpy() @ tee.KEYPOINTS
    np.testing.assert_allclose(seen, tee.KEYPOINTS * [-1, 1], atol=0.05)


def test_corners_in_their_order():
    still = block_corners(np.array([100.0, 200.0, 0.0]))
    np.testing.assert_allclose(still, CORNERS + np.array([100, 200]))
    assert CORNERS[0].tolist() == [-60, 0] and CORNERS[4].tolist() == [15, 120]
    quarter = block_corners(np.array([[100.0, 200.0, np.pi / 2]]))
    np.testing.assert_allclose(quarter[0, 0], [100 - 0, 200 - 60], atol=1e-12)  # (x, y) -> (−y, x)
    assert block_corners(np.zeros((4, 5, 3), np.float32)).shape == (4, 5, 8, 2)
    assert block_corners(np.zeros((4, 3), np.float32)).dtype == np.float32


@pytest.fixture
def frames():
    """Two episodes of 3 and 4 frames anywhere, with points fixed to the block."""
    rng = np.random.default_rng(0)
    agent, pose = rng.uniform(0, 512, (7, 2)), np.column_stack([rng.uniform(0, 512, (7, 2)), rng.uniform(0, 6, 7)])
    arrays = {"state": np.hstack([agent, pose]), "action": rng.uniform(0, 512, (7, 2))}
    return ReplayBuffer({**arrays, "keypoint": block_corners(pose)[:, [0, 3, 4]]}, np.array([3, 7]))


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one.keys():  # noqa: SIM118
        np.testing.assert_allclose(one[name], other[name], atol=1e-9)


def test_mirror_is_the_reflection_in_the_goals_axis(frames):
    """Against the definition: reflect the corners in x + y = 512, where the T's two sides change places."""
    seen = Mirror().apply(frames)
    np.testing.assert_allclose(seen["action"], 512 - frames["action"][:, ::-1])
    np.testing.assert_array_equal(seen["state"][:, :2], 512 - frames["state"][:, 1::-1])
    other_side = [1, 0, 7, 6, 5, 4, 3, 2]
    reflected = 512 - block_corners(frames["state"][:, 2:])[:, other_side][..., ::-1]
    np.testing.assert_allclose(block_corners(seen["state"][:, 2:]), reflected, atol=1e-9)
    np.testing.assert_allclose(seen["keypoint"], reflected[:, [0, 3, 4]], atol=1e-9)
    goal = ReplayBuffer({"state": np.array([[0, 0, 256, 256, np.pi / 4]])}, np.array([1]))
    np.testing.assert_allclose(Mirror().apply(goal)["state"][0, 2:], goal["state"][0, 2:])
    assert_close(Mirror().apply(seen), frames)
    assert_close(Mirror().undo(seen), frames)


def test_mirrored_windows_are_mirrored_frames_and_mirror_back():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (6, 1, 96, 96, 3)).astype(np.uint8))
    agent = torch.from_numpy(rng.uniform(0, 512, (6, 1, 2)))
    batch = {"obs": agent, "action": agent.repeat(1, 4, 1), "image": image, "weight": torch.ones(6)}
    chosen = torch.tensor([True, False, True, False, False, True])
    seen = Mirror().change(batch, chosen)
    assert torch.equal(seen["image"][chosen][:, 0, 95 - 30, 95 - 20], image[chosen][:, 0, 20, 30])  # row y, column x
    assert torch.equal(seen["action"][chosen], 512 - batch["action"][chosen].flip(-1))
    for name, values in batch.items():
        assert torch.equal(seen[name][~chosen], values[~chosen])
        torch.testing.assert_close(Mirror().change(seen, chosen)[name], values)


def test_flip_is_the_reflection_of_left_and_right(frames):
    seen = LeftRight().apply(frames)
    np.testing.assert_array_equal(seen["action"], frames["action"] * [-1, 1] + [512, 0])
    other_side = [1, 0, 7, 6, 5, 4, 3, 2]
    reflected = block_corners(frames["state"][:, 2:])[:, other_side] * [-1, 1] + [512, 0]
    np.testing.assert_allclose(block_corners(seen["state"][:, 2:]), reflected, atol=1e-9)
    np.testing.assert_allclose(seen["keypoint"], reflected[:, [0, 3, 4]], atol=1e-9)
    assert_close(LeftRight().undo(seen), frames)


@pytest.mark.parametrize("reflection", [Mirror(), LeftRight()], ids=["mirror", "left_right"])
@pytest.mark.parametrize("mode", ["keypoints", "corners"])
def test_windows_of_what_a_mode_observes_are_reflected_as_episodes_are(frames, reflection, mode):
    """Points keep their places on the block; the episodes' poses say where those are."""
    state = frames["state"]
    whole = ReplayBuffer({"state": state, "keypoint": tee.keypoints(state).reshape(-1, 9, 2)}, frames.episode_ends)
    reflection.fit(whole)
    told = torch.from_numpy(observe(whole, mode)["obs"])[:, None]
    chosen = torch.arange(len(told)) % 2 == 0
    seen = reflection.change({"action": told, "obs": told[..., -2:]}, chosen)
    expected = torch.from_numpy(observe(reflection.apply(whole), mode)["obs"])[:, None]
    torch.testing.assert_close(seen["action"][chosen], expected[chosen], atol=2e-4, rtol=0)
    torch.testing.assert_close(seen["obs"][chosen], expected[chosen][..., -2:])
    assert torch.equal(seen["action"][~chosen], told[~chosen])


def test_neither_is_applied_when_acting():
    assert not Mirror.acts and not Align.acts
    assert Mirror.adds and not Align.adds
    assert not Mirror.general and not Align.general


def test_mirror_images_are_demonstrations_too(published):
    """Acted out in the environment they take the block where they say; only the walls differ, by a pixel."""
    state = mirrored("state")
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="state", max_episode_steps=10_000)
    for episode in state.episode_slices()[:40:10]:
        obs, _ = env.reset(options={"state": state["obs"][episode][0]})
        for action in state["action"][episode][:-1]:
            obs, *_ = env.step(action)
        np.testing.assert_allclose(obs[2:4], state["obs"][episode][-1, 2:4], atol=0.1)


def test_aligning_moves_each_episode_as_one_rigid_body(frames):
    align, ends = Align(), np.array([3, 7])
    align.fit(frames)
    moved = align.apply(frames)
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
    assert_close(align.undo(moved), frames)
    again = Align()
    again.fit(moved)
    assert_close(again.apply(moved), moved)


def test_aligned_demonstrations_finish_what_people_left(published):
    """Acted out in the environment: as recorded hardly one reaches a coverage of 0.95, aligned nearly all do."""
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="state", max_episode_steps=10_000)
    successes = {}
    for transforms in ((), ("align",)):
        state = load("state", *transforms)
        successes[transforms] = 0
        for episode in state.episode_slices()[:200:10]:
            env.reset(options={"state": state["obs"][episode][0]})
            ended = [env.step(action)[2] for action in state["action"][episode]]
            successes[transforms] += any(ended)
    assert successes[()] <= 2 and successes["align",] >= 18, successes


@pytest.mark.parametrize(("obs", "block"), [("keypoints", slice(18)), ("corners", slice(16)), ("state", slice(2, 5))])
def test_aligned_whatever_is_observed(published, obs, block):
    """All demonstrations end with the block in one place, the mirrored ones too where its points are symmetric."""
    windows = load_windows(config(obs, ["align", "mirror"], episodes=20))
    aligned = load(obs, "align")
    ends = aligned.episode_ends
    last = aligned["obs"][ends - 1, block]
    assert np.ptp(last, axis=0).max() < (1.0 if obs == "keypoints" else 1e-3)  # some recorded keypoints lag behind
    if obs == "state":
        np.testing.assert_allclose(last[0], GOAL, atol=1e-5)
        np.testing.assert_allclose(mirrored(obs, "align")["obs"][ends - 1, block], last, atol=1e-4)
    plain = load_windows(config(obs, ["mirror"], episodes=20))
    assert len(windows.train) == len(plain.train)
    seen, recorded = (np.unique(w.train.all_obs()[:, block].round(decimals=2), axis=0) for w in (windows, plain))
    found = {tuple(row) for row in seen.tolist()} & {tuple(row) for row in last.round(2).tolist()}
    assert found and not found & {tuple(row) for row in recorded.tolist()}  # the goal is seen where it is aligned


def test_aligning_leaves_the_time_to_success_weights_alone(published):
    aligned, plain = (load_windows(config(transforms=t, episodes=9, time_to_success=1.0)) for t in (["align"], []))
    batch = torch.arange(len(plain.train))
    assert torch.equal(aligned.train.batch(batch)["weight"], plain.train.batch(batch)["weight"])
    assert plain.train.batch(batch)["weight"].std() > 0.1


def test_the_goal_and_the_corners_are_the_environments():
    np.testing.assert_array_equal(GOAL, tee.GOAL_POSE)
    env = gym.make("diffpolicy.envs:diffpolicy/PushT-v0", obs_mode="corners")
    obs, info = env.reset(seed=3)
    np.testing.assert_allclose(obs[:16].reshape(8, 2), block_corners(info["state"][2:]), atol=1e-3)
    np.testing.assert_array_equal(info["goal_pose"], GOAL)


def test_mirrored_angles_are_observed_ones(published):
    angles = mirrored("state")["obs"][:, 4]
    assert angles.min() >= 0 and angles.max() < 2 * np.pi + 1e-6


def test_images_cannot_be_aligned(published):
    cure = r"observe vectors alone, or leave it out, or take observation\.mode=drawn$"
    with pytest.raises(ValueError, match=rf"\['align'\]: 'align' cannot change images; {cure}"):
        load_windows(config("pixels", ["align"]))
    other = RunConfig(dataset=DatasetConfig(name="detour", transforms=["align"]))
    with pytest.raises(ValueError, match=r"'align' does not suit dataset\.name=detour; expected none"):
        load_windows(other)


def test_mirror_images_of_the_training_episodes_alone(published):
    plain, both = (load_windows(config(transforms=t, episodes=5)) for t in ([], ["mirror"]))
    assert len(both.train) == 2 * len(plain.train)
    assert len(both.validation) == len(plain.validation)
    assert both.digest == plain.digest  # the data are the same, the settings differ
    torch.testing.assert_close(both.train.all_actions()[: len(plain.train.all_actions())], plain.train.all_actions())


def test_windows_of_the_demonstrations(published):
    buffer = load("keypoints")
    windows = WindowDataset(buffer, ["obs"], "action", horizon=16, obs_horizon=2, action_horizon=8)
    assert len(windows) == sum(n - 16 + 1 + 7 + 1 for n in buffer.episode_lengths) == 24208


def test_modes():
    with pytest.raises(
        ValueError, match=r"'keypoint' \(did you mean 'keypoints'\?\).*keypoints, corners, state, pixels"
    ):
        load("keypoint")
    source = pusht.HumanPushT(DatasetConfig(name="pusht"), ObservationConfig())
    assert source.mode == "keypoints" and source.rate == 10
    no_images = RunConfig(dataset=DatasetConfig(name="pusht"), observation=ObservationConfig("pixels", ["agent"]))
    recorded = ReplayBuffer({"state": np.zeros((1, 5))}, np.array([1]))
    with pytest.raises(ValueError, match=r"images=\[\]; expected \['image'\] with observation\.mode=pixels"):
        pusht.HumanPushT(no_images.dataset, no_images.observation).frames(recorded)


def test_other_data_under_the_name_are_refused_and_kept(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / PUSHT.folder
    data = {"state": rng.normal(size=(9, 5)), "action": rng.normal(size=(9, 2))}
    ReplayBuffer(data, np.array([9])).save(path)
    with pytest.raises(ValueError, match=r"data/state of .*is not the published array.*move it away"):
        load_windows(
            RunConfig(
                dataset=DatasetConfig(name="pusht"), observation=ObservationConfig("state"), data_root=str(tmp_path)
            )
        )
    assert path.exists()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data set in the form of the published one, whose digests are taken as right, and the digests asked for."""
    rng = np.random.default_rng(0)
    data = {
        "img": rng.integers(0, 256, (9, 96, 96, 3)).astype(np.uint8),
        "state": rng.uniform(0, 512, (9, 5)).astype(np.float32),
        "action": rng.uniform(0, 512, (9, 2)).astype(np.float32),
    }
    ReplayBuffer(data, np.array([4, 9])).save(tmp_path / PUSHT.folder)
    checked = []
    monkeypatch.setattr(pusht, "check_digest", lambda _, name, *__: checked.append(name))
    return data, checked


def from_pixels(root, *transforms, mode="pixels"):
    run = config(mode, transforms, validation=0.0)
    run.policy, run.data_root = PolicyConfig(1, 3, 2), str(root)
    return load_windows(run)


def test_pixels(small, tmp_path):
    data, checked = small
    windows = from_pixels(tmp_path).train
    assert sorted(checked) == ["data/action", "data/img", "data/state", "meta/episode_ends"]  # the images once
    assert windows.frames.shapes == {"image": (96, 96, 3)} and windows.obs_dim == 2
    batch = windows.batch(torch.arange(len(windows)))
    np.testing.assert_array_equal(batch["image"][:, 0], data["img"][[0, 1, 2, 4, 5, 6, 7]])
    np.testing.assert_array_equal(batch["obs"][:, 0], data["state"][[0, 1, 2, 4, 5, 6, 7], :2])


def test_drawn_images_are_what_the_environment_observes_in_the_aligned_states(small, tmp_path):
    data, checked = small
    windows = from_pixels(tmp_path, "align", mode="drawn")
    assert "data/img" not in checked  # not read at all
    batch = windows.train.batch(torch.arange(len(windows.train)))
    aligner, recorded = Align(), ReplayBuffer({name: data[name] for name in ("state", "action")}, np.array([4, 9]))
    aligner.fit(recorded)
    moved = aligner.apply(recorded)
    env, within = gym.make("diffpolicy/PushT-v0", obs_mode="pixels").unwrapped, 0
    for row, frame in enumerate([0, 1, 2, 4, 5, 6, 7]):
        state = moved["state"][frame].astype(np.float64)
        np.testing.assert_array_equal(batch["obs"][row, 0], moved["state"][frame, :2])
        np.testing.assert_array_equal(batch["action"][row, 0], moved["action"][frame])
        if ((state[:2] >= 0) & (state[:2] <= 512)).all():  # where the environment can start
            within += 1
            seen, _ = env.reset(options={"state": state})
            np.testing.assert_array_equal(batch["image"][row, 0], seen["image"])
    assert within >= 3
    assert windows.digest == from_pixels(tmp_path, mode="drawn").digest  # the data are the same, the settings differ


def test_mirrored_windows_of_drawn_images_are_drawings_of_mirrored_states(small, tmp_path):
    data, _ = small
    frames = ReplayBuffer({name: data[name] for name in ("state", "action")}, np.array([4, 9]))
    draw = lookup("drawing", "diffpolicy/PushT-v0")
    windows = {"image": torch.from_numpy(draw(data["state"]))[:, None]}
    flipped = Mirror().change(windows, torch.ones(9, dtype=torch.bool))["image"][:, 0].numpy()
    drawn = draw(Mirror().apply(frames)["state"])
    # not pixel by pixel: corners and centers are drawn on whole pixels, and the walls lie a pixel apart
    assert np.abs(flipped.astype(float) - drawn).mean() < 1.0
    assert np.abs(flipped.astype(float) - draw(data["state"])).mean() > 3.0


def test_flipped_windows_show_the_block_where_flipped_states_have_it(small, tmp_path):
    data, _ = small
    frames = ReplayBuffer({name: data[name] for name in ("state", "action")}, np.array([4, 9]))
    draw = lookup("drawing", "diffpolicy/PushT-v0")
    flipped = LeftRight().change(
        {"image": torch.from_numpy(draw(data["state"]))[:, None]}, torch.ones(9, dtype=torch.bool)
    )
    drawn = draw(LeftRight().apply(frames)["state"])
    green = (drawn[..., 1] > drawn[..., 2].astype(int) + 20) | (
        flipped["image"][:, 0, ..., 1].numpy() > flipped["image"][:, 0, ..., 2].numpy().astype(int) + 20
    )  # the goal's mark, which a state does not move
    differ = np.abs(flipped["image"][:, 0].numpy().astype(float) - drawn).mean(-1) * ~green
    assert differ.mean() < 1.0
    assert (np.abs(draw(data["state"]).astype(float) - drawn).mean(-1) * ~green).mean() > 3.0


def estimating(key, *transforms):
    run = config("pixels", transforms, validation=0.0)
    run.dataset.action_key = key
    return run


def test_what_a_mode_observes_in_place_of_actions(small, tmp_path):
    data, _ = small
    run = estimating("corners", "mirror", "left_right")
    run.policy, run.data_root = PolicyConfig(1, 1, 1), str(tmp_path)
    windows = load_windows(run).train
    told = windows.batch(torch.arange(len(windows)))["action"][:, 0].numpy()
    corners = block_corners(data["state"][:, 2:])
    np.testing.assert_allclose(told, np.hstack([corners.reshape(9, -1), data["state"][:, :2]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "transforms", "says"),
    [
        ("action", ["left_right"], r"left_right.* with actions: it moves the goal; .*action_key=corners"),
        ("corner", [], r"unknown dataset.action_key 'corner' .did you mean 'corners'"),
        ("state", [], r"unknown dataset.action_key 'state'"),
    ],
)
def test_what_cannot_stand_in_place_of_actions(small, tmp_path, key, transforms, says):
    run = estimating(key, *transforms)
    run.data_root = str(tmp_path)
    with pytest.raises(ValueError, match=says):
        load_windows(run)


def test_half_of_the_windows_with_images_are_mirrored(small, tmp_path):
    data, _ = small
    loaded = from_pixels(tmp_path, "mirror")
    with open_batches(loaded, 14, 0, DatasetConfig().stream) as at:
        batch = at(0)
        again = at(1), at(0)
    with open_batches(loaded := from_pixels(tmp_path, "mirror"), 14, 0, DatasetConfig().stream, (1, 2)) as at:
        half = at(0)
    for name, values in batch.items():
        assert torch.equal(again[1][name], values)
        assert torch.equal(half[name], values[7:])

    plain = {"obs": data["state"][:, :2], "action": data["action"], "image": data["img"]}
    windows = {name: torch.from_numpy(values)[:, None] for name, values in plain.items()}
    seen = Mirror().change(windows, torch.ones(9, dtype=torch.bool))
    kinds = (plain, {name: values[:, 0].numpy() for name, values in seen.items()})
    found = []
    for row in range(14):
        first = {name: values[row, 0].numpy() for name, values in batch.items()}
        is_it = [[all(np.allclose(kind[n][f], first[n]) for n in first) for f in range(9)] for kind in kinds]
        assert np.sum(is_it) == 1  # one frame of one kind, in image, numbers and action alike
        found.append(int(np.any(is_it[1])))
    assert 2 <= sum(found) <= 12
    # the normalizer knows both
    both = np.concatenate([kind["action"] for kind in kinds])
    low, high = loaded.normalizer.unnormalize("action", torch.tensor([[-1.0, -1.0], [1.0, 1.0]])).numpy()
    np.testing.assert_allclose(low, both.min(0), rtol=1e-5)
    np.testing.assert_allclose(high, both.max(0), rtol=1e-5)
