"""Temporal convolutions as matrix products, on sequences laid out (B, T, C), and the norms between them.

A convolution over 4 to 16 steps is too short for the usual Conv1d kernels, which leave most of a CPU idle. Gathering
the taps of every position into one row, (B·T, K·C), makes it a single large matrix product, and the channels-last
layout makes the gather a plain copy. State dicts have Conv1d's shapes, and the initialization is Conv1d's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from diffpolicy.util.errors import require

_EPS = 1e-5  # of the group norms, torch's own
_SATURATED = 20.0  # mish(z) = z from here on to float32's last bit; e^z must not overflow
_MANY_ROWS = 128  # rows from which on several products are cheaper than multiplying zeros


def gather_taps(x: Tensor, kernel: int) -> Tensor:
    """Return for each position of x (B, T, C) its `kernel` zero-padded neighbors, oldest first: (B·T, kernel·C)."""
    b, t, c = x.shape
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2)).contiguous()
    return padded.as_strided((b, t, kernel * c), (padded.stride(0), c, 1)).reshape(b * t, kernel * c)


def _products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of x (B, T, C_in) with weight (K, C_in, C_out), both of one dtype: (B, T, C_out)."""
    (b, t, c), kernel = x.shape, len(weight)
    if t < kernel and b >= _MANY_ROWS:
        # Most taps of a short sequence would multiply the padding: one product for each position leaves them out.
        rows, half = x.reshape(b, t * c), kernel // 2
        spans = [(max(0, i - half), min(t, i + half + 1), half - i) for i in range(t)]
        parts = [_linear(rows[:, lo * c : hi * c], weight[lo + d : hi + d], bias) for lo, hi, d in spans]
        return torch.stack(parts, dim=1)
    return _linear(gather_taps(x, kernel), weight, bias).view(b, t, -1)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    matrix = weight.flatten(0, 1)
    return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)


class _Convolve(torch.autograd.Function):
    """`same` convolution in x's dtype; the weight's gradient has the weight's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        cast = weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        return _products(x, cast, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:  # the convolution with the kernel reversed and its matrices transposed
            turned = torch.stack([weight[k].t().contiguous() for k in reversed(range(len(weight)))])
            grad_x = _products(grad, turned, None)
        rows = grad.reshape(-1, grad.shape[2])
        if ctx.needs_input_grad[1]:
            grad_weight = (gather_taps(x, len(weight)).t() @ rows).view(weight.shape).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0, dtype=ctx.dtype)
        return grad_x, grad_weight, grad_bias


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the zero-padded convolution over time, in x's dtype: (B, T, C_out).

    Args:
        x: (B, T, C_in).
        weight: (K, C_in, C_out).
        bias: (C_out,).
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, bias)):
        return _Convolve.apply(x, weight, bias)
    return _products(x, weight.to(x.dtype), bias.to(x.dtype))


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _to_conv1d(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    state[prefix + "weight"] = state[prefix + "weight"].permute(2, 1, 0)


def _from_conv1d(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix + "weight" in state:
        state[prefix + "weight"] = state[prefix + "weight"].permute(2, 1, 0)


class TemporalConv(nn.Module):
    """A convolution over time that keeps the length, with an odd kernel: (B, T, C_in) -> (B, T, C_out).

    The weight is held as the matrix product wants it, (K, C_in, C_out), so that no step has to transpose it; in a
    state dict, and so in a checkpoint, it has Conv1d's shape, (C_out, C_in, K).

    Args:
        conv: the convolution in torch's own layer, whose weights it starts with.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 1, 0).contiguous())
        self.bias = conv.bias
        self.register_state_dict_post_hook(_to_conv1d)
        self.register_load_state_dict_pre_hook(_from_conv1d)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x.to(_autocast_dtype(x)), self.weight, self.bias)


class Downsample(nn.Module):
    """A convolution of kernel 3, stride 2 and padding 1: (B, T, C) -> (B, T/2, C), for even T.

    Args:
        conv: the convolution in torch's own layer, whose weights it takes over.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias  # (C, C, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        # Output s reads inputs 2s - 1, 2s, 2s + 1: the last entry of the pair before, and the pair.
        pairs = x.reshape(b, t // 2, 2 * c)
        before = F.pad(pairs[:, :-1, c:], (0, 0, 1, 0))
        matrix = self.weight.permute(0, 2, 1).reshape(c, 3 * c)
        return F.linear(torch.cat([before, pairs], dim=-1), matrix, self.bias)


class Upsample(nn.Module):
    """A transposed convolution of kernel 4, stride 2 and padding 1: (B, T, C) -> (B, 2T, C).

    Args:
        conv: the convolution in torch's own layer, whose weights it takes over.
    """

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias  # (C_in, C_out, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        # Output 2s reads inputs s - 1 and s with taps 3 and 1; output 2s + 1 reads s and s + 1 with 2 and 0.
        padded = F.pad(x, (0, 0, 1, 1))
        w = self.weight
        even = torch.cat([w[:, :, 3], w[:, :, 1]]).t()
        odd = torch.cat([w[:, :, 2], w[:, :, 0]]).t()
        ys = (
            F.linear(torch.cat([padded[:, :-2], x], dim=-1), even, self.bias),
            F.linear(torch.cat([x, padded[:, 2:]], dim=-1), odd, self.bias),
        )
        return torch.stack(ys, dim=2).view(b, 2 * t, c)


def _over_group(sums: Tensor, groups: int, length: int) -> Tensor:
    """Return the mean over time and group for every channel (B, C), given sums over time (B, C).

    Two small products with the membership matrix leave it in memory channel by channel, so that the passes over
    (B, T, C) that follow run along the channels however small the groups are.
    """
    channels = sums.shape[1]
    size = channels // groups
    member = torch.arange(channels, device=sums.device)[:, None] // size == torch.arange(groups, device=sums.device)
    member = member.to(sums.dtype)
    return (sums @ member) @ (member.t() / (size * length))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _exponentials(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return e^z and n = e^z·(e^z + 2), with which tanh(log(1 + e^z)) = n/(n + 2)."""
    e = z.clamp(max=_SATURATED).exp()
    return e, e * (e + 2)


def _norm_mish(
    x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mish(norm(x)), modulated by `film`, and the statistics that its gradient needs."""
    wide = _wide(x)
    mean = _over_group(wide.sum(1), groups, x.shape[1])
    variance = _over_group((wide - mean[:, None]).square().sum(1), groups, x.shape[1])
    inverse = torch.rsqrt(variance + _EPS)
    scale = inverse * weight
    z = wide * scale[:, None] + (bias - mean * scale)[:, None]
    _, n = _exponentials(z)
    h = z * n / (n + 2)
    if film is not None:
        factor, offset = _wide(film)[:, None].chunk(2, dim=-1)
        h = h * (1 + factor) + offset
    return h.to(x.dtype), mean, inverse


def _norm_mish_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    bias: Tensor,
    film: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients by x, weight, bias and film."""
    unit = (_wide(x) - mean[:, None]) * inverse[:, None]
    z = unit * weight + bias
    e, n = _exponentials(z)
    below = 1 / (n + 2)
    grad, by_film = _wide(grad), None
    if film is not None:
        by_film = torch.cat([(grad * z * n * below).sum(1), grad.sum(1)], dim=-1).to(film.dtype)
        grad = grad * (1 + _wide(film)[:, None].chunk(2, dim=-1)[0])
    grad_z = grad * (n + 4 * z * e * (e + 1) * below) * below
    by_bias, by_weight = grad_z.sum(1), (grad_z * unit).sum(1)
    offset = _over_group(by_bias * weight, groups, x.shape[1])
    slope = _over_group(by_weight * weight, groups, x.shape[1])
    grad_x = (grad_z * weight - offset[:, None] - unit * slope[:, None]) * inverse[:, None]
    return grad_x.to(x.dtype), by_weight.sum(0), by_bias.sum(0), by_film


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled once for all sizes: in seconds, where the whole network takes a minute."""
    return torch.compile(function, dynamic=True)


def _call(function: Callable[..., Any], *given: Tensor | int | None) -> Any:
    if torch.compiler.is_compiling():  # part of a larger graph, which is compiled as a whole
        return function(*given)
    # Detached: to the compiler a parameter's size is a constant, and every size another program.
    return _compiled(function)(*(value.detach() if isinstance(value, Tensor) else value for value in given))


class _NormMish(torch.autograd.Function):
    """mish(group_norm(x)) with FiLM, and its gradient written out, so that each is a few passes over memory.

    mish(z) = z·tanh(log(1 + e^z)) takes one exponential and no logarithm, see `_exponentials`. Only x and the
    statistics are kept for the backward pass; everything else is computed again, which costs less than reading it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int) -> Tensor:
        out, mean, inverse = _call(_norm_mish, x, weight, bias, film, groups)
        ctx.save_for_backward(x, mean, inverse, weight, bias, film)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):  # on here where a compiler traces both passes at once
            return *_call(_norm_mish_gradient, grad.contiguous(), *ctx.saved_tensors, ctx.groups), None


def _has_tangent(x: Tensor) -> bool:
    """Return whether a forward-mode derivative is being taken, which the compiled passes do not give."""
    return forward_ad.unpack_dual(x).tangent is not None


class NormMish(nn.Module):
    """Group normalization (Wu and He 2018) over time and the channels of each group, Mish, and FiLM if given.

    (B, T, C), FiLM's scale and bias (B, 2·C), (B, T, 2·C) or None -> (B, T, C): h -> (1 + scale)·h + bias (Perez et
    al. 2018).
    `fused` runs it as compiled passes of its own; so does a compiler that compiles the network around it.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        require(channels % groups == 0, f"{channels} channels", f"a multiple of groups={groups}")
        self.groups = groups
        self.fused = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        if film is not None and film.ndim == 3:
            scale, bias = film.chunk(2, dim=-1)
            return torch.addcmul(bias, self(x), 1 + scale)
        if torch.compiler.is_compiling() or (self.fused and not _has_tangent(x)):
            with torch.autocast(x.device.type, enabled=False):  # the statistics in float32
                return _NormMish.apply(x.contiguous(), self.weight, self.bias, film, self.groups)
        # As a (B, C, 1, T) image in channels-last memory, which torch normalises without a copy.
        image = x.permute(0, 2, 1)[:, :, None]
        image = image.contiguous() if _has_tangent(x) else image  # torch's forward derivative asks for it
        h = F.mish(F.group_norm(image, self.groups, self.weight, self.bias, _EPS)[:, :, 0].permute(0, 2, 1))
        if film is None:
            return h
        scale, bias = film[:, None].chunk(2, dim=-1)
        return torch.addcmul(bias, h, 1 + scale)


def fuse_norms(net: nn.Module) -> None:
    """Run every `NormMish` of a network as compiled passes; compiling takes seconds, once for all sizes."""
    for module in net.modules():
        if isinstance(module, NormMish):
            module.fused = True
