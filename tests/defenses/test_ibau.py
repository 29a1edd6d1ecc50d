"""I-BAU as a whole: settings, what it records, and a backdoor that it removes."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from ibau_lite import models
from ibau_lite.attacks import badnets
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, FineTuningConfig, fine_tuning, ibau
from ibau_lite.hypergrad import hypergradient
from ibau_lite.ibau import Indirect, InnerObjective
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Ascent, OnePass, Risk, Targeted, Toward, Untargeted
from ibau_lite.sets import L1Ball, L2Ball, LinfBall
from ibau_lite.solvers import MINRES, ConjugateGradient
from ibau_lite.training import Recipe, fit

BALL = L2Ball(1.0)
BRIEF = IBAU.classical(
    rounds=2, sets=(BALL,), search=Untargeted(Ascent(2)), batch_size=8, indirect=Indirect(images=8)
)
ALL = InnerObjective(images=None)
BOTH = replace(BRIEF, sets=(BALL, L1Ball(2.0)), search=Targeted(Ascent(2)), inner=ALL, batch_size=2)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"rounds": 0}, "rounds"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"stamped": 0.0}, "stamped"),
        ({"stamped": 1.1}, "stamped"),
        ({"round_images": 0}, "round_images"),
        ({"shift": -1}, "shift"),
        ({"distillation_weight": 1.5}, "distillation_weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, says):
    with pytest.raises(ValueError, match=says):
        IBAU(**setting)


@pytest.mark.parametrize(
    ("part", "setting", "says"),
    [
        (InnerObjective, {"labels": "wrong"}, "'true' or 'predicted', got 'wrong'"),
        (InnerObjective, {"images": 0}, "images"),
        (InnerObjective, {"penalty": -0.1}, "penalty"),
        (Indirect, {"images": 0}, "images"),
        (Indirect, {"max_ratio": 0.0}, "max_ratio"),
        (Targeted, {"threshold": 0.5}, "threshold"),
        (Targeted, {"fallback": 0}, "fallback"),
    ],
)
def test_so_are_those_of_its_parts(part, setting, says):
    with pytest.raises(ValueError, match=says):
        part(**setting)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"search": None}, "search is a function"),
        ({"inner": None}, "inner: .*InnerObjective"),
        ({"indirect": MINRES(max_iter=5)}, "indirect: .*Indirect.* is expected"),
        ({"sets": (4.0,)}, "sets: a tuple of sets, as"),
        ({"sets": ()}, "sets: a tuple of sets, as"),
        ({"rounds": 1.5}, "rounds is a whole number, got 1.5"),
        ({"shift": None}, "shift is a whole number, got None"),
        ({"round_images": 40e3}, "round_images is a whole number or None, got 40000.0"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(setting, says):
    with pytest.raises(TypeError, match=says):
        IBAU(**setting)


def test_the_solver_of_the_indirect_term_is_a_function():
    with pytest.raises(TypeError, match="solver is a function"):
        Indirect(solver=3)


@pytest.mark.parametrize("climb", [Ascent(2), OnePass(1.0)])
def test_delta_is_what_the_search_finds_on_the_network_as_it_came(model, clean, climb):
    config = replace(BRIEF, rounds=1, search=Untargeted(climb), inner=ALL)
    found = ibau(model, clean, config=config)
    risk = Risk(model.eval(), clean.images, clean.labels)
    alone = climb(risk, dict(model.named_parameters()), BALL)
    torch.testing.assert_close(found.details["delta"], alone.delta, rtol=1e-3, atol=1e-4)
    assert found.history[0]["value"] == pytest.approx(alone.value, rel=1e-4)
    assert found.details["targets"] == [None]


def test_the_evaluator_sees_each_round_as_it_would_be_returned(model, clean):
    """And looking changes nothing.

    (Without the decay of the step, which looks ahead to the last round.)
    """
    config = replace(BRIEF, rounds=3, decay=False)
    seen = []
    ibau(model, clean, config=config, evaluator=lambda net: seen.append(net.state_dict()) or {})
    for rounds, weights in enumerate(seen[1:], 1):  # the first is the network as given
        alone = ibau(model, clean, config=replace(config, rounds=rounds)).model.state_dict()
        assert all(torch.equal(alone[key], weights[key]) for key in alone)
    assert not torch.equal(seen[0]["0.weight"], seen[1]["0.weight"])


@pytest.fixture
def taken(monkeypatch):
    """What each outer step was taken at: (δ, its set, what δ had climbed, the solver)."""
    steps = []

    def watched(outer, inner, delta, theta, **told):
        steps.append((delta, told["constraint"], inner, told["solver"]))
        return hypergradient(outer, inner, delta, theta, **told)

    monkeypatch.setattr(sys.modules["ibau_lite.ibau"], "hypergradient", watched)
    return steps


def test_a_sparse_delta_moves_on_its_face(model, clean, taken):
    ibau(model, clean, config=replace(BRIEF, rounds=1, sets=(L1Ball(2.0),)))
    assert taken and all(constraint == L1Ball(2.0) for _, constraint, *_ in taken)


def test_several_deltas_take_turns_the_newest_first(model, clean, taken):
    found = ibau(model, clean, config=replace(BOTH, rounds=1))
    risk = Risk(model.eval(), clean.images, clean.labels)
    alone = BOTH.search(risk, dict(model.named_parameters()), BOTH.sets)
    assert {type(maximum.region) for maximum in alone} == {L2Ball, L1Ball}
    expected = torch.stack([maximum.delta for maximum in alone])
    torch.testing.assert_close(found.details["deltas"], expected, rtol=1e-3, atol=1e-4)
    assert found.details["targets"] == [maximum.target for maximum in alone]
    assert len(taken) > len(alone)
    for step, (delta, constraint, climbed, solver) in enumerate(taken):
        turn = -1 - step % len(alone)
        assert torch.equal(delta, found.details["deltas"][turn])
        assert constraint == alone[turn].region and solver is not None
        assert isinstance(climbed, Toward) and climbed.target == alone[turn].target
    highest = max(alone, key=lambda maximum: maximum.value)
    torch.testing.assert_close(found.details["delta"], highest.delta, rtol=1e-3, atol=1e-4)
    assert found.history[0]["value"] == pytest.approx(highest.value, rel=1e-4)


def test_deltas_of_earlier_rounds_stay_and_count_as_constants(model, clean, taken):
    found = ibau(model, clean, config=BOTH)
    each = len(found.details["deltas"]) // 2
    assert found.details["targets"][:each] == found.details["targets"][each:]
    second = taken[len(taken) // 2 :]
    solved = [any(torch.equal(delta, new) for new in found.details["deltas"][each:])
              for delta, *_ in second]  # fmt: skip
    assert [solver is not None for *_, solver in second] == solved
    assert set(solved) == {True, False}


def test_the_history_says_what_was_found_and_followed(model, clean):
    solver = ConjugateGradient(max_iter=3, damping=50.0)
    config = replace(BRIEF, indirect=Indirect(solver, images=8, on_ball=False))
    result = ibau(model, clean, config=config)
    for row in result.history:
        assert row.keys() >= {"value", "delta_norm", "loss", "direct", "indirect", "residual"}
        assert 0 < row["delta_norm"] <= 1.0 + 1e-6
        assert row["residual"] > 0 and row["direct"] > 0 and row["indirect"] > 0
    assert result.details["delta"].shape == (3, 8, 8)
    assert max(result.details["climbs"]) == result.history[-1]["value"]
    last = float(result.details["delta"].norm())
    assert last == pytest.approx(result.history[-1]["delta_norm"], rel=1e-6)


@pytest.mark.filterwarnings("ignore::ibau_lite.solvers.SolverWarning")
def test_the_ratio_bounds_the_indirect_term_by_the_direct_one(model, clean):
    solver = ConjugateGradient(max_iter=3, damping=1.0)
    runs = {
        trust: ibau(
            model, clean, config=replace(BRIEF, indirect=Indirect(solver, 8, max_ratio=trust))
        ).model
        for trust in (None, 1e12, 1e-9)
    }
    runs["naive"] = ibau(model, clean, config=replace(BRIEF, indirect=None)).model

    def gap(one, other):
        pairs = zip(runs[one].parameters(), runs[other].parameters())
        return max((a - b).abs().max().item() for a, b in pairs)

    assert gap(None, 1e12) == 0.0  # no bound, and one that is never reached
    assert gap("naive", None) > 20 * gap("naive", 1e-9)  # what is left there is rounding


def test_a_round_passes_over_as_many_images_as_it_is_told(model, clean):
    seen = []
    risk = sys.modules[ibau.__module__]._outer_risk

    def spy(network, images, index, *rest):
        seen.append(index)
        return risk(network, images, index, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[ibau.__module__], "_outer_risk", spy)
        ibau(model, clean, config=replace(BRIEF, indirect=None, round_images=12))
        assert [len(index) for index in seen] == [8, 4, 8, 4]  # two rounds
        assert not torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
        seen.clear()
        more = len(clean) + 8  # all of them, and then some of them again
        ibau(model, clean, config=replace(BRIEF, rounds=1, indirect=None, round_images=more))
        met = torch.cat(seen).bincount()
        assert met.sum() == more and set(met.tolist()) == {1, 2} and len(met) == len(clean)


def test_distillation_mixes_the_networks_own_answers_into_the_labels(model, clean):
    from ibau_lite.ibau import _distilled

    own = model(clean.images).softmax(1)
    given = torch.nn.functional.one_hot(clean.labels, own.shape[1]).float()
    for weight in (0.0, 0.3, 1.0):
        mixed = _distilled(model, clean.images, clean.labels, weight)
        assert torch.allclose(mixed, (1 - weight) * given + weight * own, atol=1e-6)
    # With the answers alone and no δ to speak of there is nothing to learn.
    still = replace(
        BRIEF, indirect=None, distillation_weight=1.0, sets=(L2Ball(1e-6),), shift=0, lr=1e-2
    )
    moves = {
        weight: sum(row["direct"] for row in ibau(model, clean, config=config).history)
        for weight in (0.0, 1.0)
        for config in (replace(still, distillation_weight=weight, rounds=1, batch_size=len(clean)),)
    }
    assert moves[1.0] < 1e-3 * moves[0.0]


@pytest.mark.parametrize("ball", [L2Ball(1.0), LinfBall(0.1)], ids=str)
@pytest.mark.parametrize("on_ball", [False, True])
@pytest.mark.filterwarnings("ignore::ibau_lite.solvers.SolverWarning")
def test_both_balls_with_and_without_their_boundary(ball, on_ball, model, clean):
    result = ibau(
        model,
        clean,
        config=replace(BRIEF, sets=(ball,), indirect=Indirect(images=8, on_ball=on_ball)),
    )
    assert 0 < result.history[-1]["delta_norm"] <= ball.radius * (1 + 1e-6)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def blobs(count: int, seed: int) -> LabelledImages:
    """Noise, and a coloured bar at one of four places that is the class: room for a trigger."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.3 * torch.rand(count, 3, 16, 16, generator=generator)
    labels = torch.randint(4, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label % 3, 2 + 2 * label : 5 + 2 * label, 1:10] += 0.3
    return LabelledImages(images.clamp(0, 1), labels)


def test_it_removes_a_backdoor_that_fine_tuning_leaves():
    """On this network. On four others of the kind a δ of this norm draws a class or stays low."""
    train, clean, test = blobs(800, 0), blobs(200, 1), blobs(300, 2)
    attack = badnets(target=1)
    poisoned = attack.poison(train, 0.2)
    network = models.small_cnn(4, width=8)
    recipe = Recipe(epochs=4, batch_size=32, lr=0.05)
    fit(network, poisoned, recipe)
    before = evaluate(network, test, attack)
    assert before.accuracy > 0.97 and before.attack_success_rate > 0.97

    tuned = fine_tuning(network, clean, config=FineTuningConfig(epochs=3))
    assert evaluate(tuned.model, test, attack).attack_success_rate > 0.8

    config = IBAU.classical(
        rounds=4, sets=(L2Ball(2.5),), search=Untargeted(Ascent(20)), stamped=0.3, batch_size=25,
        indirect=Indirect(ConjugateGradient(max_iter=2, damping=1.0), images=25),
    )  # fmt: skip
    for seed in (0, 1):
        after = evaluate(ibau(network, clean, config=config, seed=seed).model, test, attack)
        assert after.attack_success_rate < 0.3 and after.accuracy > 0.9


def test_exact_is_one_objective_solved_to_a_tolerance(model, clean, monkeypatch):
    """The inner objective is the outer batch's own, every image carries δ, the solve is good."""
    seen = []

    def spy(outer, inner, *args, **kwargs):
        seen.append((outer is inner, bool(outer.stamped.all())))
        return hypergradient(outer, inner, *args, **kwargs)

    monkeypatch.setattr(sys.modules["ibau_lite.ibau"], "hypergradient", spy)
    config = IBAU.exact(rounds=1, sets=(L2Ball(0.3),), batch_size=16)
    result = ibau(model.double(), clean, config=config)
    assert set(seen) == {(True, True)}
    assert result.history[0]["residual"] < 2e-3
    assert result.history[0]["indirect"] > 0


def test_a_penalty_counts_in_the_implicit_system_of_the_outer_batch(model, clean, monkeypatch):
    seen = []

    def kept(outer, inner, *rest, **options):
        seen.append((outer, inner))
        return hypergradient(outer, inner, *rest, **options)

    monkeypatch.setattr(sys.modules["ibau_lite.ibau"], "hypergradient", kept)
    config = replace(BRIEF, rounds=1, batch_size=len(clean), indirect=Indirect(images=None))
    for penalty in (0.0, 0.5):
        ibau(model, clean, config=replace(config, inner=InnerObjective(penalty=penalty)))
    (same, inner), (outer, penalised) = seen
    assert inner is same  # one object: forward and backward are shared
    assert penalised.penalty == 0.5 and outer.penalty == 0
    assert torch.equal(penalised.images, outer.images)


@pytest.mark.parametrize("recipe", [IBAU, IBAU.classical, IBAU.exact, IBAU.released])
def test_equal_settings_are_equal_recipes(recipe):
    assert recipe() == recipe()
    assert recipe(indirect=Indirect(MINRES(max_iter=9))) != recipe()


def test_the_images_of_the_indirect_term_are_drawn_from_all_of_the_clean_set(
    model, clean, monkeypatch
):
    """A clean set that is sorted by class would give a few classes else, or one."""
    order = clean.labels.argsort()
    sorted_set, seen = LabelledImages(clean.images[order], clean.labels[order]), []

    def kept(outer, inner, *rest, **options):
        seen.append(inner)
        return hypergradient(outer, inner, *rest, **options)

    monkeypatch.setattr(sys.modules["ibau_lite.ibau"], "hypergradient", kept)
    config = BRIEF
    ibau(model, sorted_set, config=config)
    classes = int(clean.labels.max()) + 1
    assert len(sorted_set.labels[:8].unique()) < classes == len(seen[0].labels.unique())
    assert all(inner is seen[0] for inner in seen)  # drawn once
    ibau(model, sorted_set, config=config, seed=1)
    assert not torch.equal(seen[-1].images, seen[0].images)
