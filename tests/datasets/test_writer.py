"""Recordings: what is finished stays, whatever stops the writing; and every damage is found and named."""

import os
import shutil
from contextlib import suppress

import numpy as np
import pytest

from diffpolicy.datasets import ReplayBuffer, writer, zarr_chunks
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.packing import Packing
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.datasets.zarr_layout import MANIFEST

ATTRS = {"env": {"id": "diffpolicy/Detour-v0"}, "first_seed": 0}


EYE = (16, 20, 3)  # 960 bytes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test here cuts the power, and waiting for the disk takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(params=["numbers", "large frames"])
def cameras(request, monkeypatch):
    """What the episodes see: large frames lie in shards, here of 30 frames."""
    if request.param == "numbers":
        return {}
    monkeypatch.setattr(zarr_chunks, "CHUNK_BYTES", 960 * 3)
    monkeypatch.setattr(zarr_chunks, "FILE_BYTES", 960 * 30)  # an episode begins, fills or continues a file
    assert zarr_chunks.Layout.of(960, 1024) == zarr_chunks.Layout(3, 30)
    return {"eye": EYE}


def episode(seed, length=None, cameras=()):
    draw = np.random.default_rng(seed)
    length = length or int(draw.integers(20, 90) if cameras else draw.integers(200, 900))
    made = {"state": draw.normal(size=(length, 4)).astype(np.float32), "action": draw.normal(size=(length, 2))}
    return made | {name: draw.integers(0, 256, (length, *EYE), dtype=np.uint8) for name in cameras}


def record(path, seeds, cameras=()):
    made = EpisodeWriter(path, ATTRS)
    for seed in seeds:
        made.add(episode(seed, cameras=cameras), seeds=seed)
    return made


def expect(path, seeds, cameras=()):
    buffer = ReplayBuffer.open(path, ["state", "action", *cameras])
    expected = [episode(seed, cameras=cameras) for seed in seeds]
    assert buffer.episode_lengths.tolist() == [len(e["state"]) for e in expected]
    for name in ("state", "action", *cameras):
        np.testing.assert_array_equal(buffer[name], np.concatenate([e[name] for e in expected]))
    assert buffer.attrs == ATTRS


def test_round_trip_in_one_go_and_in_two(tmp_path):
    record(tmp_path / "a", range(6))
    record(tmp_path / "b", range(3))
    assert record(tmp_path / "b", range(3, 6)).meta["seeds"] == list(range(6))
    for name in "ab":
        expect(tmp_path / name, range(6))
        assert verify(tmp_path / name) == []
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    record(tmp_path / "c", [0, 1, 2, 3, 4, 6])
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


@pytest.mark.parametrize("lengths", [[1024, 5], [1023, 1, 1], [2048, 3000, 10], [1, 1030]])
def test_episodes_that_end_with_a_chunk_or_span_several(tmp_path, lengths):
    episodes = [episode(seed, length) for seed, length in enumerate(lengths)]
    whole = EpisodeWriter(tmp_path / "whole", ATTRS)
    for seed, one in enumerate(episodes):
        whole.add(one, seeds=seed)
        EpisodeWriter(tmp_path / "again", ATTRS).add(one, seeds=seed)
        assert digest(tmp_path / "again") == digest(tmp_path / "whole") and verify(tmp_path / "again") == []
    buffer = ReplayBuffer.open(tmp_path / "again")
    np.testing.assert_array_equal(buffer["state"], np.concatenate([one["state"] for one in episodes]))


def test_a_kill_after_a_full_chunk(tmp_path, monkeypatch):
    made = EpisodeWriter(tmp_path / "a", ATTRS)
    made.add(episode(0, 1024), seeds=0)
    expected, write = digest(tmp_path / "a"), writer.write_bytes

    def stop_at_the_ends(where, content):
        if where.parent.name == "episode_ends":
            raise Killed
        write(where, content)

    monkeypatch.setattr(writer, "write_bytes", stop_at_the_ends)
    with pytest.raises(Killed):
        made.add(episode(1, 1500), seeds=1)
    monkeypatch.setattr(writer, "write_bytes", write)
    assert EpisodeWriter(tmp_path / "a", ATTRS).meta["seeds"] == [0]
    assert digest(tmp_path / "a") == expected and verify(tmp_path / "a") == []


def test_memory_holds_the_last_chunks_alone(tmp_path):
    made = EpisodeWriter(tmp_path / "a", ATTRS)
    image = np.zeros((40, 64, 64, 3), np.uint8)  # of 12 KiB a frame: 85 frames a chunk
    for seed in range(30):
        made.add({"x": np.full((40, 2), seed), "eye": image + seed}, seeds=seed)
        kept = {name: len(tail.values) for name, tail in made._tails.items()}
        assert kept["data/x"] < 1024 and kept["data/eye"] < 85
    assert ReplayBuffer.open(tmp_path / "a", ["eye"])["eye"][:, 0, 0, 0].tolist() == np.repeat(range(30), 40).tolist()
    again = EpisodeWriter(tmp_path / "a", ATTRS)
    assert {name: len(tail.values) for name, tail in again._tails.items()} == kept
    assert again.meta == made.meta


class Killed(BaseException):
    """As SIGKILL, nothing here catches it before the next write would begin."""


def stopping(monkeypatch, after, error=Killed):
    """Replace the writing of files: the one after `after` others is half written, in a hidden place, and stops it."""
    left = [after]

    def counted(where, content, replace=writer.write_bytes):
        if left[0] == 0:
            where.parent.mkdir(parents=True, exist_ok=True)
            where.with_name(where.name + ".partial").write_bytes(content[: len(content) // 2])
            raise error
        left[0] -= 1
        replace(where, content)

    monkeypatch.setattr(writer, "_THREADS", 1)  # else others may still be written after the one that is stopped
    monkeypatch.setattr(writer, "write_bytes", counted)


def test_a_kill_at_every_write_loses_at_most_the_episode_in_hand(tmp_path, cameras):
    """Stops before the k-th write of an episode, for every k, then opens, verifies, and goes on."""
    before = record(tmp_path / "before", [0, 1, 2], cameras).path
    whole = {seed: record(shutil.copytree(before, tmp_path / f"whole {seed}"), [seed], cameras) for seed in (3, 7)}
    k, finished = 0, False
    while not finished:
        path = shutil.copytree(before, tmp_path / str(k))
        made = EpisodeWriter(path, ATTRS)
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            stopping(patch, k)
            made.add(episode(3, cameras=cameras), seeds=3)
            finished = True
        added = [3] if len(ReplayBuffer.open(path).episode_ends) == 4 else []
        expect(path, [0, 1, 2, *added], cameras)
        assert verify(path) == []
        if not added:  # the same episode again, or another one
            following = (3, 7)[k % 2]
            record(path, [following], cameras)
            expect(path, [0, 1, 2, following], cameras)
            assert digest(path) == digest(whole[following].path) and verify(path) == []
        k += 1
    assert k > 8, "every episode takes several writes"


def test_a_kill_in_the_first_episode(tmp_path, monkeypatch, cameras):
    expected = digest(record(tmp_path / "whole", [0], cameras).path)
    k, finished = 0, False
    while not finished:
        path = tmp_path / str(k)
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            stopping(patch, k)
            record(path, [5], cameras)
            finished = True
        if EpisodeWriter(path, ATTRS).frames == 0:
            record(path, [0], cameras)
            assert digest(path) == expected and verify(path) == []
        k += 3
    assert k > 8


def test_a_full_disk_keeps_what_is_finished(tmp_path, cameras):
    """Whichever write fails, and whichever of the next episode's is cut off after that."""
    before = record(tmp_path / "before", [0, 1], cameras).path
    whole = digest(record(shutil.copytree(before, tmp_path / "whole"), [2], cameras).path)
    for full, killed in ((0, 2), (2, 1), (5, 3)):
        path = shutil.copytree(before, tmp_path / f"{full} {killed}")
        made = EpisodeWriter(path, ATTRS)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space"):
            stopping(patch, full, OSError(28, "No space left on device"))
            made.add(episode(3, cameras=cameras), seeds=3)
        expect(path, [0, 1], cameras)
        assert verify(path) == []
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stopping(patch, killed)
            made.add(episode(4, cameras=cameras), seeds=4)
        expect(path, [0, 1], cameras)
        assert verify(path) == []
        made.add(episode(2, cameras=cameras), seeds=2)
        assert made.meta["seeds"] == [0, 1, 2] and digest(path) == whole and verify(path) == []


def test_what_was_noted_survives_a_full_disk(tmp_path):
    made = record(tmp_path / "a", [0])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space"):
        stopping(patch, 1, OSError(28, "No space left on device"))
        made.finish({"success_rate": 1})
    made.add(episode(1), seeds=1)
    assert ReplayBuffer.open(tmp_path / "a").attrs["success_rate"] == 1
    assert EpisodeWriter(tmp_path / "a", ATTRS).meta["seeds"] == [0, 1]


def test_another_packing_of_zarr_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Packing, "of", lambda array: None)
    with pytest.raises(RuntimeError, match=r"packs data/state in a way .*; install"):
        record(tmp_path / "a", [0])


def test_every_damage_is_found_and_named(tmp_path, cameras):
    """Flipped bits, cut ends and deletions, 100 over all files of a recording."""
    path = tmp_path / "a"
    record(path, range(4), cameras)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) > 12
    draw = np.random.default_rng(0)
    for count in range(100):
        file = files[count % len(files)]
        content = file.read_bytes()
        kind = count // len(files) % 3
        if kind == 0:
            at = int(draw.integers(len(content)))
            file.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(draw.integers(8)))]) + content[at + 1 :])
        elif kind == 1:
            file.write_bytes(content[: int(draw.integers(len(content)))])
        else:
            file.unlink()
        found = verify(path)
        assert len(found) == 1 and found[0].startswith(file.relative_to(path).as_posix()), (kind, file, found)
        file.write_bytes(content)
    assert verify(path) == []


def test_what_does_not_belong_is_refused(tmp_path):
    made = record(tmp_path / "a", [0])
    with pytest.raises(ValueError, match="array called 'eye/left'; expected a plain word"):
        made.add({"eye/left": np.zeros((3, 4), np.float32)}, seeds=1)
    with pytest.raises(ValueError, match="equally long"):
        made.add({"state": np.zeros((3, 4), np.float32), "action": np.zeros((2, 2))}, seeds=1)
    with pytest.raises(ValueError, match=r"frames are .*\(5,\).* before"):
        made.add({"state": np.zeros((3, 5), np.float32), "action": np.zeros((3, 2))}, seeds=1)
    with pytest.raises(ValueError, match=r"records something else \(first_seed: 0 there, 9 now\)"):
        EpisodeWriter(tmp_path / "a", {**ATTRS, "first_seed": 9})
    (tmp_path / "a" / "data" / "state" / "stray").write_text("")
    with pytest.raises(ValueError, match="data/state/stray does not belong to the recording"):
        EpisodeWriter(tmp_path / "a", ATTRS)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match=MANIFEST):
        EpisodeWriter(tmp_path / "b", ATTRS)
    with pytest.raises(FileNotFoundError, match="no recording at"):
        verify(tmp_path / "c")
