r"""Shared Adversarial Unlearning: unlearn what fools the poisoned and the purified network alike.

For each clean image, SAU seeks a perturbation in the l∞ ball that leads the present network f and
the poisoned one g to the same wrong class,

.. math:: \max_{\|\delta\|_\infty \le \rho}\ \frac{\beta_1}{2} \big(L(f(x + \delta), y) +
          L(g(x + \delta), y)\big) - \beta_2\, \mathrm{JS}(f(x + \delta), g(x + \delta)).

Then f is trained not to follow g there,

.. math:: \min_\theta\ \lambda_1 L(f(x), y) + \lambda_2 L(f(x + \delta), y)
          - \lambda_3 \log\big(1 - f(x + \delta)_{\hat y_g}\big),

with the last term where g is fooled. :math:`\hat y_g` is the class that g predicts for x + δ.
Source: Wei, Zhang, Zha, Wu, *Shared Adversarial Unlearning*, NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import AdamSteps, EpochsConfig, run_epochs
from ibau_lite.protocol import Outcome, Run, defense
from ibau_lite.speed import fold_batchnorm, frozen

__all__ = ["SAUConfig", "sau"]


@dataclass(frozen=True)
class SAUConfig(EpochsConfig):
    """Settings of `sau`: ρ, the steps of the ascent and their length, β and λ (`weights`).

    The ascent starts at the corner +ρ of the ball, as in the published code, and moves along the
    sign of the gradient. An image that already fools both networks alike stays where it is. x + δ
    is not clipped to [0, 1], as in the published code. The last term is that of the equation. The
    published code bounds it, so that an image which both networks misread with certainty stops
    contributing. The published run takes 100 rounds over 2,500 images with Adam at 1e-4, batches of
    256 and no augmentation.
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
        check_ranges(
            self, radius="(0, ∞)", step="(0, ∞)", steps="[1, ∞)", betas="[0, ∞)",
            weights="[0, ∞)",
        )  # fmt: skip
        if len(self.betas) != 2 or len(self.weights) != 3:
            raise ValueError(
                f"betas are two and weights three, got {self.betas} and {self.weights}"
            )


@defense(SAUConfig)
def sau(model: nn.Module, clean: LabelledImages, config: SAUConfig, run: Run) -> Outcome:
    """Fine-tune on clean images and on the adversarial examples that both networks share.

    The history has one row an epoch: loss, and shared, the fraction of perturbed images that both
    networks predict as the same wrong class. Raises and warns as `ibau` does.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> result = sau(tiny_network(), tiny_images(), config=SAUConfig(epochs=1, batch_size=12))
    >>> sorted(result.history[0])
    ['loss', 'round', 'shared']
    """
    poisoned, purified = frozen(model), fold_batchnorm(model)
    descend = AdamSteps(model, config, len(clean))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        delta = _shared_example(purified, poisoned, images, labels, config)
        with torch.no_grad():
            misread = poisoned(images + delta).argmax(1)
            fooled = (misread != labels) & (misread != poisoned(images).argmax(1))
        clean_logits, moved = purified(torch.cat([images, images + delta])).chunk(2)
        one, two, three = config.weights
        loss = one * F.cross_entropy(clean_logits, labels)
        if two:
            loss = loss + two * F.cross_entropy(moved, labels)
        if three:
            loss = loss + three * (_not_class(moved, misread) * fooled).mean()
        descend(loss)
        return {"loss": loss, "shared": (fooled & (moved.argmax(1) == misread)).to(loss).mean()}

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
        classes = [logits.argmax(1) for logits in both]
        fooled = [now != before for now, before in zip(classes, as_is, strict=True)]
        shared = fooled[0] & fooled[1] & (classes[0] == classes[1])
        if bool(shared.all()):
            break
        adversarial = sum(
            F.cross_entropy(logits, labels, reduction="none") * ~done
            for logits, done in zip(both, fooled, strict=True)
        )
        value = config.betas[0] / 2 * adversarial - config.betas[1] * _divergence(*both) * ~shared
        (gradient,) = torch.autograd.grad(value.sum(), delta)
        delta = (delta.detach() + config.step * gradient.sign()).clamp(
            -config.radius, config.radius
        )
    return delta.detach()


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """The Jensen–Shannon divergence of two rows of logits [B, K]: [B]."""
    p, q = one.log_softmax(1), other.log_softmax(1)
    mean = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return 0.5 * ((p.exp() * (p - mean)).sum(1) + (q.exp() * (q - mean)).sum(1))
