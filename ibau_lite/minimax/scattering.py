"""Away from the true class, to no class in particular."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite.minimax.risk import Risk

__all__ = ["Scattering"]


@dataclass(frozen=True, eq=False)
class Scattering:
    r"""What a δ that misleads every image, each class elsewhere, maximises.

    .. math:: S(\delta) = \frac1n \sum_i \min\bigl(L(f_\theta(x_i + \delta), y_i), c\bigr)
              + w\, \mathcal H\Bigl(\frac1n \sum_i \mathrm{softmax} f_\theta(x_i + \delta)\Bigr)

    with the entropy 𝓗 in nats. H alone is largest where a δ leads all images to one class, since no
    logit is in its way; that is how universal perturbations of any network end. An all-to-all
    backdoor, whose δ leads every class to another one, stands lower. The `cap` c takes from H what
    makes one class worth it, and the entropy, with the `weight` w, is least where all images get
    one answer. A penalty of the risk is left out.

    Source: Moosavi-Dezfooli et al. 2017 observe that universal perturbations end in a few dominant
    labels; this objective is ours.
    """

    risk: Risk
    cap: float = 5.0
    weight: float = 3.0

    @property
    def images(self) -> Tensor:
        return self.risk.images

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(S, ∇S) at (δ, θ), a chunk at a time: the mean answer first, then the slopes."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        parts = list(self.risk.chunks())
        with torch.no_grad():
            mean = torch.stack(
                [share * part.logits(delta, fixed).softmax(1).mean(0) for share, part in parts]
            ).sum(0)
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        value = -self.weight * (mean * log_mean).sum()
        gradient = torch.zeros_like(delta)
        for share, part in parts:
            point = delta.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = part.logits(point, fixed)
                labels = part.labels.to(logits.device)
                loss = F.cross_entropy(logits, labels, reduction="none").clamp_max(self.cap).mean()
                # d𝓗(p̄) = −Σ log p̄ dp̄, since Σ dp̄ = 0
                scattered = -(logits.softmax(1).mean(0) * log_mean).sum()
                (slope,) = torch.autograd.grad(loss + self.weight * scattered, point)
            value, gradient = value + share * loss.detach(), gradient + share * slope
        return value, gradient
