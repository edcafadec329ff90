"""The rollout loop: an episode does not depend on what ran beside it; and the statistics of its report."""

import functools
import os
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.evaluation import bootstrap, compare, environment, episode_resets, rollout, shards, summarize, wilson
from diffpolicy.policies import Execution, Policy, build_actor

rollout_module = sys.modules[rollout.__module__]  # the package's name for it is the function


@functools.cache
def _policy():
    """Untrained, but of full height: each step of it depends on the observation and on the noise."""
    torch.manual_seed(0)
    config = {
        "policy": {"obs_horizon": 2, "horizon": 16, "action_horizon": 8},
        "method": {"name": "generative", "steps": 2, "path": {"name": "linear"}, "prediction": "velocity"},
        "net": {"name": "unet1d", "widths": [16, 32], "time_features": 8},
    }
    limits = np.stack([np.zeros(20), np.full(20, 512.0)])
    normalizer = Normalizer.fit({"obs": limits, "action": limits[:, :2]})
    return Policy(build_actor(config, 20, 2).eval(), normalizer, block=32)


def make_env(render_mode=None):
    return gym.make("diffpolicy/PushT-v0", obs_mode="keypoints", max_episode_steps=50, render_mode=render_mode)


def _rows(episodes):
    return [episode.row() for episode in episodes]


def test_episodes_do_not_depend_on_batch_processes_or_threads():
    resets = episode_resets(200_000, 50)
    base = _rows(rollout(_policy(), make_env, resets, envs=50))
    assert len({row["score"] for row in base}) > 5, "the episodes should differ"
    assert [row["seed"] for row in base] == list(range(200_000, 200_050))
    assert all(row["steps"] == 50 or row["success"] for row in base)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for how in ({"envs": 1}, {"envs": 7}, {"envs": 7, "workers": 3}):
            assert _rows(rollout(_policy(), make_env, resets, **how)) == base
        assert torch.get_num_threads() == 3, "put back"
    finally:
        torch.set_num_threads(threads)
    for workers in (0, 1):
        assert _rows(rollout(_policy(), make_env, resets[10:20], workers=workers)) == base[10:20]


def test_nor_do_episodes_whose_chunks_are_bound_to_each_other():
    bound = Execution(noise="episode", ensemble=0.1, warm_start=0.5, inpaint=1)
    policy, plain = (
        Policy(_policy().actor, _policy().normalizer, block=16, execution=execution) for execution in (bound, None)
    )
    resets = episode_resets(200_000, 5)
    base = _rows(rollout(policy, make_env, resets))
    assert policy.calls == 1 and _rows(rollout(plain, make_env, resets)) != base and plain.calls == 2
    policy.calls = 0
    assert _rows(rollout(policy, make_env, resets, envs=2, workers=2)) == base and policy.calls == 1


def test_film_and_score(tmp_path):
    filmed, plain, sharded = (
        rollout(_policy(), functools.partial(make_env, mode), episode_resets("paper", 3), film=film, workers=workers)
        for mode, film, workers in (("rgb_array", 1, 0), (None, 0, 0), ("rgb_array", 2, 2))
    )
    assert _rows(filmed) == _rows(plain) == _rows(sharded)
    assert [len(episode.frames) for episode in filmed] == [51, 0, 0]
    assert [len(episode.frames) for episode in sharded] == [51, 51, 0]
    assert np.array_equal(filmed[0].frames, sharded[0].frames)
    assert filmed[0].frames[0].dtype == np.uint8 and filmed[0].frames[0].shape[2] == 3
    assert len(filmed[0].observations) == 51
    assert [row["seed"] for row in _rows(filmed)] == [100_000, 100_001, 100_002]

    from diffpolicy.evaluation.report import draw_fan, draw_scores, evaluation, write_json, write_video

    write_video(tmp_path / "film.mp4", filmed[0].frames)
    draw_fan(tmp_path / "fan.png", _policy(), filmed[0], moments=2, samples=4)
    result = evaluation(filmed, {"seeds": "paper"}, {})
    draw_scores(tmp_path / "scores.png", result)
    write_json(tmp_path / "evaluation.json", result)
    assert min(file.stat().st_size for file in tmp_path.iterdir()) > 500
    assert result["versions"]["torch"] == torch.__version__ and result["processor"]
    import av

    with av.open(str(tmp_path / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 51


def test_resets_and_environments_are_checked():
    assert episode_resets("paper", 2) == [(100_000, {"paper_seed": 100_000}), (100_001, {"paper_seed": 100_001})]
    assert episode_resets("7", 2) == [(7, None), (8, None)]
    with pytest.raises(ValueError, match="50 seeds; 51"):
        episode_resets("paper", 51)
    with pytest.raises(ValueError, match="'papr'"):
        episode_resets("papr", 2)
    with pytest.raises(ValueError, match="at least 1"):
        episode_resets(5, 0)
    with pytest.raises(ValueError, match="none of this project's"):
        environment("os:system-v0", {})
    with pytest.raises(ValueError, match="envs >= 1"):
        rollout(_policy(), make_env, episode_resets(5, 2), envs=0)


def _broken_env():
    env = make_env()
    env.unwrapped.step = _fail
    return env


def _fail(action):
    raise gym.error.InvalidAction("the arm is off")


def test_an_error_in_a_worker_is_raised_here():
    with pytest.raises(gym.error.InvalidAction) as caught:
        rollout(_policy(), _broken_env, episode_resets(5, 2), workers=1)
    assert str(caught.value) == "the arm is off" and "in _fail" in caught.value.__notes__[0]


class _TornCable(OSError):
    def __init__(self, cable, end):
        super().__init__(f"{cable} is torn at the {end}")


def test_an_error_that_cannot_be_sent_keeps_its_name_and_message():
    sent = shards._portable(_TornCable("the blue cable", "plug"))
    assert type(sent) is RuntimeError and str(sent) == "_TornCable: the blue cable is torn at the plug"


def test_a_worker_that_dies_is_noticed():
    with pytest.raises(RuntimeError, match=r"worker process 1 died \(exit code 7.*workers=0"):
        rollout(_policy(), functools.partial(os._exit, 7), episode_resets(5, 2), workers=1)


def test_what_cannot_go_to_a_worker_is_refused_before_any_starts():
    with pytest.raises(ValueError, match=r"function of a module.*workers=0"):
        rollout(_policy(), lambda: make_env(), episode_resets(5, 2), workers=1)


def test_as_many_workers_as_pay(tmp_path, monkeypatch):
    cores = shards.usable_cores(tmp_path / "none")
    for text, expected in (("max 100000\n", cores), ("50000 100000\n", 1), ("100000000 100000\n", cores)):
        (tmp_path / "cpu.max").write_text(text)
        assert shards.usable_cores(tmp_path / "cpu.max") == expected
    monkeypatch.setattr(rollout_module, "usable_cores", lambda: 4)
    chosen = [rollout_module._workers_that_pay(_policy(), episodes) for episodes in (1, 32, 33, 96, 500)]
    assert chosen == [0, 0, 2, 3, 4]


def test_wilson_is_scipys_and_covers():
    for successes, trials in ((0, 50), (32, 50), (199, 200), (200, 200)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        ours = wilson(successes, trials)
        assert (ours["low"], ours["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    values = np.random.default_rng(0).normal(0.9, 0.1, 500)
    ours = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(500)
    assert (ours["low"], ours["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)
    assert bootstrap(values) == ours
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([])


def test_paired_comparison_uses_common_seeds():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 1, 60)
    fixed = {"final_coverage": 0.5, "success": True}
    rows = [{"seed": s, "score": hard[s], **fixed} for s in range(50)]
    better = [{"seed": s, "score": hard[s] + 0.02, **fixed, "success": s % 2 == 0} for s in range(10, 60)]
    env = {"id": "diffpolicy/PushT-v0", "options": {"obs_mode": "keypoints"}}

    def of(rows, seeds=0, **changed):
        return {"settings": {"seeds": seeds}, "checkpoint": {"config": {"env": env | changed}}, "episodes": rows}

    first, second = of(better), of(rows, options={"obs_mode": "pixels", "render_size": 96})
    difference = compare(first, second)
    assert difference["episodes"] == 40
    assert difference["score"]["low"] == pytest.approx(0.02) and difference["score"]["high"] == pytest.approx(0.02)
    assert difference["success"]["mean"] == pytest.approx(-0.5)
    unpaired = summarize(better)["score"]
    assert unpaired["high"] - unpaired["low"] > 0.1  # what the pairing removed
    with pytest.raises(ValueError, match="in common"):
        compare(first, of(rows, "paper"))
    with pytest.raises(ValueError, match="different tasks.*PushT.*Detour"):
        compare(first, of(rows, id="diffpolicy/Detour-v0"))
    with pytest.raises(ValueError, match="different tasks.*'block': 'L'"):
        compare(first, of(rows, options={"block": "L"}))
    with pytest.raises(ValueError, match="no evaluation.json"):
        compare(first, {"settings": {"seeds": 0}, "episodes": rows})
