r"""FT-SAM: fine-tuning towards flat minima, where the neurons of a backdoor do not survive.

Each step follows the gradient at the worst weights nearby, in a ball whose axes grow with the
weights,

.. math:: \min_\theta \max_{\|T^{-1}\epsilon\|_2 \le \rho} L(\theta + \epsilon), \qquad
          \epsilon = \rho\, \frac{T^2 \nabla L}{\|T \nabla L\|_2}, \quad T = \mathrm{diag}|\theta|.

Source: Zhu, Wei, Shen, Fan, Wu, *Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware
Minimization*, ICCV 2023. The adaptive ball is that of Kwon et al. (ASAM, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import EpochsConfig, run_epochs
from ibau_lite.defenses.layers import batch_norm_training
from ibau_lite.protocol import Outcome, Run, defense

__all__ = ["FTSAMConfig", "ft_sam", "sam_perturbation"]


@dataclass(frozen=True)
class FTSAMConfig(EpochsConfig):
    """Settings of `ft_sam`: SGD with a cosine step, the radius ρ, smoothed labels.

    The published run takes 100 epochs on 2,500 images. With `batch_statistics`, the network
    normalises by the batch and moves BatchNorm's running statistics (at θ, not at θ + ε), as
    published. With frozen statistics a shift of this radius changes the scale of every layer, and
    training diverges.
    """

    epochs: int = 20
    batch_size: int = 100
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    radius: float = 2.0
    label_smoothing: float = 0.1
    batch_statistics: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, momentum="[0, 1)", label_smoothing="[0, 1)", radius="(0, ∞)",
            weight_decay="[0, ∞)",
        )  # fmt: skip


@defense(FTSAMConfig)
def ft_sam(model: nn.Module, clean: LabelledImages, config: FTSAMConfig, run: Run) -> Outcome:
    """Fine-tune on the clean set with sharpness-aware minimisation.

    The history has one row an epoch: loss, at θ, and sharp, at θ + ε. Raises and warns as `ibau`
    does.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> config = FTSAMConfig(epochs=1, batch_size=12, radius=0.1)
    >>> sorted(ft_sam(tiny_network(), tiny_images(), config=config).history[0])
    ['loss', 'round', 'sharp']
    """
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(
        theta.values(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, config.total_batches(len(clean))
    )

    def loss_at(
        point: Mapping[str, Tensor], images: Tensor, labels: Tensor, *, record: bool
    ) -> Tensor:
        with batch_norm_training(model, images, config.batch_statistics, record=record):
            logits = functional_call(model, dict(point), (images,))
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = loss_at(theta, images, labels, record=True)
        gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
        shift = sam_perturbation(theta, dict(zip(theta, gradients, strict=True)), config.radius)
        moved = {name: (p.detach() + shift[name]).requires_grad_() for name, p in theta.items()}
        sharp = loss_at(moved, images, labels, record=False)
        gradients = torch.autograd.grad(sharp, list(moved.values()), allow_unused=True)
        for parameter, gradient in zip(theta.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        return {"loss": loss, "sharp": sharp}

    return model, run_epochs(model, clean, config, step, run), {}


def sam_perturbation(
    theta: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], radius: float
) -> dict[str, Tensor]:
    """ε = ρ T²g / ‖Tg‖₂ with T = diag|θ|: the maximiser of ⟨g, ε⟩ over ‖T⁻¹ε‖₂ ≤ ρ.

    A weight of zero does not move, and ε is zero where Tg is. `gradients` may hold None for
    parameters that the loss does not depend on.

    >>> theta, g = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}
    >>> sam_perturbation(theta, g, radius=0.5)["w"].tolist()
    [1.0, 0.0]
    """
    scaled = {
        name: torch.zeros_like(p) if gradient is None else p.detach().abs() * gradient
        for name, p in theta.items()
        for gradient in (gradients[name],)
    }
    length = torch.stack([part.square().sum() for part in scaled.values()]).sum().sqrt()
    factor = radius / length.clamp_min(torch.finfo(length.dtype).tiny)
    return {name: factor * p.detach().abs() * scaled[name] for name, p in theta.items()}
