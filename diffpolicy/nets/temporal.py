"""Temporal convolutions as matrix products, on sequences laid out (B, T, C).

A convolution over 4 to 16 steps is too short for the usual Conv1d kernels, which leave most of a processor
idle. Gathering the taps of every position into one row, (B·T, K·C), makes it a single large matrix product, and the
channels-last layout makes the gather a plain copy. State dicts keep Conv1d's shapes, and its initialisation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gather_taps(x: Tensor, kernel: int) -> Tensor:
    """(B, T, C) -> (B·T, kernel·C): for each position its `kernel` zero-padded neighbours, oldest first."""
    b, t, c = x.shape
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2)).contiguous()
    return padded.as_strided((b, t, kernel * c), (padded.stride(0), c, 1)).reshape(b * t, kernel * c)


def _product(taps: Tensor, weight: Tensor, bias: Tensor, shape: torch.Size) -> Tensor:
    return torch.addmm(bias.to(taps.dtype), taps, weight.flatten(0, 1)).view(*shape[:2], -1)


class _Convolve(torch.autograd.Function):
    """`same` convolution as one matrix product; its backward pass adds up one per tap, and transposes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, weight.dtype
        taps, cast = gather_taps(x, len(weight)), weight.to(x.dtype)
        ctx.save_for_backward(taps, cast)
        return _product(taps, cast, bias, x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        taps, weight = ctx.saved_tensors
        kernel, _, c_out = weight.shape
        grad = grad.to(taps.dtype)
        rows = grad.reshape(-1, c_out)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:  # the convolution with the kernel turned round and its matrices transposed
            shifted = gather_taps(grad, kernel).view(-1, kernel, c_out)
            total = shifted[:, 0] @ weight[-1].t()
            for k in range(1, kernel):
                total = torch.addmm(total, shifted[:, k], weight[kernel - 1 - k].t())
            grad_x = total.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = (taps.t() @ rows).view(weight.shape).to(ctx.dtype)
            grad_bias = rows.sum(0, dtype=ctx.dtype)
        return grad_x, grad_weight, grad_bias


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution over time in x's dtype, zero-padded: (B, T, C_in), (K, C_in, C_out), (C_out,) -> (B, T, C_out)."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, bias)):
        return _Convolve.apply(x, weight, bias)
    return _product(gather_taps(x, len(weight)), weight.to(x.dtype), bias, x.shape)


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _to_conv1d(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    state[prefix + "weight"] = state[prefix + "weight"].permute(2, 1, 0)


def _from_conv1d(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix + "weight" in state:
        state[prefix + "weight"] = state[prefix + "weight"].permute(2, 1, 0)


class TemporalConv(nn.Module):
    """Convolution over time that keeps the length: (B, T, C_in) -> (B, T, C_out). The kernel is odd.

    The weight is held as the matrix product wants it, (K, C_in, C_out), so that no step has to transpose it; in a
    state dict, and so in a checkpoint, it has Conv1d's shape, (C_out, C_in, K).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"a convolution that keeps the length needs an odd kernel, not {kernel}")
        reference = nn.Conv1d(c_in, c_out, kernel)
        self.weight = nn.Parameter(reference.weight.detach().permute(2, 1, 0).contiguous())
        self.bias = reference.bias
        self.register_state_dict_post_hook(_to_conv1d)
        self.register_load_state_dict_pre_hook(_from_conv1d)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x.to(_autocast_dtype(x)), self.weight, self.bias)


class Downsample(nn.Module):
    """Convolution of kernel 3 and stride 2: (B, T, C) -> (B, T/2, C). T is even."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reference = nn.Conv1d(channels, channels, 3)
        self.weight, self.bias = reference.weight, reference.bias

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        # Output s reads inputs 2s - 1, 2s, 2s + 1: the last entry of the pair before, and the pair.
        pairs = x.reshape(b, t // 2, 2 * c)
        before = F.pad(pairs[:, :-1, c:], (0, 0, 1, 0))
        matrix = self.weight.permute(0, 2, 1).reshape(c, 3 * c)
        return F.linear(torch.cat([before, pairs], dim=-1), matrix, self.bias)


class Upsample(nn.Module):
    """Transposed convolution of kernel 4, stride 2, padding 1: (B, T, C) -> (B, 2T, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reference = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)
        self.weight, self.bias = reference.weight, reference.bias  # (C_in, C_out, 4)

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


class ChannelsLastGroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) of (B, T, C) over time and the channels of each group."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} groups; change one of the two")
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # As a (B, C, 1, T) image in channels-last memory, which torch normalises without a copy.
        image = x.permute(0, 2, 1)[:, :, None]
        return F.group_norm(image, self.groups, self.weight, self.bias)[:, :, 0].permute(0, 2, 1)
