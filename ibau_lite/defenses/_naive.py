"""The naive minimax: I-BAU without the indirect term."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.ibau import IBAU, ibau
from ibau_lite.protocol import DefenseResult, Evaluator, configured

__all__ = ["naive"]


def naive(
    model: nn.Module,
    clean: LabelledImages,
    *,
    config: IBAU | None = None,
    seed: int = 0,
    progress: bool = False,
    evaluator: Evaluator | None = None,
) -> DefenseResult:
    """Alternate δ ≈ arg max H(·, θ) and θ ← θ − lr·∇₂H(δ, θ), as if δ did not depend on θ.

    The same loop, the same draws and the same settings as `ibau`, with `indirect=None`: whatever
    differs between the two is the indirect term. Arguments, result and errors as there.
    """
    config = replace(configured(config, IBAU), indirect=None)
    return ibau(model, clean, config=config, seed=seed, progress=progress, evaluator=evaluator)
