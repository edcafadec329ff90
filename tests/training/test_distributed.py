"""Several processes train as one: the same samples, the same weights, and a run that goes on with another number."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.training.distributed import BatchShard, Ranks
from diffpolicy.training.logging import read_metrics

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


@pytest.mark.parametrize("times", ["uniform", "low_discrepancy"])
def test_shares_draw_what_the_whole_batch_draws(times):
    objective = DenoisingObjective(LinearPath(), "velocity", times, condition_dropout=0.5)
    data, cond = torch.randn(8, 4, 2), torch.randn(8, 3)

    class Net:
        null = staticmethod(torch.zeros_like)

        def __call__(self, x, t, cond):
            return x * t[:, None, None] + cond.sum(1)[:, None, None]

    def loss(rows, generator):
        return objective(Net(), {"data": data[rows], "cond": cond[rows]}, generator)

    whole = loss(slice(None), torch.Generator().manual_seed(3))
    parts = []
    for rank in range(4):
        rows = Ranks(rank, 4).rows(8)
        parts.append(loss(rows, BatchShard(torch.Generator().manual_seed(3), rows.start, 8)))
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match="do not lie within a batch of 8"):
        loss(slice(None), BatchShard(torch.Generator(), 1, 8))


def test_rows_and_deals_cover_everything_once():
    assert [list(range(12))[Ranks(rank, 3).rows(12)] for rank in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert [Ranks(rank, 3).deal(range(5)) for rank in range(3)] == [range(0, 5, 3), range(1, 5, 3), range(2, 5, 3)]
    assert Ranks().collect(range(3)) == [0, 1, 2] and Ranks().first("a") == "a"
    with pytest.raises(ValueError, match=r"batch of 10 .* 4 processes.*training\.batch_size"):
        Ranks(0, 4).rows(10)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "demos.zarr"
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.random((40, 20)), "action": rng.random((40, 2))} for _ in range(4)]
    ReplayBuffer.from_episodes(episodes).save(path)
    return path


def _start(demonstrations, run_dir, processes, *settings):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [
        sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), "task=own", f"run_dir={run_dir}",
        f"dataset.path={demonstrations}", "net.widths=[8,16]", "net.groups=2", "net.time_features=8",
        "training.batch_size=16", "training.log_every=1", "speed=float32", "device=cpu", *settings,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def _weights(run_dir):
    return torch.cat(
        [w.flatten() for w in checkpoint.read(run_dir / "checkpoints" / "last").tensors("model").values()]
    )


def test_two_processes_train_as_one_and_evaluate_together(tmp_path, demonstrations):
    env = ("env.id=diffpolicy/PushT-v0", "env.options.obs_mode=keypoints", "evaluation_episodes=3")
    runs = [_start(demonstrations, tmp_path / str(n), n, "training.steps=20", *env) for n in (1, 2)]
    for run in runs:
        assert run.wait() == 0, run.stdout.read()
    # (With one channel a group, a convolution's bias has no gradient but rounding, which Adam would blow up.)
    one, two = _weights(tmp_path / "1"), _weights(tmp_path / "2")
    assert (one - two).norm() < 1e-5 * one.norm()
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("1", "2")]
    losses = [[row["loss"] for row in run if "loss" in row] for run in rows]
    assert len(losses[1]) == 20 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert all(any("evaluation/score" in row for row in run) for run in rows)


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path, demonstrations):
    settings = ("training.steps=400", "training.checkpoint_every=10")
    run = _start(demonstrations, tmp_path / "run", 2, *settings)
    last = tmp_path / "run" / "checkpoints" / "last"
    while run.poll() is None and not last.exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)  # torchrun passes it on, and then kills
    run.wait()
    step = checkpoint.read(last).step
    assert 10 <= step < 400, run.stdout.read()
    resumed = _start(demonstrations, tmp_path / "run", 1, *settings, "resume=true")
    assert resumed.wait() == 0, resumed.stdout.read()
    assert checkpoint.read(last).step == 400
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, 401))


def test_a_batch_that_cannot_be_dealt_out_is_refused(tmp_path, demonstrations):
    run = _start(demonstrations, tmp_path / "run", 2, "training.batch_size=15", "training.steps=2")
    assert run.wait() != 0 and "15 cannot be dealt out evenly to 2" in run.stdout.read()
    assert not (tmp_path / "run").exists()


def test_batch_norms_of_several_processes_are_refused():
    with pytest.raises(ValueError, match="group norm"):
        Ranks(0, 2).parallel(torch.nn.Sequential(torch.nn.BatchNorm1d(3)), torch.device("cpu"))
