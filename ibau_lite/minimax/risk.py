"""H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ): the objective of both players."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite.logits import at, check_reads_alone

__all__ = ["Risk"]


@dataclass(frozen=True, eq=False)
class Risk:
    """H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) − penalty·‖δ‖², with L the cross-entropy.

    Called as `risk(delta, theta)` it is one differentiable scalar over all its images, the form
    that `ibau_lite.hypergrad` takes; `value` and `value_and_gradient` need memory for `chunk`
    images only.

    Fields:
        model: a classifier in evaluation mode (H must not depend on the other images of a batch);
            its buffers are used as they are, its parameters replaced by `theta`.
        images [n, C, H, W], labels [n]: on any device; they go to δ's a call, or a chunk, at a
            time, so that a set larger than the device's memory (or a memory map) will do. Labels
            may also be probabilities [n, K]: L is the cross-entropy with them.
        penalty: of the inner objective of the published code (0.001); 0 in the talk.
        clamp: evaluate at clamp(x + δ, 0, 1), which is what a camera could see; the talk does not.
        stamped: a boolean [n]: images that carry δ, all of them by default.
        chunk: how many images `value_and_gradient` and `chunks` take at once.

    δ and the model are of one floating dtype, to which the images are cast a call at a time.
    Raises `ValueError` for no images, shapes that do not fit, a mask that is not boolean, a
    negative penalty, a chunk below 1, or a model (or a part of it) in training mode or with a norm
    that mixes images in evaluation mode.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    penalty: float = 0.0
    clamp: bool = False
    stamped: Tensor | None = None
    chunk: int = 500

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(
                "H is a mean over images [n, C, H, W]: at least one is needed, "
                f"got shape {list(self.images.shape)}"
            )
        for name in ("labels", "stamped"):
            given = getattr(self, name)
            if name == "labels" and given.is_floating_point():
                given = given[:, 0] if given.ndim == 2 else given[:0]
            if given is not None and given.shape != (len(self.images),):
                raise ValueError(
                    f"{name} must have shape [{len(self.images)}], got {list(given.shape)}"
                )
        if self.stamped is not None and self.stamped.dtype != torch.bool:
            raise ValueError(f"stamped must be boolean, got {self.stamped.dtype}")
        if not (self.penalty >= 0 and math.isfinite(self.penalty)):
            raise ValueError(f"penalty must be finite and at least 0, got {self.penalty!r}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if any(module.training for module in self.model.modules()):
            raise ValueError(
                "the model must be in evaluation mode (model.eval()): H is not a function of θ "
                "and δ alone while batch statistics or dropout enter it"
            )
        check_reads_alone(self.model)

    def __call__(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """H(δ, θ) for δ [C, H, W] and θ a dict of tensors: a differentiable scalar.

        Raises `ValueError` for a δ of another shape. A parameter that `theta` does not name is
        taken from the model.
        """
        logits = self.logits(delta, theta)
        soft = self.labels.is_floating_point()
        value = F.cross_entropy(logits, self.labels.to(logits if soft else delta.device))
        # (δ·δ), not ‖δ‖²: the norm has no derivative at δ = 0.
        return value - self.penalty * (delta * delta).sum() if self.penalty else value

    def logits(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """f_θ(xᵢ + δ) as H takes it, stamped and clamped: [n, K]. Errors as for H."""
        if delta.shape != self.images.shape[1:]:
            raise ValueError(
                f"delta must have the shape {list(self.images.shape[1:])} of one image, "
                f"got {list(delta.shape)}"
            )
        shift = delta
        if self.stamped is not None:
            shift = delta * self.stamped.to(delta)[:, None, None, None]
        inputs = self.images.to(delta) + shift
        if self.clamp:
            inputs = inputs.clamp(0, 1)
        return at(self.model, theta, inputs)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> Risk:
        """The same risk over some of the images."""
        stamped = None if self.stamped is None else self.stamped[index]
        return Risk(
            self.model,
            self.images[index],
            self.labels[index],
            self.penalty,
            self.clamp,
            stamped,
            self.chunk,
        )

    def chunks(self) -> Iterator[tuple[float, Risk]]:
        """Parts of at most `chunk` images with their weights: H = Σ weight · H_part."""
        for start in range(0, len(self), self.chunk):
            part = self.subset(slice(start, start + self.chunk))
            yield len(part) / len(self), part

    def value(self, delta: Tensor, theta: Mapping[str, Tensor]) -> float:
        """H at (δ, θ), a chunk at a time and without a graph."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        with torch.no_grad():
            return sum(weight * float(part(delta, fixed)) for weight, part in self.chunks())

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(H, ∇₁H) at (δ, θ): a scalar and a tensor like δ, without a graph."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        value, gradient = delta.new_zeros(()), torch.zeros_like(delta)
        for weight, part in self.chunks():
            point = delta.detach().requires_grad_(True)
            with torch.enable_grad():
                partial = part(point, fixed)
                (slope,) = torch.autograd.grad(partial, point)
            value, gradient = value + weight * partial.detach(), gradient + weight * slope
        return value, gradient
