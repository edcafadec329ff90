"""The containers a replay buffer is kept in, and what damage to them does."""

import json
import sys
import types

import numcodecs
import numcodecs.abc
import numpy as np
import pytest
import zarr

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.datasets.zarr_layout import ZarrArchive

LOW = ("keypoint", "reward", "state")


def check(buffer, arrays, keys=LOW):
    assert set(buffer.keys()) == set(keys)
    for key in keys:
        np.testing.assert_array_equal(buffer[key], arrays[f"data/{key}"])
    np.testing.assert_array_equal(buffer.episode_ends, arrays["meta/episode_ends"])


@pytest.mark.parametrize("separator", [".", "/"])
def test_published_directory(tmp_path, arrays, write_published, separator):
    path = write_published(tmp_path / "d.zarr", arrays, separator)
    check(ReplayBuffer.open(path), arrays)
    check(ReplayBuffer.open(str(path), keys=["state"]), arrays, ["state"])


@pytest.mark.parametrize("prefix", ["", "name.zarr/", "pusht/name.zarr/"])
def test_published_zip(tmp_path, arrays, write_published, pack, prefix):
    path = pack(write_published(tmp_path / "d.zarr", arrays), tmp_path / "d.zarr.zip", prefix)
    check(ReplayBuffer.open(path), arrays)
    images = ReplayBuffer.open(path, keys=["img"])["img"]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, arrays["data/img"])


@pytest.mark.parametrize("name", ["saved.zarr", "saved.zarr.zip", "new/folder/saved.zarr"])
def test_save_and_open(tmp_path, arrays, name):
    data = {k.removeprefix("data/"): v for k, v in arrays.items() if k.startswith("data/")}
    data["img"] = data["img"].astype(np.uint8)
    data["done"] = np.arange(30) % 2 == 0
    data["count"] = np.arange(30, dtype=np.int16)
    buffer = ReplayBuffer(data, arrays["meta/episode_ends"], {"rate_hz": 10})
    buffer.save(tmp_path / name)
    again = ReplayBuffer.open(tmp_path / name, keys=list(data))
    assert again.attrs == {"rate_hz": 10}
    for key, values in data.items():
        assert again[key].dtype == values.dtype
        np.testing.assert_array_equal(again[key], values)
    np.testing.assert_array_equal(again.episode_lengths, [13, 17])


def test_arrays_larger_than_a_chunk(tmp_path):
    values = np.random.default_rng(1).normal(size=(3000, 200))
    ReplayBuffer({"x": values}, np.array([3000])).save(tmp_path / "x.zarr")
    assert len(list((tmp_path / "x.zarr/data/x/c").iterdir())) > 1
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / "x.zarr")["x"], values)


@pytest.mark.parametrize("name", ["x.zarr", "x.zarr.zip"])
def test_save_overwrites_nothing(tmp_path, name):
    first = ReplayBuffer({"x": np.ones(4)}, np.array([4]))
    first.save(tmp_path / name)
    with pytest.raises(FileExistsError, match=name):
        ReplayBuffer({"x": np.zeros(4)}, np.array([4])).save(tmp_path / name)
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / name)["x"], np.ones(4))


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.rename", full)
    for name in ("x.zarr", "x.zarr.zip"):
        with pytest.raises(OSError, match=r"no space left"):
            ReplayBuffer({"x": np.ones(4)}, np.array([4])).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_big_endian_is_read_into_native_order(tmp_path):
    root = zarr.create_group(tmp_path / "d.zarr", zarr_format=2)
    root.create_array("data/x", data=np.arange(4, dtype=">f4"), chunks=(4,))
    root.create_array("meta/episode_ends", data=np.array([4], dtype=">i8"), chunks=(1,))
    x = ReplayBuffer.open(tmp_path / "d.zarr")["x"]
    assert x.dtype == np.dtype("f4") and x.dtype.isnative
    np.testing.assert_array_equal(x, [0, 1, 2, 3])


@pytest.mark.parametrize("name", ["d.zarr", "d.zarr.zip"])
def test_unknown_keys_name_the_close_ones(tmp_path, arrays, write_published, pack, name):
    path = write_published(tmp_path / "d.zarr", arrays)
    if name.endswith(".zip"):
        path = pack(path, tmp_path / name, "folder/d.zarr/")
    close = r"unknown key 'keypoints' \(did you mean 'keypoint'\?\); choose from img, keypoint, reward, state"
    with pytest.raises(KeyError, match=close):
        ReplayBuffer.open(path, keys=["keypoints"])
    with pytest.raises(KeyError, match=r"did you mean 'state'"):
        ZarrFrames(path, {"eye": "stat"})
    with ZarrArchive(path) as archive, pytest.raises(KeyError, match=r"'data/stat' \(did you mean 'data/state'"):
        archive.shape("data/stat")
    with pytest.raises(TypeError, match=r"\['state'\]"):
        ReplayBuffer.open(path, keys="state")


def test_damage_in_a_zip_that_nothing_was_read_from(tmp_path, arrays, write_published, pack):
    path = write_published(tmp_path / "d.zarr", arrays)
    (path / "meta/episode_ends/.zarray").write_bytes(b"[1]")
    with pytest.raises(ValueError, match=r"d\.zip: meta/episode_ends/\.zarray is damaged \(it holds no JSON object"):
        ReplayBuffer.open(pack(path, tmp_path / "d.zip"))


# --- missing and broken


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("separator", "chunk"), [(".", "1.0"), ("/", "1/0")])
def test_a_missing_chunk_is_no_zeros(tmp_path, arrays, write_published, pack, zipped, separator, chunk):
    path = write_published(tmp_path / "d.zarr", arrays, separator)
    (path / "data/state" / chunk).unlink()
    if zipped:
        path = pack(path, tmp_path / "d.zip", "name.zarr/")
    with pytest.raises(
        ValueError, match=rf"data/state has 4 of 5 chunk files, and lacks data/state/{chunk} \(frames 7 to 13\)"
    ):
        ReplayBuffer.open(path)
    check(ReplayBuffer.open(path, keys=["keypoint"]), arrays, ["keypoint"])


@pytest.mark.parametrize("name", ["x.zarr", "x.zarr.zip"])
def test_a_missing_chunk_of_a_saved_buffer(tmp_path, pack, name):
    ReplayBuffer({"x": np.zeros((9, 2))}, np.array([9])).save(tmp_path / "x.zarr")
    (tmp_path / "x.zarr/data/x/c/0/0").unlink()
    path = tmp_path / name
    if name.endswith(".zip"):
        pack(tmp_path / "x.zarr", path)
    with pytest.raises(ValueError, match=r"lacks data/x/c/0/0.*download or copy"):
        ReplayBuffer.open(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_chunks_that_zarr_3_never_wrote_are_what_the_metadata_say(tmp_path, pack, zipped):
    rng = np.random.default_rng(0)
    values = {"x": rng.normal(size=(40, 3)), "image": rng.integers(1, 256, (40, 5, 4, 3), np.uint8)}
    values["x"][8:20], values["image"][:12], values["image"][36:] = 0, 0, 0
    root = zarr.create_group(tmp_path / "d.zarr")
    for name, array in values.items():
        root.create_array(f"data/{name}", data=array, chunks=(4, *array.shape[1:]))
    root.create_array("data/one", shape=(40,), dtype="f4", chunks=(8,), fill_value=1.5)
    root.create_array("meta/episode_ends", data=np.array([15, 40]), chunks=(1,))
    assert not (tmp_path / "d.zarr/data/x/c/2").exists() and not (tmp_path / "d.zarr/data/one/c").exists()
    path = pack(tmp_path / "d.zarr", tmp_path / "d.zip") if zipped else tmp_path / "d.zarr"
    with pytest.warns(UserWarning, match="never written") as told:
        buffer = ReplayBuffer.open(path, ["x", "image", "one"])
    said = {str(warning.message).partition(": ")[2] for warning in told}
    assert said == {
        "3 of 10 chunks of data/x were never written, and are 0.0 as its metadata say",
        "4 of 10 chunks of data/image were never written, and are 0 as its metadata say",
        "5 of 5 chunks of data/one were never written, and are 1.5 as its metadata say",
    }
    for name, array in values.items():
        np.testing.assert_array_equal(buffer[name], array)
    assert (buffer["one"] == 1.5).all()
    with pytest.warns(UserWarning), ZarrFrames(path, {"eye": "image"}) as frames:
        np.testing.assert_array_equal(frames.read(np.arange(40))["eye"], values["image"])


def test_a_lost_chunk_is_found_where_every_chunk_is_written(tmp_path):
    """In a recording with a manifest; in what is saved here; in zarr format 2; and among the ends of episodes."""
    writer = EpisodeWriter(tmp_path / "r", {})
    for number in range(3):
        writer.add({"x": np.zeros((300, 200)), "image": np.zeros((300, 8, 8, 3), np.uint8)}, seeds=number)
    ReplayBuffer.open(tmp_path / "r", ["x", "image"]).save(tmp_path / "saved.zarr")
    root = zarr.create_group(tmp_path / "v2.zarr", zarr_format=2)
    options = {"chunks": (4,), "config": {"write_empty_chunks": False}}
    root.create_array("data/x", data=np.arange(16.0) // 8, **options)
    root.create_array("meta/episode_ends", data=np.array([8, 16]), **options)
    third = zarr.create_group(tmp_path / "v3.zarr")
    third.create_array("data/x", data=np.ones(16), chunks=(4,))
    third.create_array("meta/episode_ends", data=np.array([8, 16]), chunks=(1,))
    (tmp_path / "r/data/x/c/1/0").unlink()
    (tmp_path / "saved.zarr/data/image/c/0/0/0/0").unlink()
    (tmp_path / "v3.zarr/meta/episode_ends/c/1").unlink()
    for name, lost in {"r": "data/x/c/1/0", "v2.zarr": "data/x/0", "v3.zarr": "meta/episode_ends/c/1"}.items():
        with pytest.raises(ValueError, match=rf"lacks {lost} .*copy the data set again"):
            ReplayBuffer.open(tmp_path / name)
    with pytest.raises(ValueError, match=r"lacks data/image/c/0/0/0/0"):
        ReplayBuffer.open(tmp_path / "saved.zarr", ["image"])


def test_a_chunk_that_appears_while_it_is_read(tmp_path):
    root = zarr.create_group(tmp_path / "d.zarr")
    array = root.create_array("data/eye", shape=(8, 2, 2, 3), dtype="u1", chunks=(4, 2, 2, 3))
    root.create_array("meta/episode_ends", data=np.array([8]), chunks=(1,))
    with pytest.warns(UserWarning), ZarrFrames(tmp_path / "d.zarr", {"eye": "eye"}) as frames:
        assert not frames.read(np.arange(8))["eye"].any()
        array[5] = 9
        with pytest.raises(ValueError, match=r"c/1/0/0/0 had no bytes when opened, now \d+; leave"):
            frames.read(np.arange(8))


def test_an_absurd_shape_is_refused_at_once(tmp_path, arrays, write_published):
    path = write_published(tmp_path / "d.zarr", arrays)
    metadata = json.loads((path / "meta/episode_ends/.zarray").read_text())
    metadata["shape"] = [10**15]
    (path / "meta/episode_ends/.zarray").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"meta/episode_ends has 1 of .*lacks"):
        ReplayBuffer.open(path)


CODECS = {
    "blosc": numcodecs.Blosc("zstd", 5, 2),
    "blosc, stored": numcodecs.Blosc("zstd", 0),
    "zstd": numcodecs.Zstd(3),
    "gzip": numcodecs.GZip(),
    "none": None,
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_truncated_chunks(tmp_path, arrays, write_published, codec, keep):
    path = write_published(tmp_path / "d.zarr", arrays, compressors=CODECS[codec])
    chunk = path / "data/state/2.0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=r"state/2.0 .*truncated|state is damaged: frames 14 to 20"):
        ReplayBuffer.open(path)


def test_truncated_images(tmp_path, arrays, write_published):
    path = write_published(tmp_path / "d.zarr", arrays, compressors=numcodecs.Zstd(3))
    chunk = path / "data/img/4.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    check(ReplayBuffer.open(path), arrays)  # not asked for, not touched
    with pytest.raises(ValueError, match=r"data/img.*cannot be decoded"):
        ReplayBuffer.open(path, keys=["img"])


def test_every_flipped_bit_of_saved_data_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)).astype(np.float32)
    ReplayBuffer({"x": values}, np.array([20, 50])).save(tmp_path / "x.zarr")
    chunk = tmp_path / "x.zarr/data/x/c/0/0"
    content = chunk.read_bytes()
    for place in rng.integers(0, 8 * len(content), 60):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        chunk.write_bytes(flipped)
        try:
            found = ReplayBuffer.open(tmp_path / "x.zarr")["x"]
        except ValueError as error:
            assert "data/x" in str(error)
        else:  # a bit of the frame header that means nothing
            np.testing.assert_array_equal(found, values)


def test_flipped_bits_in_a_zip_are_noticed(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3))
    ReplayBuffer({"x": values}, np.array([50])).save(tmp_path / "x.zarr.zip")
    content = bytearray((tmp_path / "x.zarr.zip").read_bytes())
    content[content.index(b"data/x/c/0/0") + 300] ^= 4
    (tmp_path / "x.zarr.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zarr\.zip: data/x is damaged: frames 0 to 49 cannot be decoded"):
        ReplayBuffer.open(tmp_path / "x.zarr.zip")


def test_a_truncated_zip(tmp_path, arrays, write_published, pack):
    path = pack(write_published(tmp_path / "d.zarr", arrays), tmp_path / "d.zip")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"d.zip.*nor a whole zip file.*copy the data set again"):
        ReplayBuffer.open(path)


@pytest.mark.parametrize("content", [b'{"chunks": [7', b"\xff\xfe\x00", b"[1]", b"{}"])
def test_damaged_metadata(tmp_path, arrays, write_published, content):
    path = write_published(tmp_path / "d.zarr", arrays)
    (path / "data/state/.zarray").write_bytes(content)
    with pytest.raises(ValueError, match=r"state"):
        ReplayBuffer.open(path)


def test_places_that_hold_no_buffer(tmp_path, arrays, write_published, pack):
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        ReplayBuffer.open(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    with pytest.raises(ValueError, match=r"photos.*episode_ends is missing; found cat\.jpg"):
        ReplayBuffer.open(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"photos\.zip.*episode_ends is missing; found cat\.jpg"):
        ReplayBuffer.open(pack(tmp_path / "photos", tmp_path / "photos.zip"))
    write_published(tmp_path / "two/a.zarr", arrays)
    write_published(tmp_path / "two/b.zarr", arrays)
    with pytest.raises(ValueError, match=r"several data sets, a.zarr/, b.zarr/"):
        ReplayBuffer.open(pack(tmp_path / "two", tmp_path / "two.zip"))


def test_only_images_must_be_named(tmp_path, arrays, write_published):
    only = {k: arrays[k] for k in ("data/img", "meta/episode_ends")}
    with pytest.raises(ValueError, match=r"d\.zarr: nothing to read but images.*'img'"):
        ReplayBuffer.open(write_published(tmp_path / "d.zarr", only))


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, np.nan])
def test_images_are_whole_numbers_to_255(tmp_path, arrays, write_published, value):
    arrays["data/img"][17, 2, 3, 1] = value
    path = write_published(tmp_path / "d.zarr", arrays)
    with pytest.raises(ValueError, match=r"d\.zarr: 'img'.*frame 17.*whole numbers from 0 to 255"):
        ReplayBuffer.open(path, keys=["img"])


def test_checks_of_the_content_name_the_file(tmp_path, arrays, write_published):
    arrays["data/state"][15, 2] = np.nan
    path = write_published(tmp_path / "nan.zarr", arrays)
    with pytest.raises(ValueError, match=r"nan\.zarr: 'state' .*frame 15 \(frame 2 of episode 1\)"):
        ReplayBuffer.open(path)
    arrays["meta/episode_ends"] = np.array([13, 40])
    path = write_published(tmp_path / "over.zarr", arrays)
    with pytest.raises(ValueError, match=r"over\.zarr: episode_ends overrun the data: episode 1 ends at frame 40"):
        ReplayBuffer.open(path, keys=["img"])
    arrays["meta/episode_ends"] = np.array([13.0, 30.0])
    path = write_published(tmp_path / "float.zarr", arrays)
    with pytest.raises(TypeError, match=r"float\.zarr: episode_ends of dtype float64; expected integers"):
        ReplayBuffer.open(path)


def test_dtypes_that_are_no_real_numbers(tmp_path, arrays, write_published):
    arrays["data/state"] = arrays["data/state"].astype(np.complex64)
    with pytest.raises(ValueError, match=r"data/state.*complex64.*real numbers"):
        ReplayBuffer.open(write_published(tmp_path / "d.zarr", arrays))


def test_nothing_is_unpickled(tmp_path, arrays, write_published):
    path = write_published(tmp_path / "d.zarr", arrays)
    metadata = json.loads((path / "data/state/.zarray").read_text())
    metadata["filters"] = [{"id": "pickle", "protocol": 5}]
    (path / "data/state/.zarray").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"data/state.*pickled.*refused"):
        ReplayBuffer.open(path)


def test_sharded_arrays_and_blosc_under_a_checksum(tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 2))
    root = zarr.create_group(tmp_path / "d.zarr")
    root.create_array("data/sharded", data=values, chunks=(2, 2), shards=(4, 2))
    codecs = [zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()]
    root.create_array("data/summed", data=values, chunks=(4, 2), compressors=codecs)
    root.create_array("meta/episode_ends", data=np.array([12]), chunks=(1,))
    buffer = ReplayBuffer.open(tmp_path / "d.zarr")
    np.testing.assert_array_equal(buffer["sharded"], values)
    np.testing.assert_array_equal(buffer["summed"], values)
    (tmp_path / "d.zarr/data/sharded/c/1/0").unlink()
    with pytest.warns(UserWarning, match=r"1 of 3 chunks of data/sharded were never written"):
        found = ReplayBuffer.open(tmp_path / "d.zarr")["sharded"]
    np.testing.assert_array_equal(found, np.concatenate([values[:4], np.zeros((4, 2)), values[8:]]))


def test_image_codecs_are_an_extra(tmp_path, arrays, write_published, monkeypatch):
    path = write_published(tmp_path / "d.zarr", arrays)
    metadata = json.loads((path / "data/img/.zarray").read_text())
    metadata["compressor"] = {"id": "imagecodecs_test"}
    (path / "data/img/.zarray").write_text(json.dumps(metadata))
    check(ReplayBuffer.open(path), arrays)  # images not asked for need no codec

    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    with pytest.raises(ImportError, match=r"data/img.*imagecodecs_test.*diffpolicy\[imagecodecs\]"):
        ReplayBuffer.open(path, keys=["img"])

    class FakeCodec(numcodecs.abc.Codec):
        """Stands for the extra: decodes what `write_published` wrote."""

        codec_id = "imagecodecs_test"

        def encode(self, buf):
            raise NotImplementedError

        def decode(self, buf, out=None):
            return numcodecs.Blosc().decode(buf, out)

    package = types.ModuleType("imagecodecs.numcodecs")
    package.register_codecs = lambda: numcodecs.register_codec(FakeCodec)
    monkeypatch.setitem(sys.modules, "imagecodecs", types.ModuleType("imagecodecs"))
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", package)
    images = ReplayBuffer.open(path, keys=["img"])["img"]
    np.testing.assert_array_equal(images, arrays["data/img"])


def test_slabs_join_to_the_whole(tmp_path, arrays, write_published, monkeypatch):
    monkeypatch.setattr("diffpolicy.datasets.zarr_layout._SLAB_BYTES", 1)
    path = write_published(tmp_path / "d.zarr", arrays)
    with ZarrArchive(path) as archive:
        slabs = list(archive.slabs("data/img"))
        assert [len(s) for s in slabs] == [7, 7, 7, 7, 2]
        np.testing.assert_array_equal(np.concatenate(slabs), arrays["data/img"])
        with pytest.raises(KeyError, match=r"'data/stat'.*did you mean 'data/state'"):
            archive.array("data/stat")
