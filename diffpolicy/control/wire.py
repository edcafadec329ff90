"""Messages between a robot and a server: msgpack, with arrays as data type, shape and bytes. Nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgpack
import numpy as np

from .planning import Ask, Metadata, Plan

VERSION = 1
"""Of the messages; both sides say theirs."""

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64")
"""Data types that an array may have."""

_ARRAY = "__array__"
_AXES = 8
_TEXT = 1_000
"""Letters of a text, at most."""
_OTHER = 65_536  # bytes of a message beside its arrays, at most


class WireError(ValueError):
    """Bytes that are no message, or a message that is not the expected one."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Return a message as bytes; what it holds are numbers, text, lists, mappings and arrays.

    Raises:
        WireError: an array of another data type than `DTYPES`.
    """
    return msgpack.packb(message, default=_plain)


def unpack(data: bytes) -> dict[str, Any]:
    """Return the message in these bytes.

    Raises:
        WireError: they are none.
    """
    if not isinstance(data, bytes):
        raise WireError("text came; expected a message in binary")
    limit = len(data)
    how = {f"max_{kind}_len": limit for kind in ("str", "bin", "array", "map", "ext")}
    try:
        message = msgpack.unpackb(data, raw=False, object_hook=_array, **how)
    except WireError:
        raise
    except Exception as error:  # msgpack raises whatever it meets
        raise WireError(f"{limit} bytes came that are no message ({type(error).__name__}: {error})") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError(f"{limit} bytes came that are no message: a mapping with a type was expected")
    return message


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "U" and value.ndim == 0:
            return str(value)
        if value.dtype.name not in DTYPES:
            raise WireError(f"an array of {value.dtype}; expected one of {', '.join(DTYPES)}")
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        return {_ARRAY: [value.dtype.name, list(value.shape), little.tobytes()]}
    raise WireError(f"a {type(value).__name__}; expected numbers, text, lists, mappings and arrays")


def _array(found: dict[Any, Any]) -> Any:
    if _ARRAY not in found:
        return found
    parts = found[_ARRAY]
    if len(found) != 1 or not isinstance(parts, list) or len(parts) != 3:
        raise WireError("an array without data type, shape and bytes")
    dtype, shape, data = parts
    sizes = isinstance(shape, list) and len(shape) <= _AXES and all(type(n) is int and n >= 0 for n in shape)
    if dtype not in DTYPES or not sizes or not isinstance(data, bytes):
        raise WireError(f"an array of {str(dtype)[:20]!r} with shape {str(shape)[:60]}; expected one of {DTYPES}")
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed != len(data):
        raise WireError(f"an array of shape {shape} with {len(data)} bytes; expected {needed}")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def hello(metadata: Metadata) -> dict[str, Any]:
    """Return the first message of a server."""
    return {"type": "hello", "version": VERSION, "policy": vars(metadata)}


def metadata_of(message: Mapping[str, Any]) -> Metadata:
    """Return what a server's first message says.

    Raises:
        WireError: another version, or no such message.
    """
    if message.get("type") != "hello" or not isinstance(message.get("policy"), dict):
        raise WireError(f"a message of type {message.get('type')!r}; expected a server's hello")
    if message.get("version") != VERSION:
        raise WireError(f"the server speaks version {message.get('version')}; this is {VERSION}: install the same")
    known = {one.name for one in fields(Metadata)}
    return Metadata(**{name: value for name, value in message["policy"].items() if name in known})


def asking(ask: Ask, number: int) -> dict[str, Any]:
    """Return a request as a message."""
    return {"type": "plan", "id": number, **vars(ask)}


def asked(message: Mapping[str, Any], metadata: Metadata) -> Ask:
    """Return the request in a message, checked.

    Raises:
        WireError: it is not what the policy takes.
    """
    if message["type"] != "plan":
        raise WireError(f"a message of type {message['type']!r}; expected plan")
    obs, key, last, age = (message.get(name) for name in ("obs", "key", "last", "age"))
    if not isinstance(obs, list) or len(obs) != metadata.obs_horizon:
        given = f"{len(obs)} observations" if isinstance(obs, list) else "no list of observations"
        raise WireError(f"{given}; expected the last {metadata.obs_horizon}")
    obs = [check_observation(one, metadata) for one in obs]
    if not isinstance(key, (list, tuple)) or len(key) != 2 or not all(type(n) is int and 0 <= n < 2**63 for n in key):
        raise WireError(f"key={str(key)[:60]}; expected the episode's seed and the chunk's number")
    if type(age) is not int or age < 0:
        raise WireError(f"age={str(age)[:60]}; expected control steps >= 0")
    rows = metadata.obs_horizon - 1, metadata.horizon - metadata.obs_horizon + 1
    executed, pending = (_actions(message, *one, metadata) for one in zip(("executed", "pending"), rows, strict=True))
    if last is not None:
        last = _actions(message, "last", metadata.horizon, metadata, exactly=True)
    return Ask(obs, (key[0], key[1]), executed, pending, last, age)


def _actions(message: Mapping[str, Any], name: str, most: int, of: Metadata, exactly: bool = False) -> np.ndarray:
    array = message.get(name)
    shape = array.shape if isinstance(array, np.ndarray) else None
    fits = shape is not None and len(shape) == 2 and shape[1] == of.action_dim and shape[0] <= most
    with np.errstate(over="ignore"):
        array = array.astype(np.float32) if fits else array
    if not fits or (exactly and shape[0] != most) or not np.isfinite(array).all():
        wanted = f"{'' if exactly else 'at most '}({most}, {of.action_dim}) finite numbers"
        raise WireError(f"{name} of shape {shape}; expected {wanted}")
    return array


def check_observation(obs: Any, metadata: Metadata) -> Any:
    """Return what the policy takes of an observation: a mapping, or numbers where it observes one vector alone.

    Raises:
        WireError: something is missing, of another shape, or no number.
    """
    wanted = metadata.fields
    given = obs if isinstance(obs, Mapping) else {next(iter(wanted)): obs} if len(wanted) == 1 else {}
    for key, one in wanted.items():
        if key not in given:
            there = ", ".join(map(str, given)) or "nothing by key"
            raise WireError(f"an observation of {there}; the policy observes {key!r}")
        if one["kind"] == "text":
            given = {**given, key: _text(key, given[key])}
            continue
        array, image = given[key], one["kind"] == "image"
        shape = tuple(array.shape) if isinstance(array, np.ndarray) else None
        if shape != tuple(one["shape"]) or (image and array.dtype != np.uint8):
            what = f"{tuple(one['shape'])}{' uint8' if image else ''}"
            raise WireError(f"{key!r} of shape {shape}; the policy observes {what}")
        if not image and not np.isfinite(array).all():
            raise WireError(f"{key!r} holds NaN or infinity")
    found = {key: given[key] for key in wanted}
    alone = len(found) == 1 and next(iter(wanted.values()))["kind"] == "vector"
    return next(iter(found.values())) if alone else found


def _text(key: str, value: Any) -> np.ndarray:
    text = str(value) if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.ndim == 0 else value
    if not isinstance(text, str) or not 0 < len(text) <= _TEXT:
        raise WireError(f"{key!r} is a {type(value).__name__}; the policy is told by a text of up to {_TEXT} letters")
    return np.array(text)


def answer(plan: Plan, number: Any) -> dict[str, Any]:
    """Return a chunk as a message."""
    trajectory = np.asarray(plan.trajectory, np.float32)
    return {"type": "chunk", "id": number, "trajectory": trajectory, "calls": int(plan.calls)}


def answered(message: Mapping[str, Any], number: int, metadata: Metadata) -> Plan:
    """Return the chunk in a message.

    Raises:
        WireError: it is another message, or says what was wrong with the request.
    """
    if message["type"] == "error":
        raise WireError(f"the server says: {message.get('says')}")
    if message["type"] != "chunk" or message.get("id") != number:
        raise WireError(f"a message of type {message['type']!r} for request {message.get('id')}; expected {number}")
    return Plan(
        _actions({"trajectory": message.get("trajectory")}, "trajectory", metadata.horizon, metadata, exactly=True),
        int(message.get("calls") or 0),
    )


def message_limit(metadata: Metadata) -> int:
    """Return the most bytes that a message of a robot may have."""
    each = {"image": 1, "text": 4 * _TEXT}  # bytes
    sizes = [math.prod(one["shape"]) * each.get(one["kind"], 8) for one in metadata.fields.values()]
    chunks = 8 * metadata.action_dim * (3 * metadata.horizon)
    return metadata.obs_horizon * sum(sizes) + chunks + _OTHER


def as_array(obs: Any) -> Any:
    """Return an observation with arrays in place of lists."""
    if isinstance(obs, Mapping):
        return {key: np.asarray(value) for key, value in obs.items()}
    return np.asarray(obs)
