"""Images that stay on disk: the same windows as from memory, in an order that is a function of seed and step."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import torch
import zarr

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig, StreamConfig
from diffpolicy.datasets import frames as frame_sources
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.image_windows import ImageWindows
from diffpolicy.datasets.load import load_windows, open_batches
from diffpolicy.datasets.samplers import BatchSampler, PoolSampler
from diffpolicy.datasets.selection import select_episodes
from diffpolicy.datasets.streaming import WindowStream
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.datasets.writer import EpisodeWriter

LENGTHS = (31, 9, 54, 17, 40, 23, 60, 12, 8, 46)  # 300 frames
T_P, T_O, T_A = 8, 3, 4
HORIZONS = (T_P, T_O, T_A)
KEYS = ("front", "wrist")


def write(path, chunk=7, dtype=np.uint8, lengths=LENGTHS, **options):
    """A recording of two cameras; the pixels are noise, so that no two frames are alike."""
    rng, n = np.random.default_rng(0), sum(lengths)
    arrays = {
        "data/front": rng.integers(0, 256, (n, 6, 5, 3)).astype(dtype),
        "data/wrist": rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8),
        "data/agent": rng.normal(size=(n, 2)),
        "data/action": np.stack([np.arange(n), rng.normal(size=n)], 1),
        "meta/episode_ends": np.cumsum(lengths),
    }
    root = zarr.create_group(path, zarr_format=2)
    for name, values in arrays.items():
        rows = {"data/front": chunk, "data/wrist": 11}.get(name, len(values))
        codec = {"compressors": numcodecs.Blosc("zstd", 5, 2), **options}
        root.create_array(
            name, data=values, chunks=(rows, *values.shape[1:]), config={"write_empty_chunks": True}, **codec
        )
    return path


def open_windows(path, keys=KEYS, episodes=None):
    buffer = ReplayBuffer.open(path)
    buffer = buffer if episodes is None else buffer.subset(episodes)
    frames = ZarrFrames(path, {key: key for key in keys})
    return ImageWindows(buffer, frames, ["agent"], "action", *HORIZONS)


class Oracle:
    """The same from memory: the numbers by WindowDataset, the images by the frame that the action names."""

    def __init__(self, path, episodes=None):
        whole = ReplayBuffer.open(path, keys=[*KEYS, "agent", "action"])
        part = whole if episodes is None else whole.subset(episodes)
        self.windows = WindowDataset(part, ["agent"], "action", *HORIZONS)
        self.images = {key: torch.from_numpy(whole[key]) for key in KEYS}

    def batch(self, indices):
        batch = self.windows.batch(indices)
        frames = batch["action"][:, :T_O, 0].long()
        return {**batch, **{key: images[frames] for key, images in self.images.items()}}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert values.dtype == other[key].dtype
        torch.testing.assert_close(values, other[key], rtol=0, atol=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recording") / "demo.zarr")


SETTINGS = [
    {"pool": 2, "run": 1},
    {"pool": 3, "run": 20},
    {"pool": 100, "run": 15},  # an epoch is one pool
    {"pool": 1, "run": 1000},  # and one run
]


# --- what a batch holds


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("episodes", [None, [0, 2, 3, 8]])
def test_every_sample_equals_that_from_memory(path, settings, episodes):
    oracle = Oracle(path, episodes)
    with open_windows(path, episodes=episodes) as windows:
        n = len(windows)
        assert n == len(oracle.windows)
        with WindowStream(windows, 32, seed=1, memory=100, **settings) as stream:
            for step in range(3 * n // 32):
                indices = PoolSampler(windows.runs(settings["run"]), 32, 1, settings["pool"])[step]
                assert_equal(stream[step], oracle.batch(indices))
        assert_equal(windows.batch(torch.tensor([n - 1, 0, 5, 5])), oracle.batch(torch.tensor([n - 1, 0, 5, 5])))
        assert windows.frames.shapes == {"front": (6, 5, 3), "wrist": (4, 4, 1)}
        assert (windows.obs_dim, windows.action_dim, windows.frames.frame_bytes) == (2, 2, 106)
        torch.testing.assert_close(windows.all_actions(), oracle.windows.all_actions())
        torch.testing.assert_close(windows.all_obs(), oracle.windows.all_obs())


@pytest.mark.parametrize("layout", ["float32", "zip", "sharded", "frame a chunk", "one chunk", "own"])
def test_every_layout(tmp_path, pack, layout):
    name = tmp_path / "demo.zarr"
    if layout == "float32":
        write(name, dtype=np.float32)
    elif layout == "zip":
        name = pack(write(name), tmp_path / "demo.zarr.zip", "folder/demo.zarr/")
    elif layout == "own":
        source = ReplayBuffer.open(write(tmp_path / "other.zarr"), [*KEYS, "agent", "action"])
        source.save(name)
    elif layout == "sharded":
        source = ReplayBuffer.open(write(tmp_path / "other.zarr"), [*KEYS, "agent", "action"])
        root = zarr.create_group(name)
        for key in (*KEYS, "agent", "action"):
            tail = source[key].shape[1:]
            root.create_array(f"data/{key}", data=source[key], chunks=(5, *tail), shards=(20, *tail))
        root.create_array("meta/episode_ends", data=source.episode_ends)
    else:
        write(name, chunk=1 if layout == "frame a chunk" else 1000)
    oracle = Oracle(name)
    with open_windows(name) as windows, WindowStream(windows, 50, 0, pool=3, run=20) as stream:
        for step in range(8):
            indices = PoolSampler(windows.runs(20), 50, 0, 3)[step]
            assert_equal(stream[step], oracle.batch(indices))


def test_a_recording_that_was_cut_off(tmp_path):
    """Frames of an episode that does not count yet are no error, as when the numbers are read."""
    rng, writer = np.random.default_rng(0), EpisodeWriter(tmp_path / "r", {})
    for seed in range(3):
        writer.add({"cam": rng.integers(0, 256, (20, 4, 4, 3), np.uint8), "x": rng.normal(size=(20, 2))}, seeds=seed)
    ends = tmp_path / "r/meta/episode_ends"
    two = {file: file.read_bytes() for file in ends.rglob("*") if file.is_file()}
    writer.add({"cam": rng.integers(0, 256, (20, 4, 4, 3), np.uint8), "x": rng.normal(size=(20, 2))}, seeds=3)
    for file, content in two.items():
        file.write_bytes(content)
    buffer = ReplayBuffer.open(tmp_path / "r")
    with ImageWindows(buffer, ZarrFrames(tmp_path / "r", {"eye": "cam"}), ["x"], "x", *HORIZONS) as windows:
        assert buffer.n_episodes == 3
        cam = ReplayBuffer.open(tmp_path / "r", ["cam"])["cam"]
        last = windows.batch(torch.tensor([len(windows) - 1]))["eye"][0]
        np.testing.assert_array_equal(last[0], cam[60 - T_P + T_A - 1])


# --- the order


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch_size", [1, 16, 700])
def test_every_window_comes_once_an_epoch(path, settings, batch_size):
    with open_windows(path) as windows:
        runs, n = windows.runs(settings["run"]), len(windows)
    sampler = PoolSampler(runs, batch_size, 3, settings["pool"])
    row = torch.cat([sampler[step] for step in range(3 * n // batch_size + 2)])
    assert len(row) >= 3 * n
    epochs = [row[i * n : (i + 1) * n] for i in range(3)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(n))
    assert not torch.equal(epochs[0], epochs[1])
    again = PoolSampler(runs, batch_size, 3, settings["pool"])
    for step in (2, 0, 3 * n // batch_size, 1):
        assert torch.equal(again[step], row[step * batch_size : (step + 1) * batch_size])
    other = PoolSampler(runs, n, 4, settings["pool"])
    assert not torch.equal(other[0], epochs[0])


def test_the_order_keeps_to_chunks_and_mixes_them():
    runs = np.arange(0, 1001, 10)
    sampler = PoolSampler(runs, 100, seed=0, pool=30)  # 100 runs: 4 pools of 25
    keys, key = [], (0, 0)
    while key[0] == 0:
        _, windows = sampler.samples(key)
        assert len(windows) == 250 and len((windows // 10).unique()) == 25
        assert len((windows[:25] // 10).unique()) > 8  # 25 windows of 25 runs
        keys.append(key)
        key = sampler.after(key)
    assert keys == [(0, 0), (0, 1), (0, 2), (0, 3)] and key == (1, 0)


def test_a_step_alone_equals_the_step_in_sequence(path):
    with open_windows(path) as windows:
        settings = {"batch_size": 20, "seed": 5, "pool": 3, "run": 20}
        with WindowStream(windows, **settings) as stream:
            batches = [stream[step] for step in range(40)]
            for step in (39, 7, 8, 0, 21):
                assert_equal(stream[step], batches[step])
        for step in (0, 17, 33):
            with WindowStream(windows, **settings) as resumed:
                assert_equal(resumed[step], batches[step])
                assert_equal(resumed[step + 1], batches[step + 1])


@pytest.mark.parametrize("batch_size", [24, 600])
def test_shards_are_the_batch(path, batch_size):
    settings = {"batch_size": batch_size, "seed": 5, "pool": 3, "run": 20}
    with open_windows(path) as windows, WindowStream(windows, **settings) as whole:
        shards = [WindowStream(windows, **settings, shard=(rank, 4)) for rank in range(4)]
        for step in (0, 1, 2, 11):
            parts = [shard[step] for shard in shards]
            assert {len(part["action"]) for part in parts} == {batch_size // 4}
            assert_equal({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, whole[step])
        for shard in shards:
            shard.close()


# --- memory


def test_no_more_than_two_pools_are_alive(path, monkeypatch):
    pools, counts = [], []
    read = ImageWindows.read
    gc.freeze()  # what other tests left need not be searched

    def counted(*arguments):
        gc.collect()
        counts.append(1 + sum(pool() is not None for pool in pools))
        found = read(*arguments)
        pools.append(weakref.ref(found))
        return found

    monkeypatch.setattr(ImageWindows, "read", counted)
    with open_windows(path) as windows, WindowStream(windows, 20, 0, pool=2, run=1) as stream:
        sizes = []
        for step in [*range(12), 3, 60, 61, 0]:
            stream[step]
            if step % 2:  # the training takes its time
                stream._ahead.future.result()
            sizes.append(sum(images.nbytes for images in stream._now[1].images.values()))
        assert max(counts) == 2 and len(counts) > 8
        assert 0.5 * stream.pool_bytes < max(sizes) <= stream.pool_bytes
        assert stream.memory_bytes == 2 * stream.pool_bytes + windows.frames.decoding_bytes
    gc.collect()
    gc.unfreeze()
    assert not any(pool() for pool in pools)


def test_float_images_are_converted_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_sources, "_PIECE_BYTES", 4000)  # of 360 bytes a frame: one chunk of 7 frames
    with open_windows(write(tmp_path / "d.zarr", dtype=np.float32), ["front"]) as windows:
        largest, archive = [], windows.frames._archive

        def spy(*arguments):
            largest.append(frames(*arguments).nbytes)
            return frames(*arguments)

        frames = archive.frames
        monkeypatch.setattr(archive, "frames", spy)
        windows.read(np.arange(300))
        assert max(largest) == 7 * 360 and windows.frames.decoding_bytes == 2 * 7 * 360
        largest.clear()
        windows.read(np.array([0, 1, 100, 299]))  # chunks that hold none of them are not read
        assert largest == [7 * 360, 7 * 360, 6 * 360]


def test_too_little_memory_says_what_would_fit(path, monkeypatch):
    monkeypatch.setattr(frame_sources, "_PIECE_BYTES", 1000)
    with open_windows(path) as windows:
        with pytest.raises(
            ValueError,
            match=r"two pools of 16 runs .*need 1 MiB; expected .*memory=0\.01 MiB; set dataset\.stream\.pool",
        ) as told:
            WindowStream(windows, 8, 0, run=7, memory=0.01)
        most = int(str(told.value).split("stream.pool to at most ")[1].split(",")[0])
        WindowStream(windows, 8, 0, pool=most, run=7, memory=0.01).close()
        with pytest.raises(ValueError, match=f"at most {most}"):
            WindowStream(windows, 8, 0, pool=most + 1, run=7, memory=0.01)
        with pytest.raises(
            ValueError, match=r"take a smaller dataset\.stream\.run, or set dataset\.stream\.memory=1$"
        ):
            WindowStream(windows, 8, 0, run=77, memory=0.001)
        with pytest.raises(
            ValueError, match=r"two pools of 1 runs .*in smaller chunks, or set dataset\.stream\.memory=1$"
        ):
            WindowStream(windows, 8, 0, pool=1, run=7, memory=0.001)


# --- damage


def test_damage_is_raised_where_the_batch_is_asked_for(tmp_path):
    path = write(tmp_path / "d.zarr", compressors=numcodecs.Zstd(checksum=True))
    with open_windows(path) as windows, WindowStream(windows, 20, 0, pool=2, run=1) as stream:
        good = stream[0]
        for chunk in (path / "data/wrist").glob("[0-9]*"):
            content = bytearray(chunk.read_bytes())
            content[-6] ^= 1
            chunk.write_bytes(content)
        with pytest.raises(ValueError, match=r"d\.zarr: data/wrist is damaged: frames \d+ to \d+ cannot be decoded"):
            for step in range(1, 100):
                stream[step]
        with pytest.raises(ValueError, match=r"data/wrist"):  # again, not another error
            stream[step]
        assert good["wrist"].dtype == torch.uint8


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_chunks_that_go_while_they_are_used(path, tmp_path, how):
    path = write(tmp_path / "d.zarr")
    with open_windows(path) as windows, WindowStream(windows, 20, 0, pool=2, run=1) as stream:
        stream[0]
        for chunk in (path / "data/front").glob("[0-9]*"):
            if how == "missing":
                chunk.unlink()
            else:
                chunk.write_bytes(chunk.read_bytes()[:-3])
        now = "no" if how == "missing" else r"\d+"
        with pytest.raises(ValueError, match=rf"d\.zarr: the chunk file data/front/[\d.]+ had .*now {now}; leave"):
            for step in range(1, 100):
                stream[step]


def test_missing_chunks_are_found_at_once(tmp_path):
    path = write(tmp_path / "d.zarr")
    (path / "data/front/3.0.0.0").unlink()
    with pytest.raises(ValueError, match=r"data/front .*lacks data/front/3\.0\.0\.0 \(frames 21 to 27\)"):
        open_windows(path)


def test_numbers_that_are_no_images(tmp_path):
    path = write(tmp_path / "d.zarr", dtype=np.float32)
    array = zarr.open_array(path / "data/front", mode="r+")
    array[123, 1, 1, 1] = 0.5
    with (
        open_windows(path) as windows,
        WindowStream(windows, 20, 0, pool=2, run=1) as stream,
        pytest.raises(ValueError, match=r"d\.zarr: 'front' has four dimensions.*frame 123 holds other values"),
    ):
        for step in range(100):
            stream[step]


# --- its end


def test_closing_ends_the_thread(path):
    def readers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("window-stream")]

    with open_windows(path) as windows:
        with WindowStream(windows, 20, 0, pool=2, run=1) as stream:
            stream[0]
            assert len(readers()) == 1
        assert not readers()
        with pytest.raises(RuntimeError, match="closed"):
            stream[1]
        stream.close()  # twice is no error
        forgotten = WindowStream(windows, 20, 0, pool=2, run=1)
        forgotten[0]
        thread = readers()[0]
        del forgotten
        gc.collect()
        thread.join(10)
        assert not readers()


def test_an_error_in_the_training_ends_the_process(path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_streaming import open_windows, WindowStream
stream = WindowStream(open_windows({str(path)!r}), 20, 0, pool=2, run=1)
stream[0]
raise KeyError("training went wrong")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "KeyError: 'training went wrong'" in done.stderr


# --- what is asked for


def test_what_makes_no_windows(path, tmp_path):
    buffer = ReplayBuffer.open(path)

    def build(part=buffer, key="front", name="eye", where=path):
        return ImageWindows(part, ZarrFrames(where, {name: key}), ["agent"], "action", *HORIZONS)

    with pytest.raises(ValueError, match=r"cameras \[\]; expected at least one"):
        ImageWindows(buffer, ZarrFrames(path, {}), ["agent"], "action", *HORIZONS)
    with pytest.raises(ValueError, match=r"cameras \['obs'\]; .*none called obs or action"):
        build(name="obs")
    with pytest.raises(KeyError, match=r"'fornt'.*did you mean 'front'"):
        build(key="fornt")
    with pytest.raises(
        ValueError, match=r"demo\.zarr: 'agent' has shape \(300, 2\).*name it in observation\.vectors"
    ):
        build(key="agent")
    with pytest.raises(FileNotFoundError):
        build(where=tmp_path / "nowhere")
    for part in (buffer.subset([3, 1]), buffer.joined(buffer)):
        with pytest.raises(ValueError, match=r"does not hold episodes of .* in their order"):
            build(part)
    other = {key: buffer[key][:-1] for key in ("agent", "action")}
    with pytest.raises(ValueError, match=r"does not hold episodes of .*\(10 episodes, 300 steps\)"):
        build(ReplayBuffer(other, np.array([*buffer.episode_ends[:-1], 299])))
    short = write(tmp_path / "short.zarr")
    array = zarr.open_array(short / "data/front", mode="r+")
    array.resize((290, *array.shape[1:]))
    with pytest.raises(ValueError, match=r"short\.zarr: episode_ends overrun the data.*'front' has 290"):
        build(where=short)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard": (4, 4)}, r"shard=\(4, 4\).*\(rank, world\)"),
        ({"shard": (0, 3)}, r"batch_size=20; .*a multiple of world"),
        ({"run": 0}, r"run=0"),
        ({"pool": 0}, r"pool=0"),
        ({"seed": -1}, r"seed=-1"),
        ({"batch_size": 0}, r"batch_size=0"),
    ],
)
def test_what_makes_no_stream(path, settings, message):
    with open_windows(path) as windows, pytest.raises(ValueError, match=message):
        WindowStream(windows, **{"batch_size": 20, "seed": 0, **settings})


def test_steps_count_from_0(path):
    with open_windows(path) as windows, WindowStream(windows, 20, 0) as stream, pytest.raises(IndexError, match="-1"):
        stream[-1]


# --- from a config


def config(path, images=KEYS, **settings):
    return RunConfig(
        observation=ObservationConfig(vectors=["agent"], images=list(images)),
        dataset=DatasetConfig(name="zarr", path=str(path), **settings),
        policy=PolicyConfig(T_O, T_P, T_A),
    )


def test_a_config_that_names_images_streams(path):
    windows = load_windows(config(path, episodes=6, validation=0.2))
    assert isinstance(windows.train, ImageWindows) and isinstance(windows.validation, ImageWindows)
    assert windows.spec.images["front"].shape == (6, 5, 3) and windows.spec.vector_dim == 2
    chosen, held_out = select_episodes(len(LENGTHS), 6, validation=0.2)
    with open_batches(windows, 20, 3, StreamConfig(2, 1, 50)) as batch_at:
        indices = PoolSampler(windows.train.runs(1), 20, 3, 2)[4]
        assert_equal(batch_at(4), Oracle(path, chosen).batch(indices))
    some = torch.arange(10)
    assert_equal(windows.validation.batch(some), Oracle(path, held_out).batch(some))
    agent = ReplayBuffer.open(path).subset(chosen)["agent"]
    scaled = windows.normalizer.normalize("obs", torch.from_numpy(agent).float())
    assert scaled.min() == -1 and scaled.max() == 1
    with (
        pytest.raises(ValueError, match=r"memory=0\.001 MiB"),
        open_batches(windows, 20, 3, StreamConfig(memory=0.001)),
    ):
        pass


def test_a_config_without_images_stays_in_memory(path):
    plain = config(path, images=())
    windows = load_windows(plain)
    assert isinstance(windows.train, WindowDataset)
    with open_batches(windows, 20, 3, plain.dataset.stream) as batch_at:
        assert_equal(batch_at(4), windows.train.batch(BatchSampler(len(windows.train), 20, 3)[4]))


@pytest.mark.parametrize(
    ("name", "observation", "message"),
    [
        ("detour", ObservationConfig(None, ["state"], ["img"]), r"images=\['img'\]; expected none, which detour has"),
        (
            "expert_pusht",
            ObservationConfig("pixels"),
            r"unknown observation\.mode 'pixels'; choose from corners, state",
        ),
        (
            "expert_pusht",
            ObservationConfig("corners", ["obs"], ["img"]),
            r"images=\['img'\]; expected \[\] with observation",
        ),
    ],
)
def test_images_that_are_not_there(name, observation, message):
    with pytest.raises(ValueError, match=message):
        load_windows(RunConfig(dataset=DatasetConfig(name=name), observation=observation))
