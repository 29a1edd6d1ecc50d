"""Instruments in a browser: instruments.js draws what Python draws, from keys as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from test_browser_lab import in_browser, needs_browser

from ibau_lite.widgets import Instrument, curves, pictures

SCRIPT = Path(__file__).parents[2] / "book" / "_static" / "instruments.js"
READ = """<script>
addEventListener("load", () => {
  const root = document.querySelector(".ib-instrument");
  const inputs = [...root.querySelectorAll("input")];
  const seen = [];
  for (const move of MOVES) {
    inputs.forEach((input, i) => {
      input.value = move[i];
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
    seen.push({
      lines: [...root.querySelectorAll(".ib-line")].map((line) => line.getAttribute("d")),
      image: root.querySelector("img")?.getAttribute("src"),
      says: root.querySelector(".ib-says").textContent,
      spoken: inputs.map((input) => input.getAttribute("aria-valuetext")),
      hidden: root.querySelector(".ib-controls").hidden,
      wide: document.documentElement.scrollWidth > innerWidth,
    });
  }
  finish(seen);
});
</script>"""


def moved(instrument: Instrument, moves: list[list[int]], folder: Path) -> list[dict]:
    script = f"<script>{SCRIPT.read_text()}</script>"
    page = instrument.to_html() + script + READ.replace("MOVES", str(moves))
    seen = in_browser(page, folder)
    assert not any(state["hidden"] or state["wide"] for state in seen)
    return seen


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[0-9.]+", path)]


@needs_browser
def test_the_page_draws_what_python_draws(tmp_path: Path) -> None:
    instrument = curves(
        [0, 1, 2, 3],
        {"a": (1, 2, 3), "b": (0.01, 1e6)},
        lambda a, b: {"up": [a, a * b, 0, b], "flat": [a, a, float("nan"), a]},
        xlabel="x",
        ylabel="y",
        alt="Lines.",
        says=lambda a, b: f"{a}, {b}",
        logarithmic=True,
    )
    moves = [[0, 0], [2, 1], [1, 0]]
    for move, state in zip(moves, moved(instrument, moves, tmp_path)):
        drawn = re.findall(
            r'class="ib-line" d="([^"]*)"', instrument.picture(instrument.state(*move))
        )
        assert len(drawn) == len(state["lines"]) == 2
        for ours, theirs in zip(drawn, state["lines"]):
            assert re.findall("[ML]", ours) == re.findall("[ML]", theirs)
            assert numbers(theirs) == pytest.approx(numbers(ours), abs=0.11)  # a digit of rounding
        assert state["says"] == instrument.data["says"][instrument.state(*move)]
        names = [c["values"][i] for c, i in zip(instrument.data["controls"], move)]
        assert state["spoken"] == names


@needs_browser
def test_the_page_changes_pictures(tmp_path: Path) -> None:
    instrument = pictures({"a": (0, 1)}, lambda a: torch.full((1, 4, 4), float(a)), alt="Grey.")
    seen = moved(instrument, [[1], [0]], tmp_path)
    assert [state["image"] for state in seen] == instrument.data["images"][::-1]
