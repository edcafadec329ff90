"""The doctor of recordings: each fault is found at its frame, and a sound recording has none."""

import shlex

import numpy as np
import pytest
from inspected import Memory, demonstration, findings, sound

from diffpolicy.config import RunConfig
from diffpolicy.config.commands import ConvertConfig
from diffpolicy.config.compose import GROUPS, prepare
from diffpolicy.datasets.importers import Episode
from diffpolicy.datasets.inspection.findings import find
from diffpolicy.datasets.inspection.measure import measure
from diffpolicy.datasets.inspection.numbers import Largest, Place, Sample
from diffpolicy.datasets.inspection.relations import Moments, relations, same_at


def only(found, kind):
    assert list(found) == [kind], found
    return found[kind]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_wrong_with_a_sound_recording(seed):
    assert findings(sound(seed=seed)) == {}


def test_noisy_and_jerky_recordings_are_sound_too():
    rng = np.random.default_rng(0)

    def keyboard(length):
        """Key presses move a point by steps; the recorded action is the step; now and then the gripper is toggled."""
        keys = np.repeat(rng.integers(-1, 2, (length // 8 + 1, 2)), 8, axis=0)[:length] * 0.1
        grip = np.cumsum(rng.random(length) < 0.02)[:, None] % 2
        state = np.cumsum(keys, axis=0) - keys + rng.uniform(-1, 1, 2)
        velocity = rng.normal(size=(length, 1))
        return {"state": np.hstack([state, grip, velocity]), "action": np.hstack([keys, grip]).astype(np.float32)}

    found = findings([keyboard(int(rng.integers(60, 120))) for _ in range(20)])
    assert all(one.severity == "note" for one in found.values()), found


def test_a_teleoperated_arm_is_sound():
    """Encoder noise, grippers that snap shut, velocities with long tails; the follower is 4 frames behind."""
    rng = np.random.default_rng(1)

    def arm(length):
        knots = np.cumsum(rng.normal(size=(length // 40 + 3, 7)), axis=0)
        frames = np.arange(length + 5)
        joints = np.stack([np.interp(frames, np.arange(len(knots)) * 40, column) for column in knots.T], axis=1)
        joints[:, 6] = np.cos(frames / 80) > 0.9
        at = joints + 1e-3 * rng.normal(size=joints.shape)
        forces = rng.exponential(size=(length, 4))
        return {
            "qpos": at[:length],
            "qvel": 50 * np.diff(at, axis=0)[:length],
            "forces": forces,
            "action": joints[4:-1],
        }

    importer = Memory([arm(int(rng.integers(150, 400))) for _ in range(20)], fps=50.0)
    measured = measure(importer, ())
    assert all(one.severity == "note" for one in find(measured)), find(measured)
    related = relations(measured.moments["action"])
    assert [(one.state, one.state_dim, one.lag) for one in related] == [("qpos", dim, 4) for dim in range(7)]


def test_one_spike_is_found_at_its_frame_and_with_what_mends_it():
    episodes = sound()
    episodes[3]["action"][17, 1] = 1e4
    found = only(findings(episodes), "spike")
    assert found.severity == "hurts" and found.place == Place(3, 17)
    assert "a spike in action[1] at frame 17 of episode 3" in found.says
    assert found.cure == "dataset.normalize.action[1]=quantiles, or diffpolicy convert SOURCE OUT episodes=0-2,4-11"
    episodes = sound()
    episodes[5]["state"][0] = 60.0  # a sensor that was not ready
    assert only(findings(episodes, names={"state": ("x", "y", "grip")}), "spike").place == Place(5, 0)


def test_a_break_in_a_motion_is_found_where_two_episodes_were_joined():
    first, second = sound(2, seed=4)
    assert (np.abs(first["state"][-1] - second["state"][0])[:2] > 0.5).any()
    joined = {name: np.concatenate([first[name], second[name]]) for name in first}
    joined["goal"] = np.repeat(first["goal"][:1], len(joined["state"]), 0)
    found = findings([*sound(), joined])
    assert found["jump"].place == Place(12, len(first["state"])), found
    assert found["jump"].severity == "hurts"


def test_an_action_that_is_the_state_is_found():
    episodes = sound()
    for episode in episodes:
        episode["action"] = episode["state"].copy()
    found = only(findings(episodes), "copy")
    assert found.severity == "hurts" and "action is state of the same frame" in found.says
    assert found.cure == "diffpolicy convert SOURCE OUT action=next:state"
    for episode in episodes:  # a delay of the recording
        episode["action"] = np.concatenate([episode["state"][:1], episode["state"][:-1]])
    assert "of 1 frame before" in findings(episodes)["copy"].says


def test_no_action_and_one_that_never_changes():
    episodes = sound()
    for episode in episodes:
        del episode["action"]
    found = only(findings(episodes), "no_action")
    assert found.severity == "breaks" and found.cure.endswith("action=next:state")
    episodes = sound()
    for episode in episodes:
        episode["action"][:] = 1.5708
    assert findings(episodes)["no_action"].says.startswith("action never changes")
    episodes = sound()
    for episode in episodes:
        episode["action"][:, 1] = 1.5708
    found = only(findings(episodes), "constant")
    assert found.severity == "note" and "action[1] = 1.5708" in found.says


def test_standing_still_at_head_and_tail():
    episodes = sound()
    for name, values in episodes[4].items():
        episodes[4][name] = np.concatenate([np.repeat(values[:1], 30, 0), values, np.repeat(values[-1:], 50, 0)])
    found = only(findings(episodes), "idle")
    assert found.severity == "hurts" and found.place == Place(4, 0) and found.cure.endswith("trim=idle")
    assert "80 frames (8 s), 12% of all" in found.says and "30 at its head, 50 at its tail" in found.says


def test_an_episode_in_which_nothing_moves():
    episodes = sound(camera=False)
    for name, values in episodes[7].items():
        episodes[7][name] = np.repeat(values[:1], len(values), 0)
    assert only(findings(episodes), "still").place == Place(7, 0)


def test_frames_recorded_several_times():
    episodes = [{name: np.repeat(values, 2, 0) for name, values in one.items()} for one in sound()]
    found = only(findings(episodes), "repeats")
    assert found.cure.endswith("every=2") and "49% of the frames" in found.says


def test_lengths():
    rng = np.random.default_rng(1)
    episodes = [*sound(), demonstration(rng, 400), demonstration(rng, 5)]
    found = findings(episodes)
    assert set(found) == {"length", "short"}
    assert found["length"].place == Place(12, 0) and "12 (400)" in found["length"].says
    assert found["short"].place == Place(13, 0) and found["short"].cure == "dataset.short=skip"


def test_copies_among_episodes_exact_and_nearly():
    episodes = sound()
    episodes[9] = {name: values.copy() for name, values in episodes[2].items()}
    found = only(findings(episodes), "duplicate")
    assert found.place == Place(9, 0) and "9 is the same as 2" in found.says and "episodes=0-8,10-11" in found.cure
    for name in ("state", "action"):
        episodes[9][name] = episodes[9][name] * (1 + 1e-5)
    assert "9 is nearly the same as 2" in only(findings(episodes), "near_duplicate").says


def test_dropped_and_repeated_frames_by_timestamps():
    def timed(dropped=None, stuck=None, step=0.1):
        episodes = sound()
        for number, episode in enumerate(episodes):
            stamps = np.arange(len(episode["state"])) * step
            if dropped == number:
                stamps[20:] += 3 * step
            if stuck == number:
                stamps[20] = stamps[19]
            episode["timestamp"] = stamps.astype(np.float32)
        return findings(episodes, roles={"timestamp": "other"})

    assert timed() == {}
    found = only(timed(dropped=5), "dropped")
    assert found.place == Place(5, 20) and "4 steps before frame 20 of episode 5" in found.says
    assert timed(stuck=6)["repeated_time"].place == Place(6, 20)
    assert "10 frames per second, its timestamps say 20" in only(timed(step=0.05), "rate").says
    assert timed(step=100.0) == {}  # milliseconds


def test_failures_and_tasks():
    known = [Episode(i, f"demo_{i}", task="lift" if i < 9 else "push", success=i != 4) for i in range(12)]
    found = findings(sound(), known=known)
    assert found["failures"].place == Place(4, 0) and found["failures"].cure.endswith("episodes=success")
    assert found["tasks"].severity == "note" and found["tasks"].cure.endswith("episodes=0-8")


def test_frozen_black_and_empty_pictures():
    episodes = sound()
    episodes[6]["front"][:] = episodes[6]["front"][0]
    found = only(findings(episodes), "stuck")
    assert found.severity == "hurts" and found.place == Place(6, 1) and "episodes=0-5,7-11" in found.cure
    for episode in episodes:
        episode["front"][:] = episode["front"][0]
    assert only(findings(episodes), "stuck").severity == "breaks"
    slow = sound()
    for episode in slow:
        episode["front"][1::2] = episode["front"][::2][: len(episode["front"][1::2])]
    found = only(findings(slow), "frozen")
    assert found.cure.endswith("every=2") and found.place.frame == 1
    dark = sound()
    dark[2]["front"][10:30] = 4
    found = only(findings(dark), "black")
    assert found.place == Place(2, 10) and found.severity == "hurts" and "20 pictures of front" in found.says
    blank = sound()
    blank[2]["front"][10] = (0, 0, 255)
    found = only(findings(blank), "flat")
    assert found.place == Place(2, 10) and found.severity == "note"


def test_pictures_of_the_wrong_shape():
    episodes = sound()
    for episode in episodes:
        episode["front"] = np.moveaxis(episode["front"], -1, 1)
    found = only(findings(episodes), "axes")
    assert found.severity == "breaks" and "'front' has shape (N, 3, 8, 8)" in found.says
    assert "np.moveaxis(x, 1, -1)" in found.says
    rng = np.random.default_rng(0)
    for episode in episodes:
        episode["front"] = rng.integers(0, 1000, (len(episode["state"]), 32, 32)).astype(np.uint16)
    assert "x[..., None]" in only(findings(episodes), "axes").says
    for episode in episodes:
        episode["front"] = rng.integers(0, 256, (len(episode["state"]), 64 * 65)).astype(np.uint8)
    assert "4,160 numbers in a frame" in only(findings(episodes), "flattened").says


def _turning(kind):
    """Rotations about one axis by up to two turns, as a format would hold them."""
    episodes = sound(camera=False)
    for number, episode in enumerate(episodes):
        angle = np.linspace(0.3 * number, 0.3 * number + 4 * np.pi, len(episode["state"]))
        axis = np.array([0.48, 0.6, 0.64])
        if kind == "quaternion":
            half = (angle % (2 * np.pi)) / 2
            values = np.concatenate([np.sin(half)[:, None] * axis, np.cos(half)[:, None]], axis=1)
        elif kind == "axis_angle":
            values = ((angle + np.pi) % (2 * np.pi) - np.pi)[:, None] * axis
        else:
            values = ((angle + np.pi) % (2 * np.pi) - np.pi)[:, None]
        episode[f"eef_{kind}"] = values
    return episodes


@pytest.mark.parametrize(
    ("kind", "found", "proposed"),
    [
        (
            "quaternion",
            "quaternion_sign",
            "dataset.representations.eef_quaternion=quaternion_xyzw, or "
            "quaternion_wxyz if the real part is the first",
        ),
        ("axis_angle", "rotation_jump", "dataset.representations.eef_axis_angle=axis_angle"),
        ("yaw", "angle", "dataset.representations.eef_yaw=angle"),
    ],
)
def test_rotations_that_jump_and_what_to_make_of_them(kind, found, proposed):
    one = only(findings(_turning(kind)), found)
    assert one.severity == "hurts" and one.cure == proposed
    values = _turning(kind)[one.place.episode][f"eef_{kind}"]
    steps = np.linalg.norm(np.diff(values, axis=0), axis=1)
    assert steps[one.place.frame - 1] > 1.5


def test_rotations_that_do_not_jump_are_notes():
    episodes = sound(camera=False)
    for episode in episodes:
        angle = np.linspace(0.1, 1, len(episode["state"]))[:, None]
        episode["eef_quat"] = np.hstack([np.sin(angle) * [0.48, 0.6, 0.64], np.cos(angle)])
        episode["eef_rotvec"] = angle * [0.48, 0.6, 0.64]
        episode["heading"] = np.hstack([np.sin(angle), np.cos(angle), 0 * angle, 0 * angle])  # is no quaternion
    found = findings(episodes)
    assert set(found) == {"quaternion", "rotation_vector"}
    assert all(one.severity == "note" for one in found.values())
    assert "eef_quat looks like a quaternion" in found["quaternion"].says


def test_damaged_episodes_are_named_and_the_others_measured():
    episodes = sound()
    episodes[4]["state"][7, 0] = np.nan
    importer = Memory(episodes, said=["file-001 has no footer"])
    measured = measure(importer, importer.said)
    found = {one.kind: one for one in find(measured)}
    assert (
        found["damaged"].place == Place(4, 0) and "'state' holds NaN or infinity at frame 7" in found["damaged"].says
    )
    assert found["said"].says == "file-001 has no footer"
    assert len(measured.episodes) == 11
    for episode in episodes:
        episode["state"][0] = np.inf
    found = find(measure(Memory(episodes), ()))
    assert {one.kind for one in found} == {"damaged"} and all(one.severity == "breaks" for one in found)


def test_an_episode_whose_reader_gives_up_is_named():
    class Failing(Memory):
        def read(self, episode):
            if episode.number == 2:
                raise ValueError("a number that cannot be")
            return super().read(episode)

    found = {one.kind: one for one in find(measure(Failing(sound()), ()))}
    assert only(found, "damaged").says == "episode 2: a number that cannot be"


def test_one_episode_is_in_memory_at_a_time():
    importer = Memory(sound(20))
    measure(importer, ())
    assert importer.reads == list(range(20))
    assert importer.most == len(importer.arrays) and importer.alive == 0


def test_what_hurts_most_comes_first():
    episodes = sound()
    for episode in episodes:
        episode["action"][:, 1] = 0
        episode["front"][:] = 0
    episodes[3]["state"][10, 0] = 500
    found = find(measure(Memory(episodes), ()))
    assert [one.severity for one in found] == ["breaks", "breaks", "hurts", "note"]


def test_relations_of_action_and_state():
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(size=(400, 3)), axis=0)
    cases = {
        "value": (2 * state[3:, ::-1] + 7, state[:-3], "value", 3, 2.0),
        "change": (10 * np.diff(state, axis=0), state[:-1], "change", 0, 10.0),
    }
    for action, seen, kind, lag, gain in cases.values():
        moments = Moments(3, 3)
        moments.add(action[:200], seen[:200])
        moments.add(action[200:], seen[200:])
        found = relations({"state": moments})
        assert [(one.dim, one.kind, one.lag) for one in found] == [(dim, kind, lag) for dim in range(3)]
        assert np.allclose([(one.gain, one.r2) for one in found], (gain, 1.0)) and not any(one.same for one in found)
    moments = Moments(2, 3)
    moments.add(state[1:, :2] + 1e6, state[:-1] + 1e6)  # far from 0, as world coordinates are
    assert same_at({"state": moments}, 1) == [0, 1] and same_at({"state": moments}, 0) == []
    moments = Moments(2, 3)
    moments.add(rng.normal(size=(400, 2)), state)
    assert relations({"state": moments}) == []


def test_samples_are_spread_and_bounded():
    sample = Sample(2**20)  # of so many numbers 1024 frames are kept
    assert sample._limit == 1024
    sample = Sample(1)
    sample._limit = 1024
    for part in np.split(np.arange(10_000.0), 40):
        sample.add(part[:, None])
    kept = sample.values[:, 0]
    assert not sample.exact and 512 <= len(kept) <= 1024 and set(np.diff(kept)) == {16.0}


def test_the_largest_scores_keep_their_places():
    rng = np.random.default_rng(0)
    scores, largest = rng.normal(size=(7, 50, 3)), Largest(3)
    for number, part in enumerate(scores):
        largest.add(part, number)
    for dim in range(3):
        bound = np.full(3, np.inf)
        bound[dim] = -10
        best = np.argsort(-scores[:, :, dim].ravel())[:16]
        assert {at.place for at in largest.above(bound)} == {Place(i // 50, i % 50) for i in best.tolist()}


def test_every_setting_that_is_proposed_exists():
    episodes = sound()
    for number, episode in enumerate(episodes):
        length = len(episode["state"])
        angle = np.linspace(0.1, 1, length)[:, None]
        episode["eef_quat"] = np.hstack([np.sin(angle) * [0.48, 0.6, 0.64], np.cos(angle)])
        episode["arm.joint"] = (angle + number) * 9 % (2 * np.pi) * [1, 1]
        episode["action"] = np.repeat(episode["state"][:1], length, 0)
        episode["stamp"] = np.arange(length) * 0.05
        episode["front"][1::2] = episode["front"][::2][: length // 2]
        if number == 3:
            episodes[3] = {
                name: np.concatenate([values[:1].repeat(300, 0), values]) for name, values in episode.items()
            }
    episodes[2]["state"][5] = 1e4
    episodes[5] = episodes[4]
    known = [Episode(i, f"demo_{i}", task=f"task {i // 6}", success=i > 0) for i in range(12)]
    cures = [one.cure for one in findings(episodes, known=known, roles={"stamp": "other"}).values() if one.cure]
    assert len(cures) >= 8, cures
    for cure in cures:
        words = [word.strip(",") for word in shlex.split(cure) if "=" in word]
        if cure.startswith("diffpolicy convert"):
            prepare("convert", ConvertConfig, (), words)
        else:
            prepare("train", RunConfig, GROUPS, [word for word in words if word.startswith("dataset.")])
