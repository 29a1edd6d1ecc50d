"""Instruments: what a page carries is what Python computed, with a kernel and without one."""

from __future__ import annotations

import base64
import json
import math
import re
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ibau_lite as ib
from ibau_lite import widgets

CONTROLS = {"slope": (1, 2, 4), "shift <b>": (0.0, 0.5)}
X = (0.0, 1.0, 2.0)


def line(slope: float, shift: float) -> dict[str, list[float]]:
    return {"up": [slope * x + shift for x in X], "down": [-slope * x for x in X]}


def made(**changes: Any) -> widgets.Instrument:
    options = {"xlabel": "x", "ylabel": "y < z", "alt": "Two lines.", **changes}
    x, controls = options.pop("x", X), options.pop("controls", CONTROLS)
    return widgets.curves(x, controls, options.pop("draw", line), **options)


def embedded(instrument: widgets.Instrument) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', instrument.to_html())
    assert len(found) == 1
    content: dict[str, Any] = json.loads(found[0])
    return content


def test_the_page_carries_the_numbers_of_every_state() -> None:
    instrument = made(says=lambda slope, shift: f"{slope} </script> {shift}", start=(1, 1))
    data = embedded(instrument)
    for i, slope in enumerate(CONTROLS["slope"]):
        for j, shift in enumerate(CONTROLS["shift <b>"]):
            at = instrument.state(i, j)
            assert data["lines"][at] == list(line(slope, shift).values())
            assert data["says"][at] == f"{slope} </script> {shift}"
    assert data["ylim"] == [-8, 8.5] and data["xlim"] == [0, 2]
    assert instrument.state(2, 1) == 5


def test_a_page_without_javascript_shows_the_first_state() -> None:
    html = made(start=(2, 0), says=lambda slope, shift: f"slope {slope}").to_html()
    assert "slope 4" in html and "<b>" not in html and "y &lt; z" in html
    assert html.count('type="range"') == html.count("aria-valuetext") == 2
    assert 'class="ib-controls" hidden' in html  # sliders that cannot move are not shown
    top = re.search(r'class="ib-line" d="M0.0 ([0-9.]+)', html)
    height = widgets.HEIGHT - widgets.TOP - widgets.BOTTOM
    assert top and float(top[1]) == pytest.approx(height * (1 - 8 / 16.5), abs=0.06)


def test_the_live_control_shows_the_same_states() -> None:
    instrument = made(says=lambda slope, shift: f"{slope} and {shift}")
    slope, shift, picture, says = instrument.to_widget().children
    assert picture.value == instrument.picture(0) and says.value == "1 and 0.0"
    slope.value, shift.value = 2, 1
    assert picture.value == instrument.picture(5) and says.value == "4 and 0.5"


def test_one_call_displays_both(monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = made()
    assert set(instrument._repr_mimebundle_()) == {"text/plain", "text/html"}
    monkeypatch.setattr(widgets, "_in_a_kernel", lambda: True)
    assert instrument._repr_mimebundle_()[widgets.VIEW]["model_id"]


def test_gaps_and_logarithms() -> None:
    values = [1e-3, math.nan, 10.0]
    instrument = made(
        controls={"k": (1, 2)}, draw=lambda k: {"a": [k * v for v in values]}, logarithmic=True
    )
    assert embedded(instrument)["lines"][1][0] == [0.002, None, 20]
    path = re.search(r'class="ib-line" d="([^"]*)"', instrument.picture(0))
    assert path and path[1].count("M") == 2  # a gap: two pieces
    infinite = made(draw=lambda slope, shift: {"a": [0, slope, math.inf]})
    assert embedded(infinite)["ylim"] == [0, 4]


def test_pictures_are_the_tensors() -> None:
    instrument = widgets.pictures(
        {"row": (0, 1)}, lambda row: torch.eye(2)[row].expand(3, 2, 2), alt="One stripe."
    )
    for row, text in enumerate(embedded(instrument)["images"]):
        image = np.asarray(Image.open(BytesIO(base64.b64decode(text.split(",")[1]))))
        assert image.shape == (2, 2, 3)
        assert (image == 255 * np.eye(2)[row][None, :, None]).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"controls": {}}, "needs a control"),
        ({"controls": {"slope": (1,), "shift": (0, 1)}}, "two values"),
        ({"draw": lambda slope, shift: {}}, "one to 4 lines"),
        ({"draw": lambda slope, shift: {"a": [1, 2]}}, "has 2 numbers, x has 3"),
        ({"draw": lambda slope, shift: {str(slope): X}}, "expected"),
        ({"draw": lambda slope, shift: {"a": [math.nan] * 3}}, "no finite number"),
        ({"x": (1, 1, 1)}, "two different"),
        ({"x": (1, math.inf, 2)}, "all finite"),
        ({"alt": " "}, "alt is empty"),
        ({"start": (0,)}, "2 controls, got 1"),
        ({"start": (3, 0)}, "lies in 0 … 2, got 3"),
        ({"ylim": (0, 1), "logarithmic": True}, "above 0"),
        ({"ylim": (2, 1)}, "an axis runs up"),
        ({"says": lambda slope, shift: "x" * widgets.LIMIT}, "bytes of JSON"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        made(**changes)


@pytest.mark.parametrize("image", [torch.zeros(2, 2), torch.full((3, 2, 2), 1.5)])
def test_no_picture(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a picture"):
        ib.widgets.pictures({"a": (0, 1)}, lambda a: image, alt="None.")
