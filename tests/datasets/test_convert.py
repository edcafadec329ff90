"""Converting: which episodes, which arrays, what is changed, and going on after a kill."""

import json
import os

import numpy as np
import pytest
import recordings
import zarr
from typed import typed

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets import convert as converting
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.conversion_changes import Changes, looks_relative
from diffpolicy.datasets.convert import choose, convert, read_checked
from diffpolicy.datasets.importers import Array, DamagedEpisode, Episode, Importer, recognize
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.writer import EpisodeWriter, alone
from diffpolicy.datasets.zarr_layout import ZarrArchive

LENGTHS = (7, 5, 9, 6)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch):
    """Nothing here survives a power cut, so no test waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def npz(tmp_path):
    """A folder of four episodes: state (3,), img (8, 8, 3), action (2,)."""
    folder = tmp_path / "npz"
    folder.mkdir()
    for number, length in enumerate(LENGTHS):
        np.savez(folder / f"demo_{number}.npz", **_episode(number, length), success=number % 2 == 0, task="stack")
    return folder


def _episode(number, length):
    rng = np.random.default_rng(number)
    return {
        "state": rng.normal(size=(length, 3)).astype(np.float32),
        "img": rng.integers(0, 256, (length, 8, 8, 3)).astype(np.uint8),
        "action": rng.normal(size=(length, 2)),
        "reward": np.zeros(length),
    }


def _converted(source, out, **settings):
    return convert(ConvertConfig(str(source), str(out), **{"fps": 10, **settings}), progress=False)


def _read(path):
    with ZarrArchive(path) as archive:
        arrays = {name: archive.read(f"data/{name}") for name in archive.names()}
        meta = {name: archive.read(f"meta/{name}").tolist() for name in archive.meta_names()}
        return arrays, archive.read("meta/episode_ends").tolist(), meta, archive.attrs()


def test_everything_arrives(npz, tmp_path):
    result = _converted(npz, tmp_path / "out")
    assert (result.episodes, result.frames, result.findings) == (4, 27, ())
    arrays, ends, meta, attrs = _read(tmp_path / "out")
    assert ends == np.cumsum(LENGTHS).tolist()
    for name in ("state", "img", "action", "reward"):
        expected = np.concatenate([_episode(i, n)[name] for i, n in enumerate(LENGTHS)])
        assert np.array_equal(arrays[name], expected) and arrays[name].dtype == expected.dtype
    assert meta == {"source_episode": [0, 1, 2, 3], "success": [1, 0, 1, 0], "task": [0, 0, 0, 0]}
    assert attrs["fps"] == 10 and attrs["tasks"] == ["stack"]
    assert attrs["roles"] == {"state": "observation", "img": "observation", "action": "action", "reward": "other"}
    assert [episode["name"] for episode in attrs["episodes"]] == ["demo_0", "demo_1", "demo_2", "demo_3"]
    assert verify(tmp_path / "out") == []
    assert ReplayBuffer.open(tmp_path / "out", ["state", "action"])["action"].shape == (27, 2)


def test_the_command_says_what_it_saw_and_how_to_train(npz, tmp_path):
    said = typed("convert", npz, "out", "episodes=0-1,3", "keys=[state:pose,img,action]", cwd=tmp_path)
    assert f"{npz}: a folder of 4 npz files" in said
    assert "3 episodes, 18 frames" in said
    assert "diffpolicy train task=own dataset.path=" in said
    assert "observation.vectors=[pose]" in said and "observation.images=[img]" in said
    assert said.count("frames a second") == 1


EPISODES = [
    Episode(
        number, f"demo_{number}", success=number != 3, filters=("train",) if number < 4 else ("valid", "20_percent")
    )
    for number in (1, 2, 3, 5, 10)
]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (None, [1, 2, 3, 5, 10]),
        (5, [5]),
        ("2", [2]),
        ("1-3,10", [1, 2, 3, 10]),
        ("3-10", [3, 5, 10]),
        ([10, 1], [1, 10]),
        (["2-3", 5], [2, 3, 5]),
        ("success", [1, 2, 5, 10]),
        ("train", [1, 2, 3]),
        ("20_percent", [5, 10]),
    ],
)
def test_episodes_are_chosen(wanted, numbers):
    assert [episode.number for episode in choose(EPISODES, wanted)] == numbers


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (4, "there is no episode"),
        ("0-3", "numbers from 1 to 10"),
        ("3-1", "range 3-1 is empty"),
        ("0-999999999999", "numbers from 1 to 10"),
        ("tarin", "a filter (20_percent, train, valid), success, or numbers"),
        ("-3", "numbers and ranges such as 0-9,12"),
        ("", "numbers and ranges"),
    ],
)
def test_episodes_that_are_not_there(wanted, says):
    with pytest.raises(ValueError, match="episodes=") as refused:
        choose(EPISODES, wanted)
    assert says in str(refused.value)


def test_success_that_is_not_stated():
    with pytest.raises(ValueError, match="does not say which episodes succeeded"):
        choose([Episode(0, "a")], "success")


def test_keys_and_names(npz, tmp_path):
    _converted(npz, tmp_path / "out", keys=["state:pose", "action"])
    arrays, _, _, attrs = _read(tmp_path / "out")
    assert sorted(arrays) == ["action", "pose"]
    assert attrs["source"]["renamed"] == {"state": "pose"}


def test_another_array_becomes_the_action(npz, tmp_path):
    result = _converted(npz, tmp_path / "out", keys=["state:action", "action:command", "img"])
    assert {name: array.role for name, array in result.arrays.items()} == {
        "action": "action",
        "command": "other",
        "img": "observation",
    }
    assert _read(tmp_path / "out")[0]["action"].shape == (27, 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keys": ["stat", "action"]}, "did you mean 'state'"),
        ({"keys": ["state"]}, "the action among them"),
        ({"keys": ["state:x", "img:x", "action"]}, "different names"),
        ({"keys": ["img:action"]}, "the action is a camera"),
        ({"every": 0}, "every=0"),
        ({"fps": -1}, "fps=-1"),
        ({"resize": [8]}, "[height,width]"),
        ({"trim": "all"}, "unknown trim 'all'"),
        ({"action": "state"}, "next:KEY"),
        ({"action": "next:img"}, "is a camera"),
        ({"action": "next:pose"}, "unknown key 'pose'"),
        ({"format": "npzz"}, "did you mean 'npz'"),
    ],
)
def test_settings_that_do_not_fit(npz, tmp_path, settings, says):
    with pytest.raises(ValueError) as refused:
        _converted(npz, tmp_path / "out", **settings)
    assert says in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_every_second_frame(npz, tmp_path):
    result = _converted(npz, tmp_path / "out", every=2)
    arrays, ends, _, attrs = _read(tmp_path / "out")
    assert attrs["fps"] == 5 and ends == np.cumsum([4, 3, 5, 3]).tolist()
    assert np.array_equal(arrays["state"][:4], _episode(0, 7)["state"][::2])
    assert result.findings == ()  # this action follows nothing


def test_differences_that_are_left_out_are_said(tmp_path):
    (tmp_path / "npz").mkdir()
    state = recordings.walk(40, 3, 0)
    np.savez(tmp_path / "npz" / "a.npz", state=state[:-1], action=np.diff(state, axis=0)[:, :2])
    assert _converted(tmp_path / "npz", tmp_path / "one").findings == ()
    (said,) = _converted(tmp_path / "npz", tmp_path / "two", every=2).findings
    assert "look like differences" in said
    assert _converted(tmp_path / "npz", tmp_path / "next", every=2, action="next:state").findings == ()


def test_what_looks_like_a_difference():
    state = recordings.walk(50, 3, 1)
    arrays = {"state": Array((3,), state.dtype), "action": Array((3,), state.dtype, "action")}
    assert looks_relative({"state": state[:-1], "action": np.diff(state, axis=0)}, arrays)
    assert not looks_relative({"state": state[:-1], "action": state[1:]}, arrays)
    assert not looks_relative({"state": state, "action": np.zeros_like(state)}, arrays)


def test_the_next_state_is_the_action(npz, tmp_path):
    _converted(npz, tmp_path / "out", action="next:state", every=2)
    arrays, ends, _, _ = _read(tmp_path / "out")
    first = _episode(0, 7)["state"][::2]
    assert np.array_equal(arrays["action"][: ends[0]], np.concatenate([first[1:], first[-1:]]))


def test_images_are_made_smaller(npz, tmp_path):
    _converted(npz, tmp_path / "out", resize=[4, 2])
    arrays, *_ = _read(tmp_path / "out")
    assert arrays["img"].shape == (27, 4, 2, 3)
    averaged = _episode(0, 7)["img"][0].reshape(4, 2, 2, 4, 3).mean(axis=(1, 3))
    assert np.abs(arrays["img"][0] - averaged).max() <= 1


def test_depth_is_not_averaged():
    changes = Changes.of(
        ConvertConfig(source="", out="", resize=[2, 2]),
        {
            "depth": Array((4, 4, 1), np.dtype(np.uint16), image=True),
            "action": Array((1,), np.dtype(float), "action"),
        },
        None,
    )
    depth = np.where(np.arange(16).reshape(1, 4, 4, 1) % 2, 60000, 100).astype(np.uint16)
    changed = changes.apply({"depth": depth, "action": np.zeros((1, 1))})
    assert set(np.unique(changed["depth"])) <= {100, 60000} and changed["depth"].shape == (1, 2, 2, 1)


def test_idle_ends_are_cut(tmp_path):
    (tmp_path / "npz").mkdir()
    rng = np.random.default_rng(0)
    ramp = np.concatenate([np.zeros(20), np.linspace(0, 1, 30), np.ones(25)])
    noisy = ramp + rng.normal(scale=1e-3, size=75)
    state = np.stack([noisy, rng.normal(scale=1e-4, size=75)], axis=1)  # the second one is noise alone
    np.savez(
        tmp_path / "npz" / "a.npz", state=state, action=ramp[:, None], frame=np.arange(75.0), reward=np.arange(75.0)
    )
    changed = _converted(tmp_path / "npz", tmp_path / "kept", keys=["state", "action"])
    assert changed.frames == 75
    _converted(tmp_path / "npz", tmp_path / "out", keys=["state", "action", "reward"], trim="idle")
    first, *_, last = _read(tmp_path / "out")[0]["reward"]
    assert 18 <= first <= 20 and 49 <= last <= 51


def test_an_episode_in_which_nothing_moves_stays(tmp_path):
    np.savez(tmp_path / "a.npz", state=np.ones((6, 2)), action=np.zeros((6, 1)))
    assert _converted(tmp_path / "a.npz", tmp_path / "out", trim="idle").frames == 6


def test_damaged_episodes_are_named_and_the_others_kept(npz, tmp_path):
    (npz / "demo_1.npz").write_bytes((npz / "demo_1.npz").read_bytes()[:-30])
    bad = _episode(2, 9)
    bad["state"][4, 1] = np.nan
    np.savez(npz / "demo_2.npz", **bad)
    result = _converted(npz, tmp_path / "out")
    assert result.episodes == 2
    one, two = result.findings
    assert one.startswith("left out: ") and "demo_1" in one
    assert "demo_2" in two and "'state' holds NaN or infinity at frame 4" in two
    assert _read(tmp_path / "out")[2]["source_episode"] == [0, 3]


@pytest.mark.parametrize(
    ("episode", "says"),
    [
        ({"action": np.ones((5, 2))}, r"demo_1 has \['action'\]; expected \['action', 'img', 'reward', 'state'\]"),
        ({**_episode(1, 5), "reward": np.zeros(4)}, "demo_1 has arrays of lengths"),
        ({**_episode(1, 5), "reward": np.full(5, np.nan)}, r"demo_1: 'reward' holds NaN or infinity at frame 0"),
        ({**_episode(1, 5), "img": np.full((5, 8, 8, 3), 0.5)}, "demo_1"),
    ],
)
def test_an_episode_is_checked_as_it_is_read(npz, episode, says):
    np.savez(npz / "demo_1.npz", **episode)
    reader, _ = recognize(npz)
    with reader(npz, print) as importer:
        good, bad = importer.episodes()[:2]
        assert sorted(read_checked(importer, good)) == ["action", "img", "reward", "state"]
        with pytest.raises(DamagedEpisode, match=says):
            read_checked(importer, bad)


def test_nothing_left_says_why(npz, tmp_path):
    for file in npz.iterdir():
        arrays = dict(np.load(file))
        arrays["action"][2] = np.inf
        np.savez(file, **arrays)
    with pytest.raises(
        ValueError, match=r"no episode is left of 4; left out: .*'action' holds NaN or infinity at frame 2"
    ):
        _converted(npz, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_fps_is_said_once(npz, tmp_path):
    (said,) = _converted(npz, tmp_path / "out", fps=None).findings
    assert "frames a second" in said and "add fps=" in said
    assert "fps" not in _read(tmp_path / "out")[3]


def test_another_rate_than_its_own_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", state=np.ones((6, 2)), action=np.zeros((6, 1)), fps=20)
    assert _converted(tmp_path / "a.npz", tmp_path / "own", fps=None).findings == ()
    assert _read(tmp_path / "own")[3]["fps"] == 20
    (said,) = _converted(tmp_path / "a.npz", tmp_path / "told", fps=30).findings
    assert "20 frames a second by its own word, and 30 as told" in said


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("write", (1, 2, 9, 13, 14, 17, 20, 22, 24, 25, 29, 33))
def test_a_kill_at_any_write_costs_nothing(tmp_path, monkeypatch, write):
    """The same command goes on, and the recording is the unbroken one's, byte for byte, findings included."""
    npz = tmp_path / "npz"
    npz.mkdir()
    for number in range(3):
        np.savez(npz / f"demo_{number}.npz", state=np.full((4, 1), number, float), action=np.ones((4, 1)))
    (npz / "demo_1.npz").write_bytes(b"nothing")
    unbroken = _converted(npz, tmp_path / "unbroken", fps=None)
    import diffpolicy.datasets.writer as writing

    original, count = writing.write_bytes, 0

    def killed(path, content):
        nonlocal count
        count += 1
        if count == write:
            raise _Killed
        original(path, content)

    monkeypatch.setattr(writing, "write_bytes", killed)
    try:
        _converted(npz, tmp_path / "broken", fps=None)
    except _Killed:
        monkeypatch.setattr(writing, "write_bytes", original)
        again = _converted(npz, tmp_path / "broken", fps=None)
        assert again.findings == unbroken.findings
    else:
        assert count < write
    assert digest(tmp_path / "broken") == digest(tmp_path / "unbroken")
    assert verify(tmp_path / "broken") == []


class _Repairs(Importer):
    """Says something of every episode when it reads it."""

    summary = "repairs"

    @classmethod
    def recognize(cls, path):
        return None

    @property
    def arrays(self):
        return {"action": Array((1,), np.dtype(float), "action")}

    @property
    def fps(self):
        return 10.0

    def episodes(self):
        return [Episode(i, f"e{i}") for i in range(6)]

    def read(self, episode):
        if episode.number == 3:
            raise DamagedEpisode("e3 is damaged")
        self.say(f"e{episode.number} was repaired")
        if episode.number == 5:
            raise ValueError("a sentence without the episode")
        return {"action": np.full((4, 1), float(episode.number))}


def test_findings_stand_in_the_order_of_the_episodes_also_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "recognize", lambda path, format: (_Repairs, "repairs"))
    (tmp_path / "source").mkdir()
    unbroken = _converted(tmp_path / "source", tmp_path / "unbroken", fps=None)
    assert unbroken.findings == (
        *(f"e{i} was repaired" for i in range(3)),
        "left out: e3 is damaged",
        "e4 was repaired",
        "e5 was repaired",
        "left out: e5: a sentence without the episode",
    )
    original = converting.EpisodeWriter.add

    def add(self, arrays, **meta):
        if meta["source_episode"] == 2:
            raise _Killed
        original(self, arrays, **meta)

    monkeypatch.setattr(converting.EpisodeWriter, "add", add)
    with pytest.raises(_Killed):
        _converted(tmp_path / "source", tmp_path / "broken", fps=None)
    monkeypatch.setattr(converting.EpisodeWriter, "add", original)
    assert _converted(tmp_path / "source", tmp_path / "broken", fps=None).findings == unbroken.findings
    assert digest(tmp_path / "broken") == digest(tmp_path / "unbroken")


def test_the_same_command_again_changes_nothing(npz, tmp_path):
    _converted(npz, tmp_path / "out")
    before = digest(tmp_path / "out")
    assert _converted(npz, tmp_path / "out").frames == 27
    assert digest(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": 2}, "source.every"),
        ({"episodes": "0-1"}, "source.episodes"),
        ({"keys": ["state", "action"]}, "roles.img"),
        ({"fps": 20}, "fps: 10.0 there, 20.0 now"),
    ],
)
def test_other_settings_on_the_same_folder_are_refused(npz, tmp_path, settings, says):
    _converted(npz, tmp_path / "out")
    before = digest(tmp_path / "out")
    with pytest.raises(ValueError, match="records something else") as refused:
        _converted(npz, tmp_path / "out", **settings)
    assert says in str(refused.value) and "choose another name, or the same settings" in str(refused.value)
    assert digest(tmp_path / "out") == before


def test_a_changed_source_is_not_mixed_with_the_old_one(npz, tmp_path):
    _converted(npz, tmp_path / "out")
    np.savez(npz / "demo_4.npz", **_episode(4, 5))
    with pytest.raises(ValueError, match=r"source\.digest"):
        _converted(npz, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(npz, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="is no recording"):
        _converted(npz, tmp_path / "out")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recording at"):
        recognize(tmp_path / "nothing")


def test_our_own_recording_converts_again(npz, tmp_path):
    _converted(npz, tmp_path / "one")
    _converted(tmp_path / "one", tmp_path / "two", fps=None)
    one, two = _read(tmp_path / "one"), _read(tmp_path / "two")
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0]) and one[1:3] == two[1:3]
    assert one[3]["roles"] == two[3]["roles"] and two[3]["fps"] == 10


def test_attributes_are_json_of_plain_values(npz, tmp_path):
    _converted(npz, tmp_path / "out", every=2, resize=[4, 4])
    source = json.loads((tmp_path / "out" / "zarr.json").read_text())["attributes"]["source"]
    assert source["every"] == 2 and source["resize"] == [4, 4] and source["name"] == "npz"


def test_what_a_replay_buffer_says_stays(tmp_path):
    writer = EpisodeWriter(tmp_path / "one", {"fps": 10, "ranges": {"depth": [300, 2000]}, "robot": "arm"})
    for seed in (7, 9):
        writer.add({"depth": np.full((5, 8, 8, 1), 900, np.uint16), "action": np.zeros((5, 2))}, seeds=seed)
    _converted(tmp_path / "one", tmp_path / "two", fps=None, keys=["depth:far", "action"])
    _converted(tmp_path / "two", tmp_path / "three", fps=None)
    for made in ("two", "three"):
        attrs = _read(tmp_path / made)[3]
        assert attrs["ranges"] == {"far": [300, 2000]} and attrs["recording"] == {"robot": "arm"}
        assert [episode["seeds"] for episode in attrs["episodes"]] == [7, 9]


def test_meta_and_rate_that_fit_nothing_are_left_out(tmp_path):
    root = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=2, attributes={"fps": "fast"})
    for name, values in (("data/action", np.ones((6, 2))), ("meta/episode_ends", np.array([2, 6]))):
        root.create_array(name, data=values)
    for name, values in (("task", np.ones((2, 2), int)), ("success", np.ones(1, int))):
        root.create_array(f"meta/{name}", data=values)
    result = _converted(tmp_path / "theirs.zarr", tmp_path / "out", fps=None)
    assert result.findings[0] == "its attribute fps is 'fast', and no number of frames a second"
    assert _read(tmp_path / "out")[2]["task"] == [-1, -1] and _read(tmp_path / "out")[2]["success"] == [-1, -1]


def test_names_with_a_slash(tmp_path):
    for number in range(2):
        np.savez(tmp_path / f"{number}.npz", **{"obs/pose": np.ones((4, 3)), "action": np.zeros((4, 2))})
    _converted(tmp_path, tmp_path / "made" / "out", episodes="0")
    assert sorted(_read(tmp_path / "made" / "out")[0]) == ["action", "obs_pose"]
    with pytest.raises(ValueError, match="array called 'a/b'; expected a plain word"):
        _converted(tmp_path, tmp_path / "made" / "other", keys=["obs_pose:a/b", "action"])
    np.savez(tmp_path / "0.npz", **{"obs/pose": np.ones((4, 3)), "obs_pose": np.ones((4, 3)), "action": np.ones(4)})
    assert "have one name); rename one" in _converted(tmp_path, tmp_path / "made" / "third").findings[0]


def test_idle_ends_by_what_becomes_the_action(tmp_path):
    state = np.concatenate([np.zeros(20), np.linspace(0, 1, 30), np.ones(20)])[:, None]
    np.savez(tmp_path / "a.npz", state=state)
    settings = {"keys": ["action"], "action": "next:state", "trim": "idle"}
    assert 30 <= _converted(tmp_path / "a.npz", tmp_path / "out", **settings).frames <= 33


def test_one_writes_a_recording_and_others_are_refused(npz, tmp_path):
    with alone(tmp_path / "out"), pytest.raises(FileExistsError, match="out is being written by another process"):
        _converted(npz, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    _converted(npz, tmp_path / "out")
    assert verify(tmp_path / "out") == []
