"""The door of every defence: which models and clean sets come in, and as what."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ibau_lite.data import LabelledImages
from ibau_lite.logits import check_logits, check_reads_alone, read

__all__ = ["clean_on_device", "private_copy", "stored_values"]

_OF_TORCH = frozenset(vars(nn.Module()))
_LOOKED_AT = 200  # of a large clean set, evenly spread: it may be sorted by class


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of the model that a defence may change, in evaluation mode.

    Parameters that require no gradient are frozen: no defence changes them. What `torch.compile`
    has wrapped is taken out of its wrapping, and what a forward pass has left in an attribute is
    cut off its graph. Raises `TypeError` for what is no module, or one that PyTorch cannot call
    with other parameters; `ValueError` if the model has no parameters that are free, one of them
    all is NaN or infinite, has no data yet, or is in float16, in which Adam divides by zero; if a
    norm mixes images in evaluation mode; or if it cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch.nn.Module is expected, got {type(model).__name__}")
    model = _uncompiled(model)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TypeError(f"model: pass {type(model).__name__}'s own network, model.module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model: a scripted network has no Python forward; pass the original")
    _check_parameters(dict(model.named_parameters()))
    check_reads_alone(model)
    # A tensor with a graph, or made under inference_mode, cannot be copied as it is.
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _stored(model) if t.grad_fn}
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_inference():
            new = tensor.clone().detach()
            trained = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if trained else new
    try:
        copied = copy.deepcopy(model, memo).eval()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the model cannot be copied ({error})") from error
    for name, module in list(copied.named_modules()):
        if (bare := _uncompiled(module)) is not module:
            parent, _, leaf = name.rpartition(".")
            setattr(copied.get_submodule(parent), leaf, bare)
    return copied


def clean_on_device(model: nn.Module, clean: LabelledImages, *, shift: int = 0) -> LabelledImages:
    """The clean set where the model is, checked at the door.

    Raises `TypeError` for something other than `LabelledImages`, or outputs that are no tensor;
    `ValueError` for an empty set, images too small for `shift`, outputs that are no logits (see
    `logits.check_logits`) or change with the other images of the batch, or labels that the model
    has no output for. Warns if classes are missing, which will be forgotten, and if the model
    reads far fewer images as labelled than it should (see `_warn_of_misreading`).
    """
    if not isinstance(clean, LabelledImages):
        raise TypeError(
            f"clean must be LabelledImages(images, labels), got {type(clean).__name__}; "
            "wrap tensors with ibau_lite.data.LabelledImages"
        )
    if len(clean) == 0:
        raise ValueError("the clean set is empty: every defence needs clean images")
    if shift >= min(clean.images.shape[2:]):
        raise ValueError(
            f"shift must be below the image size {min(clean.images.shape[2:])}, got {shift}"
        )
    moved = clean.to(next(model.parameters()).device)
    if moved.images.is_inference() or moved.labels.is_inference():
        moved = LabelledImages(moved.images.clone(), moved.labels.clone())
    spread = torch.linspace(0, len(moved) - 1, min(len(moved), _LOOKED_AT)).long()
    seen = moved[spread.to(moved.labels.device)]
    with torch.no_grad():
        logits = read(model, seen.images)
        check_logits(logits)
        _check_alone(read(model, seen.images[:1]), logits)
    _check_labels(moved.labels, logits.shape[1])
    _warn_of_missing(moved.labels, logits.shape[1])
    _warn_of_misreading(logits, seen.labels)
    return moved


def stored_values(model: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """(namespace, name) of what the modules hold besides parameters, buffers and submodules."""
    for module in model.modules():
        yield from ((vars(module), name) for name in vars(module).keys() - _OF_TORCH)


def _uncompiled(module: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
        module = inner
    return module


def _stored(model: nn.Module) -> Iterator[Tensor]:
    """The tensors among `stored_values`, and in the lists and dicts among them."""
    waiting = [space[name] for space, name in stored_values(model)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())


def _check_parameters(parameters: dict[str, nn.Parameter]) -> None:
    empty = [n for n, p in parameters.items() if p.is_meta or nn.parameter.is_lazy(p)]
    if empty:
        raise ValueError(
            f"the model's parameters hold no numbers yet in {', '.join(empty)} (the meta device, "
            "or a lazy layer): load its weights, or call a lazy one once"
        )
    if not any(p.requires_grad for p in parameters.values()):
        raise ValueError(
            "the model has no parameters that require a gradient: there is nothing to unlearn; "
            "model.requires_grad_(True) frees them all"
        )
    broken = [n for n, p in parameters.items() if not bool(torch.isfinite(p.detach()).all())]
    if broken:
        raise ValueError(f"the model's weights are NaN or infinite in {', '.join(broken)}")
    if any(p.dtype == torch.float16 for p in parameters.values()):
        raise ValueError("the model is in float16, too coarse to be trained: pass model.float()")


def _check_alone(alone: Tensor, together: Tensor) -> None:
    """The first image gets one answer, alone or in a batch (kernels in bfloat16 differ by 1 %).

    Norms that compute the batch's statistics in a `forward` of their own are found here.
    """
    if bool((alone[0] - together[0]).abs().max() > 0.05 * together.abs().max() + 1e-6):
        raise ValueError(
            "the model gives an image another answer alone than in a batch: in evaluation mode "
            "each image must be read by itself, without the batch's statistics or noise"
        )


def _check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if high >= classes:
        from_one = " (labels count from 0, these from 1)" if low == 1 and high == classes else ""
        raise ValueError(
            f"the clean set has the label {high}, but the model has {classes} outputs{from_one}"
        )


def _warn_of_missing(labels: Tensor, classes: int) -> None:
    counts = labels.bincount(minlength=classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if len(missing) == classes - 1:
        warnings.warn(
            "the clean set holds one class only: the others will be forgotten", stacklevel=4
        )
    elif missing:
        some = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        warnings.warn(
            f"the clean set has no image of {len(missing)} of the model's {classes} classes "
            f"({some}): they may be forgotten",
            stacklevel=4,
        )


def _warn_of_misreading(logits: Tensor, labels: Tensor) -> None:
    r"""Warn if the model reads the images far worse than it should: by chance, or than it could.

    What it could read is judged in two ways, which need no other images. (1) Two images of a label
    are read alike with probability Σ_k q_k², where the q_k are how often it is read as k; the root
    of it is about the accuracy that the right numbers of the classes give. (2) A calibrated network
    reads a share of images equal to its mean confidence, :math:`\frac1n \sum_i \max_k
    \mathrm{softmax}(f(x_i))_k`, as labelled. Networks are surer than they are right, by up to 17
    points on the data that they were made for (Guo, Pleiss, Sun, Weinberger, *On Calibration of
    Modern Neural Networks*, ICML 2017, table 1); to be right less than half as often as sure, two
    standard deviations granted to chance, is another thing: images prepared differently, say.
    """
    count, classes = logits.shape
    read = logits.argmax(1)
    right = float((read == labels).double().mean())
    half = float(logits.double().softmax(1).max(1).values.mean()) / 2
    chance = 1 / classes
    if count >= 50 and right < chance + 0.5 * chance * (1 - chance):
        doubt = "which is chance: wrong labels, or images prepared differently from its training?"
    elif count >= 50 and right < 0.8 * (alike := _alike(read, labels, classes)):
        doubt = (
            f"but images of one label alike, as if it could read {alike:.0%}: are the classes "
            "numbered as in its training?"
        )
    elif right < half - 2 * (half * (1 - half) / count) ** 0.5:
        doubt = (
            f"but is sure of {2 * half:.0%}: wrong labels, or images prepared differently from its "
            "training?"
        )
    else:
        return
    warnings.warn(
        f"the model reads {right:.0%} of {count} clean images as labelled, {doubt}", stacklevel=4
    )


def _alike(read: Tensor, labels: Tensor, classes: int) -> float:
    """The root of how often two images of one label are read alike."""
    counts = labels.new_zeros(classes, classes).index_put_(
        (labels, read), torch.ones_like(labels), accumulate=True
    )
    pairs = int((counts.sum(1) * (counts.sum(1) - 1)).sum())
    return (int((counts * (counts - 1)).sum()) / pairs) ** 0.5 if pairs else 0.0
