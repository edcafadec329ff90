"""Add corrections to the demonstrations of Push-T that ship: the expert takes over from a policy that they taught.

python scripts/lab/teach_pusht.py RUN data/pusht.zarr --out pusht.zarr

The policy of RUN, which observes corners, acts up to a step that each episode's seed draws, and the expert acts from
there on. Recorded is what the expert did, if the episode ended in success (diffpolicy/improvement/corrections.py).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffpolicy import Agent, ReplayBuffer, checkpoint, load_policy, make_env, rollout
from diffpolicy.config import ExecutionConfig
from diffpolicy.config.commands import IMPROVEMENT_SEED
from diffpolicy.datasets import EpisodeWriter
from diffpolicy.datasets.manifest import digest
from diffpolicy.evaluation import INFERENCE_BLOCK, Reset
from diffpolicy.evaluation.demonstrators import find_expert_agent
from diffpolicy.evaluation.observers import ACTION, Recorder
from diffpolicy.evaluation.recorded import SEEDS
from diffpolicy.improvement.corrections import TakeOver, step_of
from diffpolicy.util.errors import require

KEPT = ("state", "action")
AT_ONCE = 32
LEAST = 16  # steps of a correction: shorter ones do not fill a policy's window
CORRECTED = "corrected"
"""An attribute of the recording: the policies that were corrected, and how."""


def state_of(obs: np.ndarray) -> np.ndarray:
    """Return states (N, 5) of Push-T: agent x, y, block x, y, px, and its angle in [0, 2π).

    Args:
        obs: (N, 18) the block's corners, the first two of which have its position in their middle, and the agent.
    """
    first, second = obs[:, 0:2].astype(np.float64), obs[:, 2:4].astype(np.float64)
    along = second - first
    angle = np.arctan2(along[:, 1], along[:, 0]) % (2 * np.pi)
    return np.concatenate([obs[:, 16:], (first + second) / 2, angle[:, None]], axis=1).astype(np.float32)


def corrections(
    path: Path, expert_steps: int, latest: int, first_seed: int, temperature: float
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the expert's parts of successful episodes, with their seeds, until it has taken `expert_steps`."""
    make = make_env("diffpolicy/PushT-v0", {"obs_mode": "corners"})
    policy = load_policy(path, block=INFERENCE_BLOCK, execution=ExecutionConfig(temperature=temperature))
    agent = TakeOver(Agent(policy), find_expert_agent(None, make), latest)
    used, seed = 0, first_seed
    with tqdm(total=expert_steps, desc="corrections", unit="step") as bar:
        while used < expert_steps:
            resets = [Reset(seed + number) for number in range(AT_ONCE)]
            for episode in rollout(agent, make, resets, [Recorder("obs")]):
                if episode.error is not None:
                    continue
                begin = step_of(episode.seed, latest)
                steps = max(episode.steps - begin, 0)
                if used >= expert_steps or not steps:
                    continue
                used += steps
                bar.update(steps)
                if episode.success_at_end and steps >= LEAST:
                    recorded = episode.observed[Recorder.name]
                    taken = {"state": state_of(recorded["obs"][begin:]), "action": recorded[ACTION][begin:]}
                    yield episode.seed, {name: values.astype(np.float32) for name, values in taken.items()}
            seed += AT_ONCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="a run of task=pusht_expert")
    parser.add_argument("demonstrations", type=Path, help="a recording of `state` and `action`")
    parser.add_argument("--expert-steps", type=int, default=25_000)
    parser.add_argument("--latest", type=int, default=200, help="the last step at which the expert takes over")
    parser.add_argument("--first-seed", type=int, default=IMPROVEMENT_SEED)
    parser.add_argument("--temperature", type=float, default=1.0, help="at which the policy acts")
    parser.add_argument("--episodes", type=int, help="how many of the demonstrations to keep, from the first one on")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    require(not arguments.out.exists(), f"--out {arguments.out} exists", cure="choose another one")
    before = ReplayBuffer.open(arguments.demonstrations, list(KEPT))
    how = {name: vars(arguments)[name] for name in ("expert_steps", "latest", "first_seed", "temperature")}
    of = {"policy": checkpoint.read(arguments.policy).sha256["ema.safetensors"], **how}
    earlier = before.attrs.get(CORRECTED, [])
    whole = arguments.episodes is None or not earlier
    given = f"--episodes {arguments.episodes} of a recording that holds corrections"
    require(whole, given, "all of them, or a recording by the expert alone")
    partial = arguments.out.with_name(f".{arguments.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    writer = EpisodeWriter(partial, {**before.attrs, CORRECTED: [*earlier, of]})
    for number, part in enumerate(before.episode_slices()[: arguments.episodes]):
        writer.add({name: before[name][part] for name in KEPT}, **{SEEDS: int(before.meta[SEEDS][number])})
    for seed, episode in corrections(arguments.policy, **how):
        writer.add(episode, **{SEEDS: seed})
    partial.rename(arguments.out)
    made = ReplayBuffer.open(arguments.out)
    print(f"{made.n_episodes} episodes, {made.n_steps} frames, SHA-256 {digest(arguments.out)}: {arguments.out}")


if __name__ == "__main__":
    main()
