"""What a training changes, and one step of it: weights, their average, the optimizer, and the counter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.checkpoint import Checkpoint
from diffpolicy.config import TrainConfig
from diffpolicy.generative.shapes import Generators
from diffpolicy.nets.base import Model
from diffpolicy.training.average import Average
from diffpolicy.training.distributed import BatchShard, Ranks
from diffpolicy.training.optim import load_optimizer, make_optimizer, optimizer_tensors
from diffpolicy.training.precision import Speed, choose, untouched_buffers
from diffpolicy.util import seeds
from diffpolicy.util.condition import Condition

Batch = Mapping[str, Any]


class LossModel(Model):
    """A network with a loss that is given as a function. Its weights have the network's names.

    A loss that is a module has a state of its own: its names begin with "objective.", the network's with "net.".

    Args:
        net: the network.
        loss: (net, batch, generator) -> the loss of every sample, (B,).
    """

    def __init__(self, net: nn.Module, loss: Callable[[nn.Module, Batch, Generators], Tensor]) -> None:
        super().__init__()
        self.net, self.objective = net, loss
        self._plain = not isinstance(loss, nn.Module)

    def loss(self, batch: Batch, generator: Generators) -> Tensor:
        return self.objective(self.net, batch, generator)

    def networks(self) -> list[nn.Module]:
        return [self.net]

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        return (self.net if self._plain else super()).state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        return (self.net if self._plain else super()).load_state_dict(*args, **options)


class _Losses(nn.Module):
    """A model whose forward pass is the mean of its weighted losses, as DistributedDataParallel wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, generator: Generators) -> Tensor:
        losses = self.model.loss(batch, generator)
        return (losses * batch["weight"]).mean() if "weight" in batch else losses.mean()


class Learner:
    """A model in training. Step k depends on nothing but the state, the config, the seed and k.

    Args:
        model: what is trained, but for parameters that require no gradient; moved to `device`.
        batch_at: the batch of a step, counted from 0; of several ranks, this one's shard of it.
        config: settings of the optimizer and the average.
        seed: of the noise; step k draws from a generator keyed by (seed, k), on the device.
        device: where to train.
        ranks: processes that train together.
    """

    def __init__(
        self,
        model: Model,
        batch_at: Callable[[int], Batch],
        config: TrainConfig,
        seed: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model = model.to(device)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.trained, config)
        self.average = Average(model, config.ema_power, config.ema_max)
        self.step = 0
        self.device, self.ranks = device, ranks
        self._batch_at, self._config, self._seed = batch_at, config, seed
        self._losses: nn.Module = _Losses(model)
        self._autocast = Speed("float32", "").autocast(device)
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)

    def settle(self, asked: str, noted: Mapping[str, Any], steps: int, say: Callable[[str], None]) -> dict[str, str]:
        """Choose a speed, compile what it says, join the other ranks, and return what a checkpoint notes of it.

        Args:
            asked: the speed, or "auto".
            noted: what the checkpoint has noted from which the run continues, if there is one.
            steps: steps of the run.
            say: prints a line.
        """
        same_device = noted.get("device", self.device.type) == self.device.type
        if not same_device:
            say(f"started on {noted['device']}, continues on {self.device.type}: the last bits will differ")
        if asked == "auto" and "speed" in noted and same_device:
            speed = Speed.parse(noted["speed"])
            say(f"speed: {speed}, as before")
        elif asked == "auto" and self.step < steps:
            measured = choose(self.model.train(), self.forward_backward, self.device, steps - self.step)
            speed, why = self.ranks.first(measured)
            say(why)
        else:
            speed = Speed("float32", "") if asked == "auto" else Speed.parse(asked)
        speed.prepare(self.model, self.device)
        self._autocast = speed.autocast(self.device)
        if self.trained:
            self._losses = self.ranks.parallel(self._losses, self.device)
        if speed.compiled and self.step < steps:
            say("compiling: seconds for blocks, a minute or more for a network")
            with untouched_buffers(self.model):
                self.model.train()
                self.forward_backward(self._autocast)
        return {"speed": str(speed), "device": self.device.type}

    def forward_backward(self, autocast: torch.autocast) -> Tensor:
        """Compute the gradients of the next step and return its loss, a tensor on the device."""
        batch, generator = _to(self._batch_at(self.step), self.device), self._noise()
        with autocast:
            value = self._losses(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        return value

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Compute the clipped gradients of the next step; return its loss and the norm before clipping."""
        self.model.train()
        value = self.forward_backward(self._autocast)
        norm = nn.utils.clip_grad_norm_(self.trained, self._config.grad_clip)
        # Noted on the device and read now and then: reading a GPU's numbers in every step would stop it. The
        # gradient is the same on all ranks, so they stop together.
        bad = (self._first_bad == 0) & ~norm.isfinite()
        self._first_bad = torch.where(bad, self.step + 1, self._first_bad)
        return value, norm

    def apply(self, rate: float) -> None:
        """Take the step with the gradients that have been computed, at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.average.update(self.step)

    def bad_step(self) -> int:
        """Return the first step whose gradient was NaN or infinite, counted from 1; 0 if there was none."""
        return int(self._first_bad)

    @torch.no_grad()
    def validation_loss(self, batch: Batch) -> float:
        """Return the averaged model's loss on a batch, always with the same noise."""
        noise = seeds.generator(self._seed, "validation noise", device=self.device)
        return float(self.averaged().loss(_to(batch, self.device), noise).mean())

    def averaged(self) -> Model:
        """Return the averaged model, in evaluation mode."""
        return self.average.module.eval()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return everything that a checkpoint has to hold, by group and name."""
        return {
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict(),
            "training": optimizer_tensors(self.optimizer),
        }

    def bytes(self) -> int:
        """Return the size of `tensors`, with the moments that the first step of the optimizer will add."""
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        return 2 * weights + sum(2 * parameter.nbytes + 4 for parameter in self.trained)

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it is of another model.
        """
        checkpoint.load_weights(self.model, saved.tensors("model"), saved.path)
        checkpoint.load_weights(self.average.module, saved.tensors("ema"), saved.path)
        load_optimizer(self.optimizer, saved.tensors("training"))
        self.step = saved.step

    def start_from(self, saved: Checkpoint) -> None:
        """Begin with the averaged weights of a checkpoint.

        Raises:
            CheckpointError: it is of another model.
        """
        for module in (self.model, self.average.module):
            checkpoint.load_weights(module, saved.tensors("ema"), saved.path)

    def _noise(self) -> Generators:
        generator = seeds.generator(self._seed, "training noise", self.step, device=self.device)
        # For what draws from torch's own generator: dropout, on every rank another.
        torch.manual_seed((generator.initial_seed() + self.ranks.rank) % 2**63)
        if self.ranks.world == 1:
            return generator
        total = self._config.batch_size
        return BatchShard(generator, self.ranks.shard(total).start, total)


def _to(batch: Batch, device: torch.device) -> Batch:
    def move(part: Tensor) -> Tensor:
        return part.to(device, non_blocking=True)

    return {name: part.map(move) if isinstance(part, Condition) else move(part) for name, part in batch.items()}
