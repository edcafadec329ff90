"""Train a policy from demonstrations, or a generator of images.

    diffpolicy train task=pusht_expert run_dir=runs/demo
    diffpolicy train task=own dataset.path=demos.zarr observation.vectors=[state] run_dir=runs/own
    diffpolicy train task=mnist run_dir=runs/digits

Several processes: torchrun --nproc-per-node 2 -m diffpolicy train …
"""

from __future__ import annotations

from diffpolicy.config import RunConfig

SCHEMA, GROUPS, POSITIONAL = RunConfig, ("task", "method", "net", "encoder", "text"), ()


def run(config: RunConfig) -> None:
    from diffpolicy.api import train_policy

    checkpoint = train_policy(config)
    if checkpoint is not None:
        print(f"trained: {checkpoint}")
