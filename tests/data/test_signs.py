"""The drawn signs: the same bits for a seed, twelve classes, colourful and not black."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.data import signs
from ibau_lite.data.sign_faces import FACE_NAMES, draw_faces

DIGEST = """
import hashlib
from ibau_lite.data import signs
images, labels = signs.draw(130, seed=5)
print(hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def drawn():
    return signs.draw(360, seed=5)


def test_shape_dtype_and_balance(drawn) -> None:
    images, labels = drawn
    assert images.shape == (360, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels, minlength=12).tolist() == [30] * 12
    assert len(FACE_NAMES) == 12


def test_two_processes_agree_whatever_their_number_of_threads(drawn) -> None:
    images, labels = drawn
    here = hashlib.sha256(images[:130].tobytes() + labels[:130].tobytes()).hexdigest()
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "PYTHONHASHSEED": "1"}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


@settings(max_examples=3, deadline=None)
@given(count=st.integers(1, 250))
def test_a_longer_run_begins_with_a_shorter_one(drawn, count: int) -> None:
    images, labels = signs.draw(count, seed=5)
    assert np.array_equal(images, drawn[0][:count])
    assert np.array_equal(labels, drawn[1][:count])


def test_another_seed_draws_other_images(drawn) -> None:
    others, _ = signs.draw(240, seed=6)
    seen = {image.tobytes() for image in drawn[0]}
    assert not any(image.tobytes() in seen for image in others)


def test_no_image_is_drawn_twice(drawn) -> None:
    assert len({image.tobytes() for image in drawn[0]}) == len(drawn[0])


def test_the_images_are_lit_coloured_and_textured(drawn) -> None:
    images = drawn[0].astype(np.float32) / 255
    brightness = images.mean(axis=(1, 2, 3))
    assert brightness.min() > 0.08
    assert 0.3 < brightness.mean() < 0.6
    assert (images.max(axis=-1) - images.min(axis=-1)).mean() > 0.12  # saturated, not grey
    corners = np.concatenate([images[:, :4, :4], images[:, -4:, -4:]], axis=1)
    assert corners.mean(axis=(1, 2, 3)).min() > 0.04  # backgrounds are never black
    assert corners.std(axis=(1, 2)).mean() > 0.04  # and never plain


def test_the_global_generators_are_left_alone() -> None:
    np.random.seed(0)
    expected = np.random.rand(3)
    np.random.seed(0)
    signs.draw(12)
    assert np.array_equal(np.random.rand(3), expected)


def test_no_face_is_the_mirror_image_of_another() -> None:
    faces = [
        np.frombuffer(face.tobytes(), np.uint8).reshape(96, 96, 4).astype(float)
        for face in draw_faces(96)
    ]
    for i, face in enumerate(faces):
        distance = [np.abs(face[:, ::-1] - other).mean() for other in faces]
        assert int(np.argmin(distance)) == i
        assert sorted(distance)[1] > 4


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1, -1)])
def test_negative_numbers_are_refused(count: int, seed: int) -> None:
    with pytest.raises(ValueError, match=f"not be negative, got {count} and {seed}"):
        signs.draw(count, seed)


def test_the_drawings_are_kept_and_read_back(tmp_path, monkeypatch) -> None:
    first = signs.halves(24, 12, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"signs-v{signs.VERSION}-24-12.npz"]
    monkeypatch.setattr(signs, "draw", lambda *args, **kwargs: pytest.fail("drawn again"))
    second = signs.halves(24, 12, tmp_path)
    assert np.array_equal(first.x_train, second.x_train)
    assert np.array_equal(first.y_test, second.y_test)
    assert (first.class_names, first.source) == (second.class_names, second.source)


def test_a_damaged_cache_is_drawn_anew(tmp_path) -> None:
    first = signs.halves(24, 12, tmp_path)
    kept = next(tmp_path.iterdir())
    kept.write_bytes(kept.read_bytes()[:1000])
    assert np.array_equal(signs.halves(24, 12, tmp_path).x_test, first.x_test)
    assert kept.stat().st_size > 1000  # and mended


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(signs.halves(24, 12, tmp_path / "file").x_train) == 24


def test_train_and_held_out_images_are_different_drawings(tmp_path) -> None:
    halves = signs.halves(240, 240, tmp_path)
    train = {image.tobytes() for image in halves.x_train}
    assert not any(image.tobytes() in train for image in halves.x_test)
