"""Project (b): the budget, the promises, and a trigger that survives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ibau_lab import projects
from ibau_lab.projects import defence, trigger
from ibau_lab.projects.submission import SubmissionError
from ibau_lite.attacks import Patch

HERE = Path(__file__).parent


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger, "SEEDS", 1)


def test_solution(one_seed: None) -> None:
    verdict = projects.grade("trigger", HERE / "solutions" / "my_trigger.py", seed=1)
    (row,) = verdict.rows
    assert row["ASR before"] > 0.9 and row["ACC before"] > 0.85
    expected = trigger.WORKS + trigger.SURVIVES * row["ASR"]
    assert verdict.points == pytest.approx(expected)
    assert row["ASR"] > 0.2, "the trigger does not survive I-BAU: has its recipe become better?"


def test_too_large_a_trigger_is_refused_with_its_size(one_seed: None) -> None:
    verdict = projects.grade("trigger", HERE / "wrong" / "my_trigger.py")
    assert verdict.points == 0
    assert "changes an image by 2" in verdict.message and "at most 4 is allowed" in verdict.message


def test_a_square_of_four_pixels_is_a_little_larger_than_allowed() -> None:
    """The starter notebook says so."""
    images = defence.dataset().test.images
    change = (Patch.square(4)(images) - images).flatten(1).norm(dim=1).mean()
    assert trigger.BUDGET < change < 1.1 * trigger.BUDGET


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        (lambda images: images.add_(0.01).clamp_(0, 1), "the images that were given changed"),
        (lambda images: images + 0.5, "values in .0, 1. are expected"),
        (lambda images: images, "an image came back as it was"),
        (
            lambda images: (images + 0.1 * torch.rand(())).clamp(0, 1),
            "the global random state moved",
        ),
        (lambda images: images.mean(0, keepdim=True).expand(images.shape), "the others in a batch"),
        (lambda images: images[0], "became"),
        (lambda images: None, "a tensor is expected, got NoneType"),
        (lambda images: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_promise_is_named(stamp, message: str) -> None:
    few = {"train": torch.rand(2, 3, 32, 32), "test": torch.rand(2, 3, 32, 32)}
    with pytest.raises(SubmissionError, match=message):
        trigger.answer(None, stamp, few)


@pytest.mark.parametrize(("value", "message"), [(2.0, "got 0 to 2"), (float("nan"), "nan")])
def test_values_on_the_signs_themselves_are_checked(value: float, message: str) -> None:
    """`check_trigger` sees noise only."""
    stamped = trigger.given(0)
    stamped["test"][0] = value
    stamped["test"][1] = 0.0
    with pytest.raises(SubmissionError, match=f"the stamped test images: .*{message}"):
        trigger.judge(0, stamped, 90.0)


def test_what_survives_is_measured_on_images_of_other_classes(
    one_seed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger that nothing was trained with: ASR is what a clean network gives by chance."""
    held = defence.dataset()
    monkeypatch.setattr(trigger, "RATE", 0.0)
    monkeypatch.setattr(trigger, "EPOCHS", 2)
    asked = []
    original = trigger.ib.metrics.accuracy
    monkeypatch.setattr(
        trigger.ib.metrics, "accuracy", lambda m, part: asked.append(part) or original(m, part)
    )
    verdict = trigger.judge(0, trigger.given(0), 90.0)
    (row,) = verdict.rows
    assert row["ASR before"] < 0.3
    aimed = asked[1]
    target = held.class_names.index(row["target"])
    assert set(aimed.labels.tolist()) == {target}
    assert len(aimed) == int((held.test.labels != target).sum())
