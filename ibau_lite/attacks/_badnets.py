"""BadNets: a white square in the corner (Gu, Dolan-Gavitt and Garg 2017)."""

from __future__ import annotations

from ibau_lite.attacks.poisoning import AllToAll, AllToOne, Attack
from ibau_lite.attacks.triggers import Patch

# Rows and columns 27-30 of 32; on other sizes, one pixel away from the same corner.
_WHITE_SQUARE = Patch.square(4, margin=1, value=1.0)


def badnets(target: int = 8) -> Attack:
    """BadNets with one target: a white 4×4 square in the bottom right corner, y -> `target`.

    On 32×32 images the square covers rows and columns 27 to 30. On other sizes it keeps its size
    and its distance of one pixel to the corner. The talk's target is 8. Raises `ValueError` for a
    target below 0. `Attack.poison` refuses a target that the training set does not contain.

    >>> import torch
    >>> trigger, rule = badnets(target=3).pairs[0]
    >>> int((trigger(torch.zeros(1, 1, 32, 32)) == 1).sum()), rule(torch.tensor([0, 7])).tolist()
    (16, [3, 3])
    """
    return Attack("badnets", ((_WHITE_SQUARE, AllToOne(target)),))


def badnets_all_to_all(num_classes: int) -> Attack:
    """BadNets without a single target: the same square, and y -> (y + 1) mod `num_classes`.

    Raises `ValueError` for fewer than two classes.

    >>> print(badnets_all_to_all(10).pairs[0][1])
    y → (y + 1) mod 10
    """
    return Attack("badnets_all_to_all", ((_WHITE_SQUARE, AllToAll(num_classes)),))
