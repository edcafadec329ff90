"""Cameras: channels where they belong, depth, one channel and four, any size, and nothing but cameras."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from diffpolicy import load_policy, train_policy
from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig, StreamConfig
from diffpolicy.datasets import Field, ObservationSpec, ReplayBuffer, load_windows, open_batches
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.stream_settings import fitted
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.nets.vision import ImageEncoder
from diffpolicy.policies import Agent

RNG = np.random.default_rng(0)
ENDS = np.array([12, 24, 36])
CAMERAS = {"front": (33, 41, 3), "gray": (24, 24, 1), "masked": (20, 27, 4)}


def picture(shape, n=36):
    return RNG.integers(0, 256, (n, *shape), np.uint8)


def config(path, vectors=("obs",), images=(), ranges=None, **settings):
    return RunConfig(
        observation=ObservationConfig(vectors=list(vectors), images=list(images), ranges=ranges or {}),
        dataset=DatasetConfig(path=str(path), **{"validation": 0.3, **settings}),
        policy=PolicyConfig(2, 8, 4),
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three cameras, and depth from 400 to 1900 mm with a hole of 0."""
    path = tmp_path_factory.mktemp("own") / "own.zarr"
    data = {name: picture(shape) for name, shape in CAMERAS.items()}
    data["depth"] = RNG.integers(400, 1900, (36, 25, 31, 1)).astype(np.uint16)
    data["depth"][:, 3, 3] = 0
    data |= {"obs": RNG.normal(size=(36, 3)), "action": RNG.normal(size=(36, 2))}
    ReplayBuffer(data, ENDS, {"fps": 20, "units": {"depth": "mm"}}).save(path)
    return path


# --- the order of axes, where data enter


WRONG = {
    "color, channels first": ((6, 3, 17, 20), np.uint8, r"np\.moveaxis\(x, 1, -1\)"),
    "gray, channels first": ((6, 1, 17, 20), np.uint8, r"np\.moveaxis\(x, 1, -1\)"),
    "depth, channels first": ((6, 1, 17, 20), np.uint16, r"np\.moveaxis\(x, 1, -1\)"),
    "gray, no channels": ((6, 17, 20), np.uint8, r"x\[\.\.\., None\]"),
    "depth, no channels": ((6, 17, 20), np.uint16, r"x\[\.\.\., None\]"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_pictures_of_other_axes_are_refused_where_they_enter(tmp_path, kind):
    shape, dtype, cure = WRONG[kind]
    x = np.zeros(shape, dtype)
    episode = {"eye": x, "action": np.zeros((6, 2))}
    message = (
        rf"'eye' has shape \(N, {', '.join(map(str, shape[1:]))}\); expected .*height, width, channels\); .*{cure}"
    )
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(episode, np.array([6]))
    with pytest.raises(ValueError, match=message):
        ReplayBuffer.from_episodes([episode])
    with pytest.raises(ValueError, match=message):
        EpisodeWriter(tmp_path / "r", {}).add(episode)
    root = __import__("zarr").create_group(tmp_path / "theirs.zarr")
    for name, values in {
        **{f"data/{key}": one + 1 for key, one in episode.items()},
        "meta/episode_ends": [6],
    }.items():
        root.create_array(name, data=np.asarray(values))
    with pytest.raises(ValueError, match=r"theirs\.zarr: " + message):
        ZarrFrames(tmp_path / "theirs.zarr", {"eye": "eye"})
    with pytest.raises(ValueError, match=r"theirs\.zarr: " + message):
        ReplayBuffer.open(tmp_path / "theirs.zarr", ["eye"])
    assert ReplayBuffer.open(tmp_path / "theirs.zarr").keys() == ["action"]  # the rest can be read all the same


def test_what_is_right_is_left_alone():
    right = {"pair": (6, 2, 2), "map": (6, 9, 2), "tiny": (6, 3, 4, 3), "wide": (6, 3, 5, 3), "column": (6, 40, 3, 1)}
    data = {name: np.ones(shape, np.uint8) for name, shape in right.items()}
    assert ReplayBuffer(data, np.array([6])).n_steps == 6


def test_other_depth_than_of_one_channel():
    with pytest.raises(TypeError, match=r"dtype uint16; expected uint8, 0 to 255, or uint16 of one channel"):
        ReplayBuffer({"eye": np.zeros((6, 8, 8, 3), np.uint16)}, np.array([6]))


def test_flattened_pictures_are_no_vector(tmp_path):
    data = {"flat": np.zeros((36, 96 * 96), np.float32), "action": RNG.normal(size=(36, 2))}
    ReplayBuffer(data, ENDS).save(tmp_path / "flat.zarr")
    with pytest.raises(
        ValueError, match=r"'flat' has 9216 numbers per frame; expected at most 4096 .*observation\.images"
    ):
        load_windows(config(tmp_path / "flat.zarr", ["flat"]))


# --- depth


def test_depth_stays_what_it_is_from_buffer_to_batch(path, tmp_path):
    whole = ReplayBuffer.open(path, ["depth"])["depth"]
    assert whole.dtype == np.uint16 and whole.max() > 255
    writer = EpisodeWriter(tmp_path / "r", {"ranges": {"depth": [300, 2000]}})
    for part in np.split(whole, ENDS[:-1]):
        writer.add({"depth": part, "action": np.arange(len(part) * 2.0).reshape(-1, 2)})
    for where, expected in ((path, (0, float(whole.max()))), (tmp_path / "r", (300, 2000))):
        windows = load_windows(config(where, [], ["depth"], validation=0.0))
        field = windows.spec["depth"]
        assert field.dtype == np.uint16 and field.range[0] == expected[0]
        assert field.range[1] == expected[1] or 1800 < field.range[1] <= expected[1]  # of some frames
        batch = windows.train.batch(torch.tensor([5]))["depth"]
        assert batch.dtype == torch.uint16 and windows.train.frames.frame_bytes == 25 * 31 * 2
        np.testing.assert_array_equal(batch[0].numpy(), whole[4:6])
    assert load_windows(config(path, [], ["depth"])).spec["depth"].unit == "mm"


def test_the_range_of_depth_is_stated_in_the_config_first(path):
    spec = load_windows(config(path, [], ["depth", "gray"], {"depth": [400, 1900]})).spec
    assert spec["depth"].range == (400.0, 1900.0) and spec["gray"].range is None
    assert ObservationSpec.from_plain(spec.to_plain()) == spec
    assert "range" not in spec.to_plain()["gray"]
    for ranges, message in [
        ({"depht": [0, 1]}, r"unknown camera in observation\.ranges 'depht' \(did you mean 'depth'"),
        ({"gray": [0, 1]}, r"observation\.ranges of 'gray', whose images are uint8; expected a depth camera"),
        ({"depth": [5, 5]}, r"camera 'depth': a image of range \(5\.0, 5\.0\)|range \(5\.0, 5\.0\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_windows(config(path, [], ["depth", "gray"], ranges))


def test_depth_is_scaled_by_its_range():
    torch.manual_seed(0)
    options = {"crop": 20, "widths": [8], "keypoints": 2}
    deep, plain = (ImageEncoder((20, 24, 1), **options, depth=depth) for depth in ((500, 1000), None))
    plain.load_state_dict(deep.state_dict())
    levels = torch.randint(0, 256, (2, 2, 20, 24, 1))
    same = (500 + levels * 500 / 255).round().to(torch.uint16)
    torch.testing.assert_close(deep(same), plain(levels.to(torch.uint8)), atol=0.03, rtol=0.05)
    beyond = torch.tensor([0, 500, 1000, 65535]).to(torch.uint16)
    assert deep._scaled(beyond).tolist() == [-1, -1, 1, 1]
    with pytest.raises(TypeError, match=r"images of torch\.uint8; expected uint16, depth in its unit"):
        deep(levels.to(torch.uint8))


def test_observed_depth_is_checked():
    spec = ObservationSpec({"depth": Field("image", (4, 5, 1), "mm", range=(0, 2000))})
    obs = np.full((2, 4, 5, 1), 1500, np.uint16)
    _, images = spec.split({"depth": obs}, None)
    assert images["depth"].dtype == np.uint16 and images["depth"].shape == (2, 1, 4, 5, 1)
    with pytest.raises(
        TypeError, match=r"is float64; expected depth in uint16; give x\.round\(\)\.astype\(np\.uint16\)"
    ):
        spec.split({"depth": obs.astype(float)}, None)
    spec.check_space(spaces.Dict({"depth": spaces.Box(0, 65535, (4, 5, 1), np.uint16)}))
    with pytest.raises(ValueError, match=r"shows 'depth' as uint8; expected depth in uint16"):
        spec.check_space(spaces.Dict({"depth": spaces.Box(0, 255, (4, 5, 1), np.uint8)}))
    with pytest.raises(ValueError, match="one channel"):
        Field("image", (4, 5, 3), range=(0, 1))


# --- from pictures alone to actions


def test_a_policy_of_pictures_alone(path, tmp_path):
    """Color, gray, four channels and depth, of different and odd sizes; no vectors."""
    cameras = [*CAMERAS, "depth"]
    settings = ["task=own", f"dataset.path={path}", "observation.vectors=[]", "dataset.validation=0.3"]
    settings += [f"observation.images=[{','.join(cameras)}]", "observation.ranges.depth=[300,2000]"]
    settings += ["encoder.widths=[8,8]", "encoder.keypoints=2", "net.widths=[8,16]", "net.groups=4"]
    settings += ["encoder.scale=20", "encoder.crop=17", "speed=float32", "device=cpu"]
    settings += ["training.steps=2", "training.batch_size=4", "training.warmup_steps=1", f"run_dir={tmp_path}/RUN"]
    policy = load_policy(train_policy(settings))
    assert policy.obs_dim == 0 and policy.observation["depth"].range == (300.0, 2000.0)
    whole = ReplayBuffer.open(path, cameras)
    obs = {name: np.stack([whole[name][:2], whole[name][20:22]]) for name in cameras}
    actions = policy.predict(obs)
    assert actions.shape == (2, policy.action_horizon, 2) and np.isfinite(actions).all()
    for name in cameras:
        other = {**obs, name: np.flip(obs[name], 2).copy()}
        assert not np.array_equal(policy.predict(other), actions), name
    agent = Agent(policy)
    agent.reset()
    assert agent.act({name: whole[name][:1] for name in cameras}).shape == (1, 2)
    with pytest.raises(TypeError, match="a mapping"):
        policy.predict(np.zeros((1, 2, 0)))


def test_nothing_to_observe(path):
    with pytest.raises(
        ValueError, match=r"observation\.vectors=\[\] without observation\.images; expected vectors or"
    ):
        load_windows(config(path, []))


# --- large pictures


FRAME = 60 * 80 * 3


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three cameras of 60 × 80 in chunks of four frames: what VGA is, at a 64th of the bytes."""
    path = tmp_path_factory.mktemp("large") / "large"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffpolicy.datasets.zarr_chunks.CHUNK_BYTES", 4 * FRAME)
        writer = EpisodeWriter(path, {})
        for _ in range(3):
            frames = {f"eye{k}": np.full((130, 60, 80, 3), k, np.uint8) for k in range(3)}
            writer.add({**frames, "action": RNG.normal(size=(130, 2))})
    return path


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("diffpolicy.datasets.frames._PIECE_BYTES", 2**17)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("cameras", "run"), [(1, 16), (3, 4)])
def test_large_cameras_fit_with_the_defaults(large, cameras, run):
    """Runs get shorter before pools get smaller; as with VGA cameras in the 1024 MiB of the default."""
    settings = config(large, [], [f"eye{k}" for k in range(cameras)], validation=0.0)
    stream = StreamConfig(memory=8)
    windows = load_windows(settings)
    assert windows.train.frames.unit == 4
    chosen = fitted(stream, windows.train)
    assert (chosen.pool, chosen.run) == (16, run)
    with open_batches(windows, 8, 0, stream) as batch_at:
        assert batch_at(0)["eye0"].shape == (8, 2, 60, 80, 3)
    smallest = StreamConfig(memory=1.2 * cameras)
    with load_windows(settings).train as train:
        assert fitted(smallest, train).run == 4 and 1 <= fitted(smallest, train).pool < 16


@pytest.mark.usefixtures("small_pieces")
def test_what_is_set_is_kept(large):
    windows = load_windows(config(large, [], ["eye0"], validation=0.0))
    with windows.train:
        assert fitted(StreamConfig(), windows.train) == StreamConfig(16, 256)
        assert fitted(StreamConfig(5, 100, 9999), windows.train) == StreamConfig(5, 100, 9999)
        assert fitted(StreamConfig(pool=5), None) == StreamConfig(5, 256)
        assert fitted(StreamConfig(run=72, memory=8), windows.train) == StreamConfig(3, 72, 8)
        assert fitted(StreamConfig(pool=2, memory=5), windows.train) == StreamConfig(2, 64, 5)
        for wrong in (StreamConfig(pool=0), StreamConfig(run=0)):
            with pytest.raises(ValueError, match=r"dataset\.stream\.(pool|run)=0; expected at least 1"):
                fitted(wrong, windows.train)
        too_little = StreamConfig(memory=0.1)
        says = (
            r"two pools of 1 runs of 4 frames .*at most dataset\.stream\.memory=0\.1 MiB; write .* in smaller chunks"
        )
        with (
            pytest.raises(ValueError, match=says),
            open_batches(load_windows(config(large, [], ["eye0"], validation=0.0)), 8, 0, too_little),
        ):
            pass
