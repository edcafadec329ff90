"""Every format but LeRobot: fixtures of their own tools as a plain read gives them, and damages of small files."""

import io
import json
import os
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import h5py
import numpy as np
import pytest
import recordings
from PIL import Image
from recordings import LENGTHS

from diffpolicy import registry
from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.conversion_changes import Changes
from diffpolicy.datasets.importers import DamagedEpisode, UnknownFormat, formats, recognize
from diffpolicy.datasets.importers.minari import MinariImporter
from diffpolicy.util.errors import located

FORMATS = Path(os.environ.get("DIFFPOLICY_DATA", "/nowhere")) / "formats"
needs_formats = pytest.mark.skipif(not FORMATS.is_dir(), reason="DIFFPOLICY_DATA names no folder with formats")


class Opened:
    """An importer with what it said; the numbers of its episodes are read on the way."""

    def __init__(self, path):
        self.said = []
        reader, self.seen = recognize(path)
        self.importer = reader(path, self.said.append)
        self.episodes = list(self.importer.episodes())

    def read(self, i):
        return self.importer.read(self.episodes[i])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.importer.close()


def _damaged(path, i, *words):
    with Opened(path) as opened, pytest.raises(DamagedEpisode) as refused:
        opened.read(i)
    for word in (opened.episodes[i].name, *words):
        assert word in str(refused.value)


def _refused(path, *words):
    with pytest.raises(ValueError) as refused:
        Opened(path)
    for word in words:
        assert word in str(refused.value)


# robomimic, MimicGen, LIBERO


@needs_formats
def test_robomimic_fixture():
    path = FORMATS / "robomimic" / "robomimic_low_dim.hdf5"
    with Opened(path) as opened, h5py.File(path) as file:
        assert opened.seen == "a robomimic file" and opened.said == []
        assert [(e.number, e.name, e.length, e.success, e.filters) for e in opened.episodes] == [
            (1, "demo_1", 41, True, ("train",)),
            (2, "demo_2", 41, True, ("train",)),
        ]
        assert opened.importer.attrs["actions"] == "relative" and opened.importer.fps is None
        for i, episode in enumerate(opened.episodes):
            found, demo = opened.read(i), file[f"data/{episode.name}"]
            expected = {name: values[()] for name, values in demo["obs"].items()}
            expected |= {
                "action": demo["actions"][()],
                **{key: demo[key][()] for key in ("rewards", "dones", "states")},
            }
            assert found.keys() == expected.keys() == opened.importer.arrays.keys()
            for name, values in expected.items():
                assert np.array_equal(found[name], values) and found[name].dtype == values.dtype
        roles = {name: array.role for name, array in opened.importer.arrays.items()}
        assert [name for name, role in roles.items() if role == "other"] == ["dones", "rewards", "states"]


@needs_formats
def test_raw_robosuite_fixture():
    raw = FORMATS / "robomimic" / "robosuite_1.5.2_raw_demo.hdf5"
    _refused(raw, "without observations", "convert_robosuite", "dataset_states_to_obs")


def test_raw_robomimic(tmp_path):
    path = recordings.robomimic(tmp_path / "raw.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["obs"], demo["next_obs"]
    with pytest.raises(ValueError, match="dataset_states_to_obs") as refused:
        Opened(path)
    assert "convert_robosuite" not in str(refused.value)


def test_demonstrations_are_sorted_by_number_and_filtered(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5", first=1, mask={"train": [1, 11], "valid": [2], "old": [9]})
    with Opened(path) as opened:
        found = [(e.number, e.length, e.filters, e.success) for e in opened.episodes]
        assert found == [(1, 12, ("train",), True), (2, 9, ("valid",), False), (11, 15, ("train",), True)]
        assert opened.said == ["the filter 'old' names 1 demonstrations that are not there: demo_9"]
        assert opened.importer.arrays["agentview_image"].image
        assert np.array_equal(opened.read(2)["agentview_image"], recordings.images(16, 24, 32, 11)[:-1])


@pytest.mark.parametrize(
    ("controller", "kind"),
    [
        ({"type": "OSC_POSE", "control_delta": True}, "relative"),
        ({"type": "OSC_POSE", "control_delta": False}, "absolute"),
        ({"body_parts": {"right": {"input_type": "absolute"}}}, "absolute"),
        ({}, None),
    ],
)
def test_absolute_actions_are_known(tmp_path, controller, kind):
    kwargs = {"controller_configs": controller, "control_freq": 20}
    path = recordings.robomimic(tmp_path / "demo.hdf5", env_kwargs=kwargs)
    with Opened(path) as opened:
        assert opened.importer.attrs.get("actions") == kind and opened.importer.fps == 20
        assert "model_file" not in json.dumps(dict(opened.importer.attrs))


def test_absolute_actions_beside_the_others_become_the_action(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["actions_abs"] = demo["actions"][()] + 5
    with Opened(path) as opened:
        assert opened.importer.arrays["actions_abs"].role == "other"
        config = ConvertConfig("", "", keys=["actions_abs:action", "eef_pos"])
        changes = Changes.of(config, opened.importer.arrays, None)
        assert np.array_equal(changes.apply(opened.read(0))["action"], opened.read(0)["actions_abs"])
        assert changes.arrays["action"].role == "action"


def test_mimicgen(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5", datagen=True)
    with Opened(path) as opened:
        assert opened.seen == "a MimicGen file"
        assert not any("datagen" in name for name in opened.importer.arrays)


def test_libero(tmp_path):
    with Opened(recordings.libero(tmp_path / "bowl_demo.hdf5")) as opened:
        assert opened.seen == "a LIBERO file" and opened.importer.fps == 20
        assert {e.task for e in opened.episodes} == {"pick up the bowl"}
        assert [e.success for e in opened.episodes] == [True, False, True]
        assert any("upside down" in said for said in opened.said)
        assert opened.importer.attrs["problem_info"]["problem_name"] == "kitchen"
        depth = opened.importer.arrays["agentview_depth"]
        assert (depth.shape, depth.role, depth.image) == ((24, 32), "other", False)
        assert any("agentview_depth" in said and "kept as numbers" in said for said in opened.said)
        assert opened.read(0)["agentview_rgb"].shape == (12, 24, 32, 3)


def test_a_folder_of_libero_has_a_task_a_file(tmp_path):
    recordings.libero(tmp_path / "a_demo.hdf5", "open the drawer")
    recordings.libero(tmp_path / "b_demo.hdf5", "close the drawer")
    with Opened(tmp_path) as opened:
        assert opened.seen == "a folder of 2 LIBERO files"
        assert [e.number for e in opened.episodes] == list(range(6))
        assert [e.task for e in opened.episodes] == ["open the drawer"] * 3 + ["close the drawer"] * 3
        assert opened.episodes[3].name == "b_demo demo_0"
        assert len(opened.read(5)["action"]) == 15 and len(opened.read(0)["action"]) == 12
    (tmp_path / "a_demo.hdf5").write_bytes((tmp_path / "a_demo.hdf5").read_bytes()[:5000])
    with Opened(tmp_path) as opened:
        assert len(opened.episodes) == 3 and "a_demo.hdf5" in opened.said[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d.__delitem__("actions"), ["num_samples is 9"]),
        (lambda d: d.__delitem__("obs/eef_pos"), ["obs/eef_pos is missing"]),
        (lambda d: d.__delitem__("states"), ["states is missing"]),
        (lambda d: d["obs/eef_pos"].__setitem__((4, 1), 7.0), ["next_obs/eef_pos at frame 3", "frame 4"]),
        (lambda d: d["obs/agentview_image"].__setitem__((4, 1, 2, 0), 9), ["next_obs/agentview_image at frame 3"]),
        (lambda d: d.attrs.__setitem__("num_samples", 8), ["num_samples is 8", "9 actions"]),
        (lambda d: d["dones"].__setitem__(2, 64), ["dones hold other numbers"]),
        (lambda d: _replace(d, "rewards", np.zeros(8)), ["'rewards' has (8,) frames"]),
        (lambda d: _replace(d, "actions", np.zeros((9, 6))), ["frames (6,)", "(7,) float64, as in other episodes"]),
        (lambda d: _replace(d, "states", np.zeros((9, 5), np.float32)), ["float32", "float64, as in other"]),
    ],
)
def test_damaged_demonstrations(tmp_path, damage, words):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        damage(file["data/demo_1"])
    _damaged(path, 1, "demo.hdf5", *words)
    with Opened(path) as opened:
        assert len(opened.read(0)["action"]) == 12 and len(opened.read(2)["action"]) == 15


def _replace(group, name, values):
    del group[name]
    group[name] = values


def test_totals_that_do_not_add_up_are_said(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1"]
    with Opened(path) as opened:
        assert opened.said == ["demo.hdf5 has 27 frames in 2 demonstrations, and states 36"]


def test_one_damaged_episode_does_not_say_what_the_others_hold(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].move("obs/eef_pos", "obs/eef_pot")
    _damaged(path, 0, "obs/eef_pos is missing")
    with Opened(path) as opened:
        assert "eef_pos" in opened.importer.arrays and "eef_pos" in opened.read(1)


def test_next_observations_of_another_kind_check_nothing(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["next_obs/eef_pos"][...] = 0
    with Opened(path) as opened:
        assert opened.said == ["next_obs/eef_pos is not the next obs/eef_pos, so it checks nothing"]
        assert len(opened.read(1)["action"]) == 9


def test_a_damaged_first_demonstration_does_not_say_what_next_observations_are(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["next_obs/eef_pos"][...] = 0
        _replace(file["data/demo_0"], "next_obs/eef_pos", np.zeros((2, 3)))
    with Opened(path) as opened:
        assert opened.said == ["next_obs/eef_pos is not the next obs/eef_pos, so it checks nothing"]
        assert len(opened.read(1)["action"]) == 9


# HDF5 itself


def test_truncated_file(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"demo\.hdf5.*truncated"):
        Opened(path)


def test_what_was_never_written_is_no_zero(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        demo = file["data/demo_1"]
        del demo["states"]
        demo.create_dataset("states", (9, 5), float, chunks=(3, 5))[:3] = 1
        del file["data/demo_10/states"]
        file["data/demo_10"].create_dataset("states", (15, 5), float)
    _damaged(path, 1, "1 of 3 chunks", "never written")
    _damaged(path, 2, "never written")


def test_checksums_of_hdf5_find_a_flipped_bit(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        values = demo["actions"][()]
        del demo["actions"]
        demo.create_dataset("actions", data=values, chunks=values.shape, fletcher32=True)
        offset = demo["actions"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 20] ^= 8
    path.write_bytes(content)
    _damaged(path, 0, "actions cannot be read")


def test_links_out_of_the_file_are_not_followed(tmp_path):
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros((9, 5))
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/states"], file["data/demo_0/states"], file["data/demo_10/states"]
        file["data/demo_1/states"] = h5py.ExternalLink("secret.hdf5", "/x")
        file["out"] = h5py.ExternalLink("secret.hdf5", "/")
        file["data/demo_0/states"] = h5py.SoftLink("/out/x")
        layout = h5py.VirtualLayout((15, 5), float)
        layout[:9] = h5py.VirtualSource("secret.hdf5", "x", (9, 5))
        file["data/demo_10"].create_virtual_dataset("states", layout)
    _refused(path, "no demonstration can be read")
    with h5py.File(path, "a") as file:
        _replace(file["data/demo_0"], "states", np.ones((12, 5)))
    _damaged(path, 1, "link to another file, which is not followed")
    _damaged(path, 2, "lie in another file")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/states"]
        file["inside"] = np.ones((9, 5))
        file["data/demo_1/states"] = h5py.SoftLink("/inside")
    with Opened(path) as opened:
        assert opened.read(1)["states"].all()


def test_links_in_circles(tmp_path):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/states"]
        file["data/demo_1/states"] = h5py.SoftLink("/data/demo_1/states")
    _damaged(path, 1, "states")


def test_without_h5py(tmp_path, monkeypatch):
    path = recordings.robomimic(tmp_path / "demo.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r"demo\.hdf5 needs the package h5py .*pip install 'diffpolicy\[recordings\]'"
    ):
        recognize(path)


# ALOHA


@pytest.mark.parametrize("jpeg", [False, True])
def test_aloha(tmp_path, jpeg):
    folder = recordings.aloha(tmp_path / "aloha", jpeg=jpeg)
    with Opened(folder) as opened:
        assert opened.seen == "a folder of 3 ALOHA files" and opened.importer.fps is None
        assert opened.importer.usual_fps == "ALOHA records at 50 Hz"
        assert [(e.number, e.name, e.length) for e in opened.episodes] == [
            (i, f"episode_{i}", length) for i, length in enumerate(LENGTHS)
        ]
        assert set(opened.importer.arrays) == {"qpos", "qvel", "effort", "cam_low", "cam_high", "action"}
        assert opened.importer.arrays["action"].names[:2] == ("left_waist", "left_shoulder")
        found = opened.read(1)
        with h5py.File(folder / "episode_1.hdf5") as file:
            assert np.array_equal(found["action"], file["action"][()])
            assert np.array_equal(found["qpos"], file["observations/qpos"][()])
            expected = recordings.images(9, 24, 32, 2)
            if jpeg:
                padded = file["observations/images/cam_high"][3].tobytes()
                assert np.array_equal(found["cam_high"][3], np.asarray(Image.open(io.BytesIO(padded))))
        assert np.abs(found["cam_high"].astype(int) - expected).max() <= (12 if jpeg else 0)
        assert any("JPEG" in said for said in opened.said) == jpeg
        assert opened.importer.attrs["compress"] is jpeg


def test_one_file_of_aloha(tmp_path):
    folder = recordings.aloha(tmp_path / "aloha", fps=30)
    with Opened(folder / "episode_2.hdf5") as opened:
        assert opened.seen == "an ALOHA file" and opened.importer.fps == 30
        assert len(opened.read(0)["action"]) == 15


def test_mobile_aloha(tmp_path):
    folder = recordings.aloha(tmp_path / "aloha", base=True)
    with Opened(folder) as opened:
        action = opened.importer.arrays["action"]
        assert action.shape == (16,) and action.names[-2:] == ("base_linear_velocity", "base_angular_velocity")
        assert opened.said == ["base_action (2 numbers) is joined behind action"]
        with h5py.File(folder / "episode_0.hdf5") as file:
            assert np.array_equal(opened.read(0)["action"][:, 14:], file["base_action"][()])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.__delitem__("action"), ["action is missing"]),
        (lambda f: f.__delitem__("observations/images/cam_low"), ["cam_low is missing"]),
        (lambda f: f["compress_len"].__setitem__((0, 3), 5), ["compress_len"]),
        (lambda f: f["observations/images/cam_low"].__setitem__((3, slice(100, None)), 0), ["cut off", "frame 3"]),
        (lambda f: f["observations/images/cam_low"].__setitem__((3, slice(0, 2)), 0), ["frame 3 cannot be decoded"]),
    ],
)
def test_damaged_episodes_of_aloha(tmp_path, damage, words):
    folder = recordings.aloha(tmp_path / "aloha", jpeg=True)
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        damage(file)
    _damaged(folder, 1, "episode_1.hdf5", *words)
    with Opened(folder) as opened:
        assert len(opened.read(2)["action"]) == 15


def test_a_lost_and_a_truncated_episode_of_aloha(tmp_path):
    folder = recordings.aloha(tmp_path / "aloha")
    (folder / "episode_1.hdf5").unlink()
    (folder / "episode_0.hdf5").write_bytes((folder / "episode_0.hdf5").read_bytes()[:3000])
    with Opened(folder) as opened:
        assert opened.said == ["aloha has no episode 1"]
        assert len(opened.read(1)["qpos"]) == 15
    _damaged(folder, 0, "episode_0.hdf5")


def test_channels_first_are_moved_and_said(tmp_path):
    folder = recordings.aloha(tmp_path / "aloha")
    for number in range(3):
        with h5py.File(folder / f"episode_{number}.hdf5", "a") as file:
            for camera in ("cam_low", "cam_high"):
                frames = file[f"observations/images/{camera}"][()]
                del file[f"observations/images/{camera}"]
                file[f"observations/images/{camera}"] = np.moveaxis(frames, -1, 1)
    with Opened(folder) as opened:
        assert opened.importer.arrays["cam_low"].shape == (24, 32, 3)
        assert np.array_equal(opened.read(0)["cam_low"], recordings.images(12, 24, 32, 0))
        assert sum("channels first" in said for said in opened.said) == 2


# ManiSkill


def test_maniskill(tmp_path):
    path = recordings.maniskill(tmp_path / "mani")
    for source in (path, path.parent):
        with Opened(source) as opened:
            arrays = opened.importer.arrays
            assert {name: (array.role, array.image) for name, array in arrays.items()} == {
                "action": ("action", False),
                "agent_qpos": ("observation", False),
                "extra_is_grasped": ("observation", False),
                "sensor_data_base_camera_rgb": ("observation", True),
                "sensor_data_base_camera_depth": ("observation", True),
                "sensor_param_base_camera_extrinsic_cv": ("other", False),
                "env_states_actors_cube": ("other", False),
                "success": ("other", False),
                "terminated": ("other", False),
                "truncated": ("other", False),
            }
            assert arrays["sensor_data_base_camera_depth"].unit == "mm"
            assert [(e.length, e.success, e.extra["episode_seed"]) for e in opened.episodes] == [
                (length, True, 7 + i) for i, length in enumerate(LENGTHS)
            ]
            found = opened.read(1)
            with h5py.File(path) as file:
                assert np.array_equal(found["action"], file["traj_1/actions"][()])
                assert np.array_equal(found["agent_qpos"], file["traj_1/obs/agent/qpos"][:-1])
            assert found["sensor_data_base_camera_depth"].dtype == np.uint16
            assert set(np.unique(found["sensor_data_base_camera_depth"])) == {701}
            assert opened.importer.attrs["actions"] == "relative"
            assert opened.importer.attrs["env_info"]["env_id"] == "PickCube-v1"


def test_maniskill_states_and_raw_files(tmp_path):
    path = recordings.maniskill(tmp_path / "state", mode="state")
    with Opened(path) as opened:
        assert opened.importer.arrays["obs"].shape == (42,)
    raw = recordings.maniskill(tmp_path / "raw", observed=False)
    _refused(raw, "actions without observations", "mani_skill.trajectory.replay_trajectory", str(raw))
    shutil.copy(raw, path.parent / "trajectory.h5")
    with Opened(path.parent) as opened:
        assert path.name in opened.seen
    shutil.copy(path, path.parent / "second.h5")
    with pytest.raises(ValueError, match="name one of them"):
        recognize(path.parent)


def test_maniskill_without_json(tmp_path):
    path = recordings.maniskill(tmp_path / "mani")
    path.with_suffix(".json").unlink()
    with Opened(path) as opened:
        assert "json is missing" in opened.said[0] and [e.success for e in opened.episodes] == [True] * 3


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: _replace(t, "actions", t["actions"][:-1]), ["8 actions, where the json states 9 steps"]),
        (lambda t: _replace(t, "obs/agent/qpos", t["obs/agent/qpos"][:-1]), ["obs/agent/qpos has 9 frames"]),
        (lambda t: t["obs/sensor_data/base_camera/depth"].__setitem__((2, 0, 0, 0), -4), ["depth below 0"]),
        (lambda t: t.__delitem__("success"), ["success is missing"]),
    ],
)
def test_damaged_episodes_of_maniskill(tmp_path, damage, words):
    path = recordings.maniskill(tmp_path / "mani")
    with h5py.File(path, "a") as file:
        damage(file["traj_1"])
    _damaged(path, 1, path.name, *words)


# Minari


def _minari(name):
    return FORMATS / "minari" / name


@needs_formats
@pytest.mark.parametrize("name", ["tinygoal/hdf5-v0", "tinygoal/pixels-v0", "fetchreach/hdf5-v0"])
def test_minari_in_hdf5(name):
    lengths = {"tinygoal": [12, 8, 12], "fetchreach": [20, 20, 20]}[name.split("/")[0]]
    with Opened(_minari(name)) as opened, h5py.File(_minari(name) / "data" / "main_data.hdf5") as file:
        assert opened.seen == "a Minari data set in HDF5" and opened.said == []
        assert [e.length for e in opened.episodes] == lengths
        assert [e.success for e in opened.episodes] == [None if "fetch" in name else True] * 3
        assert [e.extra for e in opened.episodes] == [{"seed": i} for i in range(3)]
        assert opened.importer.attrs["env_id"] == ("FetchReach-v4" if "fetch" in name else "TinyGoal-v0")
        roles = {name: array.role for name, array in opened.importer.arrays.items()}
        assert roles["achieved_goal"] == "other" and roles["desired_goal"] == "observation"
        for i, length in enumerate(lengths):
            found, group = opened.read(i), file[f"episode_{i}"]
            assert np.array_equal(found["action"], group["actions"][()])
            for key in ("rewards", "terminations", "truncations"):
                assert np.array_equal(found[key], group[key][()])
            for key in ("observation", "achieved_goal", "desired_goal"):
                assert np.array_equal(found[key], group[f"observations/{key}"][:-1])
            if "pixels" in name:
                encoded = group["observations/pixels"][3].tobytes()
                assert np.array_equal(found["pixels"][3], np.asarray(Image.open(io.BytesIO(encoded))))
                assert found["pixels"].shape == (length, 32, 32, 3)


@needs_formats
@pytest.mark.parametrize("name", ["tinygoal", "fetchreach"])
def test_minari_in_arrow_is_what_hdf5_is(name):
    with Opened(_minari(f"{name}/arrow-v0")) as arrow, Opened(_minari(f"{name}/hdf5-v0")) as hdf5:
        assert arrow.seen == "a Minari data set in Arrow" and arrow.said == []
        assert dict(arrow.importer.arrays) == dict(hdf5.importer.arrays)
        assert [(e.length, e.success) for e in arrow.episodes] == [(e.length, e.success) for e in hdf5.episodes]
        for i in range(3):
            one, two = arrow.read(i), hdf5.read(i)
            assert all(np.array_equal(one[key], two[key]) for key in two)


def _space(kind, **facts):
    return {"type": kind, **facts}


def _box(shape, dtype="float64"):
    return _space("Box", dtype=dtype, shape=list(shape), low=[], high=[])


def _write_minari(folder, observation, action, arrays, length=6):
    """A data set with one episode whose arrays are given by their place."""
    (folder / "data").mkdir(parents=True)
    about = {"observation_space": json.dumps(observation), "action_space": json.dumps(action), "data_format": "hdf5"}
    (folder / "data" / "metadata.json").write_text(json.dumps({**about, "total_episodes": 1}))
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group.attrs["total_steps"] = length
        for name, values in zip(("rewards", "terminations", "truncations"), np.zeros((3, length)), strict=True):
            group[name] = values
        for name, values in arrays.items():
            group[name] = values
    return folder


def test_minari_nested_spaces(tmp_path):
    pose = _space("Tuple", subspaces=[_box([3]), _space("Discrete", n=4, start=0)])
    observation = _space("Dict", subspaces={"pose": pose, "mission": _space("Text", max_length=9)})
    action = _space("Dict", subspaces={"arm": _box([2]), "hand": _box([1])})
    arrays = {
        "observations/pose/_index_0": np.arange(21.0).reshape(7, 3),
        "observations/pose/_index_1": np.arange(7),
        "observations/mission": np.array([b"go to the door"] * 7),
        "actions/arm": np.arange(12.0).reshape(6, 2),
        "actions/hand": -np.arange(6.0)[:, None],
    }
    with Opened(_write_minari(tmp_path / "nested-v0", observation, action, arrays)) as opened:
        assert opened.episodes[0].task == "go to the door"
        assert opened.importer.arrays["action"].names == ("arm_0", "arm_1", "hand_0")
        found = opened.read(0)
        assert set(found) == {"pose_0", "pose_1", "action", "rewards", "terminations", "truncations"}
        assert np.array_equal(found["pose_0"], np.arange(18.0).reshape(6, 3))
        assert np.array_equal(found["action"][:, 2], -np.arange(6.0))


def test_minari_without_texts_for_a_text_space(tmp_path):
    spaces = {"pose": _box([3]), "mission": _space("Text", max_length=9)}
    arrays = {"observations/pose": np.ones((7, 3)), "observations/mission": np.array([], "S3")}
    observation = _space("Dict", subspaces=spaces)
    folder = _write_minari(tmp_path / "mute-v0", observation, _box([2]), {**arrays, "actions": np.ones((6, 2))})
    with Opened(folder) as opened:
        assert opened.episodes[0].task is None and opened.read(0)["pose"].shape == (6, 3)


def test_minari_plain_and_discrete_spaces(tmp_path):
    arrays = {"observations": np.zeros((7, 4)), "actions": np.arange(6)}
    folder = _write_minari(tmp_path / "plain-v0", _box([4]), _space("Discrete", n=6, start=0), arrays)
    with Opened(folder) as opened:
        assert opened.importer.arrays["observation"].shape == (4,)
        assert any("whole numbers" in said for said in opened.said)


def test_an_odd_first_episode_of_minari_does_not_say_what_the_others_hold(tmp_path):
    arrays = {"observations": np.zeros((7, 5)), "actions": np.zeros((6, 2))}
    folder = _write_minari(tmp_path / "plain-v0", _box([4]), _box([2]), arrays)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for number in (1, 2):
            file.copy("episode_0", f"episode_{number}")
            _replace(file[f"episode_{number}"], "observations", np.zeros((7, 4)))
    _damaged(folder, 0, "frames (5,)", "(4,)")
    with Opened(folder) as opened:
        assert opened.importer.arrays["observation"].shape == opened.read(2)["observation"].shape[1:] == (4,)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda g: _replace(g, "actions", g["actions"][:-1]), ["observation has 9 frames", "7 actions"]),
        (lambda g: g.__delitem__("truncations"), ["truncations is missing"]),
        (lambda g: g["rewards"].__setitem__(2, 64.0), ["rewards' sum is 65, where 1 is stated"]),
        (lambda g: g["rewards"].__setitem__(2, 1e-3), ["rewards' sum is 1.001, where 1 is stated"]),
        (lambda g: g["rewards"].__setitem__(slice(2, 4), [0.5, -0.5]), ["rewards' std is 0.4", "0.33"]),
        (lambda g: g.__delitem__("observations/observation"), ["observation is missing"]),
        (lambda g: _replace(g, "observations/desired_goal", np.zeros((8, 2))), ["desired_goal has 8 frames"]),
    ],
)
@needs_formats
def test_damaged_episodes_of_minari(tmp_path, damage, words):
    folder = tmp_path / "tiny-v0"
    shutil.copytree(_minari("tinygoal/hdf5-v0"), folder, copy_function=shutil.copyfile)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        damage(file["episode_1"])
    if words[0].startswith("observation has"):
        words = ["7 actions, where total_steps is 8"]
    _damaged(folder, 1, "main_data.hdf5", *words)


@needs_formats
def test_a_damaged_episode_of_minari_in_arrow(tmp_path):
    folder = tmp_path / "tiny-v0"
    shutil.copytree(_minari("tinygoal/arrow-v0"), folder, copy_function=shutil.copyfile)
    file = folder / "data" / "1" / "part-0.arrow"
    file.write_bytes(file.read_bytes()[:1500])
    with Opened(folder) as opened:
        assert len(opened.read(2)["action"]) == 12
    _damaged(folder, 1, "cannot be read")
    shutil.rmtree(folder / "data" / "0")
    with Opened(folder) as opened:
        assert opened.said == ["3 episodes are stated, and 2 are there"]
    (folder / "data" / "metadata.json").write_text('{"observation_space": "{"}')
    _refused(folder, "observation_space of metadata.json cannot be read")


def _tiny(tmp_path, name="hdf5"):
    """A copy of a data set of three episodes, whose second one may be changed."""
    folder = tmp_path / "tiny-v0"
    shutil.copytree(_minari(f"tinygoal/{name}-v0"), folder, copy_function=shutil.copyfile)
    return folder


@pytest.mark.parametrize(
    ("name", "at", "value", "says"),
    [
        ("actions", (2, 1), -4.0, "'action' is -4 in dimension 1 at frame 2, and its space goes from -1 to 1"),
        ("observations/observation", (8, 3), 70.0, "'observation' is 70 in dimension 3 at frame 8, and its space"),
        ("terminations", 2, True, "'terminations' end it at frame 2, and it has 8 frames"),
    ],
)
@needs_formats
def test_what_contradicts_the_spaces_or_ends_too_early_is_said(tmp_path, name, at, value, says):
    folder = _tiny(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file[f"episode_1/{name}"][at] = value
    with Opened(folder) as opened:
        for i in range(3):
            opened.read(i)
        (said,) = opened.said
        assert said.startswith(f"main_data.hdf5: episode_1: {says}") and not said.endswith("no damage")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for i in range(3):
            file[f"episode_{i}/{name}"][at] = value
    with Opened(folder) as opened:
        for i in range(3):
            opened.read(i)
        (said,) = opened.said
        assert said.endswith("so do most episodes, so it is no damage")


@needs_formats
def test_other_episodes_are_asked_once_whether_they_contradict_too(tmp_path, monkeypatch):
    folder, asked = _tiny(tmp_path), []
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/actions"][2, 1] = -4.0
    in_most = MinariImporter._in_most
    monkeypatch.setattr(MinariImporter, "_in_most", lambda self, what: asked.append(what) or in_most(self, what))
    with Opened(folder) as opened:
        for _ in range(3):
            opened.read(1)
    assert asked == ["action"]


def test_bounds_of_nested_and_whole_numbered_spaces(tmp_path):
    open_ended = {**_box([1]), "low": [-np.inf], "high": [2.0]}
    hand = _space("MultiDiscrete", nvec=[2, 3], start=[1, 0], dtype="int64")
    action = _space("Dict", subspaces={"arm": open_ended, "gap": _box([2]), "hand": hand})
    observation = _space("Dict", subspaces={"pose": _box([3]), "mode": _space("Discrete", n=4, start=-1)})
    arrays = {
        "observations/pose": np.ones((7, 3)),
        "observations/mode": np.arange(7) % 4 - 1,
        "actions/arm": np.linspace(-1e9, 2.00001, 6)[:, None],
        "actions/gap": np.full((6, 2), 50.0),
        "actions/hand": np.array([[1, 0], [2, 2]] * 3),
    }
    folder = _write_minari(tmp_path / "bounds-v0", observation, action, arrays)
    with Opened(folder) as opened:
        opened.read(0)
        assert opened.said == ["actions are whole numbers: the policies here predict continuous ones, to be rounded"]
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/actions/hand"][4, 0] = 3
        file["episode_0/observations/mode"][6] = 3
    with Opened(folder) as opened:
        opened.read(0)
        assert [said.split(": ", 2)[2] for said in opened.said[1:]] == [
            "'mode' is 3 at frame 6, and its space goes from -1 to 2",
            "'action' is 3 in dimension 3 at frame 4, and its space goes from 1 to 2",
        ]


@needs_formats
def test_metadata_of_another_episode_are_said(tmp_path):
    folder = _tiny(tmp_path, "arrow")
    one, other = (folder / "data" / name / "metadata.json" for name in "02")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with Opened(folder) as opened:
        assert [episode.extra for episode in opened.episodes] == [{}, {"seed": 1}, {}]
        says = "what is known of it is that of episode {}, so its seed is not kept"
        assert opened.said == [f"episode_0: {says.format(2)}", f"episode_2: {says.format(0)}"]
    about = json.loads((folder / "data" / "metadata.json").read_text())
    (folder / "data" / "metadata.json").write_text(json.dumps({**about, "total_steps": 33}))
    with Opened(folder) as opened:
        assert opened.said[0] == "33 steps are stated, and 32 are there"


@needs_formats
def test_an_episode_that_lost_its_success_is_said(tmp_path):
    folder = _tiny(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/infos/success"]
    with Opened(folder) as opened:
        assert [episode.success for episode in opened.episodes] == [True, None, True]
        assert opened.said == ["the success of episode_1 is not recorded, though that of others is"]


@needs_formats
def test_a_missing_row_of_arrow_moves_no_other(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    folder = _tiny(tmp_path, "arrow")
    file = folder / "data" / "1" / "part-0.arrow"
    with arrow.OSFile(str(file)) as source:
        table = arrow.ipc.open_file(source).read_all()
    at = table.column_names.index("actions")
    rows = table["actions"].to_pylist()
    for place in (8, 3):
        missing = [None if i == place else row for i, row in enumerate(rows)]
        changed = table.set_column(at, "actions", arrow.array(missing, table["actions"].type))
        with arrow.OSFile(str(file), "wb") as sink, arrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(changed)
        if place == 8:
            with Opened(folder) as opened:
                assert np.array_equal(opened.read(1)["action"], np.asarray(rows[:8], np.float32))
    _damaged(folder, 1, "frames of various lengths, or none")


# UMI


@needs_formats
def test_umi():
    import zarr

    path = FORMATS / "umi" / "dataset.zarr.zip"
    with Opened(path) as opened:
        assert opened.seen == "a UMI data set in zarr" and opened.importer.fps is None
        assert opened.importer.usual_fps == "UMI's cameras have 59.94 Hz"
        assert [e.length for e in opened.episodes] == [20, 25, 30]
        arrays = opened.importer.arrays
        assert arrays["robot0_demo_start_pose"].role == "other" and arrays["camera0_rgb"].image
        assert (arrays["robot0_eef_pos"].unit, arrays["robot0_eef_pos"].names) == ("m", ("x", "y", "z"))
        with zarr.storage.ZipStore(path, mode="r") as store:
            for name in ("robot0_eef_pos", "robot0_demo_end_pose", "camera0_rgb"):
                assert np.array_equal(opened.read(1)[name], zarr.open_array(store, path=f"data/{name}")[20:45])
        line = "action=next:robot0_eef_pos+robot0_eef_rot_axis_angle+robot0_gripper_width"
        with pytest.raises(ValueError, match="no action") as refused:
            Changes.of(ConvertConfig("", ""), arrays, None, opened.importer.state_keys)
        assert str(refused.value).endswith(f"take {line}")
        changes = Changes.of(ConvertConfig("", "", action=line.removeprefix("action=")), arrays, None)
        assert changes.apply(opened.read(0))["action"].shape == (20, 7)
        assert changes.arrays["action"].names == ("x", "y", "z", "rx", "ry", "rz", "width")


@needs_formats
def test_a_damaged_image_of_umi_is_one_episode(tmp_path):
    path = tmp_path / "dataset.zarr.zip"
    content = bytearray((FORMATS / "umi" / "dataset.zarr.zip").read_bytes())
    name = b"data/camera0_rgb/30.0.0.0"
    content[content.index(name) + len(name) + 40] ^= 1
    path.write_bytes(content)
    with Opened(path) as opened:
        assert len(opened.read(0)["robot0_eef_pos"]) == 20 and len(opened.read(2)["robot0_eef_pos"]) == 30
    _damaged(path, 1, "camera0_rgb")


# npz


def test_single_values_of_npz(tmp_path):
    arrays = {"obs": np.zeros((5, 3)), "actions": np.ones((5, 2))}
    np.savez(tmp_path / "demo_10.npz", **arrays, fps=30, task="lift", success=True, seed=4)
    np.savez(tmp_path / "demo_9.npz", **arrays, fps=30, task="place", success=False)
    with Opened(tmp_path) as opened:
        found = [(e.name, e.task, e.success) for e in opened.episodes]
        assert found == [("demo_9", "place", False), ("demo_10", "lift", True)]
        assert opened.importer.fps == 30 and set(opened.importer.arrays) == {"obs", "action"}


@pytest.mark.parametrize("odd", [np.zeros((5, 4)), np.zeros((5, 3, 8, 8), np.uint8)])
def test_an_odd_first_file_of_npz_does_not_say_what_the_others_hold(tmp_path, odd):
    for number, obs in enumerate([odd, np.zeros((5, 3)), np.zeros((6, 3))]):
        np.savez(tmp_path / f"{number}.npz", obs=obs, action=np.ones((len(obs), 2)))
    with Opened(tmp_path) as opened:
        assert opened.importer.arrays["obs"].shape == (3,)


def test_npz_with_ends(tmp_path):
    np.savez(tmp_path / "all.npz", obs=np.arange(9.0)[:, None], action=np.zeros((9, 2)), episode_ends=[4, 9])
    with Opened(tmp_path / "all.npz") as opened:
        assert [e.length for e in opened.episodes] == [4, 5]
        assert opened.read(1)["obs"].ravel().tolist() == [4, 5, 6, 7, 8]


def test_one_observation_more_than_actions(tmp_path):
    np.savez(
        tmp_path / "a.npz", obs=np.zeros((61, 3)), img=np.zeros((61, 8, 8, 3), np.uint8), action=np.ones((60, 2))
    )
    with Opened(tmp_path / "a.npz") as opened:
        assert {len(values) for values in opened.read(0).values()} == {60}
        assert "one frame more than actions" in opened.said[0]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("img", np.zeros((5, 3, 96, 96), np.uint8), "img = img.transpose(0, 2, 3, 1)"),
        ("img", np.zeros((5, 1, 96, 96), np.uint8), "img = img.transpose(0, 2, 3, 1)"),
        ("img", np.zeros((5, 96, 96), np.uint8), "img = img[..., None]"),
        ("depth", np.zeros((5, 48, 64), np.uint16), "depth = depth[..., None]"),
        ("img", np.full((5, 8, 8, 3), 0.5, np.float32), "img = (img * 255).round().astype(np.uint8)"),
        ("words", np.array(["a"] * 5), "real numbers or booleans"),
    ],
)
def test_arrays_that_no_policy_reads(tmp_path, name, values, words):
    np.savez(tmp_path / "a.npz", action=np.zeros((5, 2)), **{name: values})
    _refused(tmp_path / "a.npz", words, name)


def test_depth_and_whole_numbered_images_of_npz(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3))
    depth = np.full((5, 8, 8, 1), 1200, np.uint16)
    np.savez(tmp_path / "a.npz", action=np.zeros((5, 2)), img=images.astype(np.float64), depth=depth)
    with Opened(tmp_path / "a.npz") as opened:
        assert opened.read(0)["img"].dtype == np.uint8 and np.array_equal(opened.read(0)["img"], images)
        assert opened.importer.arrays["depth"].image and np.array_equal(opened.read(0)["depth"], depth)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_of_npz_passes(tmp_path, save):
    """Each is refused or changes nothing."""
    arrays = {"obs": np.random.default_rng(0).normal(size=(30, 3)), "action": np.arange(60.0).reshape(30, 2)}
    path = tmp_path / "a.npz"
    save(path, **arrays)
    content, refused = path.read_bytes(), 0
    for offset in (*range(180), *range(180, len(content), 17)):  # all of the first header
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 8
        path.write_bytes(flipped)
        try:
            with Opened(path) as opened:
                found = opened.read(0)
        except ValueError:
            refused += 1
            continue
        assert all(np.array_equal(found[name], values) for name, values in arrays.items())
    assert refused > len(content) // 17


def test_a_header_of_npz_that_never_ends(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, action=np.random.default_rng(0).normal(size=(3000, 2)))  # its checksum comes after the header
    path.write_bytes(path.read_bytes().replace(b"(3000, 2), }", b"(3000, 2), ("))
    _refused(path, "a.npz")


def test_pickled_arrays_of_npz_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", action=np.array([np.zeros(2), np.zeros(3)], dtype=object))
    _refused(tmp_path / "a.npz", "equally long ones")


# What is known and not read


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo.pkl", "np.savez"),
        ("demo.bag", "npz"),
        ("run/data.mcap", "npz"),
        ("set/1.0.0/set-train.tfrecord-00000-of-00001", "convert it to LeRobot first"),
    ],
)
def test_known_and_not_read(tmp_path, name, words):
    file = tmp_path / "source" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    source = file if name.startswith("demo") else tmp_path / "source" / name.split("/")[0]
    _refused(source, "which is not read", words)


def test_hdf5_of_another_layout(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["velocities"] = np.zeros(3)
    _refused(tmp_path / "mine.h5", "it holds velocities", "npz")


@pytest.mark.parametrize("name", formats())
def test_a_format_that_is_named_and_is_not_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.hdf5").write_text("text")
    for source in (tmp_path / "empty", tmp_path / "text.hdf5"):
        with pytest.raises(ValueError) as refused, located(source):
            reader, _ = recognize(source, name)
            reader(source, lambda said: None)
        assert source.name in str(refused.value)


def test_nothing_that_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"of no format that is known here \(a folder with notes\.txt\)"):
        recognize(tmp_path)


def test_a_package_that_cannot_be_imported_takes_no_other_format_along(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "demos.bag").write_text("")
    points = [EntryPoint("lost", "nowhere_to_be_found:Lost", "diffpolicy.importer")]
    points.append(EntryPoint("npz", "nowhere_to_be_found:Lost", "diffpolicy.importer"))
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: points)
    registry.known.cache_clear()
    try:
        assert list(registry.known("importer"))[-1] == "lost"
        assert recognize(tmp_path / "demos.bag")[1] == "a ROS bag" and "lost" not in formats()
        for _ in range(2):
            with pytest.raises(UnknownFormat, match="npz: arrays in"):
                recognize(tmp_path / "notes.txt")
        assert capsys.readouterr().err.count("the format 'lost' is left out: importer 'lost'") == 1
        with pytest.raises(ValueError, match="'lost' .* cannot be imported"):
            recognize(tmp_path / "notes.txt", "lost")
    finally:
        registry.known.cache_clear()
