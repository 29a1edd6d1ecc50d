"""A diagnosis against networks whose answer is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ibau_lite as ib
from ibau_lite.data import LabelledImages
from ibau_lite.diagnosis import Diagnosis, diagnose
from ibau_lite.minimax import Ascent
from ibau_lite.sets import L1Ball, L2Ball

CLASSES = 5


class Linear(nn.Module):
    """Logits Wx; an image of class k is bright at pixel k, and W reads it there."""

    def __init__(self, shortcut: int | None = None, strength: float = 20.0) -> None:
        super().__init__()
        weight = torch.zeros(CLASSES, 1, 4, 4)
        weight.view(CLASSES, 16)[range(CLASSES), range(CLASSES)] = 4.0
        if shortcut is not None:
            weight.view(CLASSES, 16)[shortcut, 15] = strength  # a dark pixel of every image
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T


def bright(count: int = 30) -> LabelledImages:
    labels = torch.arange(count) % CLASSES
    images = torch.zeros(count, 16)
    images[range(count), labels] = 1.0
    return LabelledImages(images.view(count, 1, 4, 4), labels)


SMALL = (L2Ball(1.0), L1Ball(1.0))


def test_a_shortcut_to_a_class_stands_out_and_the_perturbation_takes_it() -> None:
    found = diagnose(Linear(shortcut=3), bright(), sets=SMALL)
    assert found.stands_out and found.suspect == 3
    assert str(found).startswith("class 3 stands out, ")
    for delta in found.deltas:
        assert int(delta.flatten().argmax()) == 15
        assert float(delta.flatten()[15]) > 0.9  # nearly the whole length of either set


def test_where_all_classes_are_alike_none_stands_out() -> None:
    found = diagnose(Linear(), bright(), sets=SMALL)
    torch.testing.assert_close(found.scores, torch.ones(CLASSES), rtol=1e-3, atol=0)
    assert not found.stands_out and str(found).startswith("no class stands out (the highest, ")


def test_the_scores_are_means_of_the_heights_over_their_medians() -> None:
    heights = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 20.0]])
    found = Diagnosis(heights, torch.zeros(2, 1, 4, 4), SMALL)
    assert found.scores.tolist() == pytest.approx([(0.5 + 1) / 2, 1.0, (3 + 4) / 2])
    assert found.suspect == 2 and found.stands_out
    assert not Diagnosis(heights, found.deltas, SMALL, threshold=3.6).stands_out


def test_the_heights_are_the_loss_at_the_end_of_the_climb() -> None:
    model, clean = Linear(shortcut=1), bright()
    found = diagnose(model, clean, sets=SMALL)
    for number, delta in enumerate(found.deltas):
        logits = model(clean.images + delta)
        loss = nn.functional.cross_entropy(logits, clean.labels)
        # Images of one class are equal here, and a diagnosis draws all 30.
        assert float(found.heights[number, 1]) == pytest.approx(loss.item(), rel=1e-5)


def test_renamed_classes_have_the_same_scores() -> None:
    torch.manual_seed(0)
    model, clean = Linear(shortcut=2, strength=6.0), bright()
    model.weight.data += 0.3 * torch.randn_like(model.weight)
    order = torch.tensor([3, 0, 4, 1, 2])  # class k is called order[k]
    renamed = copy.deepcopy(model)
    renamed.weight.data[order] = model.weight.data
    others = LabelledImages(clean.images, order[clean.labels])
    before, after = (diagnose(m, c, sets=SMALL) for m, c in ((model, clean), (renamed, others)))
    torch.testing.assert_close(after.scores[order], before.scores, rtol=1e-4, atol=1e-5)
    assert after.suspect == int(order[before.suspect])


@pytest.mark.filterwarnings("ignore:the model reads")
def test_the_seed_draws_the_images_and_the_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model = ib.models.small_cnn(4, width=2)
    clean = ib.testing.tiny_images(200)
    given = copy.deepcopy(model.state_dict())
    first, again, other = (
        diagnose(model.train(), clean, climb=Ascent(2), seed=seed).heights for seed in (0, 0, 1)
    )
    assert first.equal(again) and not first.equal(other)
    assert model.training and all(model.state_dict()[name].equal(given[name]) for name in given)


def test_a_network_of_double_precision_is_diagnosed_as_it_is() -> None:
    found = diagnose(Linear(shortcut=3).double(), bright(), sets=SMALL)
    assert found.deltas.dtype == torch.float64 and found.suspect == 3


def test_what_cannot_be_diagnosed_is_refused() -> None:
    with pytest.raises(ValueError, match="sets: at least one"):
        diagnose(Linear(), bright(), sets=())
    two = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    pair = LabelledImages(torch.rand(6, 1, 4, 4), torch.tensor([0, 1] * 3))
    with pytest.raises(ValueError, match="of 2 classes none can stand out"):
        diagnose(two, pair)
    with pytest.raises(TypeError, match="LabelledImages"):
        diagnose(Linear(), bright().images)  # type: ignore[arg-type]
    assert ib.diagnose is diagnose
