"""Recordings: what is finished stays, whatever stops the writing; and every damage is found and named."""

import os
import shutil

import numpy as np
import pytest

from diffpolicy.datasets import ReplayBuffer, writer
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.datasets.zarr_layout import MANIFEST

ATTRS = {"env": {"id": "diffpolicy/Detour-v0"}, "first_seed": 0}


def episode(seed, length=None):
    draw = np.random.default_rng(seed)
    length = length or int(draw.integers(200, 900))
    return {"state": draw.normal(size=(length, 4)).astype(np.float32), "action": draw.normal(size=(length, 2))}


def record(path, seeds):
    made = EpisodeWriter(path, ATTRS)
    for seed in seeds:
        made.add(episode(seed), seeds=seed)
    return made


def expect(path, seeds):
    buffer = ReplayBuffer.open(path)
    expected = [episode(seed) for seed in seeds]
    assert buffer.episode_lengths.tolist() == [len(e["state"]) for e in expected]
    for name in ("state", "action"):
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


@pytest.mark.parametrize("following", [[3, 4], [7, 4]], ids=["the same episode again", "another one"])
def test_a_kill_at_every_write_loses_at_most_the_episode_in_hand(tmp_path, monkeypatch, following):
    """Stops before the k-th write of an episode, for every k, then opens, verifies, and goes on."""
    replace = writer.write_bytes
    before = record(tmp_path / "before", [0, 1, 2]).path
    whole = record(tmp_path / "whole", [0, 1, 2, *following])
    expect(whole.path, [0, 1, 2, *following])
    k = finished = 0
    while not finished:
        path = shutil.copytree(before, tmp_path / str(k))
        made, left = EpisodeWriter(path, ATTRS), [k]

        def counted(where, content, left=left):
            if left[0] == 0:
                where.with_name(where.name + ".partial").write_bytes(content[: len(content) // 2])
                raise Killed
            left[0] -= 1
            replace(where, content)

        monkeypatch.setattr(writer, "write_bytes", counted)
        try:
            made.add(episode(3), seeds=3)
            finished = True
        except Killed:
            pass
        monkeypatch.setattr(writer, "write_bytes", replace)
        added = [3] if len(ReplayBuffer.open(path).episode_ends) == 4 else []
        expect(path, [0, 1, 2, *added])
        assert verify(path) == []
        rest = [seed for seed in following if seed not in added] if not added or following[0] == 3 else []
        if rest:
            record(path, rest)
            expect(path, [0, 1, 2, *following])
            assert digest(path) == digest(whole.path) and verify(path) == []
        k += 1
    assert k > 8, "every episode takes several writes"


def test_a_kill_in_the_first_episode(tmp_path, monkeypatch):
    replace = writer.write_bytes

    def stop_at_the_ends(where, content):
        if where.parent.name == "episode_ends":
            raise Killed
        replace(where, content)

    monkeypatch.setattr(writer, "write_bytes", stop_at_the_ends)
    with pytest.raises(Killed):
        record(tmp_path / "a", [5])
    monkeypatch.setattr(writer, "write_bytes", replace)
    record(tmp_path / "a", [0])
    record(tmp_path / "b", [0])
    assert digest(tmp_path / "a") == digest(tmp_path / "b") and verify(tmp_path / "a") == []


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    made = record(tmp_path / "a", [0, 1])
    flush = os.fsync

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        made.add(episode(2), seeds=2)
    monkeypatch.setattr(os, "fsync", flush)
    expect(tmp_path / "a", [0, 1])
    assert verify(tmp_path / "a") == []
    assert record(tmp_path / "a", [2]).meta["seeds"] == [0, 1, 2]


def test_every_damage_is_found_and_named(tmp_path):
    """Flipped bits, cut ends and deletions, 200 over all files of a recording."""
    path = tmp_path / "a"
    record(path, range(4))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) > 12
    draw = np.random.default_rng(0)
    for count in range(200):
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
