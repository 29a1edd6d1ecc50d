"""I-BAU as a whole: settings, what it records, and a backdoor that it removes."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from ibau_lite.searches import Aimed, AimedUnion, OnePass

from ibau_lite import models
from ibau_lite.attacks import badnets
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, FineTuningConfig, fine_tuning, ibau
from ibau_lite.hypergrad import hypergradient
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Ascent, Risk, Scouted
from ibau_lite.sets import L1Ball, L2Ball, LinfBall, Within
from ibau_lite.solvers import MINRES, ConjugateGradient
from ibau_lite.training import Recipe, fit

BRIEF = IBAU(rounds=2, ball=L2Ball(1.0), inner=Ascent(2), batch_size=8, implicit_images=8)


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
        ({"inner_labels": "wrong"}, "'true' or 'predicted', got 'wrong'"),
        ({"inner_images": 0}, "inner_images"),
        ({"implicit_images": 0}, "implicit_images"),
        ({"penalty": -0.1}, "penalty"),
        ({"outer_images": 0}, "outer_images"),
        ({"shift": -1}, "shift"),
        ({"distillation_weight": 1.5}, "anchor"),
        ({"interpolation": 1.0}, "draw_back"),
        ({"interpolation": -0.1}, "draw_back"),
        ({"max_indirect_ratio": 0.0}, "trust"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, says):
    with pytest.raises(ValueError, match=says):
        IBAU(**setting)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"inner": None}, "inner is a function, solver one or None"),
        ({"solver": 3}, "inner is a function, solver one or None"),
        ({"ball": 4.0}, "ball is a set, as"),
        ({"stopping": True}, "stopping is an EarlyStopping or None, got True"),
        ({"rounds": 1.5}, "rounds is a whole number, got 1.5"),
        ({"shift": None}, "shift is a whole number, got None"),
        ({"outer_images": 40e3}, "outer_images is a whole number or None, got 40000.0"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(setting, says):
    with pytest.raises(TypeError, match=says):
        IBAU(**setting)


@pytest.mark.parametrize(
    "inner", [Ascent(2), Scouted(Ascent(2)), Aimed(Ascent(2), images=4), OnePass(1.0)]
)
def test_delta_is_what_the_search_finds_on_the_network_as_it_came(model, clean, inner):
    config = replace(BRIEF, rounds=1, inner=inner, inner_images=None)
    found = ibau(model, clean, config=config)
    risk = Risk(model.eval(), clean.images, clean.labels)
    alone = inner(risk, dict(model.named_parameters()), config.ball)
    torch.testing.assert_close(found.details["delta"], alone.delta, rtol=1e-3, atol=1e-4)
    assert found.history[0]["value"] == pytest.approx(alone.value, rel=1e-4)


def test_drawing_back_goes_a_part_of_the_straight_way_to_the_given_weights(model, clean):
    whole = ibau(model, clean, config=BRIEF).model
    part = ibau(model, clean, config=replace(BRIEF, interpolation=0.25)).model
    for given, end, ours in zip(
        model.parameters(), whole.parameters(), part.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, 0.75 * end + 0.25 * given)


def test_the_evaluator_sees_each_round_as_it_would_be_returned(model, clean):
    """Drawn back; and looking changes nothing, though the rounds go on from where they were.

    (Without the decay of the step, which looks ahead to the last round.)
    """
    config = replace(BRIEF, rounds=3, interpolation=0.5, decay=False)
    seen = []
    ibau(model, clean, config=config, evaluator=lambda net: seen.append(net.state_dict()) or {})
    for rounds, weights in enumerate(seen[1:], 1):  # the first is the network as given
        alone = ibau(model, clean, config=replace(config, rounds=rounds)).model.state_dict()
        assert all(torch.equal(alone[key], weights[key]) for key in alone)
    assert not torch.equal(seen[0]["0.weight"], seen[1]["0.weight"])


@pytest.fixture
def taken(monkeypatch):
    """What each outer step was taken at: (δ, constraint)."""
    steps = []

    def watched(outer, inner, delta, theta, **told):
        steps.append((delta, told["constraint"]))
        return hypergradient(outer, inner, delta, theta, **told)

    monkeypatch.setattr(sys.modules["ibau_lite.defenses.outer_step"], "hypergradient", watched)
    return steps


def test_a_sparse_delta_moves_on_its_face(model, clean, taken):
    def search(risk, theta, ball):
        return Ascent(2)(risk, theta, L1Ball(2.0))

    ibau(model, clean, config=replace(BRIEF, rounds=1, inner=search))
    assert taken and all(constraint == L1Ball(2.0) for _, constraint in taken)


def test_several_deltas_take_turns_each_in_its_own_set(model, clean, taken):
    search = AimedUnion(Ascent(2), images=4, patch=0.5)
    config = replace(BRIEF, rounds=1, inner=search, inner_images=None, batch_size=2)
    found = ibau(model, clean, config=config)
    risk = Risk(model.eval(), clean.images, clean.labels)
    alone = search(risk, dict(model.named_parameters()), config.ball)
    assert {type(maximum.region) for maximum in alone} == {L2Ball, Within}
    expected = torch.stack([maximum.delta for maximum in alone])
    torch.testing.assert_close(found.details["deltas"], expected, rtol=1e-3, atol=1e-4)
    assert len(taken) > len(alone)
    for step, (delta, constraint) in enumerate(taken):
        region = alone[step % len(alone)].region
        assert torch.equal(delta, found.details["deltas"][step % len(alone)])
        assert constraint == region
    highest = max(alone, key=lambda maximum: maximum.value)
    torch.testing.assert_close(found.details["delta"], highest.delta, rtol=1e-3, atol=1e-4)
    assert found.history[0]["value"] == pytest.approx(highest.value, rel=1e-4)


def test_the_history_says_what_was_found_and_followed(model, clean):
    solver = ConjugateGradient(max_iter=3, damping=50.0)
    config = replace(BRIEF, solver=solver, on_ball=False)
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
def test_trust_bounds_the_indirect_term_by_the_direct_one(model, clean):
    solver = ConjugateGradient(max_iter=3, damping=1.0)
    runs = {
        trust: ibau(
            model, clean, config=replace(BRIEF, solver=solver, max_indirect_ratio=trust)
        ).model
        for trust in (None, 1e12, 1e-9)
    }
    runs["naive"] = ibau(model, clean, config=replace(BRIEF, solver=None)).model

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
        ibau(model, clean, config=replace(BRIEF, solver=None, outer_images=12))
        assert [len(index) for index in seen] == [8, 4, 8, 4]  # two rounds
        assert not torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
        seen.clear()
        more = len(clean) + 8  # all of them, and then some of them again
        ibau(model, clean, config=replace(BRIEF, rounds=1, solver=None, outer_images=more))
        met = torch.cat(seen).bincount()
        assert met.sum() == more and set(met.tolist()) == {1, 2} and len(met) == len(clean)


def test_the_anchor_mixes_the_networks_own_answers_into_the_labels(model, clean):
    from ibau_lite.ibau import _anchored

    own = model(clean.images).softmax(1)
    given = torch.nn.functional.one_hot(clean.labels, own.shape[1]).float()
    for weight in (0.0, 0.3, 1.0):
        mixed = _anchored(model, clean.images, clean.labels, weight)
        assert torch.allclose(mixed, (1 - weight) * given + weight * own, atol=1e-6)
    # With the answers alone and no δ to speak of there is nothing to learn.
    still = replace(
        BRIEF, solver=None, distillation_weight=1.0, ball=L2Ball(1e-6), shift=0, lr=1e-2
    )
    moves = {
        anchor: sum(row["direct"] for row in ibau(model, clean, config=config).history)
        for anchor in (0.0, 1.0)
        for config in (replace(still, distillation_weight=anchor, rounds=1, batch_size=len(clean)),)
    }
    assert moves[1.0] < 1e-3 * moves[0.0]


@pytest.mark.parametrize("ball", [L2Ball(1.0), LinfBall(0.1)], ids=str)
@pytest.mark.parametrize("on_ball", [False, True])
@pytest.mark.filterwarnings("ignore::ibau_lite.solvers.SolverWarning")
def test_both_balls_with_and_without_their_boundary(ball, on_ball, model, clean):
    result = ibau(model, clean, config=replace(BRIEF, ball=ball, on_ball=on_ball))
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

    config = IBAU(
        rounds=4, ball=L2Ball(2.5), inner=Ascent(20), inner_images=200, stamped=0.3, batch_size=25,
        solver=ConjugateGradient(max_iter=2, damping=1.0), implicit_images=25, lr=3e-3,
    )  # fmt: skip
    unlearned = ibau(network, clean, config=config)
    after = evaluate(unlearned.model, test, attack)
    assert after.attack_success_rate < 0.3 and after.accuracy > 0.9


def test_exact_is_one_objective_solved_to_a_tolerance(model, clean, monkeypatch):
    """The inner objective is the outer batch's own, every image carries δ, the solve is good."""
    seen = []

    def spy(outer, inner, *args, **kwargs):
        seen.append((outer is inner, bool(outer.stamped.all())))
        return hypergradient(outer, inner, *args, **kwargs)

    monkeypatch.setattr(sys.modules["ibau_lite.defenses.outer_step"], "hypergradient", spy)
    config = IBAU.exact(rounds=1, ball=L2Ball(0.3), batch_size=16)
    result = ibau(model.double(), clean, config=config)
    assert set(seen) == {(True, True)}
    assert result.history[0]["residual"] < 2e-3
    assert result.history[0]["indirect"] > 0


def test_a_penalty_counts_in_the_implicit_system_of_the_outer_batch(model, clean, monkeypatch):
    seen = []

    def kept(outer, inner, *rest, **options):
        seen.append((outer, inner))
        return hypergradient(outer, inner, *rest, **options)

    monkeypatch.setattr(sys.modules["ibau_lite.defenses.outer_step"], "hypergradient", kept)
    config = IBAU(rounds=1, batch_size=len(clean), implicit_images=None, inner=Ascent(1))
    for penalty in (0.0, 0.5):
        ibau(model, clean, config=replace(config, penalty=penalty))
    (same, inner), (outer, penalised) = seen
    assert inner is same  # one object: forward and backward are shared
    assert penalised.penalty == 0.5 and outer.penalty == 0
    assert torch.equal(penalised.images, outer.images)


@pytest.mark.parametrize("recipe", [IBAU, IBAU.exact, IBAU.released])
def test_equal_settings_are_equal_recipes(recipe):
    assert recipe() == recipe()
    assert recipe(solver=MINRES(max_iter=9)) != recipe()
