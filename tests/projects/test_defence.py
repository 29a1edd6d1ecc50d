"""Project (a): the anonymous attacks, the points, and what is said of a defence that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ibau_lab import projects
from ibau_lab.projects import defence
from ibau_lab.projects.submission import SubmissionError
from ibau_lite.models import small_cnn
from ibau_lite.testing import DEFENSE_CHECKS

HERE = Path(__file__).parent


def test_the_seed_decides_the_anonymous_attacks() -> None:
    def described(seed: int) -> list[str]:
        return [str(attack) for attack in defence.anonymous(seed)]

    assert described(5) == described(5) != described(6)
    kinds, targets = set(), set()
    for seed in range(30):
        (one, _), (two, _) = (attack.pairs[0] for attack in defence.anonymous(seed))
        assert one.to_dict() != two.to_dict()
        kinds |= {one.to_dict()["kind"], two.to_dict()["kind"]}
        targets |= {attack.pairs[0][1].target for attack in defence.anonymous(seed)}
    assert kinds == {"patch", "sinusoid", "blend"} and targets == set(range(8))


def test_all_networks_read_signs_and_obey_their_triggers() -> None:
    victims = defence.networks(0)
    assert [v.name for v in victims] == ["badnets", "blend", "anonymous 1", "anonymous 2"]
    for victim in victims:
        assert victim.before.accuracy > 0.9 and victim.before.attack_success_rate > 0.85


def test_a_submission_sees_neither_attacks_nor_test_images() -> None:
    given = defence.given(0)
    assert set(given) == {"models", "clean"}
    test, (images, _) = defence.dataset().test.images, given["clean"]
    assert not any((images == image).flatten(1).all(1).any() for image in test[:50])
    assert all(type(model) is torch.nn.Sequential for model in given["models"])


def answer(weights: list[dict[str, torch.Tensor]], **changes: object) -> dict[str, object]:
    return {"broken": {}, "weights": weights, "seconds": [0.0] * 4, **changes}


def test_points_are_for_what_is_removed_and_kept() -> None:
    victims = defence.networks(0)
    same = [victim.model.state_dict() for victim in victims]
    nothing = defence.judge(0, answer(same), 90.0)
    assert nothing.points == pytest.approx(defence.PROMISES + defence.SPEED)
    assert [row["earned"] for row in nothing.rows] == [0.0] * 4

    untrained = small_cnn(12, width=8, seed=1).state_dict()  # no backdoor, and nothing else
    gone = defence.judge(0, answer([untrained] * 4), 90.0)
    assert [row["earned"] for row in gone.rows] == [0.0] * 4
    late = defence.judge(0, answer(same, seconds=[45.0] * 4, broken={"x": "y"}), 90.0)
    checks = len(DEFENSE_CHECKS)
    assert late.points == pytest.approx(defence.PROMISES * (checks - 1) / checks)
    assert "- x: y" in late.message


def test_another_architecture_is_refused() -> None:
    wider = small_cnn(12, width=9).state_dict()
    with pytest.raises(SubmissionError, match="badnets: the new network has another architecture"):
        defence.judge(0, answer([wider] * 4), 90.0)


def test_solution_and_wrong_submission() -> None:
    right = projects.grade("defence", HERE / "solutions" / "my_defence.py")
    assert right.message.startswith("21 of 21 promises") and right.points > 40, right
    wrong = projects.grade("defence", HERE / "wrong" / "my_defence.py")
    assert wrong.points < 20
    assert all(row["ASR"] > 0.8 for row in wrong.rows)
    assert "the weights of the given model changed: copy it" in wrong.message


def test_the_networks_that_come_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the shipped networks are drawn by the seed; noise stands in for the photographs."""
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    part = defence.ib.data.LabelledImages(images, torch.arange(20) % 10)
    names = tuple(map(str, range(10)))
    held = defence.ib.data.Dataset("cifar10", part, part, part, part, names, "noise")
    monkeypatch.setattr(defence, "dataset", lambda data: held)
    victims = defence._networks.__wrapped__(3, "cifar10")
    assert [v.name for v in victims] == ["badnets", "blend", "anonymous 1", "anonymous 2"]
    hidden = [victim.attack.name for victim in victims[2:]]
    assert len(set(hidden)) == 2 and not {"badnets", "blend", "clean"} & set(hidden)


def test_a_network_of_nan_costs_its_points_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """nbgrader gives no points to a cell that writes to stderr."""
    (tmp_path / "f.py").write_text(
        "import copy, torch\n"
        "from ibau_lite.defenses import DefenseResult\n"
        "def defend(model, clean, **options):\n"
        "    new = copy.deepcopy(model)\n"
        "    new[-1].weight.data[:] = torch.nan\n"
        "    return DefenseResult(new, 0.1, [{'round': 1}])\n"
    )
    verdict = projects.grade("defence", tmp_path / "f.py")
    assert [row["earned"] for row in verdict.rows] == [0.0] * 4
    assert "NaN or infinite weights came out" in verdict.message
    assert capfd.readouterr().err == ""
