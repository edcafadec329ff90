"""What a delay costs a policy, and which remedy works: success, score and smoothness by delay and remedy.

python scripts/lab/study_delay.py RUN --delays 0 1 2 4 6 --taught PREFIX --corrected CORRECTED

All are rolled out on the same fresh seeds, and compared with the policy without any delay. The remedy "taught" is the
policy --taught, which was trained with policy.prefix and is told what is pending; "corrected" is the policy
--corrected, an improvement of RUN by method=corrector; "contrast" stands off from the samples of --weaker, an earlier
checkpoint. What is measured is kept in --out, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delay_tables import NOTHING, draw
from diffpolicy import Agent, checkpoint, load_policy
from diffpolicy.config import ExecutionConfig, load_config
from diffpolicy.evaluation import INFERENCE_BLOCK, episode_resets, policy_env, rollout, summarize
from diffpolicy.evaluation.episode import Episode, episode_rows
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.following import motion_of
from diffpolicy.evaluation.report import provenance
from diffpolicy.evaluation.report.videos import Actions
from diffpolicy.util import files, names
from diffpolicy.util.errors import require
from diffpolicy.util.stats import bootstrap
from text_tables import PERCENT, interval

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "delay.json"
FIRST_SEED = 200_000
KEPT = ("score", "success", "third_difference", "jump")
TAUGHT, CORRECTED, CONTRAST = "taught", "corrected", "contrast"
REMEDIES: dict[str, Callable[[int], dict[str, Any]]] = {
    NOTHING: lambda delay: {},
    "hard": lambda delay: {"inpaint": delay},
    "soft": lambda delay: {"guide": "exponential"},
    "soft_no_jacobian": lambda delay: {"guide": "exponential", "guide_jacobian": False},
    "nearest_of_16": lambda delay: {"candidates": 16},
    "roll_forward": lambda delay: {"roll_forward": True},
    CONTRAST: lambda delay: {"candidates": 16},
    TAUGHT: lambda delay: {"inpaint": delay},
    CORRECTED: lambda delay: {},
}
"""Name -> settings of `execution` for a delay."""


OTHERS = (TAUGHT, CORRECTED)
"""Remedies that are policies of their own."""


def smoothness(actions: np.ndarray, delay: int, every: int) -> dict[str, float]:
    """Return how smooth the executed actions (L, A) of an episode are, in their units.

    Returns:
        "third_difference": mean length of a_{k+3} - 3·a_{k+2} + 3·a_{k+1} - a_k; "jump": mean length of the step
        from the last action of a chunk to the first one of the next.
    """
    borders = np.arange(delay + every, len(actions), every)
    steps = {"third_difference": np.diff(actions, n=3, axis=0), "jump": actions[borders] - actions[borders - 1]}
    return {name: float(np.linalg.norm(of, axis=1).mean()) if len(of) else 0.0 for name, of in steps.items()}


def cell(path: Path, remedy: str, delay: int, noise: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return what is found in some episodes, and each of them."""
    remedies = REMEDIES[remedy](delay) if delay else {}
    remedies |= {"weaker": str(options.weaker)} if remedy == CONTRAST else {}
    how = ExecutionConfig(delay=delay, action_noise=noise, **remedies)
    policy, config = (
        load_policy(path, block=INFERENCE_BLOCK, execution=how),
        load_config(checkpoint.read(path).config),
    )
    make_env = policy_env(config)
    task = check_policy(policy, make_env)
    policy.motion = motion_of(task, make_env.config, config, policy)
    agent, resets = Agent(policy), episode_resets(FIRST_SEED, options.episodes, task)
    episodes = rollout(agent, make_env, resets, [Actions()], workers=options.workers, task=task, progress=True)

    def found(episode: Episode) -> dict[str, float]:
        return smoothness(episode.observed[Actions.name], delay, policy.action_horizon)

    rows = [{**row, **found(one)} for row, one in zip(episode_rows(episodes), episodes, strict=True)]
    rows = [{**row, "score": row[task.main]} for row in rows]
    return {**summarize(rows), "episodes": rows, "network_calls": agent.calls}


def differences(name: str, row: Mapping[str, Any], first: Mapping[str, Any]) -> list[float]:
    """Return by how much a row's episodes are above those of another one, which starts alike."""
    return [float(a[name]) - float(b[name]) for a, b in zip(row["episodes"], first["episodes"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--taught", type=Path, help="run of a policy that was trained with policy.prefix")
    parser.add_argument("--weaker", type=Path, help="an earlier checkpoint of the run")
    parser.add_argument("--corrected", type=Path, help="run of the policy with a corrector")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 4, 6])
    parser.add_argument("--remedies", nargs="+", default=[one for one in REMEDIES if one not in (*OTHERS, CONTRAST)])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="in units of actions")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for name in options.remedies:
        names.check("remedy", name, REMEDIES)
    saved = checkpoint.read(options.run)
    of = {"policy": saved.sha256["ema.safetensors"], "episodes": options.episodes, "first_seed": FIRST_SEED}
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"of": of, "config": saved.config}
    require(stored["of"] == of, f"{options.out} is of {stored['of']}", str(of), "take another --out")
    options.remedies += [CONTRAST] if options.weaker is not None else []
    paths = dict.fromkeys(REMEDIES, options.run)
    for name in OTHERS:
        given = vars(options)[name]
        require(
            given is not None or name not in options.remedies, f"--remedies {name}", cure=f"name it by --{name} too"
        )
        if given is None:
            continue
        other = checkpoint.read(given)
        policy = {"policy": other.sha256["ema.safetensors"], "config": other.config}
        before = stored.setdefault(name, policy)
        require(before == policy, f"{options.out} is of another {name} policy", cure="take another --out")
        options.remedies, paths[name] = [*options.remedies, name], other.path
    rows = {(row["remedy"], row["delay"], row["noise"]): row for row in stored.get("rows", ())}
    wanted = [
        (remedy, delay, noise)
        for noise in options.noise
        for delay in sorted({0, *options.delays})
        for remedy in dict.fromkeys([NOTHING, *options.remedies])
        if (remedy in options.remedies if delay else remedy in (NOTHING, *OTHERS))
    ]
    for key in sorted(wanted, key=lambda one: (one[2], one[1] > 0, one[0] != NOTHING)):
        if key in rows:
            continue
        remedy, delay, noise = key
        found = cell(paths[remedy], remedy, delay, noise, options)
        row = {"remedy": remedy, "delay": delay, "noise": noise, **{name: found[name] for name in KEPT}}
        row["network_calls"] = found["network_calls"]
        if "mode" in found["episodes"][0]:
            row["modes"] = dict(Counter(one["mode"] for one in found["episodes"] if one["success"]))
        row["episodes"] = [{"seed": one["seed"], **{name: one[name] for name in KEPT}} for one in found["episodes"]]
        if key != (NOTHING, 0, noise):
            first = rows[NOTHING, 0, noise]
            row["difference"] = {name: bootstrap(differences(name, row, first)) for name in KEPT}
        rows[key] = row
        files.write_text(options.out, json.dumps({**stored, "rows": list(rows.values()), **provenance()}) + "\n")
        draw(options.out.with_suffix(".png"), {"rows": list(rows.values())})
        print(key, interval(found["success"], PERCENT), interval(found["score"]), flush=True)


if __name__ == "__main__":
    main()
