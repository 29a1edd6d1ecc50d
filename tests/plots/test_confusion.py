from __future__ import annotations

import pytest
import torch

from ibau_lite import plots


def test_rows_are_true_classes_and_columns_answers() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    one, other = torch.tensor([0, 0, 0, 2, 2, 2]), torch.ones(6, dtype=torch.int64)
    figure = plots.confusion_matrices(labels, {"one": one, "other": other}, 3)
    first, second = figure.axes[:2]
    shares = first.images[0].get_array()
    assert shares.tolist() == [[0.75, 0, 0.25], [0, 0, 1], [0, 0, 0]]
    assert second.images[0].get_array()[:, 1].tolist() == [1, 1, 0]
    assert [axes.get_title() for axes in (first, second)] == ["one", "other"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("answer", "true class")


def test_what_cannot_be_drawn_is_refused() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="empty"):
        plots.confusion_matrices(labels, {}, 2)
    with pytest.raises(ValueError, match="short"):
        plots.confusion_matrices(labels, {"short": labels[:1]}, 2)
