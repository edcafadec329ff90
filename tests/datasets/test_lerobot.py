"""LeRobot data sets: every version gives what a plain reading gives, and each damage is repaired or named."""

from __future__ import annotations

import io
import json
import shutil

import av
import numpy as np
import pytest
from datasets.lerobot_fixtures import CAMERA, copy, edit_json, edit_table, fixture, plain, read_all
from PIL import Image

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.importers import recognize
from diffpolicy.datasets.importers.lerobot import LeRobotImporter
from diffpolicy.datasets.importers.lerobot_info import Quantized, fill
from diffpolicy.datasets.importers.pictures import decode_image, decode_picture

pytest.importorskip("pyarrow")

LENGTHS = {
    "lerobot_v30/state": [20, 31, 40],
    "lerobot_v30/video": [20, 25, 30],
    "lerobot_v30/image": [6, 8],
    "lerobot_v30/multi_h264": [20, 25, 30, 12, 18],
    "lerobot_v21/state": [20, 31, 40],
    "lerobot_v21/video": [20, 25, 30],
    "lerobot_v21/image": [6, 8],
}
DATA = "data/chunk-000/file-000.parquet"
INDEX = "meta/episodes/chunk-000/file-000.parquet"


@pytest.mark.parametrize("name", LENGTHS)
def test_a_recording_holds_what_its_files_hold(name):
    path = fixture(name)
    found, lost, said = read_all(path)
    expected = plain(path)
    assert not lost and not said
    assert [len(arrays["action"]) for arrays in found.values()] == LENGTHS[name]
    for number, arrays in expected.items():
        for key, values in arrays.items():
            assert np.array_equal(found[number][key], values) and found[number][key].dtype == values.dtype


@pytest.mark.parametrize("name", ["lerobot_v30/image", "lerobot_v21/image"])
def test_pictures_in_parquet_are_those_that_pillow_reads(name):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = fixture(name)
    files = sorted((path / "data").rglob("*.parquet"))
    pictures = [row["bytes"] for file in files for row in parquet.read_table(file).column(CAMERA).to_pylist()]
    expected = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in pictures])
    found, _, _ = read_all(path)
    assert np.array_equal(np.concatenate([arrays[CAMERA] for arrays in found.values()]), expected)


def test_what_is_told_of_it():
    path = fixture("lerobot_v30/multi_h264")
    reader, seen = recognize(path)
    assert reader is LeRobotImporter and seen == "LeRobot v3.0"
    with reader(path, print) as importer:
        arrays = importer.arrays
        episodes = importer.episodes()
        assert importer.fps == 10
    assert arrays["action"].role == "action" and arrays["action"].names == ("ax", "ay")
    assert arrays[CAMERA].image and arrays[CAMERA].shape == (96, 96, 3)
    assert [episode.task for episode in episodes] == ["reach", "go", "reach", "go", "reach"]
    assert all(episode.filters == ("train",) for episode in episodes)


def test_it_converts(tmp_path):
    done = convert(ConvertConfig(str(fixture("lerobot_v21/video")), str(tmp_path / "out")), progress=False)
    assert (done.episodes, done.frames, done.findings) == (3, 75, ())


def test_episodes_in_any_order_give_the_same_images():
    path = fixture("lerobot_v30/video")
    expected, _, _ = read_all(path)
    with LeRobotImporter(path, print) as importer:
        episodes = importer.episodes()
        for number in (2, 0, 1, 0):
            assert np.array_equal(importer.read(episodes[number])[CAMERA], expected[number][CAMERA])


def test_a_scrambled_index_is_repaired_and_said(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)
    expected, _, _ = read_all(path)

    def scramble(rows):
        rows[0]["dataset_from_index"], rows[0]["dataset_to_index"] = 71, 91
        rows[1]["data/file_index"] = 7
        return rows

    edit_table(path / INDEX, scramble)
    found, lost, said = read_all(path)
    assert (
        not lost
        and any("dataset_from_index" in one for one in said)
        and any("wrong data file" in one for one in said)
    )
    assert all(np.array_equal(found[n]["action"], expected[n]["action"]) for n in expected)


def test_a_data_file_without_footer_costs_its_episodes_only(tmp_path):
    path = copy("lerobot_v30/multi_h264", tmp_path)
    file = path / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    found, lost, said = read_all(path)
    assert sorted(found) == [0, 1] and sorted(lost) == [2, 3, 4]
    assert "file-001.parquet" in said[0] and all("file-001.parquet" in one for one in lost.values())


def test_repeated_rows_are_kept_once_and_different_ones_leave_the_episode_out(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)
    expected, _, _ = read_all(path)
    edit_table(path / DATA, lambda rows: [*rows[:5], rows[4], *rows[5:]])
    found, lost, said = read_all(path)
    assert not lost and np.array_equal(found[0]["action"], expected[0]["action"])
    assert any("twice" in one and "episode 0" in one for one in said)

    def differ(rows):
        return [*rows[:5], {**rows[5], "action": [9.0, 9.0]}, *rows[5:]]

    edit_table(path / DATA, lambda rows: differ([*rows[:5], *rows[6:]]))
    found, lost, said = read_all(path)
    assert sorted(found) == [1, 2] and "episode 0" in lost[0] and DATA in lost[0]


def test_missing_frames_leave_the_episode_out(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)
    edit_table(path / DATA, lambda rows: [*rows[:25], *rows[27:]])
    found, lost, _ = read_all(path)
    assert sorted(found) == [0, 2]
    assert "episode 1" in lost[1] and "2 frames are missing, frame 5 first" in lost[1] and DATA in lost[1]


def test_time_that_is_left_out_leaves_the_episode_out(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)

    def late(rows):
        for row in rows[30:51]:
            row["timestamp"] += 0.3
        return rows

    edit_table(path / DATA, late)
    found, lost, _ = read_all(path)
    assert sorted(found) == [0, 2] and "1.3000 s at frame 10" in lost[1]


def test_rows_out_of_order_are_sorted(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)
    expected, _, _ = read_all(path)
    edit_table(path / DATA, lambda rows: [*rows[:20], *rows[20:51][::-1], *rows[51:]])
    found, lost, said = read_all(path)
    assert not lost and np.array_equal(found[1]["action"], expected[1]["action"])
    assert any("out of order" in one for one in said)


def test_a_number_that_changed_is_found_by_the_statistics(tmp_path):
    path = copy("lerobot_v30/state", tmp_path)

    def change(rows):
        rows[30]["action"] = [rows[30]["action"][0] + 1e-3, rows[30]["action"][1]]
        return rows

    edit_table(path / DATA, change)
    found, lost, _ = read_all(path)
    assert sorted(found) == [0, 2] and "'action' has the mean" in lost[1]


def test_statistics_of_other_numbers_are_not_used(tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    file = path / "meta/episodes_stats.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["stats"]["action"]["mean"] = [5.0, 5.0]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, lost, said = read_all(path)
    assert len(found) == 3 and not lost and "statistics" in said[0]


def _lines_without(file, key, numbers):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if line["episode_index"] not in numbers or k != key} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))


@pytest.mark.parametrize("numbers", [{1}, {0, 1, 2}])
def test_a_task_that_the_index_lost_is_taken_from_the_rows(numbers, tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    _lines_without(path / "meta/episodes.jsonl", "tasks", numbers)
    said = []
    with LeRobotImporter(path, said.append) as importer:
        assert [one.task for one in importer.episodes()] == ["reach the goal", "go there", "reach the goal"]
    listed = ", ".join(map(str, sorted(numbers)))
    assert said == [f"the index has no task for episodes {listed}; it was taken from the data files"]


def test_a_task_that_is_nowhere_is_missed_if_others_have_one(tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    _lines_without(path / "meta/episodes.jsonl", "tasks", {1})
    tasks = path / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().splitlines()[0] + "\n")
    said = []
    with LeRobotImporter(path, said.append) as importer:
        assert [one.task for one in importer.episodes()] == ["reach the goal", None, "reach the goal"]
    assert said == ["episodes 1 have no task; the others have one"]


@pytest.mark.parametrize("name", ["lerobot_v30/multi_h264", "lerobot_v21/video"])
def test_a_missing_or_damaged_video_costs_its_episodes_only(name, tmp_path):
    path = copy(name, tmp_path)
    files = sorted((path / "videos").rglob("*.mp4"))
    files[0].unlink()
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    files[1].write_bytes(content)
    found, lost, _ = read_all(path)
    assert sorted(lost) == [0, 1] and len(found) == len(LENGTHS[name]) - 2
    assert files[0].name in lost[0] and "missing" in lost[0]
    assert files[1].name in lost[1] and "episode 1" in lost[1]


def test_a_fault_in_a_video_of_many_episodes_costs_one(tmp_path):
    path = copy("lerobot_v30/video", tmp_path)
    expected, _, _ = read_all(path)
    (file,) = (path / "videos").rglob("*.mp4")
    content, (place, size) = bytearray(file.read_bytes()), _packet(file, 30)
    content[place + size // 4 : place + size] = b"\x5a" * (size - size // 4)
    file.write_bytes(content)
    found, lost, _ = read_all(path)
    assert sorted(lost) == [1] and "file-000.mp4" in lost[1]
    assert all(np.array_equal(found[n][CAMERA], expected[n][CAMERA]) for n in (0, 2))


def _packet(file, number):
    """Where a packet of a video is in its file, and its size."""
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return packets[number].pos, packets[number].size


def test_swapped_videos_are_found(tmp_path):
    path = copy("lerobot_v21/video", tmp_path)
    first, second, _ = sorted((path / "videos").rglob("*.mp4"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    found, lost, _ = read_all(path)
    assert sorted(found) == [2] and "25 frames are in the video, and 20 in the data" in lost[0]


def test_swapped_data_files_are_repaired_and_said(tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    expected, _, _ = read_all(path)
    first, second, _ = sorted((path / "data").rglob("*.parquet"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    found, lost, said = read_all(path)
    assert not lost and any("wrong data file for 2 episodes" in one for one in said)
    assert all(np.array_equal(found[n]["action"], expected[n]["action"]) for n in expected)


@pytest.mark.parametrize("name", ["lerobot_v30/video", "lerobot_v30/multi_h264", "lerobot_v21/video"])
def test_episodes_of_an_unfinished_index_are_recovered(name, tmp_path):
    path = copy(name, tmp_path)
    expected, _, _ = read_all(path)
    if name.startswith("lerobot_v30"):
        (path / INDEX).write_bytes((path / INDEX).read_bytes()[:-100])
    else:
        file = path / "meta/episodes.jsonl"
        file.write_text(file.read_text()[:80])
    found, lost, said = read_all(path)
    assert not lost and any("recovered" in one for one in said)
    for number, arrays in expected.items():
        assert all(np.array_equal(found[number][key], values) for key, values in arrays.items())
    with LeRobotImporter(path, print) as importer:
        assert all(episode.task for episode in importer.episodes())


def test_a_lost_index_beside_a_lost_video_costs_their_episodes_only(tmp_path):
    path = copy("lerobot_v30/multi_h264", tmp_path)
    (path / "videos" / CAMERA / "chunk-000/file-000.mp4").unlink()
    edit_table(path / INDEX, lambda rows: rows[:1] + rows[2:])
    found, lost, _ = read_all(path)
    assert sorted(found) == [2, 3, 4] and sorted(lost) == [0, 1]


def test_a_lost_entry_behind_a_lost_video_costs_these_two(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = copy("lerobot_v30/multi_h264", tmp_path)
    table = parquet.read_table(path / INDEX)
    parquet.write_table(table.filter([number != 2 for number in range(len(table))]), path / INDEX)
    (path / "videos" / CAMERA / "chunk-000/file-001.mp4").unlink()
    found, lost, _ = read_all(path)
    assert sorted(found) == [0, 3, 4] and sorted(lost) == [1, 2]


def test_version_1_is_refused_with_what_helps(tmp_path):
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "meta_data/info.json").write_text('{"codebase_version": "v1.6", "fps": 10}')
    reader, seen = recognize(tmp_path)
    assert seen == "LeRobot v1"
    with pytest.raises(ValueError, match="convert it first with LeRobot's own script"):
        reader(tmp_path, print)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codebase_version": "v4.0"}, "one of v3.0, v2.1, v2.0"),
        ({"fps": 0}, "fps=0"),
        ({"fps": None}, "fps=None"),
        ({"data_path": "../{chunk_index}.parquet"}, "inside the data set"),
        ({"data_path": None}, "no data_path"),
        ({"features": {}}, "no features"),
        ({"features": {"action": {"dtype": "float32", "shape": "no"}}}, "a list of sizes"),
        ({"data_path": "nothing/{chunk_index}.parquet"}, "can be read"),
    ],
)
def test_an_info_that_makes_no_sense_is_refused(changes, says, tmp_path):
    path = copy("lerobot_v30/state", tmp_path)
    edit_json(path / "meta/info.json", **changes)
    with pytest.raises(ValueError, match=says):
        LeRobotImporter(path, print)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"fps": 10}', b"\xff\xfe"])
def test_a_damaged_info_is_named(content, tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    file = path / "meta/info.json"
    file.unlink() if content is None else file.write_bytes(content)
    reader, seen = recognize(path)
    assert reader is LeRobotImporter and "damaged meta/info.json" in seen
    with pytest.raises(ValueError, match="info.json|codebase_version"):
        reader(path, print)


def test_text_and_unknown_things_are_left_out_and_said(tmp_path):
    path = copy("lerobot_v21/state", tmp_path)
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["note"] = {"dtype": "string", "shape": [1], "names": None}
    info["features"]["observation.gone"] = {"dtype": "float32", "shape": [3], "names": None}
    edit_json(path / "meta/info.json", features=info["features"], something_new={"a": 1})
    found, lost, said = read_all(path)
    assert not lost and set(found[0]) == {"observation.state", "action"}
    assert any("'note' holds string" in one for one in said) and any("'observation.gone'" in one for one in said)


def test_channels_first_are_told_by_the_names(tmp_path):
    path = copy("lerobot_v21/image", tmp_path)
    expected, _, _ = read_all(path)
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][CAMERA] |= {"shape": [3, 96, 96], "names": ["channels", "height", "width"]}
    edit_json(path / "meta/info.json", features=info["features"])
    found, _, _ = read_all(path)
    assert np.array_equal(found[1][CAMERA], expected[1][CAMERA])


def test_a_picture_with_another_checksum_is_named(tmp_path):
    path = copy("lerobot_v21/image", tmp_path)

    def flip(rows):
        content = bytearray(rows[3][CAMERA]["bytes"])
        content[len(content) // 2] ^= 1
        rows[3][CAMERA]["bytes"] = bytes(content)
        return rows

    edit_table(path / "data/chunk-000/episode_000001.parquet", flip)
    found, lost, _ = read_all(path)
    assert sorted(found) == [0] and "frame 3: a picture cannot be decoded (its chunk at byte" in lost[1]


@pytest.mark.parametrize("kind", ["EPS", "BMP"])
def test_no_other_formats_of_pictures_are_opened(kind):
    file, out = io.BytesIO(), np.zeros((8, 9, 3), np.uint8)
    Image.fromarray(out).save(file, format=kind)
    with pytest.raises(ValueError, match="cannot be decoded.*cannot identify"):
        decode_picture(file.getvalue(), out)
    with pytest.raises(ValueError, match="cam at frame 2 cannot be decoded.*cannot identify"):
        decode_image(file.getvalue(), "cam at frame 2")


def test_tables_of_rewards_and_success(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = copy("lerobot_v30/state", tmp_path)
    shutil.rmtree(path / "meta/episodes")  # whose statistics are not of these columns
    table = parquet.read_table(path / DATA)
    success = [False] * 90 + [True]
    table = table.append_column("next.success", arrow.array(success))
    table = table.append_column("next.reward", arrow.array(np.linspace(0, 1, 91, dtype=np.float32)))
    parquet.write_table(table, path / DATA)
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    info["features"]["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    edit_json(path / "meta/info.json", features=info["features"])
    with LeRobotImporter(path, print) as importer:
        episodes, arrays = importer.episodes(), importer.arrays
        last = importer.read(episodes[2])
    assert [episode.success for episode in episodes] == [False, False, True]
    assert arrays["next.reward"].role == arrays["next.success"].role == "other"
    assert last["next.reward"].shape == (40, 1) and last["next.success"][-1, 0]


def _film_of_depth(file, codes):
    """A video of twelve bits, as LeRobot writes depth, without loss."""
    with av.open(str(file), "w") as container:
        options = {"x265-params": "log-level=error:lossless=1"}
        stream = container.add_stream("libx265", 10, options=options)
        stream.height, stream.width, stream.pix_fmt = *codes.shape[1:], "gray12le"
        for one in codes:
            frame = av.VideoFrame(stream.width, stream.height, "gray12le")
            plane = frame.planes[0]
            padded = np.zeros((stream.height, plane.line_size // 2), "<u2")
            padded[:, : stream.width] = one
            plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("known", [True, False])
def test_videos_of_depth(known, tmp_path):
    path = copy("lerobot_v21/video", tmp_path)
    files = sorted((path / "videos").rglob("*.mp4"))
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 4096, (length, 96, 96)).astype(np.uint16) for length in (20, 25, 30)]
    for file, values in zip(files, codes, strict=True):
        _film_of_depth(file, values)
    info = json.loads((path / "meta/info.json").read_text())
    quantized = {"video.depth_min": 0.0, "video.depth_max": 8.19, "video.shift": 0.0, "video.use_log": False}
    details = {"is_depth_map": True, "video.pix_fmt": "gray12le", "depth_unit": "m", **(quantized if known else {})}
    info["features"][CAMERA] |= {"shape": [96, 96, 1], "info": details}
    edit_json(path / "meta/info.json", features=info["features"])
    found, lost, said = read_all(path)
    assert not lost and not said and found[1][CAMERA].dtype == np.uint16
    assert np.array_equal(found[1][CAMERA][..., 0], codes[1] * 2 if known else codes[1])
    with LeRobotImporter(path, print) as importer:
        assert importer.arrays[CAMERA].unit == ("mm" if known else "m") and importer.arrays[CAMERA].image


def test_depth_is_undone_in_millimeters():
    codes = np.array([0, 2048, 4095], np.uint16)
    log = Quantized(0.01, 10.0, 3.5, True).millimeters(codes, 4095)
    expected = 1000 * (np.exp(np.log(3.51) + codes / 4095 * (np.log(13.5) - np.log(3.51))) - 3.5)
    assert np.abs(log - expected).max() <= 1 and log[0] == 10 and log[2] == 10_000
    assert Quantized(0.0, 4.095, 0.0, False).millimeters(codes, 4095).tolist() == [0, 2048, 4095]


def test_a_template_is_filled_and_nothing_else():
    template = "data/chunk-{chunk_index:03d}/{key}.x"
    assert fill(template, chunk_index=7, key="a") == "data/chunk-007/a.x"
    with pytest.raises(ValueError, match="unknown"):
        fill("{chunk.__class__}-{other}", chunk=1)
