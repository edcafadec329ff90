"""Write a trained policy as an ONNX file, checked against torch.

diffpolicy export checkpoint=RUN/checkpoints/best out=policy.onnx
"""

from __future__ import annotations

from diffpolicy.config.commands import ExportConfig

SCHEMA, GROUPS, POSITIONAL = ExportConfig, (), ()


def run(config: ExportConfig) -> None:
    from diffpolicy.policies.export_onnx import export_onnx

    settings = dict(vars(config))
    difference = export_onnx(settings.pop("checkpoint"), **settings)
    print(f"largest difference between onnxruntime and torch: {difference:.2g} (normalized units)")
    print(f"exported: {config.out}")
