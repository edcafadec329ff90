"""Temporal convolutions as matrix products, on sequences laid out (B, T, C).

A convolution over 4 to 16 steps is too short for the usual Conv1d kernels, which leave most of a processor
idle. Gathering the taps of every position into one row, (B·T, K·C), makes it a single large matrix product,
forward and backward, and the channels-last layout makes the gather a plain copy. The parameters keep Conv1d's
shapes, (C_out, C_in, K), and its initialisation.
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


def _matrix(weight: Tensor) -> Tensor:
    """A convolution's weight (C_out, C_in, K) as what gathered taps are multiplied with, (K·C_in, C_out)."""
    return weight.permute(2, 1, 0).reshape(-1, weight.shape[0])


class _Convolve(torch.autograd.Function):
    """`same` convolution as one matrix product; its backward pass is two more, without a scatter."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        c_out, _, kernel = weight.shape
        taps = gather_taps(x, kernel)
        matrix = _matrix(weight).to(x.dtype)
        return torch.addmm(bias.to(x.dtype), taps, matrix).view(*x.shape[:2], c_out), taps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _ = inputs
        ctx.shape = x.shape
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _taps: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        taps, weight = ctx.saved_tensors
        c_out, c_in, kernel = weight.shape
        grad = grad.to(taps.dtype)
        rows = grad.reshape(-1, c_out)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:  # the convolution with the kernel turned round
            matrix = weight.flip(2).permute(2, 0, 1).reshape(kernel * c_out, c_in).to(taps.dtype)
            grad_x = (gather_taps(grad, kernel) @ matrix).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = (taps.t() @ rows).view(kernel, c_in, c_out).permute(2, 1, 0).to(weight.dtype)
            grad_bias = rows.sum(0, dtype=weight.dtype)
        return grad_x, grad_weight, grad_bias


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class TemporalConv(nn.Module):
    """Convolution over time that keeps the length: (B, T, C_in) -> (B, T, C_out). The kernel is odd."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"a convolution that keeps the length needs an odd kernel, not {kernel}")
        reference = nn.Conv1d(c_in, c_out, kernel)
        self.weight, self.bias = reference.weight, reference.bias
        self.register_buffer("matrix", None, persistent=False)

    def freeze(self) -> None:
        """Lay the weight out for acting, once; no gradients from then on, and weights loaded later do not count."""
        self.matrix = _matrix(self.weight.detach()).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            taps = gather_taps(x, self.weight.shape[2])
            return torch.addmm(self.bias, taps, self.matrix).view(*x.shape[:2], -1)
        y, _ = _Convolve.apply(x.to(_autocast_dtype(x)), self.weight, self.bias)
        return y


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
