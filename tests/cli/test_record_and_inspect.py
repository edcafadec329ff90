"""Recording by an expert, and the card of what was recorded, as a user types them."""

import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from typed import BIN, typed

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.writer import alone
from diffpolicy.envs.experts.pucks import DONE
from diffpolicy.envs.pushblocks import ZONES
from diffpolicy.evaluation import ExpertAgent, Reset, make_env
from diffpolicy.evaluation.record import demonstrate, demonstration_env

DETOUR = "env.id=diffpolicy/Detour-v0"


def _run(command, *arguments, cwd, status=0):
    return typed(command, *arguments, cwd=cwd, code=status)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    out = _run("record", DETOUR, "episodes=6", "out=A", "seed=3", cwd=folder)
    assert "6 episodes of 6 tried" in out and digest(folder / "A") in out
    return folder


def test_the_same_for_any_number_of_workers_and_after_a_stop(made):
    _run("record", DETOUR, "episodes=2", "out=B", "seed=3", cwd=made)
    _run("record", DETOUR, "episodes=6", "out=B", "seed=3", "workers=2", cwd=made)
    assert digest(made / "A") == digest(made / "B")
    buffer = ReplayBuffer.open(made / "A")
    assert buffer["state"].shape[1:] == (4,) and buffer["action"].shape[1:] == (2,)
    assert buffer.attrs["env"]["id"] == "diffpolicy/Detour-v0" and buffer.attrs["expert"]["lead"] > 0
    assert set(buffer.attrs["versions"]) == {"diffpolicy", "numpy", "pymunk", "zarr"}


def test_what_is_being_recorded_is_refused(made):
    with alone(made / "held"):
        assert "held is being written" in _run("record", DETOUR, "episodes=1", "out=held", cwd=made, status=2)
    assert not (made / "held").exists()


def test_starts_are_demonstrated_again_and_again(made):
    _run("record", DETOUR, "episodes=6", "out=S", "seed=3", "starts=2", cwd=made)
    buffer = ReplayBuffer.open(made / "S")
    first = [buffer["state"][part][0].tolist() for part in buffer.episode_slices()]
    assert first[0] == first[2] == first[4] != first[1] == first[3] == first[5]
    lengths = buffer.episode_lengths
    assert len(set(lengths[::2])) > 1  # the start is the same, the choice or the noise is not
    assert buffer.attrs["starts"] == 2 and "starts" not in ReplayBuffer.open(made / "A").attrs


def test_lingering_goes_on_beyond_success():
    env_id = "diffpolicy/PushBlocks-v0"
    agent, make = ExpertAgent(env_id), make_env(env_id)
    plain, longer = (
        next(demonstrate(agent, demonstration_env(make, None, steps), [Reset(0)])).observed["recording"]
        for steps in (0, 8)
    )
    length = len(plain["state"])
    assert len(longer["state"]) == len(longer["action"]) == length + 8
    assert (longer["state"][:length] == plain["state"]).all()
    zones, last = np.array(ZONES), longer["state"][-1].reshape(3, 2)[1:]
    assert np.hypot(*(last[:, None] - zones).transpose(2, 0, 1)).min(0).max() < DONE + 5


def test_killed_and_gone_on_with(made):
    command = [BIN / "diffpolicy", "record", DETOUR, "episodes=1000", "out=K", "seed=3"]
    process = subprocess.Popen(command, cwd=made, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    ends = made / "K" / "meta" / "episode_ends" / "c" / "0"
    while not ends.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert verify(made / "K") == []
    finished = ReplayBuffer.open(made / "K").n_episodes if (ends.parent.parent / "zarr.json").exists() else 0
    _run("record", DETOUR, f"episodes={finished + 2}", "out=K", "seed=3", cwd=made)
    _run("record", DETOUR, f"episodes={finished + 2}", "out=L", "seed=3", cwd=made)
    assert digest(made / "K") == digest(made / "L")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["env.id=diffpolicy/Detuor-v0"], ["'diffpolicy/Detuor-v0'", "diffpolicy/Detour-v0"]),
        ([DETOUR, "episodes=0"], ["episodes=0", ">= 1"]),
        ([DETOUR, "workers=-1"], ["workers=-1", ">= 1"]),
        ([DETOUR, "steps_after_success=-1"], ["steps_after_success=-1", ">= 0"]),
        ([DETOUR, "env.kwargs.obs_mode=smell"], ["'smell'", "state, pixels"]),
        ([DETOUR, "expert=away:make"], ["expert=away:make cannot be imported", "no such module"]),
        (["env.id=diffpolicy/PushT-v0", "env.kwargs.block=ele"], ["'ele'", "tee, ell, plus"]),
        ([DETOUR, "out=A", "seed=4"], ["first_seed: 3 there, 4 now"]),
        ([DETOUR, "out=file"], ["file", "exists"]),
    ],
)
def test_bad_arguments_are_refused_before_any_work(made, arguments, says):
    (made / "file").touch()
    if not any(argument.startswith("out=") for argument in arguments):
        arguments = [*arguments, "out=NEW"]
    error = _run("record", *arguments, cwd=made, status=2)
    assert all(word in error for word in says), error
    assert "Traceback" not in error and not (made / "NEW").exists()


def test_inspecting(made):
    card = _run("inspect", "A", "sheet=sheet.png", cwd=made)
    assert "A: 6 episodes" in card and "state (4,) float32" in card and digest(made / "A") in card
    assert (made / "sheet.png").stat().st_size > 10_000
    assert "exists" in _run("inspect", "A", "sheet=sheet.png", cwd=made, status=2)
    assert "as it was written" in _run("inspect", "A", "verify=true", cwd=made)
    shutil.copytree(made / "A", made / "D")
    chunk = made / "D" / "data" / "state" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert "data/state/c/0/0 is not what was written" in _run("inspect", "D", "verify=true", cwd=made, status=1)
    assert "no recording at" in _run("inspect", "nowhere", "verify=true", cwd=made, status=2)
