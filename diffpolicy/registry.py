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
from collections.abc import Callable, Mapping
from typing import Any

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check, suggest

_OWN: dict[str, dict[str, str]] = {
    "net": {
        "unet1d": "diffpolicy.nets.unet1d_fast:FastUnet1D",
        "unet2d": "diffpolicy.nets.unet2d:ConditionalUnet2D",
        "autoencoder": "diffpolicy.nets.autoencoder:ImageAutoencoder",
        "dit2d": "diffpolicy.nets.dit2d:ConditionalDiT2D",
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
        "square_root": "diffpolicy.generative.paths:SquareRootPath",
        "ve": "diffpolicy.generative.paths:VarianceExplodingPath",
        "vp": "diffpolicy.generative.paths:VariancePreservingPath",
        "ddpm": "diffpolicy.generative.paths:DiscretePath",
    },
    "model": {
        "generative": "diffpolicy.policies.models.generative:GenerativeModel",
        "mean_flow": "diffpolicy.policies.models.mean_flow:MeanFlowModel",
        "tokens": "diffpolicy.policies.models.tokens:TokenModel",
        "refined": "diffpolicy.policies.models.refined:RefinedModel",
        "two_step": "diffpolicy.policies.models.two_step:TwoStepModel",
        "regression": "diffpolicy.policies.models.regression:RegressionModel",
        "lstm_gmm": "diffpolicy.policies.models.lstm_gmm:LSTMGMMModel",
        "nearest": "diffpolicy.policies.models.nearest:NearestModel",
        "best_of": "diffpolicy.policies.models.best_of:BestOfModel",
        "residual": "diffpolicy.policies.models.residual:ResidualModel",
        "corrected": "diffpolicy.policies.models.corrected:CorrectedModel",
        "chain": "diffpolicy.policies.models.chain:ChainModel",
    },
    "cost": {
        "keep_out": "diffpolicy.policies.costs:KeepOut",
        "box": "diffpolicy.policies.costs:Box",
        "speed": "diffpolicy.policies.costs:Speed",
        "smooth": "diffpolicy.policies.costs:Smooth",
        "reach": "diffpolicy.policies.costs:Reach",
    },
    "text": {
        "words": "diffpolicy.nets.text:WordsEncoder",
        "pretrained": "diffpolicy.policies.text_pretrained:PretrainedEncoder",
        "beside": "diffpolicy.policies.text_beside:SideBySide",
    },
    "importer": {
        "lerobot": "diffpolicy.datasets.importers.lerobot:LeRobotImporter",
        "robomimic": "diffpolicy.datasets.importers.robomimic:RobomimicImporter",
        "aloha": "diffpolicy.datasets.importers.aloha:AlohaImporter",
        "maniskill": "diffpolicy.datasets.importers.maniskill:ManiSkillImporter",
        "umi": "diffpolicy.datasets.importers.umi:UmiImporter",
        "minari": "diffpolicy.datasets.importers.minari:MinariImporter",
        "npz": "diffpolicy.datasets.importers.npz:NpzImporter",
        "zarr": "diffpolicy.datasets.importers.replay_buffer:ReplayBufferImporter",
        "unreadable": "diffpolicy.datasets.importers.unreadable:UnreadableImporter",
    },
    "improvement": {
        "filtered": "diffpolicy.improvement.filtered:Filtered",
        "corrections": "diffpolicy.improvement.corrections:Corrections",
        "best_of": "diffpolicy.improvement.best_of:BestOf",
        "residual": "diffpolicy.improvement.residual:Residual",
        "steering": "diffpolicy.improvement.residual:Steering",
        "corrector": "diffpolicy.improvement.corrector:Corrector",
        "policy_gradient": "diffpolicy.improvement.gradient:PolicyGradient",
    },
    "source": {},
    "transform": {},
    "env": {},
    "expert": {},
    "drawing": {},
}


def register(kind: str, name: str, target: str) -> None:
    """Make a name known in this process; the entry points of an installed package are known in every process.

    Args:
        kind: see `lookup`.
        name: by which it is found.
        target: "module:attribute", imported on first use.

    Raises:
        ValueError: an unknown kind, or a name that stands for something else.
    """
    check("kind of the registry", kind, _OWN)
    there = _OWN[kind].get(name, target)
    require(there == target, f"{kind} {name!r} is {there} already", cure="choose another name")
    _OWN[kind][name] = target
    known.cache_clear()


@functools.cache
def known(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Return where each name of a kind leads to, those of this project first; a package cannot replace these.

    Raises:
        ValueError: an unknown kind.
    """
    check("kind of the registry", kind, _OWN)
    group = f"diffpolicy.{kind}"
    own = {name: importlib.metadata.EntryPoint(name, value, group) for name, value in _OWN[kind].items()}
    others = {point.name: point for point in importlib.metadata.entry_points(group=group)}
    return own | {name: point for name, point in others.items() if name not in own}


def choices(group: str) -> list[str]:
    """Return the names that installed packages add to the choices of a config group, such as "net"."""
    kind = {"method": "model", "net": "net", "encoder": "encoder", "text": "text"}.get(group)
    return sorted(known(kind).keys() - _OWN[kind].keys()) if kind else []


def lookup(kind: str, name: str) -> Any:
    """Return what is called `name` among the things of a kind, usually a class.

    Args:
        kind: "net", "encoder", "text", "classifier", "path", "model", "importer", "improvement", "transform",
            "source", "env", "expert" or "drawing".
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


def build(kind: str, spec: Mapping[str, Any], /, **given: Any) -> Any:
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
    return make(f"{kind} {name!r}", lookup(kind, name), options, **given)


def make(what: str, constructor: Callable[..., Any], options: Mapping[str, Any], /, **given: Any) -> Any:
    """Return constructor(**options, **given), the options checked by name.

    Args:
        what: what the messages call it.
        constructor: a class or function; one with `**options` of its own checks these itself.
        options: from a config.
        given: further arguments, which no config can set.

    Raises:
        ValueError: as `build`.
    """
    parameters = inspect.signature(constructor).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        accepted = [parameter for parameter in parameters if parameter not in given]
        for key in options:
            has_no = f"{what} has no option {key!r}{suggest(key, accepted)}"
            require(key in accepted, has_no, f"one of {', '.join(accepted) or 'none'}")
        foreign = ", ".join(key for key in given if key not in parameters)
        require(not foreign, f"{what} does not take {foreign}", cure="choose another one, made for this")
    try:
        return constructor(**options, **given)
    except TypeError as error:  # a value of a type that the class cannot work with
        raise ValueError(explain(f"{what} cannot be made with {dict(options)}: {error}")) from error
