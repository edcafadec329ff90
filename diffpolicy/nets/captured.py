"""Many small kernels as one launch: a function captured as a CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

_WARM_UP = 3  # calls before the capture, in which kernels are compiled and chosen


@final
class Captured:
    """A function of tensors on a GPU, for inputs of one shape, which asks the GPU for no number while it runs.

    Threads that call it take turns.

    Args:
        function: from tensors to a tensor.
        inputs: an example, all on one GPU.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs, self._turn = [given.clone() for given in inputs], threading.Lock()
        with torch.cuda.device(inputs[0].device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the function would."""
        with self._turn, torch.cuda.device(self._output.device):
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self._graph.replay()
            return self._output.clone()
