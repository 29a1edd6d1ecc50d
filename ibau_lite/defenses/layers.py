"""Which layers a network has, found by watching one image pass through it.

Modules are taken in the order in which they finish, so that branches and blocks fall into place;
what a `forward` computes without a module (an addition, `torch.relu`) is seen in the output of the
module around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = [
    "batch_norm_training",
    "check_own_weight",
    "is_trainable_convolution",
    "last_convolution",
    "layer_outputs",
    "norm_after",
    "reused_layers",
    "stages",
]


def last_convolution(model: nn.Module, image: Tensor) -> str:
    """Name of the convolution that runs last and may be changed (its weight requires a gradient).

    `image` is a batch [1, C, H, W]. Raises `ValueError` if there is none, or as `check_own_weight`.
    """
    names = [
        name for name, module, _, _ in _watch(model, image) if is_trainable_convolution(module)
    ]
    if not names:
        raise ValueError("the model has no convolution that may be changed: name a layer yourself")
    check_own_weight(model, names[-1])
    return names[-1]


def is_trainable_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution whose weight, or what that is computed from, is not frozen."""
    parts = [p for name, p in module.named_parameters() if not name.endswith("bias")]
    return isinstance(module, nn.Conv2d) and any(p.requires_grad for p in parts)


def check_own_weight(model: nn.Module, layer: str) -> None:
    """Raise `ValueError` for a layer whose weight is computed from others, as by `weight_norm`.

    A channel of it cannot be set to zero for good: the parts of weight_norm would give 0 / 0.
    """
    if "weight" not in model.get_submodule(layer)._parameters:
        raise ValueError(
            f"layer {layer}: its weight is computed (weight_norm, or another parametrisation), so "
            "its channels cannot be pruned; take that off first, with "
            'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight") or '
            "torch.nn.utils.remove_weight_norm(layer)"
        )


def norm_after(model: nn.Module, image: Tensor, layer: str) -> str | None:
    """Name of the affine normalisation that takes in what `layer` gives out, if there is one.

    That is the next leaf to run, if it is given that very tensor and has one weight and one bias
    for each channel. (PyTorch's own LayerNorm has them for the last axis, which is another.)
    """
    leaves = [row for row in _watch(model, image) if not any(row[1].children())]
    place = [name for name, *_ in leaves].index(layer)
    for name, module, given, _ in leaves[place + 1 : place + 2]:
        parts = [getattr(module, part, None) for part in ("weight", "bias")]
        shapes = [part.shape for part in parts if isinstance(part, Tensor)]
        if given is leaves[place][3] and type(module) is not nn.LayerNorm:
            return name if shapes == [(_channels(model, layer),)] * 2 else None
    return None


def stages(model: nn.Module, image: Tensor, most: int) -> tuple[str, ...]:
    """Names of the last modules at each size of feature maps that a convolution gives out.

    On a VGG the activation before each pooling, on a ResNet the last block of each group: at most
    `most` of them, the deepest, in order. Maps of one pixel, which have nowhere to look, what a
    pooling gives out, and modules that run several times in one pass do not count. Raises
    `ValueError` if no convolution gives out larger maps.
    """
    last: dict[tuple[int, ...], str] = {}
    convolved = set()
    rows = _watch(model, image)
    runs = Counter(name for name, *_ in rows)
    for name, module, _, output in rows:
        maps = output.ndim == 4 and output[0, 0].numel() > 1 and not _pools(module)
        if name and runs[name] == 1 and maps:
            size = tuple(output.shape[2:])
            last[size] = name
            if isinstance(module, nn.Conv2d):
                convolved.add(size)
    found = [name for size, name in last.items() if size in convolved]
    if not found:
        raise ValueError("the model has no convolution: name the layers to attend to yourself")
    return tuple(found[-most:])


@contextmanager
def layer_outputs(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the dict holds what each named module gave out in the last forward pass.

    Raises `ValueError` for a name that the model lacks.
    """
    modules = dict(model.named_modules())
    missing = [name for name in layers if name not in modules]
    if missing:
        raise ValueError(f"the model has no module {', '.join(missing)}; see named_modules()")
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        seen[name] = output

    handles = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def batch_norm_training(
    model: nn.Module, images: Tensor, wanted: bool = True, *, record: bool = True
) -> Iterator[None]:
    """Inside, BatchNorm uses the statistics of the batch; dropout stays off.

    With `record` they enter the running ones. Layers whose parameters are frozen keep to their
    running statistics, and so do all for a batch of one image, which has no statistics.
    """
    norms = [
        module
        for module in model.modules()
        if wanted and len(images) > 1 and isinstance(module, nn.BatchNorm2d)
        if all(p.requires_grad for p in module.parameters())
    ]
    tracked = [module.track_running_stats for module in norms]
    for module, tracks in zip(norms, tracked, strict=True):
        module.train()
        module.track_running_stats = tracks and record
    try:
        yield
    finally:
        for module, tracks in zip(norms, tracked, strict=True):
            module.eval()
            module.track_running_stats = tracks


def _pools(module: nn.Module) -> bool:
    kinds = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
    return isinstance(module, kinds)


def _channels(model: nn.Module, layer: str) -> int:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def reused_layers(model: nn.Module, image: Tensor, layers: Sequence[str]) -> list[str]:
    """Those of the named modules that run several times in one pass, as a shared activation."""
    runs = Counter(name for name, *_ in _watch(model, image))
    return [name for name in layers if runs[name] > 1]


def _watch(model: nn.Module, image: Tensor) -> list[tuple[str, nn.Module, object, Tensor]]:
    """(name, module, first input, output) in the order in which the modules finish."""
    rows: list[tuple[str, nn.Module, object, Tensor]] = []

    def note(name: str, module: nn.Module, given: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor):
            rows.append((name, module, given[0] if given else None, output))

    handles = [
        module.register_forward_hook(lambda m, given, out, name=name: note(name, m, given, out))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return rows
