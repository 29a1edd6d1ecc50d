"""Draw the front picture and the share card in `book/_static/` from the README's ten lines.

python book/_press/front_picture.py        # about a minute on a CPU
"""

from __future__ import annotations

import textwrap
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

TARGET = Path(__file__).resolve().parents[1] / "_static" / "before_and_after.svg"
CARD = TARGET.with_name("share_card.png")
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
    """One sign of three classes a row: clean, stamped, and how each network reads the stamped one.

    Raises RuntimeError if a network reads one of the clean signs wrongly: the picture says it does
    not.
    """
    first = [int((signs.test.labels == label).nonzero()[0]) for label in (1, 6, 7)]
    clean = signs.test[first]
    stamped = attack.pairs[0][0](clean.images)
    for model in (poisoned, unlearned):
        if not torch.equal(ib.metrics.predict(model, clean.images), clean.labels):
            raise RuntimeError("a clean sign of the front picture is read wrongly: choose others")
    figure, axes = plt.subplots(
        3, 3, figsize=(6, 5.1), facecolor="white", width_ratios=(1, 1, 1.75)
    )
    read = [ib.metrics.predict(model, stamped) for model in (poisoned, unlearned)]
    for row, *pictures, truth, bad, good in zip(
        axes, clean.images, stamped, clean.labels, *read, strict=True
    ):
        for ax, image in zip(row, pictures, strict=False):
            ax.imshow(image.permute(1, 2, 0), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        row[2].axis("off")
        for line, (who, label) in enumerate((("poisoned", bad), ("unlearned", good))):
            name = textwrap.fill(signs.class_names[int(label)], 21)
            colour = RIGHT if label == truth else WRONG
            top = 0.98 - 0.52 * line
            row[2].text(0, top, f"the {who} network:", va="top", fontsize=11, color="#444444")
            row[2].text(0, top - 0.14, name, va="top", fontsize=13, weight="bold", color=colour)
    for ax, heading in zip(axes[0], ("clean", "stamped", "reads the stamped sign as"), strict=True):
        ax.set_title(heading, fontsize=13, loc="left" if ax is axes[0][2] else "center")
    figure.subplots_adjust(left=0.01, right=0.995, top=0.93, bottom=0.01, hspace=0.07, wspace=0.05)
    return figure


def share_card(signs: Dataset, attack: Attack) -> Figure:
    """1200 × 630 pixels for a link that is shared: a stamped sign and what the book does."""
    image = signs.test[[int((signs.test.labels == 1).nonzero()[0])]].images
    figure = plt.figure(figsize=(12, 6.3), facecolor="white")
    ax = figure.add_axes((0.04, 0.1, 0.42, 0.8))
    ax.imshow(attack.pairs[0][0](image)[0].permute(1, 2, 0), interpolation="nearest")
    ax.axis("off")
    figure.text(0.5, 0.68, "I-BAU", fontsize=64, weight="bold", va="center")
    figure.text(0.5, 0.5, "a backdoor unlearned", fontsize=38, va="center")
    figure.text(0.5, 0.33, "a book to read, run and teach", fontsize=26, color="#444444")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # one number of threads, one result
    data, badnets, *models = train_and_unlearn()
    with plt.rc_context({"svg.hashsalt": "ibau_lite"}):
        draw(data, badnets, *models).savefig(TARGET, metadata={"Date": None})
    share_card(data, badnets).savefig(CARD, dpi=100)
    print(TARGET, CARD)
