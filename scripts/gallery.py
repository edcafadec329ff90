"""Draw the gallery of the notes: a picture for every idea, and a page with its formula and the function that does it.

diffpolicy-gallery
diffpolicy-gallery --out GALLERY --only schedules same_marginals

It trains a dozen small networks and takes some minutes on two processor cores. The digits need MNIST, which is
downloaded where it is missing (12 MB).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib

from diffpolicy.checkpoint import CheckpointError
from diffpolicy.datasets.mnist import load_mnist
from diffpolicy.images import load_generator
from diffpolicy.scripts.figures import EXHIBITS
from diffpolicy.scripts.figures.pages import save_picture, write_pages
from diffpolicy.scripts.figures.style import RC, Settings
from diffpolicy.util.files import write_json


def _command(settings: Settings) -> str:
    """What to type for a gallery of these settings."""
    options = {
        f"--seed {settings.seed}": settings.seed != 0,
        "--small": settings.small,
        "--digits RUN/checkpoints/last": settings.digits is not None,
    }
    command = " ".join(["diffpolicy-gallery", *(option for option, given in options.items() if given)])
    return f"diffpolicy-train task=mnist run_dir=RUN\n{command}" if settings.digits else command


def main() -> None:
    names = [exhibit.name for exhibit in EXHIBITS]
    parser = argparse.ArgumentParser(
        prog="diffpolicy-gallery",
        description=__doc__,
        epilog="figures:\n" + "\n".join(f"  {exhibit.name:<24}{exhibit.title}" for exhibit in EXHIBITS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: docs/gallery, and with --small gallery_small)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=names,
        help="draw these figures anew, and keep the others as they are",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--small", action="store_true", help="few samples and training steps: fast, and unfinished")
    parser.add_argument(
        "--digits",
        type=Path,
        metavar="CHECKPOINT",
        help="digits from this run of task=mnist, RUN/checkpoints/last for example, rather than from a brief one",
    )
    arguments = parser.parse_args()
    if arguments.out is None:  # a quick look does not take the place of what was drawn with care
        arguments.out = Path("gallery_small" if arguments.small else "docs/gallery")
    if unknown := set(arguments.only) - set(names):
        parser.error(f"--only knows no {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if arguments.seed < 0:
        parser.error(f"--seed is at least 0, given {arguments.seed}")
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out takes a folder, and {arguments.out} is a file; choose another name")
    settings = Settings(arguments.seed, arguments.small, arguments.digits)
    try:
        if arguments.digits:
            load_generator(arguments.digits)  # refused here, before minutes of drawing
        if "guidance_on_digits" in arguments.only:
            load_mnist("train")  # likewise
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = arguments.out / "commands.json"  # what made which figure
        commands = json.loads(record.read_text()) if record.exists() else {}
        for exhibit in EXHIBITS:
            if exhibit.name in arguments.only:
                began = time.perf_counter()
                with matplotlib.rc_context(RC):
                    save_picture(arguments.out / f"{exhibit.name}.png", exhibit.draw(settings))
                commands[exhibit.name] = _command(settings)
                write_json(record, commands)
                print(f"{exhibit.name}.png  {time.perf_counter() - began:.0f} s", flush=True)
        drawn = [e for e in EXHIBITS if (arguments.out / f"{e.name}.png").exists() and e.name in commands]
        write_pages(arguments.out, drawn, commands)
    except (ValueError, OSError, CheckpointError) as error:
        print(f"gallery: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.out / 'README.md'}, and for a browser {arguments.out / 'index.html'}")


if __name__ == "__main__":
    main()
