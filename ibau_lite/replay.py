"""CUDA graphs: the kernels of a step, recorded once and launched as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ibau_lite._kinds import unchecked

__all__ = ["Replay"]

Result = TypeVar("Result")


class Replay(Generic[Result]):
    """A function of tensors on a GPU that is launched as a whole.

    A step of a small network is hundreds of kernels of a few microseconds, and launching each of
    them from Python costs more than running it. The function is run `warm_up` times on the example
    arguments, so that libraries choose their kernels, and then recorded; a call copies its
    arguments over the examples and replays the record. What else the function reads (parameters,
    say) is read where it lay when it was recorded, so that changes in place are seen.

    The result is that of the recorded run, and every call overwrites its tensors: what is to be
    kept is copied. Graphs that take turns may share the memory of their temporaries: pass on the
    `pool` of the first. Raises `RuntimeError` for a function that looks at a number on the way
    (`item()`, `if tensor:`), allocates outside of PyTorch, or runs on another device.

    Source: NVIDIA, *CUDA C++ Programming Guide*, "CUDA Graphs"; `torch.cuda.CUDAGraph`.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        *examples: Tensor,
        warm_up: int = 3,
        pool: Any = None,
    ) -> None:
        self._arguments = [example.clone() for example in examples]
        now, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(now)
        with torch.cuda.stream(beside):
            for _ in range(warm_up):
                function(*self._arguments)
        now.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        record = torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local")
        with unchecked(), record:  # the runs above have checked the arguments
            self._result = function(*self._arguments)

    @property
    def pool(self) -> Any:
        """The memory of the temporaries."""
        return self._graph.pool()

    def __call__(self, *arguments: Tensor) -> Result:
        """The function's result at these arguments, which have the shapes of the examples."""
        for place, argument in zip(self._arguments, arguments, strict=True):
            place.copy_(argument)
        self._graph.replay()
        return self._result
