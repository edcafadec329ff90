"""The 1D temporal conditional U-Net of Diffusion Policy (Chi et al. 2023, CNN-based; after Janner et al. 2022).

A network is called as net(x, t, cond, r=None): x (B, T, D) the noised trajectory, t (B,) its time in [0, 1],
cond (B, C) the encoded condition or None, r (B,) the second time of two-time methods, r >= t, which this network
ignores unless it is built for it. It knows nothing of paths and policies. net.null(cond) is the unconditional
condition.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.base import Freezable, Fusable, Network, check_trajectory, check_vector, null_vector
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.temporal import Downsample, NormMish, TemporalConv, Upsample
from diffpolicy.util.condition import Condition

_TIMES = 1024  # different times whose FiLM is kept; a solver's grid has tens
# For one row a product reads its matrix once: what counts is how it lies in memory and which kernel reads it, so both
# are settled at compilation, and the graph is run without going back to Python.
_ACTING = {
    "freezing": True,
    "cpp_wrapper": True,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,ATEN",
    "autotune_num_choices_displayed": 0,
}


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish and FiLM where given: (B, T, C_in), (B, 2·C_out) or None -> (B, T, C_out)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = TemporalConv(c_in, c_out, kernel)
        self.norm = NormMish(groups, c_out)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        return self.norm(self.conv(x), film)


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them (Perez et al. 2018): h -> (1 + scale)·h + bias."""

    def __init__(self, c_in: int, c_out: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(c_in, c_out, kernel, groups)
        self.film = nn.Linear(features, 2 * c_out)
        self.second = ConvBlock(c_out, c_out, kernel, groups)
        self.skip = nn.Identity() if c_in == c_out else nn.Linear(c_in, c_out)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """(B, T, C_in), what `self.film` makes of the features (B, 2·C_out) -> (B, T, C_out)."""
        return self.second(self.first(x, film)) + self.skip(x)


class Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, c_in: int, c_out: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ResidualBlock(c_in, c_out, features, kernel, groups)
        self.second = ResidualBlock(c_out, c_out, features, kernel, groups)

    def forward(self, x: Tensor, films: Iterator[Tensor]) -> Tensor:
        return self.second(self.first(x, next(films)), next(films))


class _Trunk(nn.Module):
    """(x, the FiLM of all blocks side by side) -> what the network makes of them."""

    def __init__(self, net: ConditionalUnet1D, sizes: Sequence[int]) -> None:
        super().__init__()
        self._net, self._sizes = net, list(sizes)

    def forward(self, x: Tensor, films: Tensor) -> Tensor:
        return self._net._trunk(x, iter(films.split(self._sizes, dim=-1)))


class _Frozen:
    """What a network prepared for acting keeps: the FiLM of all blocks as one product, and the rest compiled.

    FiLM's part from the time is kept for every time, since a solver's grid comes again, and its part from the
    condition until another condition comes, which is once a chunk.
    """

    def __init__(self, net: ConditionalUnet1D, compiled: tuple[int, int, int] | None) -> None:
        films = [block.film for block in net._blocks]
        features = net.time[-1].out_features
        self._two_times = net.span is not None
        weight = torch.cat([film.weight.detach() for film in films])
        self._time, self._shape = net.time_features, compiled
        self._bias = torch.cat([film.bias.detach() for film in films])
        self._of_time, self._of_cond = weight[:, :features].contiguous(), weight[:, features:].contiguous()
        self._trunk = _Trunk(net, [film.out_features for film in films])
        self._times: dict[tuple[float, float], Tensor] = {}
        self._cond: tuple[Tensor, Tensor] | None = None
        if compiled is not None:
            self._compiled = self._compile(weight.new_zeros(compiled), weight.new_zeros((compiled[0], len(weight))))

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None, r: Tensor | None) -> Tensor:
        films = self._time_part(t, r if self._two_times and r is not None else t)
        if cond is not None:
            films = films + self._cond_part(cond)
        films = films.expand(len(t), -1).contiguous()
        return self._compiled(x.contiguous(), films) if x.shape == self._shape else self._trunk(x, films)

    def _compile(self, x: Tensor, films: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        if x.device.type == "cuda":  # a CUDA graph; its output lies where the next one will, hence the copy
            graphed = torch.compile(self._trunk, mode="reduce-overhead", dynamic=False)
            return lambda x, films: graphed(x, films).clone()
        # Compiled as a graph, not by torch.compile, whose checks in every call take as long as some of the layers.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # a report of every kernel that was tried
            from torch._inductor import compile as compile_graph  # takes a second, for which few need to wait

            graph = torch.export.export(self._trunk, (x, films)).module()
            return compile_graph(graph, [x, films], options=_ACTING)

    def _time_part(self, t: Tensor, r: Tensor) -> Tensor:
        if t.device.type != "cpu" or len(t) == 0 or not bool(((t == t[0]) & (r == r[0])).all()):
            return self._of(t, r)  # reading a GPU's time would wait for it
        at = float(t[0]), float(r[0])  # one time for all rows, as the sampling loop gives it
        if at not in self._times:
            if len(self._times) == _TIMES:
                self._times.clear()
            self._times[at] = self._of(t[:1], r[:1])
        return self._times[at]

    def _of(self, t: Tensor, r: Tensor) -> Tensor:
        return F.linear(F.mish(self._time(t, r)), self._of_time, self._bias)

    def _cond_part(self, cond: Tensor) -> Tensor:
        if cond.device.type != "cpu":  # comparing on a GPU would wait for it
            return F.linear(F.mish(cond), self._of_cond)
        if self._cond is None or not torch.equal(self._cond[0], cond):
            self._cond = cond.clone(), F.linear(F.mish(cond), self._of_cond)
        return self._cond[1]


def _thaw(net: ConditionalUnet1D, _: object) -> None:
    net._frozen = None  # of the weights as they were


def _time_mlp(kind: str, features: int) -> nn.Sequential:
    return nn.Sequential(
        time_embedding(kind, features),
        nn.Linear(features, 4 * features),
        nn.Mish(),
        nn.Linear(4 * features, features),
    )


class ConditionalUnet1D(Network, Fusable, Freezable):
    """U-Net over time with FiLM conditioning on (time, condition).

    Args:
        dim: D, numbers per time step of the trajectory.
        cond_dim: C, numbers of the condition; 0 for none.
        horizon: T, which this network ignores, since it takes any.
        two_times: embed the span r - t as well (r = None is r = t), for methods of two times.
        widths: channels per resolution, each half as long as the one before.
        kernel: taps of the convolutions, odd.
        groups: groups of the group norms; divides every width.
        time_features: size of the time embedding, even.
        time: "sinusoidal" or "fourier" (learned frequencies).

    Any horizon T is accepted: one that the strides do not divide is padded by repeating its last step and cut
    again.

    Raises:
        ValueError: sizes that do not fit together, at construction or (x, t, cond) at the call.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        horizon: int = 16,
        two_times: bool = False,
        *,
        widths: Sequence[int] = (64, 128, 256),
        kernel: int = 5,
        groups: int = 8,
        time_features: int = 128,
        time: str = "sinusoidal",
    ) -> None:
        super().__init__()
        if dim < 1 or cond_dim < 0 or not widths:
            raise ValueError(
                f"need dim >= 1, cond_dim >= 0 and at least one width; given {dim}, {cond_dim}, {list(widths)}"
            )
        self.dim, self.cond_dim = dim, cond_dim
        self.stride = 2 ** (len(widths) - 1)
        self.time = _time_mlp(time, time_features)
        self.span = _time_mlp(time, time_features) if two_times else None
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        shared = (time_features + cond_dim, kernel, groups)
        self.down = nn.ModuleList(Level(i, o, *shared) for i, o in pairwise((dim, *widths)))
        self.downsample = nn.ModuleList(Downsample(width) for width in widths[:-1])
        self.middle = Level(widths[-1], widths[-1], *shared)
        self.up = nn.ModuleList(Level(2 * o, i, *shared) for i, o in reversed(list(pairwise(widths))))
        self.upsample = nn.ModuleList(Upsample(width) for width in reversed(widths[:-1]))
        self.head = ConvBlock(widths[0], widths[0], kernel, groups)
        self.out = nn.Linear(widths[0], dim)
        self._blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]  # as they are run
        self._frozen: _Frozen | None = None
        self.register_load_state_dict_post_hook(_thaw)

    def fuse(self) -> None:
        """Run what stands between the matrix products as compiled passes: the same numbers up to rounding.

        Compiled once for all sizes at the first call, in seconds.
        """
        for module in self.modules():
            if isinstance(module, NormMish):
                module.fused = True

    def freeze(self, shape: tuple[int, int, int] | None = None) -> None:
        """Prepare for acting: the same numbers up to rounding, in fewer operations and without gradients.

        What is kept is of the weights as they are now, where they are now: freeze again after moving or training the
        network. Loading weights undoes it.

        Args:
            shape: the shape (B, T, D) of x for which calls are also compiled, which takes a minute or two (half of
                it once the compiler has seen the network). Calls of other shapes run uncompiled.
        """
        self._frozen = _Frozen(self, shape)

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,), a vector (B, C), (B,) -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        vector = check_vector(cond, x.shape[0], self.cond_dim)
        if self._frozen is not None:
            return self._frozen(x, t, vector, r).to(t.dtype)
        features = self.time_features(t, r)
        features = F.mish(features if vector is None else torch.cat([features, vector.to(features.dtype)], dim=-1))
        return self._trunk(x, (block.film(features) for block in self._blocks)).to(t.dtype)

    def time_features(self, t: Tensor, r: Tensor | None) -> Tensor:
        """The features of t (B,) and, with two times, of r - t: (B, time_features)."""
        features = self.time(t)
        return features if self.span is None else features + self.span((t if r is None else r) - t)

    def _trunk(self, x: Tensor, films: Iterator[Tensor]) -> Tensor:
        """All but the FiLM, whose values come block by block, in the order in which the blocks are run."""
        horizon = x.shape[1]
        missing = -horizon % self.stride
        if missing:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            x = level(x, films)
            skips.append(x)
            if depth < len(self.downsample):
                x = self.downsample[depth](x)
        x = self.middle(x, films)
        # As published, each level on the way up takes the skip of its own (coarser) resolution and upsamples
        # after it, so the skip of the finest level, skips[0], is not used.
        for level, upsample in zip(self.up, self.upsample, strict=True):
            x = upsample(level(torch.cat([x, skips.pop()], dim=-1), films))
        return self.out(self.head(x))[:, :horizon]
