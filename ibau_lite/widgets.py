"""Instruments: sliders over what a chapter has computed, with a kernel and without one.

A notebook that has a kernel shows ipywidgets. A built page shows the same states by
`book/_static/instruments.js`, from numbers that lie in the page. Both come from one call.

>>> from ibau_lite.widgets import curves
>>> curves(
...     [0, 1, 2],
...     {"slope": [1, 2]},
...     lambda slope: {"line": [0, slope, 2 * slope]},
...     xlabel="x",
...     ylabel="y",
...     alt="A line through zero.",
... )
<Instrument: 2 states of slope>
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

LIMIT = 60_000  # bytes of JSON that one instrument may bring into a page
VIEW = "application/vnd.jupyter.widget-view+json"
STYLES = (("#0072B2", ""), ("#D55E00", "7 4"), ("#009E73", "2 3"), ("#CC79A7", "9 3 2 3"))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 360, 240, 52, 10, 12, 44  # of a picture of curves


@dataclass(frozen=True, eq=False)
class Instrument:
    """Some controls, and what is shown in each of their states; it displays itself.

    `data` is what a built page carries as JSON. Its states run through the positions of the
    controls, those of the last control fastest.
    """

    data: dict[str, Any]

    def state(self, *positions: int) -> int:
        """The number of the state with the controls at these positions, each from 0."""
        counts = [len(control["values"]) for control in self.data["controls"]]
        if len(positions) != len(counts):
            raise ValueError(f"there are {len(counts)} controls, got {len(positions)} positions")
        at = 0
        for position, count in zip(positions, counts, strict=True):
            if not 0 <= position < count:
                raise ValueError(f"a position lies in 0 … {count - 1}, got {position}")
            at = at * count + position
        return at

    def picture(self, state: int) -> str:
        """What a state looks like, as HTML."""
        if "images" in self.data:
            alt = html.escape(self.data["alt"])
            return f'<img class="ib-picture" src="{self.data["images"][state]}" alt="{alt}">'
        return _svg(self.data, state) + _legend(self.data)

    def to_html(self) -> str:
        """The instrument without a kernel; without JavaScript it shows its first state."""
        start = self.state(*self.data["start"])
        rows = [
            f'<label class="ib-control"><span>{html.escape(control["label"])}</span> '
            f'<input type="range" min="0" max="{len(control["values"]) - 1}" step="1" '
            f'value="{at}" aria-valuetext="{html.escape(control["values"][at])}"> '
            f"<output>{html.escape(control['values'][at])}</output></label>"
            for control, at in zip(self.data["controls"], self.data["start"], strict=True)
        ]
        # A "<" could end the script early.
        content = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        return (
            '<div class="ib-instrument"><div class="ib-controls" hidden>'
            + "".join(rows)
            + f"</div>{self.picture(start)}"
            + f'<p class="ib-says" role="status">{html.escape(self.data["says"][start])}</p>'
            + '<script type="application/json">'
            + content.replace("<", "\\u003c")
            + "</script></div>"
        )

    def to_widget(self) -> Any:
        """The instrument as ipywidgets, for a kernel."""
        import ipywidgets

        sliders = [
            ipywidgets.SelectionSlider(
                options=[(value, i) for i, value in enumerate(control["values"])],
                value=at,
                description=control["label"],
                style={"description_width": "initial"},
            )
            for control, at in zip(self.data["controls"], self.data["start"], strict=True)
        ]
        picture, says = ipywidgets.HTML(), ipywidgets.HTML()

        def show(_: object = None) -> None:
            state = self.state(*(slider.value for slider in sliders))
            picture.value = self.picture(state)
            says.value = html.escape(self.data["says"][state])

        for slider in sliders:
            slider.observe(show, "value")
        show()
        return ipywidgets.VBox([*sliders, picture, says])

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.to_html()}
        if _in_a_kernel():
            model = self.to_widget().model_id
            bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": model}
        return bundle

    def __repr__(self) -> str:
        names = ", ".join(control["label"] for control in self.data["controls"])
        return f"<Instrument: {len(self.data['says'])} states of {names}>"


def curves(
    x: Sequence[float],
    controls: Mapping[str, Sequence[Any]],
    draw: Callable[..., Mapping[str, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    says: Callable[..., str] | None = None,
    start: Sequence[int] | None = None,
    ylim: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> Instrument:
    """Lines over `x` that sliders change.

    `controls` maps the label of a slider to its values. `draw` is called once for each combination
    of values, in the order of the sliders, and returns up to four named lines with as many numbers
    as `x`; `says` gets the same values and returns a sentence on that state. The axes stay as they
    are while a slider moves: `ylim`, or the range of all lines. Numbers outside are cut off, NaN
    and infinities leave a gap. `logarithmic` is the y axis. `start` holds a position, from 0, for
    each slider. ValueError if something does not fit, or if the page would become too heavy.
    """
    combined = _combinations(controls)
    across = [_rounded(value) for value in x]
    known = [value for value in across if value is not None]
    if len(known) != len(across) or len(known) < 2 or min(known) == max(known):
        raise ValueError("x needs two different numbers or more, all finite")
    drawn = [draw(*values) for values in combined]
    names = list(drawn[0])
    if not 1 <= len(names) <= len(STYLES):
        raise ValueError(f"one to {len(STYLES)} lines are drawn, got {len(names)}")
    lines = []
    for values, state in zip(combined, drawn, strict=True):
        if list(state) != names:
            raise ValueError(f"at {values} the lines are {list(state)}, expected {names}")
        for name, line in state.items():
            if len(line) != len(across):
                raise ValueError(
                    f"at {values} line {name!r} has {len(line)} numbers, x has {len(across)}"
                )
        lines.append([[_rounded(value) for value in state[name]] for name in names])
    shown = [value for state in lines for line in state for value in line if value is not None]
    if logarithmic:
        shown = [value for value in shown if value > 0]
    if not shown and ylim is None:
        raise ValueError("no finite number to draw" + (" above 0" if logarithmic else ""))
    low, high = ylim or (min(shown), max(shown))
    if not low <= high or not math.isfinite(high - low) or (logarithmic and low <= 0):
        raise ValueError(f"ylim is {(low, high)}: an axis runs up, a logarithmic one above 0")
    if low == high:
        low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)
    data = {"x": across, "names": names, "lines": lines, "xlabel": xlabel, "ylabel": ylabel}
    limits = {"xlim": [min(known), max(known)], "ylim": [low, high], "log": logarithmic}
    return _instrument(controls, combined, {**data, **limits}, alt, says, start)


def pictures(
    controls: Mapping[str, Sequence[Any]],
    draw: Callable[..., Tensor],
    *,
    alt: str,
    says: Callable[..., str] | None = None,
    start: Sequence[int] | None = None,
) -> Instrument:
    """Pictures that sliders change: `draw` returns one, [3, H, W] or [1, H, W] in [0, 1].

    All else is as in `curves`.
    """
    combined = _combinations(controls)
    images = [_png(draw(*values)) for values in combined]
    return _instrument(controls, combined, {"images": images}, alt, says, start)


def _combinations(controls: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    if not controls or any(len(values) < 2 for values in controls.values()):
        raise ValueError("an instrument needs a control, and each control two values or more")
    return list(itertools.product(*controls.values()))


def _instrument(
    controls: Mapping[str, Sequence[Any]],
    combined: list[tuple[Any, ...]],
    shown: dict[str, Any],
    alt: str,
    says: Callable[..., str] | None,
    start: Sequence[int] | None,
) -> Instrument:
    if not alt.strip():
        raise ValueError("alt is empty: it tells a reader who does not see what is shown")
    data = {
        "controls": [
            {"label": label, "values": [str(value) for value in values]}
            for label, values in controls.items()
        ],
        "start": [0] * len(controls) if start is None else [int(at) for at in start],
        "alt": alt,
        "says": [says(*values) if says else "" for values in combined],
        **shown,
    }
    made = Instrument(data)
    made.state(*data["start"])
    size = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    if size > LIMIT:
        raise ValueError(f"{size:,} bytes of JSON, at most {LIMIT:,}: fewer values or numbers")
    return made


def _rounded(value: float) -> float | None:
    """Five digits; None for what JSON cannot hold."""
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def _png(image: Tensor) -> str:
    from PIL import Image

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture is [3, H, W] or [1, H, W], got {list(image.shape)}")
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError("a picture lies in [0, 1]")
    pixels = (255 * image.detach().cpu()).round().to(torch.uint8)
    array = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _scale(value: float, limits: Sequence[float], length: float, log: bool) -> float:
    low, high = limits
    if log:
        value, low, high = math.log10(value), math.log10(low), math.log10(high)
    return length * (value - low) / (high - low)


def _path(data: dict[str, Any], line: Sequence[float | None]) -> str:
    """The `d` of a line; instruments.js computes the same."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts, pen = [], "M"
    for x, y in zip(data["x"], line, strict=True):
        if y is None or (data["log"] and y <= 0):
            pen = "M"
            continue
        across = _scale(x, data["xlim"], width, False)
        up = height - _scale(y, data["ylim"], height, data["log"])
        parts.append(f"{pen}{across:.1f} {min(max(up, -9999), 9999):.1f}")
        pen = "L"
    return "".join(parts)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        powers = range(first, last + 1, max(1, (last - first) // 4))
        return [10.0**power for power in powers] if last > first else [low, high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(many for many in (1, 2, 5, 10) if (high - low) / (many * step) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _svg(data: dict[str, Any], state: int) -> str:
    width, height, base = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM
    (low, high), (first, last) = data["ylim"], data["xlim"]
    marks = []
    for value in _ticks(low, high, data["log"]):
        y = base - _scale(value, data["ylim"], height, data["log"])
        marks.append(f'<path d="M{LEFT} {y:.1f}h{width}" stroke="currentColor" opacity=".2"/>')
        marks.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in _ticks(first, last, False):
        x = LEFT + _scale(value, data["xlim"], width, False)
        marks.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{value:.4g}</text>')
    lines = "".join(
        f'<path class="ib-line" d="{_path(data, line)}" fill="none" stroke="{color}" '
        f'stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        for line, (color, dashes) in zip(data["lines"][state], STYLES, strict=False)
    )
    middle = LEFT + width / 2
    return (
        f'<svg class="ib-picture" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="{html.escape(data["alt"])}" font-size="12" fill="currentColor">'
        + "".join(marks)
        + f'<path d="M{LEFT} {TOP}V{base}H{LEFT + width}" fill="none" stroke="currentColor"/>'
        + f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        + f"{html.escape(data['xlabel'])}</text>"
        + f'<text transform="translate(11 {TOP + height / 2}) rotate(-90)" text-anchor="middle">'
        + f"{html.escape(data['ylabel'])}</text>"
        + f'<svg x="{LEFT}" y="{TOP}" width="{width}" height="{height}" fill="none">'
        + f"{lines}</svg></svg>"
    )


def _legend(data: dict[str, Any]) -> str:
    entries = [
        f'<span class="ib-key"><svg width="30" height="8" aria-hidden="true"><path d="M0 4h30" '
        f'stroke="{color}" stroke-width="2.5" stroke-dasharray="{dashes}"/></svg> '
        f"{html.escape(name)}</span> "
        for name, (color, dashes) in zip(data["names"], STYLES, strict=False)
    ]
    return f'<div class="ib-legend">{"".join(entries)}</div>'


def _in_a_kernel() -> bool:
    import sys

    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return getattr(shell, "kernel", None) is not None
