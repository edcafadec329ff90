"""What a policy is told to do: texts and goals, their encoders, and guidance towards what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffpolicy.config import ExecutionConfig, RunConfig
from diffpolicy.datasets.spec import Observation, ObservationSpec
from diffpolicy.nets.goal import GoalEncoder
from diffpolicy.nets.text import TextEncoder
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.encoders import EncodedModel
from diffpolicy.policies.execution import is_number
from diffpolicy.policies.models.base import ChunkModel
from diffpolicy.policies.texts import build_text
from diffpolicy.util.errors import located, require
from diffpolicy.util.names import check

GOAL_FEATURES = 64
"""Numbers that a goal becomes for the network."""


def build_instructed(config: RunConfig, observation: ObservationSpec) -> dict[str, nn.Module]:
    """Return the encoders of the texts and goals that are observed, by key.

    Args:
        config: of a run: its section `text`, and the words of `found`.
        observation: what is observed.

    Raises:
        ValueError: unknown names or options, or shares of `policy.condition_dropout` that make no sense.
    """
    told = observation.told
    for key, share in config.policy.condition_dropout.items():
        given = f"policy.condition_dropout.{key}={share}"
        cure = "name it in observation.texts or observation.goals" if not told else None
        require(key in told, given, f"one of what the policy is told: {', '.join(told) or 'nothing'}", cure)
        require(0 <= share < 1, given, "a share of the windows in [0, 1)")
    encoders: dict[str, nn.Module] = {}
    for key, field in told.items():
        if field.kind == "goal":
            encoders[key] = GoalEncoder(field.size or 0, GOAL_FEATURES)
            continue
        with located(f"text {key!r}"):
            encoders[key] = build_text(config.text, config.found.words.get(key, ()), config.found.text)
    return encoders


def token_dim(config: RunConfig, instructed: Mapping[str, nn.Module]) -> int:
    """Return the numbers per token that the network attends to; 0 where it does not.

    Raises:
        ValueError: it is to attend to the words of no text.
    """
    widths = {encoder.width for encoder in instructed.values() if isinstance(encoder, TextEncoder)}
    if not config.text.get("attend"):
        return 0
    require(widths, "text.attend=true without a text", "observation.texts", "take text.attend=false")
    (width,) = widths
    return width


def told_by(
    observation: ObservationSpec, model: ChunkModel, obs: Observation, batch: int, steps: int
) -> dict[str, np.ndarray]:
    """Return what episodes are told, as `EncodedModel` reads it but for the normalization of goals.

    Args:
        observation: what is observed.
        model: of the policy.
        obs: of B episodes and T_o steps, of which the newest counts.
        batch: B.
        steps: T_o.

    Raises:
        ValueError: texts that the policy's encoder does not know, or what `EncodedModel.read` refuses.
    """
    if not observation.told:
        return {}
    assert isinstance(model, EncodedModel)
    told = observation.told_in(obs, batch, steps)
    return {key: model.read(key, values) for key, values in told.items()}


def reader(
    model: nn.Module, texts: Mapping[str, Sequence[str]], normalized: Callable[[Any], dict[str, Tensor]]
) -> Callable[[Any], dict[str, Tensor]]:
    """Return what `normalized` makes of a batch, with the ids of its texts in place of their numbers.

    Args:
        model: that is trained.
        texts: by key, see `Windows.texts`; a batch says which, as (B, 1) numbers; below 0 is none.
        normalized: from recorded batches.
    """
    if not texts or not isinstance(model, EncodedModel):
        return normalized
    tables: dict[str, Tensor] = {}
    for key, every in texts.items():
        known = [number for number, text in enumerate(every) if text]
        ids = torch.from_numpy(model.read(key, np.array([every[number] for number in known])))
        none = model.instructed[key].null(ids[:1])
        tables[key] = none.repeat(len(every) + 1, 1)  # the last one stands for none
        tables[key][known] = ids

    def batch(raw: Any) -> dict[str, Tensor]:
        made = normalized(raw)
        for key, table in tables.items():
            number = made[key][:, 0].long()
            made[key] = table.to(number.device)[torch.where(number < 0, len(table) - 1, number)]
        return made

    return batch


def check_guidance(execution: ExecutionConfig, model: ChunkModel) -> None:
    """Raise ValueError for scales of guidance that a model cannot follow."""
    told = model.dropout if isinstance(model, EncodedModel) else {}
    given = f"execution.guidance={execution.guidance!r}"
    require(
        isinstance(execution.guidance, Mapping), given, "a scale by text or goal, as in execution.guidance.task=3"
    )
    for key, scale in execution.guidance.items():
        require(told, f"execution.guidance={execution.guidance} of a policy that is told nothing", "no guidance")
        check("execution.guidance", key, told)
        given = f"execution.guidance.{key}={scale!r}"
        require(is_number(scale), given, "a finite scale, 1 for none")
        cure = f"train with policy.condition_dropout.{key}=0.1"
        untold = scale == 1 or told[key] > 0
        require(untold, f"{given} of a policy that never acted without {key!r}", "1, which is none", cure)


def guided(
    context: SamplingContext, model: ChunkModel, observed: Mapping[str, Tensor], scales: Mapping[str, float]
) -> SamplingContext:
    """Return a context in which what is told is followed by these scales, see `generative.guidance.Guided`.

    Args:
        context: of the chunks.
        model: that samples them.
        observed: normalized.
        scales: by text or goal; 1 changes nothing.
    """
    asked = {key: scale for key, scale in scales.items() if scale != 1}
    if not asked or not isinstance(model, EncodedModel):
        return context
    without = [(scale, model.condition(model.untold(observed, key))) for key, scale in asked.items()]
    return replace(context, without=without)
