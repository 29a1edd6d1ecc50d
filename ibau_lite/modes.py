"""Training and evaluation mode, module by module: looking at a network changes neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode", "kept_modes"]


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
