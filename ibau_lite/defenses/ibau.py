r"""I-BAU: backdoor removal as a minimax problem, solved with the implicit hypergradient.

.. math:: \theta^* = \arg\min_\theta \max_{\|\delta\| \le C_\delta} H(\delta, \theta), \qquad
          H(\delta, \theta) = \frac1n \sum_i L(f_\theta(x_i + \delta), y_i)

A round is (1) an inner maximisation that finds δ ≈ δ(θ), and (2) one pass over the clean set in
which θ follows the hypergradient, the direct gradient at δ plus what comes from δ moving with θ.
Source: Zeng, Chen, Park, Mao, Jin, Jia, *Adversarial Unlearning of Backdoors via Implicit
Hypergradient*, ICLR 2022. Drawing back: Wortsman et al. 2022 (WiSE-FT).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.early_stopping import EarlyStopping, EarlyStoppingMonitor
from ibau_lite.defenses.outer_step import OuterStep
from ibau_lite.door import private_copy
from ibau_lite.hypergrad import Solver
from ibau_lite.metrics import predict
from ibau_lite.minimax import Ascent, Maximum, Risk, Scouted, Search
from ibau_lite.protocol import (
    Outcome,
    Run,
    check_finite,
    defense,
    hold_out,
)
from ibau_lite.searches import AimedUnion, OnePass
from ibau_lite.sets import L2Ball, Region
from ibau_lite.solvers import MINRES, FixedPoint
from ibau_lite.speed import fold_batchnorm
from ibau_lite.streams import stream
from ibau_lite.training import augment, shuffled_positions

__all__ = ["IBAU", "ibau"]

_COUNTS = ("inner_images", "outer_images", "implicit_images")  # None: all there are
_ADVICE = "lower lr, raise the solver's damping, or drop the indirect term (solver=None)"


@dataclass(frozen=True)
class IBAU:
    """Every setting of I-BAU; the defaults are one recipe for all data sets.

    The problem
        ball: where δ lives. penalty: H − penalty·‖δ‖² as the inner objective. clamp: evaluate at
        clamp(x + δ, 0, 1). inner_labels: "true", or the "predicted" ones of the published code.
    The inner maximisation
        inner: `Ascent`, `Scouted`, `Aimed`, `OnePass`, or `AimedUnion`, which finds several δ:
        the batches take one after the other. inner_images: how many clean images, drawn
        anew each round (None: all, in order).
    The outer pass
        rounds, batch_size, lr (Adam), decay (the step falls linearly to zero over all rounds).
        outer_images: how many images a round passes over, in a new order each round and again and
        again where the clean set has fewer (None: each once). stamped: the fraction of each batch
        that carries δ. flip, shift: augmentation of the clean batches. anchor: the
        weight a of the given network's own answer to the image without δ in the labels of the
        pass, q = (1 − a)·onehot(y) + a·softmax f_θ₀(x): what the network knew is kept (0: not).
        draw_back: the fraction b of the way back to the given parameters that is gone at the end,
        θ ← (1 − b)·θ + b·θ₀, which trades some of the removal for accuracy.
    The indirect term
        solver: (matvec, b) → Solution; None drops the term, the naive minimax. implicit_images:
        how many images make up the inner objective that is differentiated twice: the first ones
        of the clean set, which must not be sorted by class (None: the outer batch itself, as it is
        stamped, so that inner and outer objective are one). on_ball:
        differentiate the conditions of the maximum on the ball (KKT) rather than ∇₁H = 0. trust:
        the indirect term is scaled down to at most this times the norm of the direct one. At a
        maximum it would be small (Danskin); where it is not, δ is not δ(θ) and the formula is
        outside its domain. None takes it as it comes, as the published code does.
    When to stop
        stopping: `EarlyStopping`, or None for all rounds.
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
    anchor: float = 0.0
    draw_back: float = 0.0
    solver: Solver | None = MINRES(max_iter=5)
    implicit_images: int | None = 50
    on_ball: bool = True
    trust: float | None = 0.5
    stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.ball, "project"):
            raise TypeError(f"ball is a set, as L2Ball(4.0), got {self.ball!r}")
        if not (self.stopping is None or isinstance(self.stopping, EarlyStopping)):
            raise TypeError(f"stopping is an EarlyStopping or None, got {self.stopping!r}")
        check_kinds(self)
        if self.rounds < 1 or self.batch_size < 1 or not 0 < self.lr < math.inf:
            raise ValueError(
                f"rounds, batch_size and lr must be positive and finite, "
                f"got {self.rounds}, {self.batch_size}, {self.lr}"
            )
        if not callable(self.inner) or not (self.solver is None or callable(self.solver)):
            raise TypeError(
                "inner is a function, solver one or None, "
                f"got inner = {self.inner!r}, solver = {self.solver!r}"
            )
        for name in _COUNTS:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {count}")
        if not (self.penalty >= 0 and math.isfinite(self.penalty)):
            raise ValueError(f"penalty must be finite and at least 0, got {self.penalty!r}")
        if self.shift < 0:
            raise ValueError(f"shift is a number of pixels >= 0, got {self.shift}")
        if not 0 < self.stamped <= 1:
            raise ValueError(f"stamped is a fraction in (0, 1], got {self.stamped}")
        if not 0 <= self.anchor <= 1:
            raise ValueError(f"anchor is a weight in [0, 1], got {self.anchor}")
        if not 0 <= self.draw_back < 1:
            raise ValueError(f"draw_back is a fraction in [0, 1), got {self.draw_back}")
        if self.trust is not None and not self.trust > 0:
            raise ValueError(f"trust is a ratio above 0, or None, got {self.trust}")
        if self.inner_labels not in ("true", "predicted"):
            raise ValueError(
                f"inner_labels must be 'true' or 'predicted', got {self.inner_labels!r}"
            )

    @classmethod
    def anchored(cls, **changes: Any) -> IBAU:
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
            anchor=0.9,
            draw_back=0.1,
            solver=MINRES(max_iter=2),
            implicit_images=25,
            trust=0.1,
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
            trust=None,
        )
        return replace(recipe, **changes)

    @classmethod
    def released(cls, *, gtsrb: bool = False, **changes: Any) -> IBAU:
        """The recipe of the authors' published code, with its deviations from the talk.

        δ is sought by one pass of SGD (step 10) over batches of 100 on −CE(f(x + δ), *predicted*
        label) + 0.001‖δ‖² and projected once, to radius 10; the indirect term takes 5 fixed-point
        steps of 0.1 for that objective with true labels on the *first* clean batch, whatever the
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
            solver=FixedPoint(step=0.1, max_iter=5, certify=False),
            implicit_images=100,
            on_ball=False,
            trust=None,
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
        evaluator: called after each round on the network that a defence of so many rounds would
            return, drawn back; its dict goes into the history.

    Returns: `DefenseResult`, with one row a round in `history`: value (H at δ), delta_norm, loss
        (mean outer loss), direct and indirect (mean norms of the two terms as computed), residual
        (the true relative residual of the round's first solve), iterations (of that solve) and
        negative_curvature (1 if it met some, else 0), and with `config.stopping` the held-out
        accuracy, clean and under the worst δ; and of the last round the worst δ in
        `details["delta"]` [C, H, W], all that were found in `details["deltas"]` [m, C, H, W], and
        the `climbs` of the search (see `Maximum`) in `details["climbs"]`.

    Raises: `TypeError` and `ValueError` for an unusable model or clean set, at the door;
        `FloatingPointError` if θ becomes NaN or infinite. The solver warns where its answer may be
        wrong (negative curvature, divergence).
    """
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    generator = run.generator
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(theta.values(), lr=config.lr)
    watch = None
    if config.stopping is not None:
        draws = stream(run.seed, "defense", "ibau", "held_out")
        clean, held_out = hold_out(clean, config.stopping.held_out, draws)
        search = partial(_find_deltas, network, theta, held_out, config, draws)
        watch = EarlyStoppingMonitor(
            model,
            held_out,
            config.stopping,
            lambda: _worst(search()).delta,
            clamp=config.clamp,
        )
    reference = fold_batchnorm(private_copy(model)) if config.anchor else None
    passed = config.outer_images or len(clean)
    batches = -(-passed // config.batch_size)
    decay = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0 if config.decay else 1.0, config.rounds * batches
    )
    given = {name: p.detach().clone() for name, p in theta.items()} if config.draw_back else {}
    history: list[dict[str, Any]] = []
    bar = tqdm(total=config.rounds * batches, disable=not run.progress, unit="step", desc="I-BAU")
    for round_ in range(1, config.rounds + 1):
        found = _find_deltas(network, theta, clean, config, generator)
        inner = _inner_risk(network, clean, config)
        step = OuterStep(theta, inner, config, turns=batches // len(found))
        rows: list[Mapping[str, Tensor]] = []
        for index in shuffled_positions(len(clean), passed, generator).split(config.batch_size):
            outer = _outer_risk(network, clean, index, config, generator, reference)
            slopes, sizes = step(found[len(rows) % len(found)], outer, certify=not rows)
            for name, slope in slopes.items():
                theta[name].grad = slope
            optimizer.step()
            decay.step()
            rows.append(sizes)
            bar.update()
        worst = _worst(found)
        history.append({"round": round_, **_summary(worst, rows)})
        check_finite(model, f"round {round_}", _ADVICE)
        if watch is not None:
            history[-1].update(watch())
        history[-1].update(run.evaluate(_drawn_back(model, given, config.draw_back)))
        if watch is not None and watch.has_seen_enough:
            break
    bar.close()
    optimizer.zero_grad(set_to_none=True)
    details: dict[str, Any] = {
        "delta": worst.delta,
        "deltas": torch.stack([maximum.delta for maximum in found]),
        "climbs": list(worst.climbs),
    }
    if watch is not None:
        watch.restore()
        details["kept_round"] = watch.kept_round
    return _drawn_back(model, given, config.draw_back), history, details


def _find_deltas(
    model: nn.Module,
    theta: Mapping[str, Tensor],
    clean: LabelledImages,
    config: IBAU,
    generator: torch.Generator,
) -> tuple[Maximum, ...]:
    """The inner problem: δ ≈ arg max of H over the ball, on `inner_images` clean images."""
    part = clean
    if config.inner_images is not None and config.inner_images < len(clean):
        part = clean[torch.randperm(len(clean), generator=generator)[: config.inner_images]]
    labels = part.labels
    if config.inner_labels == "predicted":
        labels = predict(model, part.images.to(next(iter(theta.values())).dtype)).to(labels.device)
    risk = Risk(model, part.images, labels, penalty=config.penalty, clamp=config.clamp)
    found = config.inner(risk, theta, config.ball)
    return found if isinstance(found, tuple) else (found,)


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
        labels = _anchored(reference, images, labels, config.anchor)
    return Risk(model, images, labels, clamp=config.clamp, stamped=stamped)


def _anchored(reference: nn.Module, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """(1 − weight)·onehot(y) + weight·softmax f_θ₀(x), as probabilities [N, K]."""
    with torch.no_grad():
        own = reference(images.to(next(reference.parameters()).dtype)).softmax(1)
    return torch.lerp(F.one_hot(labels, own.shape[1]).to(own), own, weight)


def _inner_risk(model: nn.Module, clean: LabelledImages, config: IBAU) -> Risk | None:
    """The objective whose stationarity defines ∇δ(θ): H on a few clean images; None: the outer one.

    The published code takes the first batch every time, so the images are not drawn anew.
    """
    if config.implicit_images is None:
        return None
    part = clean[: config.implicit_images]
    return Risk(model, part.images, part.labels, penalty=config.penalty, clamp=config.clamp)


def _drawn_back(model: nn.Module, given: Mapping[str, Tensor], fraction: float) -> nn.Module:
    """θ ← (1 − b)·θ + b·θ₀ for what is given of θ₀, in a copy; the model itself if nothing is."""
    if not given:
        return model
    model = copy.deepcopy(model)
    theta = dict(model.named_parameters())
    with torch.no_grad():
        for name, start in given.items():
            theta[name].lerp_(start, fraction)
    return model


def _worst(found: Sequence[Maximum]) -> Maximum:
    """The largest H of what was found."""
    return max(found, key=lambda maximum: maximum.value)


def _summary(found: Maximum, steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """What the history keeps of a round, the steps' numbers as means over those that have them."""
    means = {
        name: float(torch.stack([step[name] for step in steps if name in step]).mean())
        for name in steps[0]
    }
    return {"value": found.value, "delta_norm": float(found.region.norm(found.delta)), **means}
