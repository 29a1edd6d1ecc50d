r"""Neural Attention Distillation: the poisoned network learns the attention of a fine-tuned copy.

The teacher is the network after fine-tuning on the clean set. The student is the network itself. It
minimises

.. math:: L(f(x), y) + \sum_l \beta_l\, \mathrm{MSE}\big(A_l(x),\, A_l^{\mathrm{teacher}}(x)\big),
          \qquad A_l = \frac{\sum_c |F_{l,c}|^2}{\big\|\sum_c |F_{l,c}|^2\big\|_2},

where F_l [C, H, W] is the output of layer l.
Source: Li, Lyu, Koren, Lyu, Li, Ma, *Neural Attention Distillation*, ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses._fine_tuning import FineTuningConfig, fine_tuning
from ibau_lite.defenses.epochs import EpochsConfig, run_epochs
from ibau_lite.defenses.layers import batch_norm_training, layer_outputs, reused_layers, stages
from ibau_lite.protocol import Outcome, Run, defense

__all__ = ["NADConfig", "attention", "nad"]


@dataclass(frozen=True)
class NADConfig(EpochsConfig):
    """Settings of `nad`: the student's SGD (momentum 0.9, Nesterov), β, layers, and the teacher.

    `lr` falls by ten after a tenth of the epochs. `betas` belong to `layers`. If `layers` is None,
    they belong to the last module at each of the deepest feature sizes, as many as there are betas
    (the last betas, if there are fewer sizes). `teacher` says how the teacher is fine-tuned.

    With `batch_statistics`, the student normalises by the batch and moves BatchNorm's running
    statistics, as published. With frozen statistics, SGD at this `lr` and these β diverges.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    betas: tuple[float, ...] = (500.0, 1000.0, 1000.0)
    layers: tuple[str, ...] | None = None
    teacher: FineTuningConfig = FineTuningConfig()
    batch_statistics: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, momentum="[0, 1)", weight_decay="[0, ∞)", betas="[0, ∞)")
        if not self.betas:
            raise ValueError("betas: at least one number is expected, got none")
        if self.layers is not None and len(self.layers) != len(self.betas):
            raise ValueError(
                f"layers: one for each of the {len(self.betas)} betas, got {self.layers}"
            )


@defense(NADConfig)
def nad(student: nn.Module, clean: LabelledImages, config: NADConfig, run: Run) -> Outcome:
    """Fine-tune a teacher, then distil its attention into the student.

    The history has one row an epoch of the student: loss, and attention, the weighted sum of the
    distances. `details` holds the layers, the teacher and its history. Raises and warns as `ibau`
    does. Raises `ValueError` for a network without convolutions if no layers are named, and for a
    layer that it lacks or whose output is not [N, C, H, W].

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> config = NADConfig(epochs=1, batch_size=12, lr=0.01, teacher=FineTuningConfig(epochs=1))
    >>> nad(tiny_network(), tiny_images(), config=config).details["layers"]
    ('2', '6', '10')
    """
    first = clean.images[:1].to(next(student.parameters()).dtype)
    layers = config.layers or stages(student, first, len(config.betas))
    _check_layers(student, layers, first)
    tuned = fine_tuning(student, clean, config=config.teacher, seed=run.seed, progress=run.progress)
    betas = config.betas[-len(layers) :]
    optimizer, schedule = _sgd(student, config, len(clean))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), layer_outputs(tuned.model, layers) as wanted:
            tuned.model(images)
        with (
            layer_outputs(student, layers) as seen,
            batch_norm_training(student, images, config.batch_statistics),
        ):
            logits = student(images)
        distance = torch.stack(
            [
                beta * F.mse_loss(attention(seen[layer]), attention(wanted[layer]))
                for beta, layer in zip(betas, layers, strict=True)
            ]
        ).sum()
        loss = F.cross_entropy(logits, labels) + distance
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        return {"loss": loss, "attention": distance}

    history = run_epochs(student, clean, config, step, run)
    details = {"layers": layers, "teacher": tuned.model, "teacher_history": tuned.history}
    return student, history, details


def attention(features: Tensor) -> Tensor:
    """The attention map of features [N, C, H, W]: Σ_c |F_c|² at unit l2 norm, [N, H·W].

    >>> attention(torch.tensor([[[[3.0, 0.0]], [[0.0, 0.0]]]])).tolist()
    [[1.0, 0.0]]
    """
    return F.normalize(features.square().sum(1).flatten(1), dim=1)


def _sgd(
    model: nn.Module, config: NADConfig, images: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )
    fall = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [max(1, config.total_batches(images) // 10)], gamma=0.1
    )
    return optimizer, fall


def _check_layers(model: nn.Module, layers: tuple[str, ...], image: Tensor) -> None:
    with torch.no_grad(), layer_outputs(model, layers) as seen:
        model(image)
    several = reused_layers(model, image, layers)
    if several:
        raise ValueError(f"layers: modules that run once in a pass are expected, not {several}")
    wrong = [name for name in layers if seen[name].ndim != 4]
    if wrong:
        raise ValueError(f"layers: outputs [N, C, H, W] are expected, but not of {wrong}")
