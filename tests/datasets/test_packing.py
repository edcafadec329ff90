"""Chunk files packed and unpacked without zarr are those that zarr writes and reads."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from diffpolicy.datasets import EpisodeWriter, packing
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.manifest import verify
from diffpolicy.datasets.packing import Packing
from diffpolicy.datasets.zarr_chunks import Layout, chunk_files
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.datasets.zarr_writing import new_array

RNG = np.random.default_rng(0)
LARGE = (320, 300, 3)  # frames of which a chunk holds three, and a file several chunks


def _array(folder: Path, values: np.ndarray, layout: Layout) -> zarr.Array:
    array = new_array(zarr.open_group(folder, mode="a"), "x", values.shape, values.dtype, layout)
    array[...] = values
    return array


def _values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = RNG.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    values[len(values) // 3 : len(values) // 2] = 0  # also chunks of zeros
    return values


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32", "float64", "bool", ">f4"])
@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(4, 4), Layout(1, 5), Layout(3, 9)])
def test_files_are_those_of_zarr(tmp_path, dtype, layout):
    values = _values((23, 2, 3), dtype)
    array = _array(tmp_path, values, layout)
    here = Packing.of(array)
    for first, file in chunk_files("x", array, 0, 23):
        assert here.pack(values[first : first + layout.file]) == (tmp_path / file).read_bytes(), file
    wanted = np.array([0, 1, 5, 8, 9, 10, 16, 22])
    out = np.full((len(wanted), 2, 3), 7).astype(array.dtype.newbyteorder("="))
    here.unpack(tmp_path, "x", array, wanted, out)
    np.testing.assert_array_equal(out, values[wanted])


def test_chunks_that_were_never_written_hold_zeros(tmp_path):
    codec = ZstdCodec(level=1, checksum=True)
    array = zarr.create_array(
        tmp_path / "x", shape=(8, 2), chunks=(2, 2), shards=(8, 2), dtype="uint8", compressors=[codec]
    )
    array[...], array[2:6] = 1, 0
    (file,) = (tmp_path / "x").rglob("c/*/*")
    entries = np.frombuffer(file.read_bytes()[-4 * 16 - 4 : -4], "<u8")
    assert (entries == 2**64 - 1).any(), "zarr is expected to leave such chunks out of a shard"
    out = np.full((8, 2), 9, np.uint8)
    Packing.of(array).unpack(tmp_path, "x", array, np.arange(8), out)
    np.testing.assert_array_equal(out, array[...])


@pytest.mark.parametrize("layout", [Layout(1, 6), Layout(2, 6), Layout(1, 1), Layout(3, 3)])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_damage_is_found_and_named(tmp_path, layout, damage):
    array = _array(tmp_path, _values((12, 5, 5), "uint8"), layout)
    files = [file for _, file in chunk_files("x", array, 0, 12)]
    here, hurt = Packing.of(array), tmp_path / files[1]
    whole = hurt.read_bytes()
    places = range(0, len(whole), 7) if damage == "flip" else [0]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        changed = {"flip": bytes(content), "cut": whole[:-9], "empty": b""}
        hurt.write_bytes(changed[damage]) if damage in changed else hurt.unlink()
        out = np.zeros((12, 5, 5), np.uint8)
        here.unpack(tmp_path, "x", array, np.arange(layout.file), out[: layout.file])  # the file before is whole
        with pytest.raises(ValueError, match=rf"{files[1]} is damaged: frames {layout.file} to .*cannot be decoded"):
            here.unpack(tmp_path, "x", array, np.arange(12), out)


def test_a_chunk_of_another_size_is_refused(tmp_path):
    """Its checksum is right, so the length alone tells that memory would be left as it was."""
    array = _array(tmp_path, np.ones((4, 6), np.uint8), Layout(1, 1))
    files = [file for _, file in chunk_files("x", array, 0, 4)]
    other = _array(tmp_path / "other", np.ones((4, 5), np.uint8), Layout(1, 1))
    small = next(file for _, file in chunk_files("x", other, 0, 4))
    (tmp_path / files[2]).write_bytes((tmp_path / "other" / small).read_bytes())
    with pytest.raises(ValueError, match=files[2]):
        Packing.of(array).unpack(tmp_path, "x", array, np.arange(4), np.zeros((4, 6), np.uint8))


@pytest.mark.parametrize("size", [1, 200, 255, 256, 300, 65_791, 65_792, 70_000])
def test_the_header_states_the_size(size):
    for content in (bytes(size), RNG.bytes(size)):
        assert packing._size(packing.compress(content, 1, True)) == size
    assert packing._size(b"") == -1


@pytest.mark.parametrize(
    "settings",
    [
        {"compressors": [BloscCodec()]},
        {"compressors": [ZstdCodec(level=1)]},  # without a checksum
        {"compressors": [ZstdCodec(checksum=True)], "fill_value": 3},
        {"compressors": [ZstdCodec(checksum=True)], "chunks": (2, 1)},
        {"compressors": None},
        {"zarr_format": 2},
    ],
)
def test_what_others_write_is_left_to_zarr(tmp_path, settings):
    array = zarr.create_array(tmp_path / "x", shape=(4, 2), dtype="float32", **{"chunks": (2, 2), **settings})
    assert Packing.of(array) is None


def test_reading_can_be_cancelled(tmp_path):
    array = _array(tmp_path, _values((6, 2), "uint8"), Layout(1, 3))
    with pytest.raises(CancelledError):
        Packing.of(array).unpack(tmp_path, "x", array, np.arange(6), np.zeros((6, 2), np.uint8), lambda: True)


@pytest.mark.parametrize("frame_bytes, most, layout", [(8, 1024, (1024, 1024)), (27_648, 1024, (37, 37))])
def test_small_frames_have_a_chunk_per_file(frame_bytes, most, layout):
    assert Layout.of(frame_bytes, most) == Layout(*layout)


def test_large_frames_share_files(tmp_path):
    assert Layout.of(480 * 640 * 3, 1024) == Layout(1, 9) and Layout.of(2**24, 1024) == Layout(1, 1)
    assert Layout.of(0, 3) == Layout(3, 3) and Layout.of(8, 0) == Layout(1, 1)
    assert Layout.of(288_000, 1024) == Layout(3, 27) and Layout.of(288_000, 5) == Layout(3, 3)
    writer, episodes = EpisodeWriter(tmp_path / "made", {}), []
    for length in (20, 9, 41):
        episodes.append(
            {"camera": RNG.integers(0, 9, (length, *LARGE), np.uint8), "action": RNG.normal(size=(length, 2))}
        )
        writer.add(episodes[-1])
        if length == 9:
            writer = EpisodeWriter(tmp_path / "made", {})  # goes on from the files
    images = np.concatenate([episode["camera"] for episode in episodes])
    assert not verify(tmp_path / "made")
    assert len(list((tmp_path / "made/data/camera").rglob("c/*/*/*/*"))) == 3  # 70 frames, 27 a file
    with ZarrArchive(tmp_path / "made") as archive:
        np.testing.assert_array_equal(archive.read("data/camera"), images)
    with ZarrFrames(tmp_path / "made", {"eye": "camera"}) as frames:
        wanted = np.array([0, 2, 26, 27, 28, 55, 69])
        assert frames.unit == 3
        np.testing.assert_array_equal(frames.read(wanted)["eye"], images[wanted])


def test_a_recording_with_a_file_per_frame_is_continued(tmp_path, monkeypatch):
    """As they were written before."""
    monkeypatch.setattr("diffpolicy.datasets.zarr_chunks.FILE_BYTES", 1)
    first, second = (RNG.integers(0, 9, (n, *LARGE), np.uint8) for n in (4, 5))
    EpisodeWriter(tmp_path / "made", {}).add({"camera": first})
    monkeypatch.undo()
    EpisodeWriter(tmp_path / "made", {}).add({"camera": second})
    assert not verify(tmp_path / "made")
    with ZarrArchive(tmp_path / "made") as archive:
        np.testing.assert_array_equal(archive.read("data/camera"), np.concatenate([first, second]))
        assert archive.array("data/camera").shards is None
