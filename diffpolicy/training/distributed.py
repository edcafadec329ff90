"""Several processes as one training run: torchrun's environment, who takes which rows, and who writes.

    torchrun --nproc-per-node 4 -m diffpolicy.scripts.train …
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500
        -m diffpolicy.scripts.train …

Every rank draws the same global batch and takes its own rows of it; DistributedDataParallel averages the gradients.
So a run is the same function of its config and seed whatever the number of ranks, up to the order of summation (and
dropout, which every rank draws by itself; batch norms, which would see a rank's rows alone, are refused). All ranks
read `run_dir` and the first one writes it: all must see it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffpolicy.generative.shapes import Generators, NoiseSource


@final
@dataclass(frozen=True)
class Ranks:
    """This process among `world`, counted from 0. One process alone needs no process group."""

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoints, logs and the terminal."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """The rows of a batch of `total` that are this rank's.

        Raises:
            ValueError: `total` cannot be dealt out evenly.
        """
        if total % self.world:
            raise ValueError(
                f"a batch of {total} cannot be dealt out evenly to {self.world} processes; "
                f"choose a training.batch_size that {self.world} divides"
            )
        share = total // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def deal(self, items: Sequence[Any]) -> Sequence[Any]:
        """Every `world`-th item: this rank's, for work that `collect` puts together again."""
        return items[self.rank :: self.world]

    def collect(self, items: Sequence[Any]) -> list[Any]:
        """All ranks' items, on every rank, in the order in which `deal` dealt them out."""
        if self.world == 1:
            return list(items)
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, list(items))  # pickles of these processes' own
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def first(self, value: Any) -> Any:
        """What rank 0 has, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks, of a tensor of any device."""
        if self.world > 1:
            dist.all_reduce(value := value.detach().clone())
        return value / self.world

    def wait(self) -> None:
        """Until all ranks are here."""
        self.first(None)

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` with its gradients averaged over the ranks after every backward pass."""
        if self.world == 1:
            return module
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
            raise ValueError(
                "a batch norm of several processes would count each one's own rows: train this network with one, or "
                "take one with group norm"
            )
        # Static, since every step uses the same parameters: those it never uses need no search in each.
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, static_graph=True, gradient_as_bucket_view=True)


@final
@dataclass(frozen=True)
class BatchShard(NoiseSource):
    """The noise of one rank's samples in a batch: drawn for the whole batch, and cut.

    So ranks that share a batch draw, sample by sample, what one process draws for all of it.

    Args:
        generator: draws for the whole batch, in the same state on every rank.
        start: number of this rank's first sample in the batch.
        total: samples in the batch.
    """

    generator: torch.Generator
    start: int
    total: int

    def draw(self, function: Callable[[int, Generators], Tensor], samples: int) -> Tensor:
        """Return this rank's `samples` of what `function` draws for the batch.

        Raises:
            ValueError: they do not lie within the batch.
        """
        if not 0 <= self.start <= self.total - samples:
            raise ValueError(
                f"{samples} samples from number {self.start} on do not lie within a batch of {self.total}"
            )
        return function(self.total, self.generator)[self.start : self.start + samples]


def launched() -> bool:
    """Whether torchrun (or what sets the same environment) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun started, and this one's device; alone, one rank.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" …; with several ranks, "cuda" is each one's own.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not launched():
        yield Ranks(), torch.device(kind)
        return
    chosen = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" else kind)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # gloo on a processor; for GPUs beside it, since small agreements between ranks should not stop them.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), dist.get_world_size()), chosen
    # Only after a good end: where this rank alone has failed, the others wait in a collective, and taking the group
    # down would wait for them. torchrun ends them when this process ends.
    dist.destroy_process_group()
