"""The rollout loop: an episode depends on agent and reset alone; observers; the contract; processes that end."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch

from diffpolicy.config import ExecutionConfig, PolicyConfig, RunConfig
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import (
    BrokenEnvironment,
    Observations,
    Recorder,
    ReplayAgent,
    Reset,
    States,
    TaskSpec,
    Timing,
    Video,
    episode_resets,
    make_env,
    rollout,
    shards,
    simulate,
    time_chunks,
)
from diffpolicy.policies import Agent, Policy, build_model, build_policy

LINE = make_env(tiny.ENV_ID)
RESETS = episode_resets(0, 7)


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def rows(episodes):
    return [episode.row() for episode in episodes]


def test_episodes_do_not_depend_on_how_many_run_side_by_side_or_where():
    base = rollout(tiny.Wanderer(), LINE, RESETS, envs=7)
    assert [episode.seed for episode in base] == list(range(7))
    assert len({episode.metrics["best"] for episode in base}) == 7, "the episodes should differ"
    assert {episode.success for episode in base} == {True, False}
    assert all(episode.steps == tiny.LIMIT or episode.success for episode in base)
    for envs in (1, 2, 5):
        assert rows(rollout(tiny.Wanderer(), LINE, RESETS, envs=envs)) == rows(base)
    assert rows(rollout(tiny.Wanderer(), LINE, RESETS[2:4])) == rows(base)[2:4]


def test_the_second_difference_of_the_actions_carried_out_is_a_metric_of_every_episode():
    steps = np.arange(12.0)
    zigzag = np.stack([0.5 * (-1.0) ** steps, np.zeros(12)], axis=1)  # each second difference is (±2, 0)
    parabola = np.stack([-((steps / 12) ** 2), -((steps / 12) ** 2)], axis=1)  # each is (-2/144, -2/144)
    beyond = np.array([[1.0, 0.0], [3.0, 0.0], [9.0, 0.0]] * 4)  # all the same, once clipped to 1
    agent = ReplayAgent({1: zigzag, 2: parabola, 3: np.full((12, 2), -0.5), 4: zigzag, 5: beyond})
    resets = [Reset(1), Reset(2), Reset(3), Reset(4, limit=2), Reset(5)]
    found = [episode.metrics["second_difference"] for episode in rollout(agent, LINE, resets, envs=2)]
    assert found == pytest.approx([2.0, np.sqrt(2) / 72, 0.0, 0.0, 0.0], abs=1e-6)


@functools.cache
def _policy():
    """Untrained, but of full height: each of its steps depends on the observation and on the noise."""
    torch.manual_seed(0)
    config = RunConfig(
        method={"name": "generative", "steps": 2, "path": {"name": "linear"}, "prediction": "velocity"},
        net={"name": "unet1d", "widths": [16, 32], "time_features": 8},
    )
    limits = np.stack([np.full(2, -1.0), np.full(2, 1.0)])
    normalizer = Normalizer.fit({"obs": limits, "action": limits})
    spec = ObservationSpec({"obs": Field("vector", (2,))})
    return build_policy(config, spec, build_model(config, spec, 2).eval(), normalizer, block=16)


def test_workers_and_what_observers_keep_there(three_threads):
    observers = [Video(first=2), States(), Observations(first=1), Recorder(), Timing()]
    filming = LINE.rendering()
    here = rollout(Agent(_policy()), filming, RESETS, observers, envs=3)
    agent = Agent(_policy())
    there = rollout(agent, filming, RESETS, observers, envs=2, workers=2)
    assert rows(here) == rows(there) == rows(rollout(Agent(_policy()), LINE, RESETS))
    assert agent.calls == 2, "as if the agent had acted here"
    for k, (one, other) in enumerate(zip(here, there, strict=True)):
        kinds = {"states", "recording", "timing"} | ({"video"} if k < 2 else set())
        assert set(one.observed) == set(other.observed) == kinds | ({"observations"} if k < 1 else set())
        np.testing.assert_array_equal(one.observed["states"], other.observed["states"])
        for name in ("obs", "action"):
            assert np.array_equal(one.observed["recording"][name], other.observed["recording"][name])
    first = here[0].observed
    assert len(first["video"]) == len(first["states"]) == len(first["observations"]) == here[0].steps + 1
    assert first["video"][0].shape == (17, 17, 3) and first["video"][0].dtype == np.uint8
    assert np.array_equal(first["video"], there[0].observed["video"])
    recorded = first["recording"]
    assert recorded["obs"].shape == recorded["action"].shape == (here[0].steps, 2)
    np.testing.assert_allclose(recorded["obs"], first["states"][:-1], atol=1e-6)
    assert len(first["timing"]) == -(-here[0].steps // 8), "one time per chunk"


def test_observations_by_key_are_recorded_by_key():
    (episode,) = rollout(tiny.Wanderer(), make_env(tiny.ENV_ID, {"images": True}), RESETS[:1], [Recorder()])
    recorded = episode.observed["recording"]
    assert {name: values.shape[1:] for name, values in recorded.items()} == {
        "image": (8, 8, 3),
        "obs": (2,),
        "action": (2,),
    }


def test_new_episodes_start_where_chunks_start():
    starts = []

    class Spy(tiny.Wanderer):
        def reset(self, env_ids=None, seeds=None):
            super().reset(env_ids, seeds)
            starts.append((clock[0], list(env_ids or [])))

    clock = [0]
    for steps in simulate(Spy(), LINE, RESETS, envs=2):
        clock[0] += 1
        assert all(step.planned == ((clock[0] - 1) % 3 == 0) for step in steps if clock[0] <= tiny.LIMIT)
    assert sum(len(ids) for _, ids in starts) == len(RESETS)


def test_the_loop_can_be_stepped_from_outside(three_threads):
    loop = simulate(tiny.Wanderer(), LINE, RESETS, envs=2)
    steps = next(loop)
    assert [step.env_id for step in steps] == [0, 1] and steps[0].episode.steps == 1
    np.testing.assert_allclose(steps[0].next_obs[0], steps[0].env.unwrapped._place, atol=1e-6)
    assert torch.get_num_threads() == 1
    loop.close()
    assert torch.get_num_threads() == 3, "restored when it is left"


def test_success_metrics_and_modes():
    (left,) = rollout(ReplayAgent({5: np.full((12, 2), -1.0)}), LINE, [Reset(5)])
    assert left.row() == {
        "seed": 5,
        "best": pytest.approx(left.steps * 0.2 - 0.3, abs=0.3),
        "place": -left.metrics["best"],
        "second_difference": 0.0,
        "success": True,
        "steps": left.steps,
        "mode": "left",
    }
    (none,) = rollout(ReplayAgent({5: np.zeros((4, 2))}), LINE, [Reset(5, limit=4)])
    assert none.steps == 4 and none.success is False and none.mode == "" and none.success_at_end is False
    same_start = rollout(tiny.Wanderer(), LINE, [Reset(1, env_seed=9), Reset(2, env_seed=9)], [States()])
    first, second = (episode.observed["states"] for episode in same_start)
    assert (first[0] == second[0]).all() and first.shape[1] == 2 and not np.array_equal(first[1], second[1])


def test_timing_of_chunks():
    found = time_chunks(tiny.Wanderer(), LINE, RESETS, chunks=4, warm_up=1)
    assert found["chunks"] == 4 and 0 < found["median"] <= found["p95"] < 1 and found["threads"] == 1


def test_a_policys_episodes_do_not_depend_on_batch_or_threads(three_threads):
    resets = episode_resets(200_000, 9)
    base = rows(rollout(Agent(_policy()), LINE, resets, envs=9))
    assert len({row["best"] for row in base}) > 5, "the episodes should differ"
    for envs in (1, 4):
        assert rows(rollout(Agent(_policy()), LINE, resets, envs=envs)) == base
    assert torch.get_num_threads() == 3, "put back"


def test_nor_do_episodes_whose_chunks_are_bound_to_each_other():
    shared, bound = _policy(), ExecutionConfig(noise="episode", ensemble=0.1, warm_start=0.5, inpaint=1)
    one, plain = (
        Agent(Policy(shared.model, shared.normalizer, shared.observation, PolicyConfig(), block=16, execution=how))
        for how in (bound, None)
    )
    resets = episode_resets(200_000, 5)
    base = rows(rollout(one, LINE, resets))
    assert one.calls == 1 and rows(rollout(plain, LINE, resets)) != base and plain.calls == 2
    assert rows(rollout(one, LINE, resets, envs=2)) == base


def test_resets_are_checked():
    task = TaskSpec.of(LINE())
    assert episode_resets("7", 2) == [Reset(7), Reset(8)]
    assert episode_resets("published", 2, task) == [Reset(n, options={"published": n}) for n in (100, 101)]
    with pytest.raises(ValueError, match="episodes=4 with seeds=published; expected at most 3"):
        episode_resets("published", 4, task)
    with pytest.raises(ValueError, match="unknown seeds 'publishd' .*'published'"):
        episode_resets("publishd", 2, task)
    with pytest.raises(ValueError, match="unknown seeds 'published'"):
        episode_resets("published", 2)
    with pytest.raises(ValueError, match="at least 1"):
        episode_resets(5, 0)
    with pytest.raises(ValueError, match="seeds=-3"):
        episode_resets(-3, 1)
    with pytest.raises(ValueError, match="envs=0"):
        rollout(tiny.Wanderer(), LINE, RESETS, envs=0)


class _Silent(tiny.LineEnv):
    """A plain environment: it declares no task, has no limit, and its info says nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def _info(self):
        return {"success": False}


class _Old(_Silent):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class _Broken(_Silent):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return obs if self.how == "reset" else (obs, info)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.how == "step":
            return obs, reward, terminated, info
        return obs, reward, terminated, truncated, (None if self.how == "info" else info)


class _Mute(tiny.LineEnv):
    def _info(self):
        return {"place": self._place, "state": np.zeros(2)}


class _Numberless(_Mute):
    def _info(self):
        return {"success": False}


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (_Silent, ValueError, "_Silent has no time limit.*max_steps=N"),
        (_Old, TypeError, r"_Old.reset takes \(seed\); expected reset\(\*, seed=None, options=None\)"),
        (functools.partial(_Broken, "reset"), ValueError, "_Broken, seed 0, reset: returned a ndarray; expected"),
        (
            functools.partial(_Broken, "step"),
            ValueError,
            r"step 1: returned \(ndarray, float, bool, dict\); expected",
        ),
        (functools.partial(_Broken, "info"), ValueError, r"step 1: returned \(.*NoneType\); expected .*info a dict"),
        (_Mute, ValueError, "_Mute, seed 0, step 1: info lacks the success key 'success'; it has place, state"),
        (_Numberless, ValueError, "info lacks the metric's key 'place'; it has success"),
        (dict, TypeError, "make_env returned a dict; expected a gymnasium.Env"),
    ],
)
def test_an_environment_that_breaks_the_contract_is_refused_in_words(make, error, says):
    max_steps = None if make is _Silent else 3
    with pytest.raises(error, match=says):
        rollout(tiny.Wanderer(), make, RESETS[:1], max_steps=max_steps)


def test_a_plain_environment_gets_a_limit_and_the_return():
    (episode,) = rollout(tiny.Wanderer(), _Silent, RESETS[:1], max_steps=5)
    assert set(episode.row()) == {"seed", "return", "second_difference", "success", "steps"} and episode.steps == 5
    limited = functools.partial(gym.wrappers.TimeLimit, _Silent(), 4)
    assert rollout(tiny.Wanderer(), limited, RESETS[:1])[0].steps == 4


def _failing_env():
    env = tiny.LineEnv()
    env.step = _fail
    return env


def _fail(action):
    raise gym.error.InvalidAction("the arm is off")


def test_an_error_of_the_environment_in_a_worker_is_told_here():
    says = r"_failing_env, seed 0, step 1: InvalidAction: the arm is off \(test_rollout.py:\d+\); .*all 2 episodes"
    with pytest.raises(BrokenEnvironment, match=says) as caught:
        rollout(tiny.Wanderer(), _failing_env, RESETS[:2], workers=1, max_steps=9)
    assert "in _fail" in caught.value.__notes__[0]


class _Tired(tiny.Wanderer):
    def act(self, obs, env_ids=None, infos=None):
        raise gym.error.Error("no more today")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_agent_is_raised(workers):
    with pytest.raises(gym.error.Error, match="^no more today") as caught:
        rollout(_Tired(), LINE, RESETS[:2], workers=workers)
    assert not workers or "in act" in caught.value.__notes__[0]


class _Fatal(tiny.Wanderer):
    def act(self, obs, env_ids=None, infos=None):
        os._exit(7)


class _TornCable(OSError):
    def __init__(self, cable, end):
        super().__init__(f"{cable} is torn at the {end}")


def test_an_error_that_cannot_be_sent_keeps_its_name_and_message():
    sent = shards._portable(_TornCable("the blue cable", "plug"))
    assert type(sent) is RuntimeError and str(sent) == "_TornCable: the blue cable is torn at the plug"


def test_a_worker_that_dies_is_noticed():
    with pytest.raises(RuntimeError, match=r"a worker died: its process ended with exit code 7; take workers=0"):
        rollout(_Fatal(), LINE, RESETS[:2], workers=1)


def test_what_cannot_go_to_a_worker_is_refused_before_any_starts():
    with pytest.raises(ValueError, match=r"cannot go to a worker.*function of a module.*workers=0"):
        rollout(tiny.Wanderer(), lambda: LINE(), RESETS[:2], workers=1)


def test_how_many_workers_pay(tmp_path, monkeypatch):
    cores = shards.usable_cores(tmp_path / "none")
    for text, expected in (("max 100000\n", cores), ("50000 100000\n", 1), ("100000000 100000\n", cores)):
        (tmp_path / "cpu.max").write_text(text)
        assert shards.usable_cores(tmp_path / "cpu.max") == expected
    monkeypatch.setattr(shards, "usable_cores", lambda: 4)
    chosen = [shards.choose_workers(torch.device("cpu"), episodes) for episodes in (1, 32, 33, 96, 500)]
    assert chosen == [0, 0, 2, 3, 4] and shards.choose_workers(torch.device("meta"), 500) == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -15), (signal.SIGINT, 1)])
def test_workers_end_with_their_parent(tmp_path, number, status):
    script = tmp_path / "endless.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, sys
            sys.path.insert(0, sys.argv[1])
            import tiny
            from diffpolicy.evaluation import Reset, rollout

            class Slow(tiny.LineEnv):
                def reset(self, **how):
                    pathlib.Path(sys.argv[2], str(os.getpid())).touch()
                    return super().reset(**how)

                def step(self, action):
                    while True:
                        pass

            if __name__ == "__main__":
                rollout(tiny.Wanderer(), Slow, [Reset(0), Reset(1)], workers=1, max_steps=9)
            """
        )
    )
    seen = tmp_path / "pids"
    seen.mkdir()
    command = [sys.executable, str(script), str(Path(tiny.__file__).parent), str(seen)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while not list(seen.iterdir()) and time.monotonic() < until and parent.poll() is None:
        time.sleep(0.05)
    workers = [int(file.name) for file in seen.iterdir()]
    assert len(workers) == 1
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does: to all of them
    else:
        parent.send_signal(number)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode in (status, -number)
    until = time.monotonic() + 5
    while any(map(_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    assert errors.count("Traceback") == (number == signal.SIGINT), errors  # the parent's alone


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
