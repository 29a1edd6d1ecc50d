r"""I-BAU: backdoor removal as a minimax problem, solved with the implicit hypergradient.

.. math:: \theta^* = \arg\min_\theta \max_{\|\delta\| \le C_\delta} H(\delta, \theta), \qquad
          H(\delta, \theta) = \frac1n \sum_i L(f_\theta(x_i + \delta), y_i)

A round is (1) an inner maximisation that finds δ ≈ δ(θ), toward each class that stands out, and
(2) a pass over clean images in which θ follows the hypergradient, the direct gradient at δ plus
what comes from δ moving with θ. H is a mean over images, and each part of a round takes its own:
the search `inner.images`, the indirect term `indirect.images` (in both all images carry δ), the
outer step a batch, of which the fraction `stamped` carries δ. First come the settings (`IBAU`),
then the algorithm (`ibau`) with its two players. `protocol.defense` hands it a copy of the model
and completes its result.
Source: Zeng, Chen, Park, Mao, Jin, Jia, *Adversarial Unlearning of Backdoors via Implicit
Hypergradient*, ICLR 2022 (its presentation is "the talk"). Distillation: Hinton et al. 2015.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.door import private_copy
from ibau_lite.hypergrad import Hypergradient, Objective, Solver, hypergradient
from ibau_lite.metrics import predict
from ibau_lite.minimax import (
    Ascent,
    Maximum,
    OnePass,
    Risk,
    Search,
    Targeted,
    Untargeted,
    climbed,
)
from ibau_lite.protocol import Outcome, Run, check_finite, defense
from ibau_lite.sets import L1Ball, L2Ball, Region
from ibau_lite.solvers import MINRES, FixedPoint, SolverWarning
from ibau_lite.speed import DoubleBackward, fold_batchnorm
from ibau_lite.streams import stream
from ibau_lite.training import augment, shuffled_positions

__all__ = ["IBAU", "Indirect", "InnerObjective", "ibau"]

_ADVICE = "lower lr, raise the solver's damping, or drop the indirect term (indirect=None)"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class InnerObjective:
    """What δ maximises: H on `images` clean images, drawn anew each round (None: all, in order).

    penalty: H − penalty·‖δ‖². clamp: evaluate at clamp(x + δ, 0, 1), in the outer pass too.
    labels: "true", or the "predicted" ones of the published code. Where the search climbs toward a
    class (`Targeted`), penalty and labels have no part in it.
    """

    images: int | None = 200
    penalty: float = 0.0
    clamp: bool = False
    labels: str = "true"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, images="[1, ∞)", penalty="[0, ∞)")
        if self.labels not in ("true", "predicted"):
            raise ValueError(f"labels must be 'true' or 'predicted', got {self.labels!r}")


@dataclass(frozen=True)
class Indirect:
    """How the indirect term ∇δ(θ)ᵀ ∇₁H is computed; without one the minimax is naive.

    solver: (matvec, b) → Solution. images: how many clean images make up the inner objective that
    is differentiated twice. They are drawn once. None: the outer batch takes their place, stamped
    as it is; inner and outer objective are then one. on_ball: differentiate the conditions of the
    maximum on the ball (KKT) rather than ∇₁ = 0. max_ratio: the term is scaled down to at most this
    times the norm of the direct one. δ was sought on other images and before θ moved, so it is
    stationary only nearly, and nothing else bounds the term. None takes it as it comes, as the
    published code does.
    """

    solver: Solver = MINRES(max_iter=2)
    images: int | None = 25
    on_ball: bool = True
    max_ratio: float | None = 0.5

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, images="[1, ∞)", max_ratio="(0, ∞)")
        if not callable(self.solver):
            raise TypeError(f"solver is a function (matvec, b) → Solution, got {self.solver!r}")


@dataclass(frozen=True)
class IBAU:
    """Every setting of I-BAU; the defaults are one recipe for all data sets.

    rounds: how often δ is sought. round_images: how many clean images the pass of a round takes,
    in random order and again and again where there are fewer (None: each once).
    sets: where δ lives, by default the l2 ball, for a trigger that is spread thin, and the l1 ball,
    for one of few pixels; δ is sought in each. search: how δ is sought there. inner: what δ
    maximises.
    batch_size, lr (Adam), decay (the step falls linearly to zero over all rounds): of the outer
    pass. stamped: the fraction of each batch that carries δ, rounded down to images, at least one.
    shift: the batches are shifted by up to so many pixels at random.
    distillation_weight: a in the labels of the pass, q = (1 − a)·onehot(y) + a·softmax f_θ₀(x),
    where f_θ₀ is the network as given.
    indirect: how the indirect term is computed; None drops it. It is computed at the δ of its own
    round; those of earlier rounds are constants.
    """

    rounds: int = 10
    round_images: int | None = 1000
    sets: tuple[Region, ...] = (L2Ball(4.0), L1Ball(50.0))
    search: Search = Targeted()
    inner: InnerObjective = InnerObjective()
    batch_size: int = 50
    lr: float = 1e-3
    decay: bool = True
    stamped: float = 0.2
    shift: int = 2
    distillation_weight: float = 0.9
    indirect: Indirect | None = Indirect()

    def __post_init__(self) -> None:
        if not self.sets or not all(hasattr(region, "project") for region in self.sets):
            raise TypeError(f"sets: a tuple of sets, as (L2Ball(4.0),), got {self.sets!r}")
        check_kinds(self)
        check_ranges(
            self,
            rounds="[1, ∞)", round_images="[1, ∞)", batch_size="[1, ∞)", lr="(0, ∞)",
            shift="[0, ∞)", stamped="(0, 1]", distillation_weight="[0, 1]",
        )  # fmt: skip
        if not callable(self.search):
            raise TypeError(f"search is a function, as Targeted(), got {self.search!r}")
        for name, kind in (("inner", InnerObjective), ("indirect", Indirect | None)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: {kind} is expected, got {getattr(self, name)!r}")

    @classmethod
    def classical(cls, **changes: Any) -> IBAU:
        """The talk's two players without the devices of the default recipe.

        δ climbs H in the l2 ball, and is sought anew before each pass over all clean images; the
        labels are the true ones; the indirect term takes 5 products on 50 images.
        """
        recipe = cls(
            rounds=5,
            round_images=None,
            sets=(L2Ball(4.0),),
            search=Untargeted(Ascent(8)),
            stamped=0.05,
            distillation_weight=0.0,
            indirect=Indirect(MINRES(max_iter=5), images=50),
        )
        return replace(recipe, **changes)

    @classmethod
    def exact(cls, **changes: Any) -> IBAU:
        """The talk's mathematics: one H, inside and outside, each part solved to a tolerance.

        All images of a batch carry δ; the indirect term differentiates the outer batch's own H on
        the ball (KKT), its system solved to a relative residual of 1e-3, whatever comes out is
        followed; δ climbs 40 steps on all clean images. What stays approximate is what the talk
        leaves open: batches (of 500) instead of the whole set, Adam, and an H that is not concave.
        """
        recipe = cls.classical(
            search=Untargeted(Ascent(40)),
            inner=InnerObjective(images=None),
            batch_size=500,
            stamped=1.0,
            shift=0,
            indirect=Indirect(MINRES(max_iter=50, tol=1e-3), images=None, max_ratio=None),
        )
        return replace(recipe, **changes)

    @classmethod
    def released(cls, *, gtsrb: bool = False, **changes: Any) -> IBAU:
        """The recipe of the authors' published code, with its deviations from the talk.

        δ is sought by one pass of SGD (step 10) over batches of 100 on −CE(f(x + δ), *predicted*
        label) + 0.001‖δ‖² and projected once, to radius 10; the indirect term takes 5 fixed-point
        steps of 0.1 for that objective with true labels on *one* clean batch, whatever the
        outer batch; only 1 % of the outer batch, at least one image, carries δ. For GTSRB the
        images are clamped and the inner step is Adam's, 1.0. One thing is ours: the batches are
        drawn anew in each round, where the published loader's are the same in all of them.
        """
        recipe = cls.classical(
            sets=(L2Ball(10.0),),
            search=Untargeted(OnePass(1.0, "adam") if gtsrb else OnePass(10.0)),
            inner=InnerObjective(None, penalty=0.001, clamp=gtsrb, labels="predicted"),
            batch_size=100,
            decay=False,
            stamped=0.01,
            shift=0,
            indirect=Indirect(
                FixedPoint(step=0.1, max_iter=5, compute_residual=False),
                images=100,
                on_ball=False,
                max_ratio=None,
            ),
        )
        return replace(recipe, **changes)


@defense(IBAU)
def ibau(model: nn.Module, clean: LabelledImages, config: IBAU, run: Run) -> Outcome:
    """Remove a backdoor from `model` with the clean images of the defender.

    Args:
        model: any classifier with logits; it is not changed. The network stays in evaluation mode
            throughout: dropout is off and BatchNorm's statistics are frozen, and so are
            parameters that require no gradient. In float32 or float64; under bfloat16 autocast the
            direct term is within 3 % of float64; with weights in bfloat16 no solve holds (see the
            residual), so drop the indirect term.
        clean: images [N, C, H, W] in [0, 1] with true labels [N], untouched by the attacker.
        config: the recipe, `IBAU()` by default; `IBAU.released()` is the published one.
        seed: which images are drawn, stamped and shifted.
        evaluator: called after each round on the network as it is then; its dict goes into the
            history.

    Returns: `DefenseResult`, with one row a round in `history`: value (H at the worst δ of the
        round, before the pass), delta_norm, loss
        (mean outer loss), direct and indirect (mean norms of the two terms as computed), residual
        (the true relative residual of the round's first solve), iterations (of that solve) and
        negative_curvature (1 if it met some, else 0). `details` has the worst δ of the last round,
        "delta" [C, H, W], all δ of the last pass, "deltas" [m, C, H, W], the class that each was
        climbed toward, "targets" [m] (see `Maximum`), and the "climbs" of the search (see
        `Maximum`): of `Targeted` the scores of the classes before the first round.

    Raises: `TypeError` and `ValueError` for an unusable model or clean set, at the door;
        `FloatingPointError` if θ becomes NaN or infinite. The solver warns as its class says; the
        default one stops after its products without a word, and `residual` tells how far it came.
    """
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    reference = fold_batchnorm(private_copy(model)) if config.distillation_weight else None
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    passed = config.round_images or len(clean)
    batches = -(-passed // config.batch_size)
    optimizer = torch.optim.Adam(theta.values(), lr=config.lr)
    decay = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0 if config.decay else 1.0, config.rounds * batches
    )
    twice = _differentiated_twice(network, clean, config, run)
    found: tuple[Maximum, ...] = ()
    history: list[dict[str, Any]] = []
    bar = tqdm(total=config.rounds * batches, disable=not run.progress, unit="step", desc="I-BAU")
    for round_ in range(1, config.rounds + 1):
        before = {id(maximum) for maximum in found}
        found = _find_deltas(network, theta, clean, config, run.generator, found)
        new = [maximum for maximum in found if id(maximum) not in before]
        rows: list[Tensors] = []
        for index in shuffled_positions(len(clean), passed, run.generator).split(config.batch_size):
            outer = _outer_risk(network, clean, index, config, run.generator, reference)
            maximum = found[-1 - len(rows) % len(found)]  # in turn, the newest first
            indirect = config.indirect if id(maximum) not in before else None
            gradient, sizes = _outer_gradient(
                theta, maximum, outer, twice, config, indirect, compute_residual=not rows
            )
            for name, slope in gradient.items():
                theta[name].grad = slope
            optimizer.step()
            decay.step()
            rows.append(sizes)
            bar.update()
        worst = max(new, key=lambda maximum: maximum.value)
        history.append({"round": round_, **_summary(worst, rows)})
        check_finite(model, f"round {round_}", _ADVICE)
        history[-1].update(run.evaluate(model))
    bar.close()
    optimizer.zero_grad(set_to_none=True)
    details: dict[str, Any] = {
        "delta": worst.delta,
        "deltas": torch.stack([maximum.delta for maximum in found]),
        "targets": [maximum.target for maximum in found],
        "climbs": list(worst.climbs),
    }
    return model, history, details


def _find_deltas(
    model: nn.Module,
    theta: Tensors,
    clean: LabelledImages,
    config: IBAU,
    generator: torch.Generator,
    before: tuple[Maximum, ...],
) -> tuple[Maximum, ...]:
    """The inner player: δ ≈ δ(θ) in the sets, on `inner.images` clean images."""
    part, inner = clean, config.inner
    if inner.images is not None:
        part = clean[torch.randperm(len(clean), generator=generator)[: inner.images]]
    labels = part.labels
    if inner.labels == "predicted":
        labels = predict(model, part.images.to(next(iter(theta.values())).dtype)).to(labels.device)
    risk = Risk(model, part.images, labels, penalty=inner.penalty, clamp=inner.clamp)
    return config.search(risk, theta, config.sets, before)


def _outer_gradient(
    theta: Tensors,
    maximum: Maximum,
    outer: Risk,
    twice: Risk | None,
    config: IBAU,
    indirect: Indirect | None,
    *,
    compute_residual: bool = False,
) -> tuple[Tensors, Tensors]:
    """The outer player: (what θ follows on a batch, the sizes of its parts).

    That is direct + indirect, the second no longer than `max_ratio` times the first. The inner
    objective is what δ has climbed.
    """
    if twice is None:  # the outer objective itself, but for a penalty
        twice = replace(outer, penalty=config.inner.penalty) if config.inner.penalty else outer
    inner: Objective = climbed(twice, maximum.target)
    with warnings.catch_warnings():
        # Where all images are read as the target, what δ climbs is flat: δ need not move, and the
        # least-squares solution, which is zero there, is the one that is asked for.
        warnings.filterwarnings("ignore", "MINRES: singular system", SolverWarning)
        gradient = hypergradient(
            outer,
            inner,
            maximum.delta,
            theta,
            solver=None if indirect is None else indirect.solver,
            constraint=maximum.region if indirect is not None and indirect.on_ball else None,
            compute_residual=compute_residual,
            derivatives=DoubleBackward,
        )
    sizes = _sizes(gradient, compute_residual)
    if indirect is None or gradient.indirect is None or indirect.max_ratio is None:
        return gradient.total, sizes
    tiny = torch.finfo(sizes["indirect"].dtype).tiny
    ratio = indirect.max_ratio * sizes["direct"] / sizes["indirect"].clamp_min(tiny)
    scale = ratio.clamp_max(1.0)
    followed = {name: d + scale * gradient.indirect[name] for name, d in gradient.direct.items()}
    return followed, sizes


def _differentiated_twice(
    model: nn.Module, clean: LabelledImages, config: IBAU, run: Run
) -> Risk | None:
    """H on a few clean images, for the indirect term; None: the outer objective.

    They are drawn once, as the published code takes one batch every time. The noise of another draw
    in each step would enter ∇δ(θ).
    """
    if config.indirect is None or config.indirect.images is None:
        return None
    draws = stream(run.seed, "defense", run.name, "indirect_images")
    part = clean[torch.randperm(len(clean), generator=draws)[: config.indirect.images]]
    inner = config.inner
    return Risk(model, part.images, part.labels, penalty=inner.penalty, clamp=inner.clamp)


def _outer_risk(
    model: nn.Module,
    clean: LabelledImages,
    index: Tensor,
    config: IBAU,
    generator: torch.Generator,
    reference: nn.Module | None,
) -> Risk:
    """H on an augmented batch of which a random fraction (at least one image) carries δ."""
    index = index.to(clean.labels.device)
    images = augment(clean.images[index], generator, flip=False, shift=config.shift)
    chosen = torch.randperm(len(index), generator=generator)
    stamped = torch.zeros(len(index), dtype=torch.bool)
    stamped[chosen[: max(1, int(config.stamped * len(index)))]] = True
    stamped = stamped.to(clean.labels.device)
    labels = clean.labels[index]
    if reference is not None:
        labels = _distilled(reference, images, labels, config.distillation_weight)
    return Risk(model, images, labels, clamp=config.inner.clamp, stamped=stamped)


def _distilled(reference: nn.Module, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """(1 − weight)·onehot(y) + weight·softmax f_θ₀(x), as probabilities [N, K]."""
    with torch.no_grad():
        own = reference(images.to(next(reference.parameters()).dtype)).softmax(1)
    return torch.lerp(F.one_hot(labels, own.shape[1]).to(own), own, weight)


def _sizes(gradient: Hypergradient, solved: bool) -> dict[str, Tensor]:
    """The numbers of a step that the history keeps, as scalars on the device."""
    sizes = {"loss": gradient.value, "direct": _norm(gradient.direct)}
    if gradient.indirect is not None:
        sizes["indirect"] = _norm(gradient.indirect)
    if gradient.residual is not None:
        sizes["residual"] = gradient.residual
    if solved and gradient.solution is not None:
        sizes["iterations"] = torch.tensor(float(gradient.solution.iterations))
        sizes["negative_curvature"] = torch.tensor(float(gradient.solution.negative_curvature))
    return sizes


def _norm(tensors: Tensors) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([t.norm() for t in tensors.values()]))


def _summary(found: Maximum, steps: Sequence[Tensors]) -> dict[str, float]:
    """What the history keeps of a round, the steps' numbers as means over those that have them."""
    means = {
        name: float(torch.stack([step[name] for step in steps if name in step]).mean())
        for name in steps[0]
    }
    return {"value": found.value, "delta_norm": float(found.region.norm(found.delta)), **means}
