"""Draw the front picture, `book/_static/before_and_after.png`, from the README's ten lines.

python book/_press/front_picture.py        # about a minute on a CPU
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn

import ibau_lite as ib
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset

TARGET = Path(__file__).resolve().parents[1] / "_static" / "before_and_after.png"
RIGHT, WRONG = "#0072B2", "#D55E00"  # Okabe and Ito: told apart by every eye


def train_and_unlearn() -> tuple[Dataset, Attack, nn.Module, nn.Module]:
    """Follow the README: the data, the attack, the poisoned network and the unlearned one."""
    signs = ib.data.load("signs")
    attack = ib.attacks.badnets(target=8)
    poisoned = attack.poison(signs.train, rate=0.2)
    recipe = ib.training.Recipe(epochs=8, shift=2, weight_decay=5e-3)
    model = ib.models.small_cnn(signs.num_classes)
    ib.training.fit(model, poisoned, recipe)
    return signs, attack, model, ib.ibau(model, signs.clean).model


def draw(signs: Dataset, attack: Attack, poisoned: nn.Module, unlearned: nn.Module) -> Figure:
    """One sign of four classes, clean above and stamped below, with what each network reads."""
    first = [int((signs.test.labels == label).nonzero()[0]) for label in (1, 6, 4, 7)]
    clean = signs.test[first]
    rows = {"clean": clean.images, "stamped": attack.pairs[0][0](clean.images)}
    figure, axes = plt.subplots(2, 4, figsize=(9, 5.6), facecolor="white")
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        readings = [ib.metrics.predict(model, images) for model in (poisoned, unlearned)]
        for ax, image, truth, *read in zip(row, images, clean.labels, *readings, strict=True):
            ax.imshow(image.permute(1, 2, 0))
            ax.set_xticks([])
            ax.set_yticks([])
            for line, (who, label) in enumerate(zip(("poisoned", "unlearned"), read, strict=True)):
                ax.text(
                    0.5,
                    -0.07 - 0.13 * line,
                    f"{who}: {signs.class_names[int(label)]}",
                    transform=ax.transAxes,
                    ha="center",
                    va="top",
                    fontsize=8.5,
                    color=RIGHT if label == truth else WRONG,
                )
        row[0].set_ylabel(name, fontsize=12)
    figure.subplots_adjust(left=0.04, right=0.99, top=0.99, bottom=0.12, hspace=0.34, wspace=0.08)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # one number of threads, one result
    draw(*train_and_unlearn()).savefig(TARGET, dpi=120)
    print(TARGET)
