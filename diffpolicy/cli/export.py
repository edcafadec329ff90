"""Write a trained policy as an ONNX file, checked against torch.

diffpolicy export checkpoint=RUN/checkpoints/best out=policy.onnx
"""

from __future__ import annotations

from diffpolicy.config import SamplerConfig
from diffpolicy.config.commands import ExportConfig

SCHEMA, GROUPS, POSITIONAL = ExportConfig, (), ()


def run(config: ExportConfig) -> None:
    from diffpolicy.policies.export_onnx import export_onnx

    difference = export_onnx(
        config.checkpoint,
        config.out,
        config.what,
        SamplerConfig(config.solver, config.steps, config.grid, config.solver_options or None),
        action_horizon=config.action_horizon,
        weights=config.weights,
        tolerance=config.tolerance,
        overwrite=config.overwrite,
    )
    print(f"largest difference between onnxruntime and torch: {difference:.2g} (normalized units)")
    print(f"exported: {config.out}")
