"""Several processes as one training run: torchrun's environment, batch shards, and agreement between ranks.

    torchrun --nproc-per-node 4 -m diffpolicy train …
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m diffpolicy train …

Every rank draws the same global batch and computes on its own shard of it; DistributedDataParallel averages the
gradients. So a run is the same function of its config and seed for any number of ranks, up to the order of summation
(and dropout, which differs on every rank; batch norms, which would see one shard only, are refused). All ranks read
`run_dir` and the first one writes it: it must be visible to all.
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
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require

LAUNCHED_BY = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for every process it starts."""


@final
@dataclass(frozen=True)
class Ranks:
    """This process among `world`. One process alone needs no process group.

    Args:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoints, logs and the terminal."""
        return self.rank == 0

    def shard(self, total: int) -> slice:
        """Return which samples of a batch of `total` are this rank's.

        Raises:
            ValueError: the batch cannot be split evenly.
        """
        require(
            total % self.world == 0,
            f"training.batch_size={total} cannot be split evenly over {self.world} processes",
            f"a multiple of {self.world}",
        )
        size = total // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def deal(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return every `world`-th item, this rank's part of some work; `collect` puts the results together."""
        return items[self.rank :: self.world]

    def collect(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of all ranks, on every rank, in the order in which `deal` dealt them out."""
        if self.world == 1:
            return list(items)
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, list(items))  # pickles of these processes' own
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def first(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def largest(self, value: int) -> int:
        """Return the largest of all ranks' integers on every rank."""
        if self.world == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, on its device."""
        if self.world > 1:
            dist.all_reduce(value := value.detach().clone())
        return value / self.world

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.largest(0)

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Return `module` with its gradients averaged over the ranks in every backward pass.

        Raises:
            ValueError: it has batch norms, which would count one shard only.
        """
        if self.world == 1:
            return module
        require(
            not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()),
            f"batch norm over {self.world} processes would see one shard only",
            cure="take group norm, or train in one process",
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
        says = f"{samples} samples from number {self.start} on do not lie within a batch of {self.total}"
        require(0 <= self.start <= self.total - samples, says)
        return function(self.total, self.generator)[self.start : self.start + samples]

    def gather(self, values: Tensor) -> Tensor:
        """Return the values (B, ...) of all ranks' samples, on every rank; all ranks must ask."""
        parts = [torch.empty_like(values) for _ in range(self.total // len(values))]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)


def launched() -> bool:
    """Return whether torchrun, or another launcher with its environment, started this process as one of several.

    A WORLD_SIZE without a RANK belongs to something else, and is ignored.

    Raises:
        ValueError: the environment says so in part only.
    """
    world = os.environ.get("WORLD_SIZE", "")
    if not world.isdigit() or int(world) < 2 or "RANK" not in os.environ:
        return False
    missing = [name for name in LAUNCHED_BY if name not in os.environ]
    require(
        not missing,
        f"the environment has WORLD_SIZE={world} and RANK, but not {', '.join(missing)}",
        cure="start with torchrun, or unset WORLD_SIZE to train in one process",
    )
    return True


@contextmanager
def process_group(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Yield the ranks that torchrun started and this one's device; alone, one rank.

    Args:
        device: "auto" (a GPU if there is one, else the CPU), "cpu", "cuda", …; with several ranks "cuda" stands for
            each one's own GPU.

    Raises:
        ValueError: this machine has no such device, or the environment is that of a launcher in part only.
    """
    if not launched():
        yield Ranks(), pick_device(device)
        return
    name = pick_device(device).type if device == "auto" else device
    chosen = pick_device(f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # gloo on a processor; for GPUs beside it, since small agreements between ranks should not stop them.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), dist.get_world_size()), chosen
    # Only after a good end: where this rank alone has failed, the others wait in a collective, and taking the group
    # down would wait for them. torchrun ends them when this process ends.
    dist.destroy_process_group()
