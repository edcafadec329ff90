"""Names in configs and checkpoints -> classes of this project and of installed packages.

A config or a checkpoint says `{"name": "unet1d", "widths": [64, 128, 256]}`; `build("net", spec, dim=2)` makes the
object. A name stands in the table below or is an entry point `diffpolicy.KIND` of an installed package. It is never
an import path in the file that is read: loading a stranger's checkpoint runs nothing but what was installed here.

    [project.entry-points."diffpolicy.net"]
    my_net = "my_package.nets:MyNet"
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check, suggest

_OWN: dict[str, dict[str, str]] = {
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
    "model": {
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
    "source": {},
    "transform": {},
    "env": {},
    "expert": {},
}


@functools.cache
def known(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Return where each name of a kind leads to, those of this project first; a package cannot replace these.

    Raises:
        ValueError: an unknown kind.
    """
    check("kind of the registry", kind, _OWN)
    group = f"diffpolicy.{kind}"
    own = {name: importlib.metadata.EntryPoint(name, value, group) for name, value in _OWN[kind].items()}
    return {point.name: point for point in importlib.metadata.entry_points(group=group)} | own


def lookup(kind: str, name: str) -> Any:
    """Return what is called `name` among the things of a kind, usually a class.

    Args:
        kind: "net", "encoder", "classifier", "path", "model", "transform", "source", "env" or "expert".
        name: see `known`.

    Raises:
        ValueError: an unknown name, with the close ones, or a package that cannot be imported.
    """
    check(kind, name, known(kind))
    point = known(kind)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(explain(f"{kind} {name!r} ({point.value}) cannot be imported: {error}")) from error


def build(kind: str, spec: Mapping[str, Any], offered: Mapping[str, Any] | None = None, /, **given: Any) -> Any:
    """Return the object that `spec` describes.

    Args:
        kind: as of `lookup`.
        spec: its `name` and, by name, options of its constructor.
        given: further arguments of the constructor, which no spec can set.

    Raises:
        ValueError: no name or an unknown one; an option that the constructor does not have, with the close ones; or
            values that it cannot work with.
    """
    require("name" in spec, f"a {kind} without a name: {dict(spec)}", f"one of {', '.join(known(kind))}")
    options = {str(key): value for key, value in spec.items()}
    name = options.pop("name")
    make = lookup(kind, name)
    parameters = inspect.signature(make).parameters
    given |= {key: value for key, value in (offered or {}).items() if key in parameters}
    accepted = [parameter for parameter in parameters if parameter not in given]
    for key in options:
        has_no = f"{kind} {name!r} has no option {key!r}{suggest(key, accepted)}"
        require(key in accepted, has_no, f"one of {', '.join(accepted) or 'none'}")
    foreign = ", ".join(key for key in given if key not in parameters)
    require(not foreign, f"{kind} {name!r} does not take {foreign}", cure=f"choose another {kind}, made for this")
    try:
        return make(**options, **given)
    except TypeError as error:  # a value of a type that the class cannot work with
        raise ValueError(explain(f"{kind} {name!r} cannot be made with {options}: {error}")) from error


def takes(kind: str, spec: Mapping[str, Any], argument: str) -> bool:
    """Return whether what `spec` describes is made with an argument of that name."""
    require("name" in spec, f"a {kind} without a name: {dict(spec)}", f"one of {', '.join(known(kind))}")
    return argument in inspect.signature(lookup(kind, spec["name"])).parameters
