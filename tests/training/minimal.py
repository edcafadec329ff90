"""A model that trains in milliseconds, for the tests of this folder and the processes that they start."""

import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffpolicy.config import TrainConfig
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.shapes import randn
from diffpolicy.generative.times import LossAware
from diffpolicy.training import LossModel, train
from diffpolicy.training.distributed import process_group
from diffpolicy.util.errors import Interrupted
from diffpolicy.util.seeds import generator


@dataclass
class Record:
    """The config of these runs: as small as one can be, since it is written with every checkpoint."""

    training: TrainConfig


SETTINGS = {"steps": 12, "lr": 1e-2, "warmup_steps": 3, "log_every": 1}
SETTINGS |= {"checkpoint_every": 4, "evaluate_every": 4, "evaluate_from": 0}


def net(norm=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), norm or nn.Dropout(0.1), nn.Mish(), nn.Linear(16, 2))


def loss(net, batch, generator):
    noise = randn(batch["x"].shape, generator, dtype=torch.float32, device="cpu")
    return (net(batch["x"] + 0.1 * noise) - batch["x"][:, :2]).square().mean(1)


class Timed(nn.Module):
    """A network of numbers and a time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Mish(), nn.Linear(16, 3))

    def forward(self, x, t, cond=None):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


def loss_aware():
    """A model whose objective has a state: four bins of times, whose histories are full within the run."""
    return LossModel(Timed(), LossAware(DenoisingObjective(DiscretePath(4), "noise", "discrete")))


def batch_at(step):
    x = torch.randn(8, 3, generator=generator(7, step))
    return {"x": x, "data": x}


def run(run_dir, model=None, batch_at=batch_at, record=None, **options):
    """Train; options that `TrainConfig` has are settings, the others are arguments of `train`."""
    known = {name: options.pop(name) for name in list(options) if name in TrainConfig.__dataclass_fields__}
    config = TrainConfig(**{**SETTINGS, **known})
    arguments = {"seed": 1, "record": record or Record(config), "progress": False, "speed": "float32"}
    return train(model or LossModel(net(), loss), batch_at, config, Path(run_dir), **{**arguments, **options})


def score(model, step):
    return {"score": (step * 7 % 40) / 40}


def digests(path):
    names = ("model", "ema", "training")
    return {name: hashlib.sha256((path / f"{name}.safetensors").read_bytes()).hexdigest() for name in names}


def state(path):
    return json.loads((path / "checkpoint.json").read_text())["state"]


def listing(checkpoint):
    """What lies beside a checkpoint, and what `best` is."""
    folder = checkpoint.parent
    return sorted(path.name for path in folder.iterdir()), (folder / "best").resolve().name


def to_the_end(run_dir, **options):
    """Resume, as a process of its own, which ends as a command would."""
    torch.set_num_threads(1)
    os.fsync = lambda handle: None
    try:
        run(run_dir, resume=True, **options)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)


def twice_interrupted(step):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("still there")


def as_rank(rank, world, port, run_dir, pause=0.0, aware=False, **options):
    """Train as one of several processes, as torchrun would start it, with a pause in every step."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world}"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": f"{port}"}
    with process_group("cpu") as (ranks, _):
        shard = ranks.shard(8)

        def batch(step):
            time.sleep(pause)
            return {name: part[shard] for name, part in batch_at(step).items()}

        to_the_end(
            run_dir,
            model=loss_aware() if aware else LossModel(net(nn.Identity()), loss),  # dropout: another on every rank
            batch_at=batch,
            ranks=ranks,
            evaluate=lambda model, step: {"score": sum(ranks.collect(ranks.deal(range(5))))},
            **options,
        )
