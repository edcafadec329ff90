"""How often images that are told by words show what these say, by scale of guidance.

python scripts/lab/study_words.py --runs runs --out docs/results/words

Trains the generator (`task=TASK`) and, for each kind of word, a classifier on the same training images, where RUNS
has none yet, and draws every text several times. A word is obeyed where its classifier reads it; what the classifiers
read in test images is the bound of what can be found so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.checkpoint import latest
from diffpolicy.config import SamplerConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets.catalog import open_source
from diffpolicy.datasets.images import LabeledImages, from_levels, to_levels
from diffpolicy.evaluation.report import provenance
from diffpolicy.images import ImageGenerator, load_generator
from diffpolicy.images.classifier import TRAINING, load_classifier, logits_and_features, train_classifier
from diffpolicy.images.drawing import as_images, draw_images, tiled
from diffpolicy.util import files
from diffpolicy.util.stats import wilson
from runs import seconds, trained
from text_tables import PERCENT, interval, markdown

OUT = Path(__file__).resolve().parents[2] / "docs" / "results" / "words"
TASKS = ("colored_digits", "moving_digits", "solids")
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLER = SamplerConfig("dpmpp_2m", 20, "log_snr")
SHOWN, PICTURED = 6, (0.0, 1.0, 2.0, 5.0)  # texts and scales in the picture


def judges(runs: Path, task: str, source: Any, train: LabeledImages, test: LabeledImages) -> dict[str, Any]:
    """Return a classifier for each kind of word, trained where there is none yet."""
    said, heard, found = source.said(train.labels), source.said(test.labels), {}
    for word in source.words:
        folder = runs / f"{task}_{word}"
        if latest(folder / "checkpoints") is None:
            one, other = (
                LabeledImages(_levels(part), labels[word]) for part, labels in ((train, said), (test, heard))
            )
            train_classifier(folder, one, other, training=replace(TRAINING, steps=1200))
        found[word] = load_classifier(folder / "checkpoints" / "last")
    return found


def _levels(images: LabeledImages) -> Tensor:
    return to_levels(as_images(from_levels(images.levels)))


def obeyed(images: Tensor, wanted: Mapping[str, Tensor], judges: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of images whose word of each kind is read, and of those in which all are."""
    right = {word: logits_and_features(judges[word], images)[0].argmax(1) == wanted[word] for word in judges}
    right["all"] = torch.stack(list(right.values())).all(0)
    return {word: wilson(int(hits.sum()), len(hits)) for word, hits in right.items()}


def measured(
    generator: ImageGenerator, source: Any, test: LabeledImages, judges: Mapping[str, Any], each: int
) -> list[dict[str, Any]]:
    """Return how often words are obeyed in test images, and in `each` images of every text at each scale."""
    says = obeyed(as_images(from_levels(test.levels)), source.said(test.labels), judges)
    rows: list[dict[str, Any]] = [{"guidance": None, "images": len(test), "obeyed": says}]
    labels = torch.arange(len(source.texts)).repeat_interleave(each)
    for scale in SCALES:
        drawn, calls = draw_images(generator, labels, 0, scale, "bfloat16", progress=f"w = {scale:g}")
        says = obeyed(as_images(drawn), source.said(labels), judges)
        rows.append({"guidance": scale, "images": len(labels), "network_calls": calls, "obeyed": says})
    return rows


def picture(generator: ImageGenerator, texts: Sequence[str], file: Path) -> None:
    """Draw a few texts, a line each, at the scales of `PICTURED`; of films one each, frame after frame."""
    spread = torch.linspace(0, len(texts) - 1, SHOWN).long()
    columns = 1 if len(generator.shape) == 4 else 4
    sheets = []
    for scale in PICTURED:
        drawn, _ = draw_images(generator, spread.repeat_interleave(columns), 1, scale, "bfloat16")
        sheets.append(tiled(drawn, columns))
    height, width, _ = sheets[0].shape
    matplotlib.rcParams["font.size"] = 8
    figure = Figure(figsize=(2 + width / 70 * len(sheets), 0.3 + height / 70), layout="constrained")
    for axes, sheet, scale in zip(figure.subplots(1, len(sheets)), sheets, PICTURED, strict=True):
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        axes.set(title=f"w = {scale:g}", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.axes[0].set_yticks((torch.arange(SHOWN) + 0.5) * height / SHOWN, [texts[k] for k in spread])
    figure.axes[0].tick_params(length=0)
    figure.savefig(file, dpi=130)


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown table of words.json."""
    rows = found["rows"]
    words = list(rows[0]["obeyed"])
    lines = [
        [
            "test images" if row["guidance"] is None else f"{row['guidance']:g}",
            str(row["images"]),
            *(interval(row["obeyed"][word], PERCENT) for word in words),
            str(row.get("network_calls", "")),
        ]
        for row in rows
    ]
    return markdown(f"w | images | {' | '.join(words)} | network calls", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--each", type=int, default=10, help="images of a text")
    parser.add_argument("--settings", nargs="*", default=[], help="of the training, as `diffpolicy train` takes them")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    run, settings = options.runs / options.task, [f"task={options.task}", *options.settings]
    source = open_source(compose([*settings, f"run_dir={run}"]))
    train, test = (source.images(split) for split in ("train", "test"))
    saved = trained(run, settings)
    of = {"task": options.task, "settings": options.settings, "generator": saved.sha256["ema.safetensors"]}
    of |= {"each": options.each, "scales": list(SCALES), "sampler": asdict(SAMPLER)}
    file, generator = options.out / f"{options.task}.json", load_generator(saved.path)
    generator.configure(SAMPLER)
    before = json.loads(file.read_text()) if file.exists() else {}
    if before.get("of") == of:
        rows = before["rows"]
    else:
        read_by = judges(options.runs, options.task, source, train, test)
        rows = measured(generator, source, test, read_by, options.each)
        options.out.mkdir(parents=True, exist_ok=True)
        files.write_json(file, {"of": of, "rows": rows, "seconds": seconds(run)} | provenance())
    picture(generator, source.texts, file.with_suffix(".png"))
    print(table({"rows": rows}))


if __name__ == "__main__":
    main()
