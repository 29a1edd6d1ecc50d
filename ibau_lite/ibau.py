r"""I-BAU: backdoor removal as a minimax problem, solved with the implicit hypergradient.

.. math:: \theta^* = \arg\min_\theta \max_{\|\delta\| \le C_\delta} H(\delta, \theta), \qquad
          H(\delta, \theta) = \frac1n \sum_i L(f_\theta(x_i + \delta), y_i)

A round is (1) an inner maximisation that finds δ ≈ δ(θ), and (2) one pass over the clean set in
which θ follows the hypergradient, the direct gradient at δ plus what comes from δ moving with θ.
H is a mean over images, and each part of a round takes its own: the search for δ `inner_images`,
the indirect term `implicit_images` (in both all images carry δ), the outer step a batch, of which
the fraction `stamped` carries δ. First come the settings (`IBAU`), then the algorithm (`ibau`) with
its two players. `protocol.defense` hands it a copy of the model and completes its result.
Source: Zeng, Chen, Park, Mao, Jin, Jia, *Adversarial Unlearning of Backdoors via Implicit
Hypergradient*, ICLR 2022 (its presentation is "the talk"). Interpolation: Wortsman et al. 2022
(WiSE-FT).
"""

from __future__ import annotations

import copy
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
from ibau_lite.hypergrad import Hypergradient, Solver, hypergradient
from ibau_lite.metrics import predict
from ibau_lite.minimax import Ascent, Maximum, Risk, Scouted, Search
from ibau_lite.protocol import Outcome, Run, check_finite, defense
from ibau_lite.searches import AimedUnion, OnePass
from ibau_lite.sets import L2Ball, Region
from ibau_lite.solvers import MINRES, FixedPoint
from ibau_lite.speed import DoubleBackward, RecordedSteps, fold_batchnorm
from ibau_lite.streams import stream
from ibau_lite.training import augment, shuffled_positions

__all__ = ["IBAU", "ibau"]

_ADVICE = "lower lr, raise the solver's damping, or drop the indirect term (solver=None)"
_WORTH_RECORDING = 10  # batches of one δ: recording takes four runs of a step

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class IBAU:
    """Every setting of I-BAU; the defaults are one recipe for all data sets.

    The problem
        ball: where δ lives. penalty: H − penalty·‖δ‖² as the inner objective. clamp: evaluate at
        clamp(x + δ, 0, 1). inner_labels: those of the search for δ, "true", or the "predicted" ones
        of the published code.
    The inner maximisation
        inner: `Ascent`, `Scouted`, `Aimed`, `OnePass`, or `AimedUnion`, which finds several δ:
        the batches take one after the other. inner_images: how many clean images, drawn
        anew each round (None: all, in order).
    The outer pass
        rounds, batch_size, lr (Adam), decay (the step falls linearly to zero over all rounds).
        outer_images: how many images a round passes over, in a new order each round and again and
        again where the clean set has fewer (None: each once). stamped: the fraction of each batch
        that carries δ, rounded down to images, at least one. flip, shift: augmentation of the clean
        batches. distillation_weight: a in the labels of the pass,
        q = (1 − a)·onehot(y) + a·softmax f_θ₀(x), where f_θ₀ is the network as given.
        interpolation: b in the parameters that are returned, (1 − b)·θ + b·θ₀, which trades some of
        the removal for accuracy.
    The indirect term
        solver: (matvec, b) → Solution; None drops the term, the naive minimax. implicit_images:
        how many images make up the inner objective that is differentiated twice. They are drawn
        once from the clean set. None: the outer batch takes their place, stamped as it is; inner
        and outer objective are then one. on_ball: differentiate the conditions of the maximum on
        the ball (KKT) rather than ∇₁H = 0. max_indirect_ratio: the indirect term is scaled down to
        at most this times the norm of the direct one. δ was sought on other images and before θ
        moved, so it is stationary only nearly, and nothing else bounds the term. None takes it as
        it comes, as the published code does.
    """

    rounds: int = 5
    ball: Region = L2Ball(4.0)
    penalty: float = 0.0
    clamp: bool = False
    inner_labels: str = "true"
    inner: Search = Scouted(Ascent(8))
    inner_images: int | None = 200
    outer_images: int | None = None
    batch_size: int = 50
    lr: float = 1e-3
    decay: bool = True
    stamped: float = 0.05
    flip: bool = False
    shift: int = 2
    distillation_weight: float = 0.0
    interpolation: float = 0.0
    solver: Solver | None = MINRES(max_iter=5)
    implicit_images: int | None = 50
    on_ball: bool = True
    max_indirect_ratio: float | None = 0.5

    def __post_init__(self) -> None:
        if not hasattr(self.ball, "project"):
            raise TypeError(f"ball is a set, as L2Ball(4.0), got {self.ball!r}")
        check_kinds(self)
        check_ranges(
            self,
            rounds="[1, ∞)", batch_size="[1, ∞)", lr="(0, ∞)", penalty="[0, ∞)", shift="[0, ∞)",
            inner_images="[1, ∞)", outer_images="[1, ∞)", implicit_images="[1, ∞)",
            stamped="(0, 1]", distillation_weight="[0, 1]", interpolation="[0, 1)",
            max_indirect_ratio="(0, ∞)",
        )  # fmt: skip
        if not callable(self.inner) or not (self.solver is None or callable(self.solver)):
            raise TypeError(
                "inner is a function, solver one or None, "
                f"got inner = {self.inner!r}, solver = {self.solver!r}"
            )
        if self.inner_labels not in ("true", "predicted"):
            raise ValueError(
                f"inner_labels must be 'true' or 'predicted', got {self.inner_labels!r}"
            )

    @classmethod
    def distilled(cls, **changes: Any) -> IBAU:
        """A recipe in which the network's own answers hold the accuracy.

        Several δ, in several sets, toward the classes that sparse ones single out, or away from all
        classes at once; then 40,000 images in batches of 100 that take one δ after the other, on
        half of the images, with labels that are nine tenths the given network's own answer to the
        image without δ; the indirect term takes 2 products with the Hessian on 25 images and is at
        most a tenth of the direct one; at the end a tenth of the way is gone back.
        """
        recipe = cls(
            rounds=1,
            inner=AimedUnion(Ascent(8), keep_scouts=True),
            outer_images=40_000,
            batch_size=100,
            stamped=0.5,
            distillation_weight=0.9,
            interpolation=0.1,
            solver=MINRES(max_iter=2),
            implicit_images=25,
            max_indirect_ratio=0.1,
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
        recipe = cls(
            inner=Ascent(40),
            inner_images=None,
            batch_size=500,
            stamped=1.0,
            shift=0,
            solver=MINRES(max_iter=50, tol=1e-3),
            implicit_images=None,
            max_indirect_ratio=None,
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
        recipe = cls(
            ball=L2Ball(10.0),
            penalty=0.001,
            clamp=gtsrb,
            inner_labels="predicted",
            inner=OnePass(1.0, "adam") if gtsrb else OnePass(10.0),
            inner_images=None,
            batch_size=100,
            decay=False,
            stamped=0.01,
            shift=0,
            solver=FixedPoint(step=0.1, max_iter=5, compute_residual=False),
            implicit_images=100,
            on_ball=False,
            max_indirect_ratio=None,
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
        evaluator: called after each round on the network as it is then, interpolated; its dict goes
            into the history.

    Returns: `DefenseResult`, with one row a round in `history`: value (H at the δ that was
        found, before the pass), delta_norm, loss
        (mean outer loss), direct and indirect (mean norms of the two terms as computed), residual
        (the true relative residual of the round's first solve), iterations (of that solve) and
        negative_curvature (1 if it met some, else 0); and of the last round the worst δ in
        `details["delta"]` [C, H, W], all that were found in `details["deltas"]` [m, C, H, W], and
        the `climbs` of the search (see `Maximum`) in `details["climbs"]`.

    Raises: `TypeError` and `ValueError` for an unusable model or clean set, at the door;
        `FloatingPointError` if θ becomes NaN or infinite. The solver warns as its class says; the
        default one stops after its products without a word, and `residual` tells how far it came.
    """
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    reference = fold_batchnorm(private_copy(model)) if config.distillation_weight else None
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    given = {name: p.detach().clone() for name, p in theta.items()} if config.interpolation else {}
    passed = config.outer_images or len(clean)
    batches = -(-passed // config.batch_size)
    optimizer = torch.optim.Adam(theta.values(), lr=config.lr)
    decay = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0 if config.decay else 1.0, config.rounds * batches
    )
    inner = _inner_risk(network, clean, config, run)
    history: list[dict[str, Any]] = []
    bar = tqdm(total=config.rounds * batches, disable=not run.progress, unit="step", desc="I-BAU")
    for round_ in range(1, config.rounds + 1):
        found = _find_deltas(network, theta, clean, config, run.generator)
        recorded = _recorded(network, theta, inner, found, config, batches // len(found))
        rows: list[Tensors] = []
        for index in shuffled_positions(len(clean), passed, run.generator).split(config.batch_size):
            outer = _outer_risk(network, clean, index, config, run.generator, reference)
            turn = len(rows) % len(found)  # the batches take one δ after the other
            if rows and len(index) == config.batch_size and outer.stamped is not None:
                gradient, sizes = recorded(turn, outer.images, outer.labels, outer.stamped)
            else:
                gradient, sizes = _outer_gradient(
                    theta, found[turn], outer, inner, config, compute_residual=not rows
                )
            for name, slope in gradient.items():
                theta[name].grad = slope
            optimizer.step()
            decay.step()
            rows.append(sizes)
            bar.update()
        worst = max(found, key=lambda maximum: maximum.value)
        history.append({"round": round_, **_summary(worst, rows)})
        check_finite(model, f"round {round_}", _ADVICE)
        history[-1].update(run.evaluate(_interpolated(model, given, config.interpolation)))
    bar.close()
    optimizer.zero_grad(set_to_none=True)
    details: dict[str, Any] = {
        "delta": worst.delta,
        "deltas": torch.stack([maximum.delta for maximum in found]),
        "climbs": list(worst.climbs),
    }
    return _interpolated(model, given, config.interpolation), history, details


def _find_deltas(
    model: nn.Module,
    theta: Tensors,
    clean: LabelledImages,
    config: IBAU,
    generator: torch.Generator,
) -> tuple[Maximum, ...]:
    """The inner player: δ ≈ arg max of H over the ball, on `inner_images` clean images."""
    part = clean
    if config.inner_images is not None:
        part = clean[torch.randperm(len(clean), generator=generator)[: config.inner_images]]
    labels = part.labels
    if config.inner_labels == "predicted":
        labels = predict(model, part.images.to(next(iter(theta.values())).dtype)).to(labels.device)
    risk = Risk(model, part.images, labels, penalty=config.penalty, clamp=config.clamp)
    found = config.inner(risk, theta, config.ball)
    return found if isinstance(found, tuple) else (found,)


def _outer_gradient(
    theta: Tensors,
    maximum: Maximum,
    outer: Risk,
    inner: Risk | None,
    config: IBAU,
    *,
    compute_residual: bool = False,
) -> tuple[Tensors, Tensors]:
    """The outer player: (what θ follows on a batch, the sizes of its parts).

    That is direct + indirect, the second no longer than `max_indirect_ratio` times the first.
    """
    if inner is None:  # the outer objective itself, but for a penalty
        inner = replace(outer, penalty=config.penalty) if config.penalty else outer
    gradient = hypergradient(
        outer,
        inner,
        maximum.delta,
        theta,
        solver=config.solver,
        constraint=maximum.region if config.on_ball else maximum.region.span,
        compute_residual=compute_residual,
        derivatives=DoubleBackward,
    )
    sizes = _sizes(gradient, compute_residual)
    if gradient.indirect is None or config.max_indirect_ratio is None:
        return gradient.total, sizes
    tiny = torch.finfo(sizes["indirect"].dtype).tiny
    ratio = config.max_indirect_ratio * sizes["direct"] / sizes["indirect"].clamp_min(tiny)
    scale = ratio.clamp_max(1.0)
    followed = {name: d + scale * gradient.indirect[name] for name, d in gradient.direct.items()}
    return followed, sizes


def _inner_risk(model: nn.Module, clean: LabelledImages, config: IBAU, run: Run) -> Risk | None:
    """The objective that is differentiated twice: H on a few clean images; None: the outer one.

    They are drawn once, as the published code takes one batch every time. The noise of another draw
    in each step would enter ∇δ(θ).
    """
    if config.implicit_images is None:
        return None
    draws = stream(run.seed, "defense", run.name, "implicit_images")
    part = clean[torch.randperm(len(clean), generator=draws)[: config.implicit_images]]
    return Risk(model, part.images, part.labels, penalty=config.penalty, clamp=config.clamp)


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
    images = augment(clean.images[index], generator, flip=config.flip, shift=config.shift)
    chosen = torch.randperm(len(index), generator=generator)
    stamped = torch.zeros(len(index), dtype=torch.bool)
    stamped[chosen[: max(1, int(config.stamped * len(index)))]] = True
    stamped = stamped.to(clean.labels.device)
    labels = clean.labels[index]
    if reference is not None:
        labels = _distilled(reference, images, labels, config.distillation_weight)
    return Risk(model, images, labels, clamp=config.clamp, stamped=stamped)


def _recorded(
    model: nn.Module,
    theta: Tensors,
    inner: Risk | None,
    found: Sequence[Maximum],
    config: IBAU,
    turns: int,
) -> RecordedSteps:
    """`_outer_gradient` at each δ as a function of a batch: on a GPU one launch (`speed.Replay`).

    Recorded where a δ serves many batches and the solver never waits for the GPU, as one with a
    tolerance does.
    """

    def step(number: int, images: Tensor, labels: Tensor, stamped: Tensor) -> Any:
        outer = Risk(model, images, labels, clamp=config.clamp, stamped=stamped)
        return _outer_gradient(theta, found[number], outer, inner, config)

    looks_at_nothing = config.solver is None or getattr(config.solver, "tol", 0.0) is None
    on_gpu = next(iter(theta.values())).is_cuda
    return RecordedSteps(step, wanted=on_gpu and turns >= _WORTH_RECORDING and looks_at_nothing)


def _distilled(reference: nn.Module, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """(1 − weight)·onehot(y) + weight·softmax f_θ₀(x), as probabilities [N, K]."""
    with torch.no_grad():
        own = reference(images.to(next(reference.parameters()).dtype)).softmax(1)
    return torch.lerp(F.one_hot(labels, own.shape[1]).to(own), own, weight)


def _interpolated(model: nn.Module, given: Tensors, fraction: float) -> nn.Module:
    """θ ← (1 − b)·θ + b·θ₀ for what is given of θ₀, in a copy; the model itself if nothing is."""
    if not given:
        return model
    model = copy.deepcopy(model)
    theta = dict(model.named_parameters())
    with torch.no_grad():
        for name, start in given.items():
            theta[name].lerp_(start, fraction)
    return model


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
