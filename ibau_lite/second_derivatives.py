"""Second derivatives: PyTorch is set up for them, and what has none is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["refuse_once_differentiable", "refuse_without_one", "twice_differentiable"]

_LACKING = re.compile(
    r"derivative for (?:'|aten::)(?P<backward>\w+)'? is not implemented"
    r"|forward AD with (?P<forward>\w+) that does not support it"
    r"|double backwards on (?P<vision>\w+) not supported"
    r"|(?P<compiled>torch\.compile|donated buffers)"
)

_INSTEAD = {
    "hardsigmoid": "the same function is (x / 6 + 0.5).clamp(0, 1)",
    "cdist": 'torch.cdist(..., compute_mode="use_mm_for_euclid_dist") has one',
    "cudnn_rnn": "call this within torch.backends.cudnn.flags(enabled=False)",
    "scaled_dot_product": "call attention without a choice of kernel (sdpa_kernel) of your own",
    "compiled": "pass the network as it was before torch.compile (its attribute _orig_mod)",
}
"""What to do about an operation, by a part of its name."""

_REPLACE = "replace it by operations that can be differentiated twice"
_ONCE = once_differentiable(lambda ctx: None).__code__  # of every function that it wraps


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within, attention takes the one kernel that has a second derivative (`SDPBackend.MATH`).

    Usable as a decorator. An operation that has no second derivative at all, as hardsigmoid, is
    refused as in `refuse_without_one`.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        refuse_without_one(error)
        raise


def refuse_without_one(error: RuntimeError) -> None:
    """Raise `ValueError` where autograd's error says that an operation has no second derivative.

    The message names the operation and says what to put in its place.
    """
    if (found := _LACKING.search(str(error))) is None:
        return
    kind, name = next((kind, name) for kind, name in found.groupdict().items() if name)
    name = name.strip("_").removesuffix("_backward")
    operation = "a network compiled by torch.compile" if kind == "compiled" else f"operation {name}"
    known = (advice for part, advice in _INSTEAD.items() if part == kind or part in name)
    raise _refusal(operation, next(known, _REPLACE)) from error


def refuse_once_differentiable(value: Tensor) -> None:
    """Raise `ValueError` for a function marked @once_differentiable in the graph of `value`.

    Autograd's own error is not raised where unused derivatives are asked for as zeros: what goes
    through the function would be missing from the second derivative without a word.
    """
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        function: Any = getattr(node, "_forward_cls", None)
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE:
            raise _refusal(f"{function.__name__} (marked @once_differentiable)", _REPLACE)
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]


def _refusal(operation: str, advice: str) -> ValueError:
    return ValueError(f"{operation} has no second derivative, and this needs one: {advice}")
