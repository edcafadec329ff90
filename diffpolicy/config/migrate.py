"""Configs of earlier releases, brought to the present schema one version at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from diffpolicy.config.run import RunConfig
from diffpolicy.config.schema import typed
from diffpolicy.config.sections import LAST
from diffpolicy.util.errors import require

VERSION = 4

_MODES = {"pusht", "expert_pusht"}  # sources of version 1 whose observation was named by `dataset.obs`


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config, as plain data of any earlier version, as plain data of the present one.

    Raises:
        ValueError: a version that this release does not know.
    """
    version = config.get("version", 1)
    require(version in {*_STEPS, VERSION}, f"config version {version}", f"at most {VERSION}", "use a newer release")
    config = copy.deepcopy(dict(config))
    while version < VERSION:
        config = _STEPS[version](config)
        version += 1
    return config


def load_config(config: Mapping[str, Any]) -> RunConfig:
    """Return plain data of any version as a `RunConfig`.

    Raises:
        ValueError: an unknown version or setting.
    """
    return typed(RunConfig, migrate(config))


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    """Observations named twice (`dataset.obs` and `env.options.obs_mode`), switches `mirror` and `align`, `pace`."""
    is_policy = "policy" in config
    data = config.get("dataset", {})
    name, mode = data.get("name", "pusht"), data.pop("obs", None)
    vectors, images = data.pop("obs_keys", ["obs"]), data.pop("image_keys", [])
    if name == "pusht" and mode == "pixels":
        images = ["image"]
    if is_policy:
        mode = mode if name in _MODES else None
        config["observation"] = {"mode": mode, "vectors": vectors, "images": images}
    data["transforms"] = [switch for switch in ("align", "mirror") if data.pop(switch, False)]
    data["time_to_success"] = data.pop("pace", None)
    config["dataset"] = data
    cameras = config.pop("cameras", None) or {}
    found: dict[str, Any] = {"kind": "policy" if is_policy else "images", "windows": config.pop("windows", None)}
    if not is_policy:  # version 1 knew one data set of images
        found |= {"image_shape": [1, 32, 32], "labels": 10}
    if cameras:
        found["observation"] = {key: {"kind": "image", "shape": list(shape)} for key, shape in cameras.items()}
    config["found"] = found
    if config.get("method", {}).get("name") == "flow_map":
        config["method"] = _mean_flow(config["method"])
    config["version"] = 2
    return config


def _mean_flow(method: dict[str, Any]) -> dict[str, Any]:
    """The method "flow_map" with a nested objective, of which there is one, as "mean_flow" with plain options."""
    objective = dict(method.pop("objective", {}))
    name = objective.pop("name", "mean_flow")
    require(name == "mean_flow", f"flow_map objective {name!r}", "mean_flow", "use the release that trained it")
    if "share" in objective:
        objective["span_fraction"] = objective.pop("share")
    return {**method, "name": "mean_flow", **objective}


def _from_2(config: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the environment under the name `env.options`."""
    env = dict(config.get("env") or {})
    if "options" in env:
        env["kwargs"] = env.pop("options")
        config["env"] = env
    config["version"] = 3
    return config


def _from_3(config: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints chosen by the main metric, "score" in logs; no grid named, and no features."""
    training, method, env = (dict(config.get(section) or {}) for section in ("training", "method", "env"))
    rolled_out = env.get("id") or env.get("factory")
    chosen = rolled_out and config.get("found", {}).get("kind") != "images" and training.get("evaluate_every", 1)
    config["training"] = {"choose": "score" if chosen else LAST, **training}
    if method.get("grid") == "uniform" and method.get("solver") not in ("heun", "rk4"):
        config["method"] = {**method, "grid": None}
    if "policy" in config:
        config["policy"] = {"features": 0, **config["policy"]}
    config["version"] = 4
    return config


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3}
