"""LabelledImages and Dataset: what they accept, what they refuse, and with which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibau_lite.data import Dataset, LabelledImages


def some(
    n: int = 6, classes: int = 3, shape: tuple[int, ...] = (3, 4, 5), seed: int = 0
) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator)
    return LabelledImages(images, torch.randint(classes, (n,), generator=generator))


@given(n=st.integers(1, 12), data=st.data())
def test_indexing_selects_images_and_labels_together(n: int, data: st.DataObject) -> None:
    labelled = some(n)
    positions = data.draw(st.lists(st.integers(0, n - 1)))
    chosen = labelled[torch.tensor(positions, dtype=torch.int64)]
    assert len(chosen) == len(positions)
    for row, position in enumerate(positions):
        assert torch.equal(chosen.images[row], labelled.images[position])
        assert chosen.labels[row] == labelled.labels[position]


def test_slices_and_masks_select_too() -> None:
    labelled = some(6)
    mask = torch.tensor([True, False, True, False, False, True])
    assert torch.equal(labelled[2:4].images, labelled.images[2:4])
    assert torch.equal(labelled[mask].labels, labelled.labels[mask])


def test_a_single_position_is_refused_because_it_would_drop_the_batch() -> None:
    for position in (2, np.int64(2), torch.tensor(2)):
        with pytest.raises(TypeError, match=r"labelled\[2:3\]"):
            some()[position]  # type: ignore[index]


def test_to_keeps_the_values() -> None:
    labelled = some()
    moved = labelled.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert torch.equal(labelled.to("cpu").images, labelled.images)


IMAGES, LABELS = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "error", "words"),
    [
        (IMAGES.numpy(), LABELS, TypeError, "images must be a torch.Tensor, got ndarray"),
        (IMAGES, [0, 1], TypeError, "labels must be a torch.Tensor, got list"),
        (IMAGES[0], LABELS, ValueError, r"shape \[N, C, H, W\], got \[3, 4, 4\]"),
        (IMAGES.double(), LABELS, ValueError, "float32 in .*got torch.float64"),
        (IMAGES.byte(), LABELS, ValueError, r"got torch.uint8; .*div\(255\)"),
        (IMAGES, LABELS[:1], ValueError, r"labels must have shape \[2\].*got \[1\]"),
        (IMAGES, LABELS[:, None], ValueError, r"labels must have shape \[2\].*got \[2, 1\]"),
        (IMAGES, LABELS.int(), ValueError, "labels must be int64, got torch.int32"),
        (IMAGES, LABELS - 1, ValueError, "labels must count from 0, got -1"),
        (IMAGES + 0.6, LABELS, ValueError, r"lie in \[0, 1\], got values from 1.1"),
        (IMAGES - 0.6, LABELS, ValueError, r"lie in \[0, 1\], got values from -0.1"),
        (IMAGES * float("nan"), LABELS, ValueError, r"lie in \[0, 1\], got values from nan"),
        (IMAGES.to("meta"), LABELS, ValueError, "one device, got meta and cpu"),
    ],
)
def test_bad_fields_are_refused_with_the_reason(images, labels, error, words) -> None:
    with pytest.raises(error, match=words):
        LabelledImages(images, labels)


def test_an_empty_part_is_allowed() -> None:
    assert len(LabelledImages(torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.int64))) == 0


def test_dataset_knows_its_shape_and_classes() -> None:
    dataset = Dataset("d", some(), some(), some(), some(), ("a", "b", "c"), "here")
    assert dataset.num_classes == 3
    assert dataset.shape == (3, 4, 5)
    assert "here" in repr(dataset)


def test_dataset_refuses_parts_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"clean has images \(3, 5, 5\), but train has"):
        Dataset("d", some(), some(shape=(3, 5, 5)), some(), some(), ("a", "b", "c"), "")


def test_dataset_refuses_labels_without_a_name() -> None:
    two, three = some(classes=2), LabelledImages(IMAGES.new_zeros(1, 3, 4, 5), torch.tensor([2]))
    with pytest.raises(ValueError, match="test has the label 2, but there are only 2 class names"):
        Dataset("d", two, two, two, three, ("a", "b"), "")
