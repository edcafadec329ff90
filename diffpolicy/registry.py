"""Names in configs and checkpoints -> classes of this project, and nothing else.

A config or a checkpoint says `{"name": "unet1d", "widths": [64, 128, 256]}`; `build("net", spec, dim=2)` makes
the object. Names stand in the table below, never as import paths in the file that is read, so that loading
someone else's checkpoint cannot run anything but this project's own constructors.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

REGISTRY: dict[str, dict[str, str]] = {
    "net": {
        "unet1d": "diffpolicy.nets.unet1d:ConditionalUnet1D",
        "unet2d": "diffpolicy.nets.unet2d:ConditionalUnet2D",
        "transformer": "diffpolicy.nets.transformer:ConditionalTransformer",
    },
    "encoder": {
        "image": "diffpolicy.nets.vision:ImageEncoder",
        "resnet18": "diffpolicy.nets.resnet:ResNetEncoder",
    },
    "classifier": {
        "image_classifier": "diffpolicy.nets.classifier:ImageClassifier",
    },
    "path": {
        "linear": "diffpolicy.generative.paths:LinearPath",
        "cosine": "diffpolicy.generative.paths:CosinePath",
        "vp": "diffpolicy.generative.paths:VariancePreservingPath",
        "ddpm": "diffpolicy.generative.paths:DiscretePath",
    },
    "actor": {
        "generative": "diffpolicy.policies.actors:GenerativeActor",
        "regression": "diffpolicy.policies.actors:RegressionActor",
        "flow_map": "diffpolicy.policies.few_step:FlowMapActor",
        "two_step": "diffpolicy.policies.few_step:TwoStepActor",
        "lstm_gmm": "diffpolicy.policies.baselines:LSTMGMMActor",
        "nearest": "diffpolicy.policies.baselines:NearestActor",
    },
    "flow_map_objective": {
        "mean_flow": "diffpolicy.generative.flow_maps:MeanFlowObjective",
    },
}


def near(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known names close to `name`, else ""."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def lookup(kind: str, name: str) -> type:
    """The class called `name` among the `kind`s.

    Raises:
        ValueError: an unknown name, with the near ones.
    """
    known = REGISTRY[kind]
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}{near(str(name), known)}; choose one of {sorted(known)}")
    module, attribute = known[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def takes(kind: str, spec: Mapping[str, Any], argument: str) -> bool:
    """Whether what `spec` describes is made with an argument of that name.

    Raises:
        ValueError: no name, or an unknown one.
    """
    return argument in inspect.signature(_named(kind, spec)).parameters


def build(kind: str, spec: Mapping[str, Any], offered: Mapping[str, Any] | None = None, /, **given: Any) -> Any:
    """The object that `spec` describes: its `name` and constructor arguments, with `given` added.

    What is `offered` goes only to a class whose constructor has such an argument, and is not left to the spec.

    Raises:
        ValueError: no name, an unknown name or an argument the constructor does not take, with the near ones.
    """
    cls = _named(kind, spec)
    options = {str(key): value for key, value in spec.items()}
    name = options.pop("name")
    parameters = inspect.signature(cls).parameters
    given |= {key: value for key, value in (offered or {}).items() if key in parameters}
    accepted = [parameter for parameter in parameters if parameter not in given]
    for key in options:
        if key not in accepted:
            raise ValueError(
                f"{kind} {name!r} has no option {key!r}{near(key, accepted)}; it takes {sorted(accepted)}"
            )
    if foreign := [key for key in given if key not in parameters]:
        raise ValueError(f"{kind} {name!r} does not take {', '.join(foreign)}: it is for something else; see --help")
    try:
        return cls(**options, **given)
    except TypeError as error:  # a value of a type that the class cannot work with
        raise ValueError(f"{kind} {name!r} cannot be made with {options}: {error}") from error


def _named(kind: str, spec: Mapping[str, Any]) -> type:
    if "name" not in spec:
        raise ValueError(f"a {kind} needs a 'name', one of {sorted(REGISTRY[kind])}; given {dict(spec)}")
    return lookup(kind, spec["name"])
