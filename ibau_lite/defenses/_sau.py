r"""Shared Adversarial Unlearning: unlearn what fools the poisoned and the purified network alike.

For each clean image a perturbation in the l∞ ball is sought that leads the present network f and
the poisoned one g to the same wrong class,

.. math:: \max_{\|\delta\|_\infty \le \rho}\ \frac{\beta_1}{2} \big(L(f(x + \delta), y) +
          L(g(x + \delta), y)\big) - \beta_2\, \mathrm{JS}(f(x + \delta), g(x + \delta)),

and f is trained not to follow g there,

.. math:: \min_\theta\ \lambda_1 L(f(x), y) + \lambda_2 L(f(x + \delta), y)
          - \lambda_3 \log\big(1 - f(x + \delta)_{\hat y_g}\big),

the last term where g is fooled, with :math:`\hat y_g` the class that g reads in x + δ.
Source: Wei, Zhang, Zha, Wu, *Shared Adversarial Unlearning*, NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import AdamSteps, EpochsConfig, run_epochs
from ibau_lite.protocol import Outcome, Run, defense
from ibau_lite.speed import fold_batchnorm, frozen

__all__ = ["SAUConfig", "sau"]


@dataclass(frozen=True)
class SAUConfig(EpochsConfig):
    """Settings of `sau`: ρ, the ascent's steps and step, β and λ; the rest as in fine-tuning.

    The ascent starts at the corner +ρ of the ball, as the published code does, and moves along the
    sign of the gradient; an image that already fools both networks alike stays where it is. x + δ
    is not clipped to [0, 1] (nor is it there). The last term is as the equation has it; the
    published code bounds it, so that an image which both networks misread with certainty stops
    pulling. The published run takes 100 rounds over 2,500 images with Adam at 1e-4, batches of 256
    and no augmentation.
    """

    epochs: int = 5
    batch_size: int = 100
    lr: float = 1e-3
    radius: float = 0.2
    steps: int = 5
    step: float = 0.2
    betas: tuple[float, float] = (0.01, 1.0)
    weights: tuple[float, float, float] = (1.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.radius > 0 and self.step > 0) or self.steps < 1:
            raise ValueError(
                "radius, step and steps must be positive, "
                f"got {self.radius}, {self.step}, {self.steps}"
            )
        if len(self.betas) != 2 or len(self.weights) != 3:
            raise ValueError(
                f"betas are two and weights three, got {self.betas} and {self.weights}"
            )
        if not all(value >= 0 for value in (*self.betas, *self.weights)):
            raise ValueError(
                f"betas and weights must be at least 0, got {self.betas} and {self.weights}"
            )


@defense(SAUConfig)
def sau(model: nn.Module, clean: LabelledImages, config: SAUConfig, run: Run) -> Outcome:
    """Fine-tune on clean images and on the adversarial examples that both networks share.

    The history has one row a pass: loss, and shared, the fraction of perturbed images that both
    networks read as the same wrong class. Raises and warns as `ibau` does.
    """
    poisoned, purified = frozen(model), fold_batchnorm(model)
    descend = AdamSteps(model, config, len(clean))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        delta = _shared_example(purified, poisoned, images, labels, config)
        with torch.no_grad():
            there = poisoned(images + delta).argmax(1)
            fooled = (there != labels) & (there != poisoned(images).argmax(1))
        clean_logits, moved = purified(torch.cat([images, images + delta])).chunk(2)
        one, two, three = config.weights
        loss = one * F.cross_entropy(clean_logits, labels)
        if two:
            loss = loss + two * F.cross_entropy(moved, labels)
        if three:
            loss = loss + three * (_not_class(moved, there) * fooled).mean()
        descend(loss)
        return {"loss": loss, "shared": (fooled & (moved.argmax(1) == there)).to(loss).mean()}

    return model, run_epochs(model, clean, config, step, run), {}


def _not_class(logits: Tensor, classes: Tensor) -> Tensor:
    """−log(1 − softmax(z)_k) for each row, from logits: log Σ_j e^z_j − log Σ_{j≠k} e^z_j."""
    rest = logits.scatter(1, classes[:, None], -torch.inf)
    return logits.logsumexp(1) - rest.logsumexp(1)


def _shared_example(
    purified: nn.Module, poisoned: nn.Module, images: Tensor, labels: Tensor, config: SAUConfig
) -> Tensor:
    """δ [B, C, H, W] for each image, by signed ascent from the corner +ρ."""
    with torch.no_grad():
        as_is = [network(images).argmax(1) for network in (purified, poisoned)]
    delta = torch.full_like(images, config.radius)
    for _ in range(config.steps):
        delta.requires_grad_(True)
        both = [network(images + delta) for network in (purified, poisoned)]
        read = [logits.argmax(1) for logits in both]
        fooled = [now != before for now, before in zip(read, as_is, strict=True)]
        shared = fooled[0] & fooled[1] & (read[0] == read[1])
        if bool(shared.all()):
            break
        adversarial = sum(
            F.cross_entropy(logits, labels, reduction="none") * ~done
            for logits, done in zip(both, fooled, strict=True)
        )
        value = config.betas[0] / 2 * adversarial - config.betas[1] * _divergence(*both) * ~shared
        (slope,) = torch.autograd.grad(value.sum(), delta)
        delta = (delta.detach() + config.step * slope.sign()).clamp(-config.radius, config.radius)
    return delta.detach()


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """The Jensen–Shannon divergence of two rows of logits [B, K]: [B]."""
    p, q = one.log_softmax(1), other.log_softmax(1)
    mean = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return 0.5 * ((p.exp() * (p - mean)).sum(1) + (q.exp() * (q - mean)).sum(1))
