"""What makes the same numbers faster. Nothing here changes a result, and any of it may go.

====================== ============================================================================
`DoubleBackward`       second derivatives from one graph, in place of `hypergrad.SecondDerivatives`
`fold_batchnorm`       a network whose BatchNorm (in evaluation mode) lies in the layer before it
`frozen`               that, to be read only
`convolution`          whose second derivatives leave out the gradient in the weights
====================== ============================================================================
"""

from __future__ import annotations

from ibau_lite.speed._convolution import Geometry, convolution
from ibau_lite.speed.double_backward import DoubleBackward
from ibau_lite.speed.folding import fold_batchnorm, frozen

__all__ = [
    "DoubleBackward",
    "Geometry",
    "convolution",
    "fold_batchnorm",
    "frozen",
]
