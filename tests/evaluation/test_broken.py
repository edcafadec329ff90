"""Broken environments: each costs its own episode, in one sentence; the others come out as they would have."""

import functools
import itertools
import json
import os
import signal
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
import tiny
import tiny_policy
from typed import typed

from diffpolicy import evaluate_policy
from diffpolicy.config import EnvConfig
from diffpolicy.evaluation import BrokenEnvironment, Reset, TaskSpec, episode_rows, make_env, rollout, simulate
from diffpolicy.evaluation.contract import env_name, factory
from diffpolicy.evaluation.evaluate import describe, evaluate, validation_metrics
from diffpolicy.evaluation.record import demonstration_env
from diffpolicy.evaluation.rollout import HOPELESS

COUNT, BAD = 6, (1, 4)
RESETS = [Reset(seed) for seed in range(COUNT)]


class Mumbling(Exception):
    def __str__(self):
        raise RuntimeError("not even its message")


class TornCable(OSError):
    def __init__(self, cable, end):
        super().__init__(f"{cable} is torn\nat the {end}")


def raising(error):
    def act(*results):
        raise error

    return act


def giving(**changes):
    """Return what replaces some of what an environment returns."""

    def act(obs, *others):
        names = ("reward", "terminated", "truncated", "info") if len(others) == 4 else ("info",)
        changed = dict(zip(names, others, strict=True)) | {"obs": obs} | changes
        return (changed["obs"], *(changed[name] for name in names))

    return act


def without(*keys):
    def act(*results):
        return (*results[:-1], {key: value for key, value in results[-1].items() if key not in keys})

    return act


def telling(**entries):
    def act(*results):
        return (*results[:-1], results[-1] | entries)

    return act


class Broken(tiny.LineEnv):
    """The tiny environment, which breaks in the episodes of some seeds."""

    def __init__(self, place="", act=None, seeds=BAD, images=False):
        super().__init__(images=images)
        self.place, self.act, self.seeds = place, act, seeds

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed, 0
        return self._breaking("reset", super().reset(seed=seed, options=options))

    def step(self, action):
        self.steps += 1
        return self._breaking(f"step {self.steps}", super().step(action))

    def _breaking(self, place, results):
        return self.act(*results) if place == self.place and self.seed in self.seeds else results


@functools.cache
def base():
    return episode_rows(rollout(tiny.Wanderer(), tiny.LineEnv, RESETS, max_steps=tiny.LIMIT))


def check(episodes, says, bad=BAD):
    broken = {episode.number: episode.error for episode in episodes if episode.error is not None}
    assert sorted(broken) == sorted(bad)
    for number, error in broken.items():
        assert error.startswith(f"Broken, seed {number}, {says}"), error
        assert "\n" not in error and "Traceback" not in error and len(error) < 450
    assert episode_rows(episodes) == [row for row in base() if row["seed"] not in bad]


ERRORS = {
    "ValueError: the arm is off (test_broken.py:": ValueError("the arm is off"),
    "KeyError: 'gripper' (": KeyError("gripper"),
    "RuntimeError (": RuntimeError(),
    "AssertionError (": AssertionError(),
    "ZeroDivisionError: division by zero (": ZeroDivisionError("division by zero"),
    "TypeError: a " + 59 * "long " + "lo… (": TypeError("a " + 99 * "long "),
    "SystemExit: 3 (": SystemExit(3),
    "MemoryError (": MemoryError(),
    "RecursionError: too deep (": RecursionError("too deep"),
    "Mumbling (": Mumbling(),
    "TornCable: blue is torn at the plug (": TornCable("blue", "plug"),
}
OBSERVATIONS = {
    "the observation is float32[3]; expected float32[2], as its space says": np.zeros(3, np.float32),
    "the observation is float32[1, 2]; expected float32[2]": np.zeros((1, 2), np.float32),
    "the observation is object[]; expected float32[2]": None,
    "the observation is <U1[2]; expected float32[2]": np.array(["a", "b"]),
    "the observation holds NaN or infinity": np.array([0.1, np.nan]),
    "the observation holds NaN or infinity#": np.array([np.inf, 0.0], np.float32),
    "the observation is a list; expected float32[2]": [[1.0], [1.0, 2.0]],
    "the observation is object[]; expected float32[2]#": {"obs": np.zeros(2)},
}
RETURNS = {
    "returned a NoneType; expected (observation,": lambda *results: None,
    "returned (ndarray); expected (observation,": lambda *results: results[:1],
    "returned a list; expected (observation,": lambda *results: list(results),
}
STEPS = {
    "returned (ndarray, float, bool, dict); expected": lambda *results: (*results[:3], results[4]),
    "returned (ndarray, float, bool, bool, NoneType); expected": giving(info=None),
    "returned (ndarray, float, bool, bool, list); expected": giving(info=[]),
    "the reward is None; expected a finite number": giving(reward=None),
    "the reward is nan; expected a finite number": giving(reward=float("nan")),
    "the reward is -inf; expected a finite number": giving(reward=-np.inf),
    "the reward is 'much'; expected a finite number": giving(reward="much"),
    "the reward is array([0., 0.]); expected a finite number": giving(reward=np.zeros(2)),
    "terminated=array([False, False]), truncated=False; expected True or False": giving(terminated=np.zeros(2, bool)),
    "info lacks the success key 'success'; it has place": without("success"),
    "info lacks the metric's key 'place'; it has success": without("place"),
    "the metric 'place' is nan; expected a finite number": telling(place=np.nan),
    "float() argument must be": telling(place=None),
    "The truth value of an array": telling(success=np.zeros(2, bool)),
}
CASES = [
    *((place, says, raising(error)) for place in ("reset", "step 1", "step 4") for says, error in ERRORS.items()),
    *((place, says, giving(obs=obs)) for place in ("reset", "step 1") for says, obs in OBSERVATIONS.items()),
    *((place, says, act) for place in ("reset", "step 4") for says, act in RETURNS.items()),
    *((place, says, act) for place in ("step 1", "step 4") for says, act in STEPS.items()),
    ("reset", "returned (ndarray, str); expected (observation, info)", giving(info="none")),
]


@pytest.mark.parametrize(("place", "says", "act"), CASES, ids=[f"{place}: {says:.24}" for place, says, _ in CASES])
def test_a_broken_environment_costs_its_own_episode(place, says, act):
    make = functools.partial(Broken, place, act)
    envs = 1 + len(says) % 4
    episodes = rollout(tiny.Wanderer(), make, RESETS, envs=envs, max_steps=tiny.LIMIT)
    check(episodes, f"{place}: {says.rstrip('#')}")
    steps = int(place[-1]) - 1 if place != "reset" else 0
    assert [episodes[k].row() for k in BAD] == [{"seed": k, "steps": steps, "error": episodes[k].error} for k in BAD]


IMAGES = {
    "the observation lacks 'image'; it has obs": lambda obs: {"obs": obs["obs"]},
    "the observation lacks 'image'; it has a ndarray": lambda obs: obs["obs"],
    "the observation 'image' is float32[8, 8, 3]; expected uint8[8, 8, 3]": lambda obs: (
        obs | {"image": obs["image"].astype(np.float32)}
    ),
    "the observation 'image' is uint8[4, 8, 3]; expected uint8[8, 8, 3]": lambda obs: (
        obs | {"image": obs["image"][:4]}
    ),
    "the observation 'obs' holds NaN or infinity": lambda obs: obs | {"obs": np.full(2, np.nan, np.float32)},
}


@pytest.mark.parametrize(("says", "change"), IMAGES.items())
@pytest.mark.parametrize("place", ["reset", "step 1"])
def test_observations_by_key(place, says, change):
    make = functools.partial(Broken, place, lambda obs, *others: (change(obs), *others), images=True)
    check(rollout(tiny.Wanderer(), make, RESETS, envs=3, max_steps=tiny.LIMIT), f"{place}: {says}")


def _third(fails):
    """Make environments, of which every third one fails."""
    count = itertools.count(1)
    return lambda: fails() if next(count) % 3 == 0 else Broken("step 1", raising(ValueError("off")), seeds=(0,))


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (lambda: 1 / 0, "make: ZeroDivisionError: division by zero"),
        (lambda: None, "make: make_env returned a NoneType; expected a gymnasium.Env"),
        (lambda: Broken(images=True), "make: it shows 'image' uint8[8, 8, 3], 'obs' float32[2]; expected"),
    ],
)
def test_making_may_fail_too(fails, says):
    episodes = rollout(tiny.Wanderer(), _third(fails), RESETS, envs=4, max_steps=tiny.LIMIT)
    broken = {episode.number: episode.error for episode in episodes if episode.error}
    assert "step 1: ValueError: off" in broken.pop(0)
    assert len(broken) >= 1 and all(f"the environment, seed {k}, {says}" in error for k, error in broken.items())
    assert episode_rows(episodes) == [row for row in base() if row["seed"] not in {0, *broken}]


class Clinging(Broken):
    def close(self):
        raise OSError("the window is gone")


def test_closing_may_fail_too():
    make = functools.partial(Clinging, "step 1", raising(ValueError("off")))
    with pytest.warns(RuntimeWarning, match="Clinging, seed 5, close: OSError: the window is gone") as caught:
        episodes = rollout(tiny.Wanderer(), make, RESETS, envs=1, max_steps=tiny.LIMIT)
    assert len(caught) == 1, "a broken one is closed in silence"
    assert episode_rows(episodes) == [row for row in base() if row["seed"] not in BAD]


class Wide(tiny.Wanderer):
    def act(self, obs, env_ids=None, infos=None):
        return np.concatenate([super().act(obs, env_ids, infos)] * 2, axis=1)


def test_an_action_of_another_size_is_told_with_both_sizes():
    with pytest.raises(
        BrokenEnvironment, match=r"seed 0, step 1: it takes actions \(2,\); expected \(4,\), as the agent"
    ):
        rollout(Wide(), Broken, RESETS[:1], max_steps=3)


def test_what_is_harmless_is_let_pass():
    make = functools.partial(Broken, "step 1", lambda obs, *others: (obs.astype(np.float64), *others))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(episode.error is None for episode in rollout(tiny.Wanderer(), make, RESETS, max_steps=3))
        great = functools.partial(Broken, "step 1", giving(obs=np.full(2, 1e30, np.float32)))
        assert all(episode.error is None for episode in rollout(tiny.Wanderer(), great, RESETS, max_steps=3))


def test_where_every_episode_breaks_the_sentence_is_raised():
    make = functools.partial(Broken, "step 2", raising(ValueError("the arm is off")), seeds=range(99))
    with pytest.raises(
        BrokenEnvironment, match=r"^Broken, seed 0, step 2: ValueError: .*; so it went with all 6 episodes"
    ) as caught:
        rollout(tiny.Wanderer(), make, RESETS, max_steps=9)
    assert str(caught.value).count("\n") == 0 and "in act" in caught.value.__notes__[0]


def test_a_rollout_stops_where_it_is_hopeless():
    made = []

    def make():
        made.append(1)
        return Broken("reset", raising(ValueError("off")), seeds=range(999))

    with pytest.raises(BrokenEnvironment, match=f"all {HOPELESS} episodes"):
        rollout(tiny.Wanderer(), make, [Reset(seed) for seed in range(500)], max_steps=9)
    assert len(made) <= HOPELESS + 1


def test_a_loop_that_is_stepped_from_outside_raises():
    with pytest.raises(BrokenEnvironment, match="Broken, seed 1, step 4: ValueError: off"):
        list(
            simulate(
                tiny.Wanderer(), functools.partial(Broken, "step 4", raising(ValueError("off"))), RESETS, max_steps=9
            )
        )


def dying(*results):
    os.kill(os.getpid(), signal.SIGSEGV)


def hanging(*results):
    time.sleep(1000)


class Deadly(Broken):
    """Dies in one episode and hangs in another."""

    def _breaking(self, place, results):
        if (self.seed, place) == (1, "step 3"):
            dying()
        if (self.seed, place) == (4, "reset"):
            hanging()
        return results


@pytest.mark.skipif(os.name != "posix", reason="signals by number")
def test_a_process_that_dies_and_one_that_hangs_are_replaced():
    agent = tiny.Wanderer()
    episodes = rollout(agent, Deadly, RESETS, envs=4, max_steps=tiny.LIMIT, timeout=3)
    assert episodes[1].error == "Deadly, seed 1, step 3: its process was ended by SIGSEGV"
    assert episodes[4].error == "Deadly, seed 4, reset: it had not returned after 3 s, and its process was killed"
    assert [episode.steps for episode in episodes if episode.error] == [2, 0] and agent.calls == 4
    assert episode_rows(episodes) == [row for row in base() if row["seed"] not in BAD], "those beside them, too"


def test_environments_are_called_what_they_are():
    named = make_env(EnvConfig(tiny.ENV_ID, timeout=2.5))
    wrapped = functools.partial(gym.wrappers.TransformReward, named(), func=float)
    assert factory(demonstration_env(named, 0.1)).timeout == 2.5 and factory(wrapped) is None
    made = [named, demonstration_env(named), wrapped, Broken, functools.partial(Broken, "reset"), lambda: None]
    assert [env_name(one) for one in made] == [
        *[tiny.ENV_ID] * 2, "TransformReward", "Broken", "Broken", "the environment",
    ]  # fmt: skip


def test_an_evaluation_lists_what_broke_off():
    make = functools.partial(Broken, "step 4", raising(ValueError("off")))
    resets, task = [Reset(seed, limit=9) for seed in range(COUNT)], TaskSpec.of(Broken())
    result, episodes = evaluate(tiny.Wanderer(), make, resets, task, {}, {}, workers=0, progress=False)
    assert [one["seed"] for one in result["episodes"]] == [0, 2, 3, 5]
    assert [(one["seed"], one["steps"]) for one in result["errors"]] == [(1, 3), (4, 3)]
    assert result["best"]["mean"] == pytest.approx(np.mean([one["best"] for one in result["episodes"]]))
    first, *_, last = describe(result).splitlines()
    assert first.startswith("best: ") and first.endswith("], without the 2 episodes broken off")
    assert last.startswith("2 more broken off by the environment, the first: Broken, seed 1, step 4: ValueError: off")
    assert len(episodes) == COUNT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A policy of an environment that breaks in the fourth step of two episodes."""
    kwargs = {"place": "step 4", "act": raising(ValueError("the arm is off"))}
    gym.register("tiny/Broken-v0", Broken, max_episode_steps=tiny.LIMIT, kwargs=kwargs)
    run = tiny_policy.config("regression", env=EnvConfig("tiny/Broken-v0"))
    run.found.observation = tiny_policy.spec(dim=2).to_plain()
    yield tiny_policy.save(tmp_path_factory.mktemp("run") / "checkpoints", run)
    del gym.registry["tiny/Broken-v0"]


def test_the_command_writes_all_and_exits_with_status_1(checkpoint, tmp_path):
    given = [f"checkpoint={checkpoint}", "seeds=0", "workers=0", "videos=0"]
    said = typed("evaluate", *given, "episodes=6", "out=out", cwd=tmp_path, code=1)
    sentence = "tiny/Broken-v0, seed 1, step 4: ValueError: the arm is off (test_broken.py:"
    assert f"2 more broken off by the environment, the first: {sentence}" in said and "Traceback" not in said
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [one["seed"] for one in written["episodes"]] == [0, 2, 3, 5] and len(written["errors"]) == 2
    assert (tmp_path / "out" / "report.html").exists()
    said = typed("evaluate", "-m", *given, "episodes=2,1", "out=${episodes}", cwd=tmp_path, ok=False)
    assert "evaluate: 1 refused" in said and (tmp_path / "2" / "evaluation.json").exists(), "a sweep goes on"
    assert (tmp_path / "1" / "evaluation.json").exists()
    alone = [f"checkpoint={checkpoint}", "seeds=1", "workers=0", "episodes=1", "out=none"]
    said = typed("evaluate", *alone, cwd=tmp_path, ok=False)
    assert f"evaluate: {sentence}" in said and "Traceback" not in said and not (tmp_path / "none").exists()


def test_a_comparison_of_which_no_episode_is_left_says_so(checkpoint, tmp_path):
    settings = {"episodes": 2, "seeds": 0, "workers": 0}
    found = evaluate_policy(checkpoint, **settings)
    other = {**found, "episodes": [{**found["episodes"][0], "seed": 1}]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    again = evaluate_policy(checkpoint, **settings, compare_to=tmp_path / "other.json")
    assert "difference" not in again and "no episode in common with" in describe(again)


def test_validation_counts_what_broke_off_and_fails_where_all_did(capsys):
    make = functools.partial(Broken, "step 4", raising(ValueError("off")))
    episodes = rollout(tiny.Wanderer(), make, RESETS, max_steps=9)
    found = validation_metrics(episodes, "best")
    assert next(iter(found)) == "score" and found["score"] == found["best"] and found["broken_off"] == 2
    assert "2 of 6 validation episodes broken off, the first: Broken, seed 1" in "".join(capsys.readouterr())
    whole = [episode for episode in episodes if episode.error is None]
    assert "broken_off" not in validation_metrics(whole, "best")
    with pytest.raises(BrokenEnvironment, match="mend it and continue with resume=true"):
        validation_metrics([episode for episode in episodes if episode.error], "best")


class Returning(tiny.LineEnv):
    """Does not end at success."""

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated, info


def test_success_at_the_end_stands_beside_success_where_they_can_differ():
    resets = [Reset(seed) for seed in range(12)]
    on = rollout(tiny.Wanderer(), Returning, resets, max_steps=40)
    rows = episode_rows(on)
    assert all(set(row) >= {"success", "success_at_end"} for row in rows)
    assert {(row["success"], row["success_at_end"]) for row in rows} >= {(True, False), (False, False)}
    assert all(row["success"] or not row["success_at_end"] for row in rows)
    ended = rollout(tiny.Wanderer(), tiny.LineEnv, resets, max_steps=40)
    assert all("success_at_end" not in row for row in episode_rows(ended))
    assert all(episode.success == episode.success_at_end for episode in ended)
