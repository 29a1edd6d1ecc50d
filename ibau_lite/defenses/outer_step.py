"""The outer player's step of I-BAU: what θ follows on a batch that carries δ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ibau_lite.hypergrad import Hypergradient, hypergradient
from ibau_lite.minimax import Maximum, Risk
from ibau_lite.speed import Replay

if TYPE_CHECKING:
    from ibau_lite.ibau import IBAU

__all__ = ["OuterStep"]

Step = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]

_WORTH = 10
"""A δ that serves so many batches is worth the four runs that recording takes."""


class OuterStep:
    """The hypergradient of each batch as `IBAU` wants it; on a GPU as one launch (`Replay`).

    `turns` is how many batches a δ serves. A step is recorded where it is worth it and where
    nothing looks at a number on the way, as a solver with a tolerance does; the numbers are the
    same. A network that cannot be recorded is launched kernel by kernel, with a warning.
    """

    def __init__(
        self,
        theta: Mapping[str, Tensor],
        inner: Risk | None,
        config: IBAU,
        *,
        turns: int,
    ) -> None:
        self._theta, self._inner, self._config = theta, inner, config
        on_gpu = next(iter(theta.values())).is_cuda
        self._records = on_gpu and turns >= _WORTH and _looks_at_nothing(config)
        self._graphs: dict[int, Replay[Step]] = {}

    def __call__(self, maximum: Maximum, outer: Risk, *, certify: bool = False) -> Step:
        """(what θ follows, the sizes of its parts): dicts by parameter, and of scalars.

        With `certify` the sizes hold the true residual of the solve. What θ follows may be
        overwritten by the next step.
        """
        usual = len(outer) == self._config.batch_size
        if certify or not usual or not self._records:
            return self._step(maximum, outer, certify=certify)
        assert outer.stamped is not None
        batch = (outer.images, outer.labels, outer.stamped)
        try:
            graph = self._graphs.get(id(maximum)) or self._record(maximum, outer, batch)
        except RuntimeError as error:
            self._records = False
            warnings.warn(
                f"a step of this network cannot be recorded as a CUDA graph ({error}); its kernels "
                "are launched one by one, which takes longer",
                RuntimeWarning,
                stacklevel=3,
            )
            return self._step(maximum, outer, certify=certify)
        slopes, sizes = graph(*batch)
        return slopes, {name: size.clone() for name, size in sizes.items()}

    def _record(
        self, maximum: Maximum, outer: Risk, batch: tuple[Tensor, Tensor, Tensor]
    ) -> Replay[Step]:
        def step(images: Tensor, labels: Tensor, stamped: Tensor) -> Step:
            on_batch = replace(outer, images=images, labels=labels, stamped=stamped)
            return self._step(maximum, on_batch, certify=False)

        pool = next((graph.pool for graph in self._graphs.values()), None)
        self._graphs[id(maximum)] = graph = Replay(step, *batch, pool=pool)
        return graph

    def _step(self, maximum: Maximum, outer: Risk, *, certify: bool) -> Step:
        config = self._config
        gradient = hypergradient(
            outer,
            _shared(outer, config) if self._inner is None else self._inner,
            maximum.delta,
            self._theta,
            solver=config.solver,
            constraint=maximum.region if config.on_ball else maximum.region.span,
            certify=certify,
        )
        sizes = _sizes(gradient, certify)
        return _followed(gradient, sizes, config.trust), sizes


def _looks_at_nothing(config: IBAU) -> bool:
    """Whether the solve is one that is known to end without looking at a residual."""
    solver = config.solver
    return solver is None or getattr(solver, "tol", 0.0) is None


def _shared(outer: Risk, config: IBAU) -> Risk:
    """The outer objective as the inner one: the same object, but for a penalty."""
    return replace(outer, penalty=config.penalty) if config.penalty else outer


def _norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([t.norm() for t in tensors.values()]))


def _sizes(gradient: Hypergradient, certify: bool) -> dict[str, Tensor]:
    """The numbers of a step that the history keeps, as scalars on the device."""
    sizes = {"loss": gradient.value, "direct": _norm(gradient.direct)}
    if gradient.indirect is not None:
        sizes["indirect"] = _norm(gradient.indirect)
    if gradient.residual is not None:
        sizes["residual"] = gradient.residual
    if certify and gradient.solution is not None:
        sizes["iterations"] = torch.tensor(float(gradient.solution.iterations))
        sizes["negative_curvature"] = torch.tensor(float(gradient.solution.negative_curvature))
    return sizes


def _followed(
    gradient: Hypergradient, sizes: Mapping[str, Tensor], trust: float | None
) -> Mapping[str, Tensor]:
    """What θ follows: direct + indirect, the second no longer than `trust` times the first."""
    if gradient.indirect is None or trust is None:
        return gradient.total
    tiny = torch.finfo(sizes["indirect"].dtype).tiny
    scale = (trust * sizes["direct"] / sizes["indirect"].clamp_min(tiny)).clamp_max(1.0)
    return {
        name: slope + scale * gradient.indirect[name] for name, slope in gradient.direct.items()
    }
