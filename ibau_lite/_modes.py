"""Modes, of a network and of PyTorch: what a call needs inside, and leaves as it was outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

__all__ = ["evaluation_mode", "kept_modes", "usual_settings"]


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Outside, each submodule is in the mode it was in, whatever happens inside."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside, each submodule's own (some may be frozen)."""
    with kept_modes(model):
        model.eval()
        yield


@contextmanager
def usual_settings() -> Iterator[None]:
    """PyTorch's global settings inside are those of a fresh process.

    New tensors are float32 and on the CPU, and gradients are recorded: also for a caller in
    `torch.no_grad()` or `torch.inference_mode()`, or with another default dtype or device.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield
