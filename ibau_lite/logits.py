"""What a network says of images, logits [N, K], and what is wrong where it says something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["at", "check_logits", "check_reached", "check_reads_alone", "read"]

_OF_SHAPES = re.compile(r"shape|size|dimension|channel", re.IGNORECASE)


def read(model: nn.Module, images: Tensor) -> Tensor:
    """Give the logits f(x) [N, K] of images [N, C, H, W], in the dtype and place of the model.

    Raises `ValueError` for images of a shape that the model cannot take (the message has both
    shapes), for a model or images without data (the meta device) and for an output that is not
    [N, K]; `TypeError` for one that is no tensor.
    """
    own = (t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point())
    like = next(own, images)
    if like.is_meta or images.is_meta:
        raise ValueError(
            "the model or the images are on the meta device, which holds no numbers: build the "
            "model anew on a real one and load its weights"
        )
    images = images.to(like)
    try:
        logits = model(images)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _OF_SHAPES.search(str(error)):
            raise
        raise ValueError(
            f"the model cannot read images of the shape {list(images.shape[1:])}"
            f"{_failing_layer(model, images)} (torch: {str(error).splitlines()[0]})"
            f"{_hint(images)}"
        ) from error
    return checked(logits, len(images))


def at(model: nn.Module, theta: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """f_θ(x): what the model gives with the tensors of `theta` in place of its own.

    The model is left as it was. `torch.func.functional_call` would leave θ in a model that uses
    one layer under two names (PyTorch's issue 164759), so each place is named once here, and a
    parameter that several layers share is exchanged in all of them.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    given = {id(named[name]): value for name, value in theta.items() if name in named}
    places = {
        name: given[id(p)]
        for prefix, module in model.named_modules()
        for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        if id(p) in given
    }
    others = {name: value for name, value in theta.items() if name not in named}  # buffers
    outputs: Tensor = functional_call(model, places | others, (images,), tie_weights=False)
    return outputs


def check_reached(model: nn.Module, images: Tensor) -> None:
    """Raise `ValueError` for a model that computes with a tensor it does not hold as a parameter.

    One in a list, or an attribute that requires a gradient, cannot be exchanged for that of `at`:
    its derivative would be missing without a word.
    """
    with torch.enable_grad():
        fixed = {name: p.detach() for name, p in model.named_parameters()}
        outputs = at(model, fixed, images.detach())
    if outputs.requires_grad:
        raise ValueError(
            "the model computes with a tensor that requires a gradient and is not reached by name, "
            "as one in a Python list: hold it as a parameter of the module that uses it (self.w = "
            "w, or an nn.ParameterList)"
        )


def checked(logits: object, count: int) -> Tensor:
    """`logits` if they are a tensor [count, K]. Raises as `read`."""
    wanted = "the model must map images [N, C, H, W] to logits [N, classes]"
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{wanted}, a tensor, got {type(logits).__name__} for {count} images: wrap it in a "
            "module that returns the logits alone"
        )
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(f"{wanted}, got {list(logits.shape)} for {count} images")
    return logits


def check_logits(logits: Tensor) -> None:
    """Raise `ValueError` for numbers [N, K] that cannot be logits.

    That is K < 2, NaN or infinity, or probabilities: rows of numbers >= 0 that sum to 1. The
    cross-entropy takes the softmax of what it is given; of probabilities it is nearly flat, and
    so is every loss of a defence. Log-probabilities pass: their softmax is the probability again.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"a classifier gives at least 2 logits an image, got {logits.shape[1]}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model's logits on these images are NaN or infinite")
    close = 4 * torch.finfo(logits.dtype).eps ** 0.5
    if bool((logits >= 0).all() & ((logits.sum(1) - 1).abs() < close).all()):
        raise ValueError(
            "the model gives probabilities (each row is >= 0 and sums to 1); logits are expected: "
            "leave out its last softmax"
        )


def check_reads_alone(model: nn.Module) -> None:
    """Raise `ValueError` for a norm that reads the whole batch, in evaluation mode as well.

    A BatchNorm without running statistics makes the answer to an image depend on its neighbours.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is None
        and module.running_var is None
    ]
    if names:
        raise ValueError(
            f"{', '.join(names)}: BatchNorm without running statistics mixes the images of a "
            "batch, in evaluation mode as well; use track_running_stats=True, or GroupNorm"
        )


def _failing_layer(model: nn.Module, images: Tensor) -> str:
    """Which layer was given what, and the shape of its weight: the innermost that failed."""
    inside: list[tuple[str, nn.Module, object]] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda module, given, name=name: inside.append((name, module, given))
            )
        )
        handles.append(module.register_forward_hook(lambda *_: (inside.pop(), None)[1]))
    try:
        model(images)
    except RuntimeError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not inside or not inside[-1][0]:
        return ""
    name, module, given = inside[-1]
    first = given[0] if isinstance(given, tuple) and given else None
    shape = f" was given {list(first.shape)}" if isinstance(first, Tensor) else ""
    weight = getattr(module, "weight", None)
    takes = f", its weight is {list(weight.shape)}" if isinstance(weight, Tensor) else ""
    return f": layer {name}, a {type(module).__name__},{shape}{takes}"


def _hint(images: Tensor) -> str:
    last = images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4)
    return "; are the channels last? images.permute(0, 3, 1, 2)" if last else ""
