"""What we found, for the first page: one figure and one sentence, both from the recorded runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import chapters
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ibau_lab import evidence, read
from ibau_lab.compare import KEPT, REMOVED, Comparison, published
from ibau_lite.plots.style import FAINT, SERIES, new_figure, style_axes

NAMES = {
    "badnets": "BadNets", "blend": "Blend", "l0_inv": "l0 inv", "l2_inv": "l2 inv",
    "smooth": "Smooth", "trojan_sq": "Trojan SQ", "trojan_wm": "Trojan WM",
    "all_to_all": "all to all", "seven_to_seven": "seven triggers",
}  # fmt: skip
DATA = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB"}


FILLS: tuple[Literal["full", "none"], ...] = ("full", "full", "none")


class Row(NamedTuple):
    """A network that the talk tests as well: ASR after each treatment, a fraction, ours a mean."""

    data: str
    attack: str
    profile: str
    ours: Comparison
    tuned: float | None
    talk: float | None


def rows(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row for each network of Tables 1 to 3 on which our I-BAU was run."""
    records, found = list(records), []
    for table in ("table1", "table2", "table3"):
        profile, compared = evidence.shown(records, table)
        by_case: dict[tuple[str, str], dict[str, Comparison]] = {}
        for each in compared:
            by_case.setdefault((each.case.data, each.case.attack), {})[each.label] = each
        for (data, attack), columns in by_case.items():
            ours, tuned = columns.get("I-BAU"), columns.get("fine-tuning")
            if ours is None or ours.ours is None:
                continue
            left = tuned.ours.attack_success_rate if tuned and tuned.ours else None
            talk = published(ours.talk).attack_success_rate if ours.talk else None
            found.append(Row(data, attack, profile, ours, left, talk))
    return found


def draw(found: list[Row]) -> Figure:
    """ASR left on each network by I-BAU, fine-tuning, the talk's I-BAU; a panel a data set."""
    figure, column = new_figure(len(DATA), 1, 5.4, 6.6)
    for (place,), (data, title) in zip(column, DATA.items(), strict=True):
        here = [row for row in found if row.data == data]
        style_axes(place, grid="x")
        for height, row in enumerate(here):
            place.axhline(height, color=FAINT, linewidth=0.7, zorder=0)
            values = (row.ours.attack_success_rate.mean, row.tuned, row.talk)
            for (colour, _, marker), value, fill in zip(SERIES, values, FILLS, strict=False):
                if value is not None:
                    place.plot(100 * value, height, marker, color=colour, fillstyle=fill, ms=8)
        place.set_yticks(range(len(here)), [NAMES[row.attack] for row in here], fontsize=12)
        place.set(xlim=(-3, 103), ylim=(len(here) - 0.5, -0.5))
        place.tick_params(axis="x", labelsize=12)
        place.set_title(title, fontsize=13, loc="left")
    place.set_xlabel("attack success that is left (%)", fontsize=12)
    labels = ("our I-BAU", "our fine-tuning", "the talk's I-BAU")
    marks = [
        Line2D([], [], color=c, marker=m, ls="", ms=8, fillstyle=f, label=label)
        for (c, _, m), f, label in zip(SERIES, FILLS, labels, strict=False)
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=2, frameon=False, fontsize=12)
    return figure


def sentence(found: list[Row]) -> str:
    """How often the backdoor went and the accuracy stayed, and where it did not."""
    if not found:
        return "No run is recorded yet."
    outcomes = [row.ours.ours for row in found]
    good = [o is not None and o.removed and o.kept for o in outcomes]
    tuned = sum(row.tuned is not None and row.tuned <= REMOVED for row in found)
    compared = sum(row.tuned is not None for row in found)
    failed = [
        f"{NAMES[row.attack]} on {DATA[row.data]} ({row.ours.attack_success_rate.mean:.0%} left)"
        for row, fine in zip(found, good, strict=True)
        if not fine
    ]
    profiles = " and ".join(f"`{name}`" for name in sorted({row.profile for row in found}))
    runs = [row.ours.n for row in found]
    seeds = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"
    text = (
        f"Our I-BAU removed the backdoor of {sum(good)} of {len(found)} networks: at most "
        f"{REMOVED:.0%} attack success was left, for at most {100 * KEPT:.0f} points of accuracy. "
        f"Fine-tuning on the same clean images brought {tuned} of {compared} below that line. "
    )
    if failed:
        text += f"I-BAU did not succeed on {'; '.join(failed)}. "
    return text + f"(Recorded runs, profile {profiles}, mean of {seeds} seeds.)"


def write(stage: Path) -> None:
    """Put the figure and the sentence where the staged first page includes them."""
    found = rows(read(chapters.BOOK / "results" / "reproduce.jsonl"))
    with plt.rc_context({"svg.hashsalt": "ibau_lite"}):
        draw(found).savefig(stage / "book" / "_static" / "found.svg", metadata={"Date": None})
    (stage / "book" / "found.txt").write_text(sentence(found) + "\n", encoding="utf-8")
