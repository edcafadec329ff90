"""A device without float64, as Apple's GPUs are, made of the CPU. It is called "meta", which any torch has."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten._to_copy.default}


class _OnDevice(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    given, _ = tree_flatten((args, kwargs))
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    ours = [value for value in tensors if isinstance(value, _OnDevice)]
    target = kwargs.get("device")
    on_device = target.type == "meta" if target is not None else bool(ours)
    if ours and function not in _INDEXING and any(t.ndim for t in tensors if not isinstance(t, _OnDevice)):
        raise RuntimeError(f"{function} was given tensors on the device and on the CPU")
    if on_device and kwargs.get("dtype") == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    inner = {**kwargs, "device": torch.device("cpu")} if target is not None else kwargs
    unwrap = lambda value: value.inner if isinstance(value, _OnDevice) else value  # noqa: E731
    out = function(*tree_map(unwrap, args), **tree_map(unwrap, inner))
    if not on_device:
        return out
    if function._schema.is_mutable:
        return args[0]
    return tree_map(_wrap, out)


def _wrap(value):
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return _OnDevice(value)


class AppleGPU(TorchDispatchMode):
    """While it is entered, tensors on `DEVICE` compute as on the CPU, refuse float64, and mix with no CPU tensors."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})
