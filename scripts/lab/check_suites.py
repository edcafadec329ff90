"""Measure the suites that are installed: whether a seed is an episode to the bit, how often the expert succeeds.

python scripts/lab/check_suites.py --out docs/results/suites.json
python scripts/lab/check_suites.py --pusht RUN/checkpoints/best --episodes 200 --out docs/results/suites_pusht.json

The second line evaluates a policy of task=pusht on the same seeds in this project's environment and in gym-pusht's.
An expert's episode ends 25 steps after its first success, or at its time limit; "held" is success at its last step.
Drawing is timed in CPU time, at 96 × 96.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffpolicy import Agent, load_policy, make_env, registry, rollout
from diffpolicy.checkpoint import read
from diffpolicy.config import load_config
from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.envs.suites.metaworld import BENCHMARK
from diffpolicy.evaluation import episode_resets
from diffpolicy.evaluation.metrics import summarize
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json
from diffpolicy.util.stats import bootstrap, wilson
from text_tables import PERCENT, interval

CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "metaworld": [("diffpolicy/MetaWorld-v0", {"task": task}) for task in BENCHMARK],
    "gymnasium-robotics": [
        *((f"diffpolicy/Fetch{name}-v0", {}) for name in ("Reach", "Push", "PickAndPlace")),
        *(("diffpolicy/PointMaze-v0", {"task": task}) for task in ("UMaze", "Medium", "Large")),
    ],
    "gym-pusht": [("diffpolicy/GymPushT-v0", {})],
}
"""Distribution -> environments and their keyword arguments."""

AFTER_SUCCESS = 25
COMPARED = 60  # steps of random actions
FRAMES = 8


def named(name: str, kwargs: dict[str, Any]) -> str:
    return " ".join([name, *kwargs.values()])


def made(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(name, disable_env_checker=True, **kwargs)


def random_episode(env: gym.Env[Any, Any], seed: int, steps: int = COMPARED) -> np.ndarray:
    """Return the states (steps + 1, D) of an episode of random actions, the global generator scrambled before it."""
    np.random.seed(None)  # noqa: NPY002
    draw = np.random.default_rng(seed)
    states = [env.reset(seed=seed)[1]["state"]]
    low, high = env.action_space.low, env.action_space.high
    for _ in range(steps):
        states.append(env.step(draw.uniform(low, high).astype(np.float32))[-1]["state"])
    return np.array(states)


def check_seeds(name: str, kwargs: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences of one seed's episodes: after another episode, and in another instance."""
    env, other = made(name, **kwargs), made(name, **kwargs)
    expected = random_episode(env, REPORT_SEED)
    random_episode(env, REPORT_SEED + 1)
    again, elsewhere = random_episode(env, REPORT_SEED), random_episode(other, REPORT_SEED)
    different = random_episode(other, REPORT_SEED + 1)[0]
    return {
        "after_another": float(np.abs(again - expected).max()),
        "in_another_instance": float(np.abs(elsewhere - expected).max()),
        "of_another_seed": float(np.abs(different - expected[0]).max()),
    }


def expert_episode(env: gym.Env[Any, Any], name: str, kwargs: dict[str, Any], seed: int) -> tuple[int | None, bool]:
    """Return the steps to the first success, None without one, and whether the last step was a success."""
    expert = registry.lookup("expert", name)(seed, kwargs)
    obs, info = env.reset(seed=seed)
    expert.reset(obs, info)
    steps, first, ended = 0, None, False
    while not ended:
        obs, _, terminated, truncated, info = env.step(np.asarray(expert.act(obs, info), np.float32))
        steps += 1
        first = steps if first is None and info["success"] else first
        ended = terminated or truncated or (first is not None and steps >= first + AFTER_SUCCESS)
    return first, bool(info["success"])


def check_expert(name: str, kwargs: dict[str, Any], episodes: int) -> dict[str, Any]:
    """Return how often the expert succeeds, how often that holds, in how many steps, and at what speed."""
    env, start = made(name, **kwargs), time.process_time()
    outcomes = [expert_episode(env, name, kwargs, REPORT_SEED + number) for number in range(episodes)]
    seconds = time.process_time() - start
    firsts = [first for first, _ in outcomes if first is not None]
    low, median, high = np.percentile(firsts, [5, 50, 95]).tolist() if firsts else (None, None, None)
    return {
        "success": wilson(len(firsts), episodes),
        "held": wilson(sum(held for _, held in outcomes), episodes),
        "steps": {"5%": low, "50%": median, "95%": high},
        "failed_seeds": [REPORT_SEED + n for n, (first, _) in enumerate(outcomes) if first is None],
        "seconds_an_episode": seconds / episodes,
    }


def check_drawing(name: str, kwargs: dict[str, Any]) -> dict[str, float]:
    """Return the CPU time of a frame of 96 × 96, and of the first one."""
    env = made(name, render_mode="rgb_array", render_size=96, **kwargs)
    env.reset(seed=REPORT_SEED)
    times = [time.process_time()]
    for _ in range(FRAMES + 1):
        env.render()
        times.append(time.process_time())
    env.close()
    first, *others = np.diff(times).tolist()
    return {"first_ms": 1e3 * first, "frame_ms": 1e3 * float(np.median(others))}


def sentence(found: dict[str, Any]) -> str:
    """Return one line about an environment."""
    seeds, expert, frame = found["seeds"], found["expert"], found["drawing"]["frame_ms"]
    bitwise = max(seeds["after_another"], seeds["in_another_instance"]) == 0.0
    return (
        f"{named(found['id'], found['kwargs'])}: a seed is an episode {'to the bit' if bitwise else 'NOT'}; expert "
        f"{interval(expert['success'], PERCENT)}, held {expert['held']['mean']:.0%}, "
        f"half of them within {expert['steps']['50%'] or 0:g} steps; {frame:.0f} ms a frame"
    )


def installed() -> Iterator[tuple[str, str]]:
    """Yield the suites that are installed, and their versions."""
    for name in CASES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed, and left out")


def check_pusht(checkpoint: Path, episodes: int) -> dict[str, Any]:
    """Return the metrics of one policy in both environments of Push-T, and their paired differences."""
    policy, saved = load_policy(checkpoint), read(checkpoint)
    config, rows = load_config(saved.config), {}
    observed = config.observation.mode
    for name in ("diffpolicy/PushT-v0", "diffpolicy/GymPushT-v0"):
        make = make_env(name, {"obs_mode": observed})
        rows[name] = [one.row() for one in rollout(Agent(policy), make, episode_resets(REPORT_SEED, episodes))]
    ours, theirs = rows.values()
    differences = {
        key: bootstrap([float(a[key]) - float(b[key]) for a, b in zip(ours, theirs, strict=True)])
        for key in ("score", "final_coverage", "success")
    }
    trained = {"method": config.method["name"], "obs_mode": observed, "step": saved.step, "sha256": saved.sha256}
    return {
        "settings": {"episodes": episodes, "first_seed": REPORT_SEED, "checkpoint": trained},
        "suites": {"gym-pusht": importlib.metadata.version("gym-pusht")},
        "means": {name: summarize(found) for name, found in rows.items()},
        "differences": differences,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50, help="of the expert, per environment (default: 50)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", default="", help="part of the ids to measure anew; other rows of --out are kept")
    parser.add_argument("--pusht", type=Path, help="checkpoint of a policy of task=pusht, see above")
    arguments = parser.parse_args()
    if arguments.episodes < 1:
        parser.error("--episodes is at least 1")
    if arguments.pusht:
        paired = check_pusht(arguments.pusht, arguments.episodes)
        for key, difference in paired["differences"].items():
            print(f"{key}: ours - gym-pusht {interval(difference, '{:+.4f}')}")
        if arguments.out:
            write_json(arguments.out, {**paired, **provenance()})
        return
    suites = dict(installed())
    simulated = suites.keys() - {"gym-pusht"}  # by MuJoCo, on whose version the bits depend
    versions = {**suites, **({"mujoco": importlib.metadata.version("mujoco")} if simulated else {})}
    cases = [case for suite in suites for case in CASES[suite]]
    settings = {"episodes": arguments.episodes, "first_seed": REPORT_SEED, "after_success": AFTER_SUCCESS}
    rows = {}
    if arguments.only and arguments.out and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        if before["settings"] != settings:
            parser.error(f"{arguments.out} has rows of {before['settings']}, and these would be of {settings}")
        rows = {named(row["id"], row["kwargs"]): row for row in before["rows"]}
    cases = [case for case in cases if arguments.only in case[0]]
    for name, kwargs in tqdm(cases, unit="environment"):
        found = {"id": name, "kwargs": kwargs, "seeds": check_seeds(name, kwargs)}
        found["commit"] = provenance()["commit"]
        found |= {"expert": check_expert(name, kwargs, arguments.episodes), "drawing": check_drawing(name, kwargs)}
        rows[named(name, kwargs)] = found
        tqdm.write(sentence(found))
        if arguments.out:
            measured = {"settings": settings, "rows": [*rows.values()], "suites": versions}
            write_json(arguments.out, {**measured, **provenance()})


if __name__ == "__main__":
    main()
