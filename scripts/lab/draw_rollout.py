"""Draw docs/images/rollout.gif: the first success of a checkpoint's policy among the test seeds.

```
diffpolicy train task=detour run_dir=runs/detour training.steps=700 training.batch_size=128 \\
    training.warmup_steps=50 net.widths=[32,64,128] speed=float32
python scripts/lab/draw_rollout.py runs/detour/checkpoints/last docs/images/rollout.gif
```
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from PIL import Image

from diffpolicy import Agent, load_policy, rollout
from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import load_config
from diffpolicy.config.commands import REPORT_SEED
from diffpolicy.evaluation import TaskSpec, Video, episode_resets, policy_env
from diffpolicy.util.files import replacing

TRIED, SIDE, EVERY, COLORS = 8, 224, 2, 48


def draw(checkpoint: Path, out: Path) -> None:
    config = load_config(checkpoints.read(checkpoint).config)
    make_env = policy_env(config, render_mode="rgb_array")
    with closing(make_env()) as env:
        fps = TaskSpec.of(env).fps
    episodes = rollout(
        Agent(load_policy(checkpoint)),
        make_env,
        episode_resets(REPORT_SEED, TRIED),
        [Video()],
        envs=TRIED,
    )
    done = next((episode for episode in episodes if episode.success), None)
    if done is None:
        raise SystemExit(f"none of {TRIED} episodes succeeded: take a better checkpoint")
    frames = [Image.fromarray(frame).resize((SIDE, SIDE)) for frame in done.observed["video"][::EVERY]]
    frames = [frame.quantize(COLORS, dither=Image.Dither.NONE) for frame in [*frames, *[frames[-1]] * 8]]
    pause = int(1000 * EVERY / fps)
    with replacing(out) as partial:
        frames[0].save(partial, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0, optimize=True)
    print(f"seed {done.seed}, {done.steps} steps, {out.stat().st_size / 1024:.0f} KiB: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
