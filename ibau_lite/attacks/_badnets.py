"""BadNets: a white square in the corner (Gu, Dolan-Gavitt and Garg 2017)."""

from __future__ import annotations

from ibau_lite.attacks.poisoning import AllToAll, AllToOne, Attack
from ibau_lite.attacks.triggers import Patch

# Rows and columns 27-30 of 32; on other sizes, one pixel away from the same corner.
_WHITE_SQUARE = Patch.square(4, margin=1, value=1.0)


def badnets(target: int = 8) -> Attack:
    """BadNets with one target: a white 4×4 square at rows and columns 27–30 of 32, y -> `target`.

    On images of another size the square keeps its size and its distance (one pixel) to the bottom
    right corner. The talk's target is 8. Raises `ValueError` for a target below 0; a target that
    the training set does not know is refused by `Attack.poison`.
    """
    return Attack("badnets", ((_WHITE_SQUARE, AllToOne(target)),))


def badnets_all_to_all(num_classes: int) -> Attack:
    """BadNets without a target: the same square, and y -> (y + 1) mod `num_classes`.

    Raises `ValueError` for fewer than two classes.
    """
    return Attack("badnets_all_to_all", ((_WHITE_SQUARE, AllToAll(num_classes)),))
