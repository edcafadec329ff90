"""Write a trained policy as an ONNX file, checked against torch:

diffpolicy-export-onnx checkpoint=RUN/checkpoints/best out=policy.onnx
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffpolicy.policies.onnx import export_onnx
from diffpolicy.scripts._hydra import command


@dataclass
class Config:
    """Settings of an export.

    checkpoint, out: a checkpoint's folder, and the file to write.
    what: "chunk", from noise and observations to actions, or "network" alone; see `diffpolicy.policies.onnx`.
    solver, steps, grid, solver_options, action_horizon: of the policy; null keeps the training's.
    tolerance: largest difference between onnxruntime and torch; null takes that of `diffpolicy.policies.onnx`.
    """

    checkpoint: str = MISSING
    out: str = MISSING
    what: str = "chunk"
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = field(default_factory=dict)
    action_horizon: int | None = None
    weights: str = "ema"
    tolerance: float | None = None
    overwrite: bool = False


def run(config: Config) -> None:
    difference = export_onnx(
        config.checkpoint,
        config.out,
        config.what,
        config.solver,
        config.steps,
        config.grid,
        config.solver_options or None,
        config.action_horizon,
        config.weights,
        config.tolerance,
        config.overwrite,
    )
    print(f"largest difference between onnxruntime and torch: {difference:.2g} (normalised units)")
    print(f"exported: {config.out}")


main = command("export_onnx", Config, run)

if __name__ == "__main__":
    main()
