"""Several processes train as one: the same samples and weights, and a run that another number of them continues."""

import os
import signal
import socket
import time

import minimal
import pytest
import torch

from diffpolicy import checkpoint
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.training.distributed import BatchShard, Ranks, launched, process_group
from diffpolicy.training.log import read_metrics
from diffpolicy.util.condition import Condition


@pytest.mark.parametrize("times", ["uniform", "low_discrepancy"])
def test_shards_draw_what_the_whole_batch_draws(times):
    objective = DenoisingObjective(LinearPath(), "velocity", times, condition_dropout=0.5)
    data, cond = torch.randn(8, 4, 2), torch.randn(8, 3)

    class Net:
        @staticmethod
        def null(cond):
            return cond.map(torch.zeros_like)

        def __call__(self, x, t, cond):
            return x * t[:, None, None] + cond.vector.sum(1)[:, None, None]

    def loss(shard, generator):
        return objective(Net(), {"data": data[shard], "cond": Condition(cond[shard])}, generator)

    whole = loss(slice(None), torch.Generator().manual_seed(3))
    parts = []
    for rank in range(4):
        shard = Ranks(rank, 4).shard(8)
        parts.append(loss(shard, BatchShard(torch.Generator().manual_seed(3), shard.start, 8)))
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match="do not lie within a batch of 8"):
        loss(slice(None), BatchShard(torch.Generator(), 1, 8))


def test_shards_and_deals_cover_everything_once():
    shards = [list(range(12))[Ranks(rank, 3).shard(12)] for rank in range(3)]
    assert shards == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [Ranks(rank, 3).deal(range(5)) for rank in range(3)] == [range(0, 5, 3), range(1, 5, 3), range(2, 5, 3)]
    alone = Ranks()
    assert alone.collect(range(3)) == [0, 1, 2] and alone.first("a") == "a" and alone.largest(7) == 7
    with pytest.raises(
        ValueError, match=r"training\.batch_size=10 cannot be split evenly over 4 processes.*multiple of 4"
    ):
        Ranks(0, 4).shard(10)


def _start(processes, run_dir, world, **options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(world):
        options = {"batch_size": 8, **options}
        child = processes.Process(target=minimal.as_rank, args=(rank, world, port, run_dir), kwargs=options)
        child.start()
        started.append(child)
    return started


def _exit_codes(children):
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def _weights(run_dir):
    return torch.cat([weight.flatten() for weight in checkpoint.read(run_dir).tensors("model").values()])


@pytest.mark.parametrize("aware", [False, True], ids=["", "loss_aware"])
def test_two_processes_train_as_one_and_evaluate_together(tmp_path, processes, aware):
    for world in (1, 2):
        assert _exit_codes(_start(processes, tmp_path / f"{world}", world, aware=aware)) == [0] * world
    one, two = _weights(tmp_path / "1"), _weights(tmp_path / "2")
    assert (one - two).norm() < 1e-5 * one.norm()
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("1", "2")]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert len(losses[1]) == 12 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert all([row["evaluation/score"] for row in log if "evaluation/score" in row] == [10] * 3 for log in logs)


@pytest.mark.parametrize("signals", [(signal.SIGTERM, None), (None, signal.SIGINT), (signal.SIGINT, signal.SIGINT)])
def test_all_processes_stop_at_one_step_and_another_number_of_them_continues(tmp_path, processes, signals):
    options = {"steps": 100, "checkpoint_every": 0, "evaluate_every": 0}
    children = _start(processes, tmp_path, 2, **options, pause=0.01)
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 0):
        assert children[0].is_alive()
        time.sleep(0.01)
    for child, number in zip(children, signals, strict=True):
        for _ in range(2 if None not in signals else 1):  # Ctrl-C comes from the terminal and from torchrun
            if number:
                os.kill(child.pid, number)
    number = next(filter(None, signals))
    assert _exit_codes(children) == [128 + number] * 2
    assert 1 <= checkpoint.read(tmp_path).step < 100
    assert _exit_codes(_start(processes, tmp_path, 1, **options)) == [0]
    steps = [row["step"] for row in read_metrics(metrics) if "loss" in row]
    assert steps == list(range(1, 101))


def test_batch_norms_of_several_processes_are_refused():
    with pytest.raises(ValueError, match="group norm"):
        Ranks(0, 2).parallel(torch.nn.Sequential(torch.nn.BatchNorm1d(3)), torch.device("cpu"))


def test_the_environment_of_a_launcher_is_complete_or_ignored(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for stray in ("4", "", "many", "1"):
        monkeypatch.setenv("WORLD_SIZE", stray)
        assert not launched()
        with process_group("cpu") as (ranks, device):
            assert ranks == Ranks() and device == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        ValueError, match="WORLD_SIZE=4 and RANK, but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT.*torchrun"
    ):
        launched()
