"""The temporal U-Net of `unet1d` as it is trained and run: the same network and weights, in faster layers.

Sequences are (B, T, C) throughout, and convolutions matrix products (see `temporal`). For inference the FiLM of all
blocks is one product whose parts are kept while time and condition repeat, and the rest can be compiled.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets import unet1d
from diffpolicy.nets.base import Freezable, Fusable, Network
from diffpolicy.nets.captured import Captured
from diffpolicy.nets.inputs import check_condition, check_trajectory, joined, null_vector
from diffpolicy.nets.temporal import Downsample, NormMish, TemporalConv, Upsample, fuse_norms
from diffpolicy.util.condition import Condition

_TIMES = 1024  # different times whose FiLM is kept; a solver's grid has tens
# For one sample a product reads its matrix once: what counts is how it lies in memory and which kernel reads it, so
# both are settled at compilation, and the graph is run without going back to Python.
_COMPILE = {
    "freezing": True,
    "cpp_wrapper": True,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,ATEN",
    "autotune_num_choices_displayed": 0,
}


class ConvBlock(nn.Module):
    """`unet1d.ConvBlock`, followed by FiLM if given: (B, T, C_in), (B, 2·C_out) or None -> (B, T, C_out)."""

    def __init__(self, plain: unet1d.ConvBlock) -> None:
        super().__init__()
        self.conv = TemporalConv(plain.conv)
        self.norm = NormMish(plain.norm.num_groups, plain.norm.num_channels)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        return self.norm(self.conv(x), film)


class ResidualBlock(nn.Module):
    """`unet1d.ResidualBlock`: (B, T, C_in), FiLM of both halves, block after block -> (B, T, C_out)."""

    def __init__(self, plain: unet1d.ResidualBlock) -> None:
        super().__init__()
        self.first, self.film, self.second = ConvBlock(plain.first), plain.film, ConvBlock(plain.second)
        self.skip = pointwise(plain.skip) if isinstance(plain.skip, nn.Conv1d) else nn.Identity()

    def forward(self, x: Tensor, films: Iterator[Tensor]) -> Tensor:
        return self.second(self.first(x, next(films))) + self.skip(x)


class Level(nn.Module):
    """`unet1d.Level`."""

    def __init__(self, plain: unet1d.Level) -> None:
        super().__init__()
        self.first, self.second = ResidualBlock(plain.first), ResidualBlock(plain.second)

    def forward(self, x: Tensor, films: Iterator[Tensor]) -> Tensor:
        return self.second(self.first(x, films), films)


@final
class FastUnet1D(Network, Fusable, Freezable):
    """`unet1d.ConditionalUnet1D` in faster layers, from the same arguments and with the same first weights.

    Weights have the same names and, up to last axes of size 1, the same shapes in both.
    """

    per_step = True

    @functools.wraps(unet1d.ConditionalUnet1D.__init__)  # for the registry, which reads the names of the options
    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__()
        plain = unet1d.ConditionalUnet1D(*sizes, **options)
        self.dim, self.cond_dim, self.token_dim, self.stride = (
            plain.dim,
            plain.cond_dim,
            plain.token_dim,
            plain.stride,
        )
        self.time, self.span, self.null_cond = plain.time, plain.span, plain.null_cond
        self.down = nn.ModuleList(map(Level, plain.down))
        self.downsample = nn.ModuleList(map(Downsample, plain.downsample))
        self.middle, self.attend = Level(plain.middle), plain.attend
        self.up = nn.ModuleList(map(Level, plain.up))
        self.upsample = nn.ModuleList(map(Upsample, plain.upsample))
        self.head, self.out = ConvBlock(plain.head), pointwise(plain.out)
        self.blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]  # as they are run
        depths = [*range(len(self.down)), len(self.up), *range(len(self.up), 0, -1)]
        self.strides = [2**depth for depth in depths for _ in range(2)]  # of the blocks' steps
        self._frozen: _Frozen | None = None
        self.register_load_state_dict_post_hook(_thaw)

    @property
    def compiles(self) -> bool:
        """Not with tokens to attend to, for which the compiled trunk has no input."""
        return self.attend is None

    def fuse(self) -> None:
        """Run the group norms with Mish and FiLM as compiled passes: the same numbers up to rounding."""
        fuse_norms(self)

    def freeze(self, shape: tuple[int, ...] | None = None, per_step: bool = False) -> None:
        """Prepare for inference: the same numbers up to rounding, in fewer operations and without gradients.

        The preparation is of the present weights on their present device: repeat it after training or moving the
        network. Loading weights undoes it.

        Args:
            shape: the shape (B, T, D) of x for which calls are also compiled, which takes a minute or two (half of it
                once the compiler has seen the network). Calls of other shapes run uncompiled.
            per_step: whether calls with a time per step are compiled too, which takes as long again.
        """
        self._frozen = _Frozen(self, shape, per_step)

    def graphs(self, x: Tensor) -> dict[str, Any] | None:
        """Return where to keep CUDA graphs of what calls the network; None where none was compiled for x."""
        return None if self._frozen is None or x.shape != self._frozen.shape else self._frozen.graphs

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,) or (B, T), a condition, as t -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        vector, *tokens = check_condition(cond, x.shape[0], self.cond_dim, self.token_dim)
        if self._frozen is not None:
            return self._frozen(x, t, vector, r, tokens).to(x.dtype)
        features = self.whole(F.mish(joined(self.time_features(t, r), vector)))
        films = (block.film(self.at_block(features, i)) for i, block in enumerate(self.blocks))
        return self.trunk(x, films, *tokens).to(x.dtype)

    def whole(self, steps: Tensor) -> Tensor:
        """Return (B, T, C) with the last step repeated until the strides divide T; (B, C) stays as it is."""
        missing = -steps.shape[1] % self.stride if steps.ndim == 3 else 0
        return torch.cat([steps, steps[:, -1:].expand(-1, missing, -1)], dim=1) if missing else steps

    def at_block(self, features: Tensor, number: int) -> Tensor:
        """Return features (B, T, F) of all steps as the steps of a block have them; (B, F) stays as it is.

        A step of a coarser resolution has those of the first one that it is made of.
        """
        return features if features.ndim == 2 else features[:, :: self.strides[number]]

    def time_features(self, t: Tensor, r: Tensor | None) -> Tensor:
        """Return the features of t (B, ...) and, with two times, of r - t: (B, ..., time_features)."""
        features = self.time(t)
        return features if self.span is None else features + self.span((t if r is None else r) - t)

    def trunk(
        self, x: Tensor, films: Iterator[Tensor], tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output for x, in the dtype of the weights, given FiLM in the order in which blocks are run."""
        horizon = x.shape[1]
        x = self.whole(x.to(self.out.weight.dtype))
        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            x = level(x, films)
            skips.append(x)
            if depth < len(self.downsample):
                x = self.downsample[depth](x)
        x = self.middle(x, films)
        x = x if self.attend is None else self.attend(x, tokens, mask)
        for level, upsample in zip(self.up, self.upsample, strict=True):
            x = upsample(level(torch.cat([x, skips.pop()], dim=-1), films))
        return self.out(self.head(x))[:, :horizon]


def pointwise(conv: nn.Conv1d) -> nn.Linear:
    """Return a convolution of kernel 1 as the linear layer that it is on (B, T, C)."""
    linear = nn.utils.skip_init(nn.Linear, conv.in_channels, conv.out_channels)
    linear.weight, linear.bias = nn.Parameter(conv.weight.detach()[:, :, 0]), conv.bias
    return linear


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights of a `FastUnet1D` to a `ConditionalUnet1D` of the same sizes, or back."""
    shapes = {name: weight.shape for name, weight in target.state_dict().items()}
    target.load_state_dict({name: weight.reshape(shapes[name]) for name, weight in source.state_dict().items()})


def _thaw(net: FastUnet1D, _: object) -> None:
    net._frozen = None  # it is of the weights before


class _Trunk(nn.Module):
    """(x, the FiLM of all blocks side by side, (B, F) or (B, T, F)) -> the network's output."""

    def __init__(self, net: FastUnet1D, sizes: Sequence[int]) -> None:
        super().__init__()
        self._net, self._sizes = net, list(sizes)

    def forward(self, x: Tensor, films: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        parts = self._net.whole(films).split(self._sizes, dim=-1)
        return self._net.trunk(x, (self._net.at_block(part, i) for i, part in enumerate(parts)), tokens, mask)


class _Frozen:
    """What a frozen network keeps: the FiLM of all blocks as one product, and the rest compiled.

    FiLM's part from the time is kept for every time, since a solver's grid comes again, and its part from the
    condition until another condition comes, which is once a chunk.
    """

    def __init__(self, net: FastUnet1D, shape: tuple[int, ...] | None, per_step: bool) -> None:
        films = [block.film for block in net.blocks]
        features = net.time[-1].out_features
        self._two_times = net.span is not None
        weight = torch.cat([film.weight.detach() for film in films])
        self._time, self.shape = net.time_features, shape
        captures = weight.is_cuda and shape is not None and net.compiles
        self.graphs: dict[str, Any] | None = {} if captures else None
        self._bias = torch.cat([film.bias.detach() for film in films])
        self._of_time, self._of_cond = weight[:, :features].contiguous(), weight[:, features:].contiguous()
        self._trunk = _Trunk(net, [film.out_features for film in films])
        self._times: dict[tuple[float, float], Tensor] = {}
        self._cond: tuple[Tensor, Tensor] | None = None
        self._compiled: dict[int, Callable[[Tensor, Tensor], Tensor]] = {}  # by the axes of the FiLM
        compiles = shape is not None and net.compiles
        for leading in [shape[:1], shape[:2]][: 1 + per_step] if compiles else []:
            films = weight.new_zeros((*leading, len(weight)))
            self._compiled[films.ndim] = self._compile(weight.new_zeros(shape or ()), films)

    def __call__(
        self, x: Tensor, t: Tensor, vector: Tensor | None, r: Tensor | None, tokens: Sequence[Tensor | None] = ()
    ) -> Tensor:
        if t.ndim == 2:  # of every step: nothing of it comes again
            films = self._of(t, t if r is None else r)
            films = films if vector is None else films + self._of_vector(vector)[:, None]
            return self._run(x, films, tokens)
        films = self._time_part(t, r if self._two_times and r is not None else t)
        if vector is not None:
            films = films + self._cond_part(vector)
        films = films.expand(len(t), -1).contiguous()
        return self._run(x, films, tokens)

    def _run(self, x: Tensor, films: Tensor, tokens: Sequence[Tensor | None]) -> Tensor:
        compiled = self._compiled.get(films.ndim) if x.shape == self.shape else None
        return self._trunk(x, films, *tokens) if compiled is None else compiled(x.to(films.dtype).contiguous(), films)

    def _compile(self, x: Tensor, films: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        if x.device.type == "cuda":
            fused = torch.compile(self._trunk, dynamic=False)
            with torch.inference_mode():
                graph = Captured(fused, x, films)
            # Within a larger graph, such as that of a whole chunk, it is a part of that one.
            return lambda x, films: (fused if torch.cuda.is_current_stream_capturing() else graph)(x, films)
        # Compiled as a graph, not by torch.compile, whose checks in every call take as long as some of the layers.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # a report of every kernel that was tried
            from torch._inductor import compile as compile_graph  # takes a second, for which few need to wait

            graph = torch.export.export(self._trunk, (x, films)).module()
            return compile_graph(graph, [x, films], options=_COMPILE)

    def _time_part(self, t: Tensor, r: Tensor) -> Tensor:
        if t.device.type != "cpu" or len(t) == 0 or not bool(((t == t[0]) & (r == r[0])).all()):
            return self._of(t, r)  # reading a GPU's time would wait for it
        at = float(t[0]), float(r[0])  # one time for all samples, as the sampling loop gives it
        if at not in self._times:
            if len(self._times) == _TIMES:
                self._times.clear()
            self._times[at] = self._of(t[:1], r[:1])
        return self._times[at]

    def _of(self, t: Tensor, r: Tensor) -> Tensor:
        return F.linear(F.mish(self._time(t, r)), self._of_time, self._bias)

    def _cond_part(self, vector: Tensor) -> Tensor:
        if vector.device.type != "cpu":  # comparing on a GPU would wait for it
            return self._of_vector(vector)
        if self._cond is None or not torch.equal(self._cond[0], vector):
            self._cond = vector.clone(), self._of_vector(vector)
        return self._cond[1]

    def _of_vector(self, vector: Tensor) -> Tensor:
        return F.linear(F.mish(vector.to(self._of_cond.dtype)), self._of_cond)
