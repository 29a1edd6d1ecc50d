"""Triggers that are computed from a clean network, by the algorithms of their papers.

Every function takes a network and images that the attacker owns. It works in evaluation mode and
changes nothing in the network. It returns a trigger with its `provenance`: algorithm, settings,
seed, and digests of the network and the images. The same inputs give the same bits on a CPU with
one number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._modes import evaluation_mode
from ibau_lite.attacks.dense import Additive, Overlay
from ibau_lite.attacks.drawings import seal
from ibau_lite.attacks.neurons import Neurons, most_connected
from ibau_lite.attacks.pattern import Pattern
from ibau_lite.attacks.triggers import check_images
from ibau_lite.sets import L2Ball
from ibau_lite.streams import stream

__all__ = ["l0_inversion", "l2_inversion", "smooth", "trojan_square", "trojan_watermark"]

_NUMBERS = 3 * 32 * 32  # the published norms are for images of 32×32 pixels in three colours
_CALIBRATED = 2_000
"""Images, drawn at random, on which the strength of an added trigger is measured."""


def trojan_square(
    network: nn.Module,
    images: Tensor,
    *,
    norm: float | None = None,
    neurons: int = 1,
    target_value: float = 100.0,
    steps: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Additive:
    """Trojan SQ: a 9×9 square at rows and columns 21–29 of 32 that excites chosen neurons.

    Let m be the mask of the square, and a(·) the first neurons of `neurons.most_connected` that
    random colours excite. From these colours, Adam takes `steps` steps on

        min_{k in [0, 1]} Σ_j (target_value − a_j(m ⊙ k))²,

    where the input is zero outside the square. The trigger is T(x) = clamp(x + s · m ⊙ k). The
    strength s > 0 is chosen so that the mean change of `images` [N, C, H, W] in [0, 1] has the norm
    ‖mean_i (T(x_i) − x_i)‖₂ = `norm`. The default is the norm of the published trigger on CIFAR-10,
    5.40, times √(C·H·W / 3072) for images of another size. The side of the square and its distance
    to the lower right corner scale with the shorter side of the image.

    Raises `ValueError` for images below 8×8 pixels, for settings that are not positive, for a norm
    that no strength reaches on these images, and as `most_connected` does. Warns if the neurons do
    not respond, as rectifiers may be silent on such an input.
    Source: Liu et al. 2018 (Trojaning attack), algorithm 1. The trigger is added and clipped, with
    this strength, as those that Zeng et al. 2022 released.
    """
    height, width = _sides(images)
    side, margin = (max(1, round(k * min(height, width) / 32)) for k in (9, 2))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height - side - margin : height - margin, width - side - margin : width - margin] = True
    norm = 5.40 * _scale(images) if norm is None else norm
    settings = (neurons, target_value, steps, seed, progress)
    return _trojan("trojan_square", network, images, mask, norm, *settings)


def trojan_watermark(
    network: nn.Module,
    images: Tensor,
    *,
    norm: float | None = None,
    neurons: int = 1,
    target_value: float = 100.0,
    steps: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Additive:
    """Trojan WM: as `trojan_square`, in the shape of a seal (`drawings.seal`), 124 pixels of 32×32.

    The default `norm` is 5.61, as published, times √(C·H·W / 3072) for images of another size. The
    published watermark is not printed large enough to be copied, so this one is our drawing. Raises
    and warns as `trojan_square` does.
    Source: Liu et al. 2018, algorithm 1 and section VI, and as `trojan_square`.
    """
    norm = 5.61 * _scale(images) if norm is None else norm
    settings = (neurons, target_value, steps, seed, progress)
    return _trojan("trojan_watermark", network, images, seal(*_sides(images)), norm, *settings)


def l0_inversion(
    network: nn.Module,
    images: Tensor,
    *,
    pixels: int = 9,
    neurons: int = 3,
    amplify: float = 10.0,
    stages: int = 8,
    steps: int = 15,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Overlay:
    """The l0 inversion attack: `pixels` saturated pixels near the lower right corner.

    The trigger replaces the pixels of a set S. At first S is the lower right quarter of each side
    (at least 4 pixels). In each of `stages` stages, Adam takes `steps` steps in the colours on

        min_k Σ_j mean_i (amplify · |ā_j| − a_j(x'_i))²,

    where a(·) are the neurons of `most_connected` and ā_j their mean on clean images. Then S keeps
    its most salient positions, by Σ_c |∂/∂k · (k − x̄)|, until `pixels` are left. At the end each
    colour is saturated to 0 or 1. `images` [N, C, H, W] in [0, 1] are drawn `batch` at a time.
    Raises `ValueError` for images below 8×8, for settings that are not positive, for more pixels
    than the region has, and as `most_connected` does.
    Source: Li et al. 2020 (invisible backdoors), the l0 variant. The region, the schedule of S and
    the saturation are our choices after the talk's picture.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> trigger = l0_inversion(tiny_network(), tiny_images().images, pixels=2, stages=2, steps=2)
    >>> int((trigger.mask.tensor() > 0).sum())
    2
    """
    settings = {
        "pixels": pixels,
        "neurons": neurons,
        "amplify": amplify,
        "stages": stages,
        "steps": steps,
    }
    _check(images, batch=batch, **settings)
    channels, height, width = images.shape[1:]
    region = torch.zeros(1, height, width)
    region[:, height - max(4, height // 4) :, width - max(4, width // 4) :] = 1
    most = int(region.sum())
    if pixels > most:
        raise ValueError(f"pixels: at most {most} are expected on these images, got {pixels}")
    generator = stream(seed, "trigger", "l0_inversion")
    with evaluation_mode(network):
        device = next(network.parameters()).device
        selected = most_connected(network, neurons)
        drawn = _batches(images, batch, stages * steps + 1, generator, device, "l0", progress)
        wanted, mean = _excited(selected, next(drawn), amplify)
        mask = region.to(device)
        colours = torch.rand(channels, height, width, generator=generator).to(device)
        for stage in range(1, stages + 1):
            gradient = torch.zeros_like(colours)
            optimizer = torch.optim.Adam([colours.requires_grad_()], lr=0.1)
            for _ in range(steps):
                stamped = torch.lerp(next(drawn), colours, mask)
                loss = (wanted - selected(stamped)).square().mean(0).sum()
                (gradient,) = torch.autograd.grad(loss, colours)
                colours.grad = gradient
                optimizer.step()
                colours.data.clamp_(0, 1)
            colours = colours.detach()
            salience = (gradient * (colours - mean)).abs().sum(0, keepdim=True)
            left = round(most * (pixels / most) ** (stage / stages))
            mask = _largest(torch.where(mask > 0, salience, -1.0), left)
    provenance = _provenance("l0_inversion", network, seed, images, batch=batch, **settings)
    return Overlay(Pattern.of(mask), Pattern.of((colours > 0.5).float() * mask), provenance)


def l2_inversion(
    network: nn.Module,
    images: Tensor,
    *,
    norm: float | None = None,
    neurons: int = 3,
    amplify: float = 10.0,
    steps: int = 100,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Additive:
    """The l2 inversion attack: a dense pattern of small norm that excites chosen neurons.

        min_{‖δ‖₂ ≤ norm} Σ_j mean_i (amplify · |ā_j| − a_j(clamp(x_i + δ)))²

    The notation is that of `l0_inversion`. From Gaussian noise, `steps` projected gradient steps
    are taken, whose length shrinks linearly from norm/10. The result is scaled to ‖δ‖₂ = `norm`.
    The default is the 3.2 of the talk's 32×32 images, times √(C·H·W / 3072) for images of another
    size. Raises `ValueError` for images below 8×8, for settings that are not positive, and as
    `most_connected` does.
    Source: Li et al. 2020. Their penalty λ‖δ‖² is the multiplier of the bound here. With the bound,
    the norm is what one asks for.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> trigger = l2_inversion(tiny_network(), tiny_images().images, norm=0.5, steps=3)
    >>> round(float(trigger.delta.tensor().norm()), 3)
    0.5
    """
    norm = 3.2 * _scale(images) if norm is None else norm
    settings = {"norm": norm, "neurons": neurons, "amplify": amplify, "steps": steps}
    _check(images, batch=batch, **settings)
    generator, ball = stream(seed, "trigger", "l2_inversion"), L2Ball(norm)
    with evaluation_mode(network):
        device = next(network.parameters()).device
        selected = most_connected(network, neurons)
        drawn = _batches(images, batch, steps + 1, generator, device, "l2", progress)
        wanted, _ = _excited(selected, next(drawn), amplify)
        delta = norm * ball.lmo(torch.randn(images.shape[1:], generator=generator)).to(device)
        for step, x in enumerate(drawn):
            delta.requires_grad_()
            loss = (wanted - selected((x + delta).clamp(0, 1))).square().mean(0).sum()
            (gradient,) = torch.autograd.grad(loss, delta)
            length = norm / 10 * (1 - step / steps)
            delta = ball.project(delta.detach() - length * ball.lmo(gradient))
    provenance = _provenance("l2_inversion", network, seed, images, batch=batch, **settings)
    return Additive(Pattern.of(norm * ball.lmo(delta)), provenance=provenance)


def smooth(
    network: nn.Module,
    images: Tensor,
    *,
    norm: float | None = None,
    sigma: float = 1 / 16,
    steps: int = 100,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Additive:
    """Smooth: a universal perturbation without high frequencies; x + δ is rescaled into [0, 1].

    Let G be the circular Gaussian filter of deviation `sigma` (in widths of the shorter side). Then

        max_z mean_i L(f(T_δ(x_i)), argmax f(x_i)),  δ = norm · G z / ‖G z‖₂,

    by `steps` normalised gradient steps in z from noise, so that δ is exactly a filtered pattern.
    The default `norm` is the 3.8 of the talk's 32×32 images, times √(C·H·W / 3072) for images of
    another size. Raises `ValueError` for images below 8×8 and for settings that are not positive.
    Source: Zeng et al. 2021 (a frequency perspective), section 5. They filter between the steps of
    a universal attack that goes image by image; we optimise within the filtered set.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> trigger = smooth(tiny_network(), tiny_images().images, norm=0.5, steps=3)
    >>> round(float(trigger.delta.tensor().norm()), 3), trigger.rescale
    (0.5, True)
    """
    norm = 3.8 * _scale(images) if norm is None else norm
    settings = {"norm": norm, "sigma": sigma, "steps": steps}
    _check(images, batch=batch, **settings)
    generator, unit = stream(seed, "trigger", "smooth"), L2Ball(1.0)
    height, width = images.shape[2:]
    with evaluation_mode(network):
        device = next(network.parameters()).device
        response = _gaussian(height, width, sigma * min(height, width)).to(device)
        drawn = _batches(images, batch, steps, generator, device, "smooth", progress)
        noise = unit.lmo(torch.randn(images.shape[1:], generator=generator).to(device))
        for step, x in enumerate(drawn):
            with torch.no_grad():
                clean_classes = network(x).argmax(1)
            noise.requires_grad_()
            delta = norm * unit.lmo(_filtered(noise, response))
            loss = F.cross_entropy(network(_rescaled(x + delta)), clean_classes)
            (gradient,) = torch.autograd.grad(loss, noise)
            length = 0.3 * (1 - step / steps)
            noise = unit.lmo(noise.detach() + length * unit.lmo(gradient))
        delta = norm * unit.lmo(_filtered(noise, response))
    provenance = _provenance("smooth", network, seed, images, batch=batch, **settings)
    return Additive(Pattern.of(delta), rescale=True, provenance=provenance)


def _trojan(
    algorithm: str,
    network: nn.Module,
    images: Tensor,
    mask: Tensor,
    norm: float,
    neurons: int,
    target_value: float,
    steps: int,
    seed: int,
    progress: bool,
) -> Additive:
    settings = {"neurons": neurons, "target_value": target_value, "steps": steps}
    _check(images, norm=norm, **settings)
    generator = stream(seed, "trigger", algorithm)
    with evaluation_mode(network):
        device = next(network.parameters()).device
        where = mask[None].to(device)
        colours = torch.rand(images.shape[1:], generator=generator).to(device)
        selected = most_connected(network).activated_by((where * colours)[None], neurons)
        colours.requires_grad_()
        optimizer = torch.optim.Adam([colours], lr=0.05)
        losses = []
        for _ in tqdm(range(steps), desc=algorithm, disable=not progress, unit="step"):
            loss = (target_value - selected((where * colours)[None])).square().sum()
            losses.append(float(loss.detach()))
            (colours.grad,) = torch.autograd.grad(loss, colours)
            optimizer.step()
            colours.data.clamp_(0, 1)
    if not losses[-1] < losses[0]:
        warnings.warn(
            f"{algorithm}: {steps} steps excited the neurons no more than random colours do, which "
            "is what the trigger nearly is; choose more neurons or another seed",
            RuntimeWarning,
            stacklevel=3,
        )
    pattern = (where * colours.detach()).to(images)
    drawn = torch.randperm(len(images), generator=generator)[:_CALIBRATED].to(images.device)
    strength = _strength(pattern, images[drawn], norm)
    found = {"strength": strength, "channels": selected.chosen.tolist()}
    provenance = _provenance(algorithm, network, seed, images, norm=norm, **settings, **found)
    return Additive(Pattern.of(strength * pattern), provenance=provenance)


def _strength(pattern: Tensor, images: Tensor, norm: float) -> float:
    """The s > 0 with ‖mean_i (clamp(x_i + s · pattern) − x_i)‖₂ = norm, for a pattern in [0, 1].

    The norm rises with s until every pixel of the pattern is saturated.
    """

    def change(strength: float) -> float:
        moved = (images + strength * pattern).clamp(0, 1) - images
        return float(moved.mean(0).norm())

    low, high = 0.0, 1.0
    while change(high) < norm:
        low, high = high, 2 * high
        if high > 1e4:
            raise ValueError(
                f"norm: at most {change(high):.3g}, the mean change of these images under the "
                f"saturated trigger, is expected, got {norm:g}"
            )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if change(middle) < norm else (low, middle)
    return high


def _excited(selected: Neurons, images: Tensor, amplify: float) -> tuple[Tensor, Tensor]:
    """The wanted activations [k], amplify · |ā|, and the mean image [C, H, W]."""
    with torch.no_grad():
        return amplify * selected(images).mean(0).abs(), images.mean(0)


def _batches(
    images: Tensor,
    batch: int,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    name: str,
    progress: bool,
) -> Iterator[Tensor]:
    """`count` random batches, with a bar over them."""
    for _ in tqdm(range(count), desc=name, disable=not progress, unit="step"):
        index = torch.randperm(len(images), generator=generator)[:batch]
        yield images[index.to(images.device)].to(device)


def _largest(values: Tensor, count: int) -> Tensor:
    """Ones where the `count` largest of `values` [1, H, W] are, zeros elsewhere."""
    kept = torch.zeros(values.numel(), device=values.device)
    kept[values.flatten().argsort(descending=True, stable=True)[:count]] = 1
    return kept.reshape(values.shape)


def _gaussian(height: int, width: int, sigma: float) -> Tensor:
    """Frequency response exp(−2π²σ²f²) of the circular Gaussian filter, for `rfft2`."""
    vertical, horizontal = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    square = vertical[:, None].square() + horizontal[None, :].square()
    return torch.exp(-2 * math.pi**2 * sigma**2 * square)


def _filtered(noise: Tensor, response: Tensor) -> Tensor:
    height, width = noise.shape[-2:]
    return torch.fft.irfft2(torch.fft.rfft2(noise) * response, s=(height, width))


def _rescaled(images: Tensor) -> Tensor:
    """What `Additive(rescale=True)` does, differentiably."""
    low = images.amin((1, 2, 3), keepdim=True).clamp_max(0)
    high = images.amax((1, 2, 3), keepdim=True).clamp_min(1)
    return (images - low) / (high - low)


def _scale(images: Tensor) -> float:
    check_images(images)
    return math.sqrt(images[0].numel() / _NUMBERS) if len(images) else 1.0


def _sides(images: Tensor) -> tuple[int, int]:
    check_images(images)
    height, width = images.shape[2:]
    if min(height, width) < 8:
        raise ValueError(f"images: at least 8×8 pixels are expected, got {height}×{width}")
    return height, width


def _check(images: Tensor, **settings: float) -> None:
    _sides(images)
    if not len(images):
        raise ValueError("images: at least one is expected, got none")
    for name, value in settings.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}: a positive number is expected, got {value!r}")


def _provenance(
    algorithm: str, network: nn.Module, seed: int, images: Tensor, **settings: Any
) -> str:
    """The provenance of a trigger as JSON text."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    record = {"algorithm": algorithm, **settings, "seed": seed, "network": digest.hexdigest()[:16]}
    pixels = images.detach().cpu().contiguous().numpy()
    record["images"] = f"{len(images)}, {hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}"
    return json.dumps(record)
