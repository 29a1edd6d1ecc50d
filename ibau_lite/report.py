"""What was seen of a network, and done to it, as one HTML file that needs no other."""

from __future__ import annotations

import html
import io
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure

import ibau_lite
from ibau_lite.diagnosis import Diagnosis

__all__ = ["Report", "interval"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem;
       padding: 0 1rem; color: #222; background: #fff; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25rem .75rem; text-align: left;
          overflow-wrap: anywhere; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of which `right` of `count` were counted.

    >>> [round(end, 3) for end in interval(90, 100)]
    [0.826, 0.945]
    """
    z, share = 1.959964, right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


@dataclass
class Report:
    """A report that grows: what was given, diagnoses, accuracies, settings, history."""

    names: Sequence[str]
    given: dict[str, str] = field(default_factory=dict)
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    accuracy: dict[str, tuple[int, int]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    def html(self, title: str) -> str:
        """The page. Every text in it is escaped, since names come from files and folders."""
        parts = [self._summary(), _table(["given", ""], self.given.items())]
        if self.diagnoses:
            parts.append("<h2>Does a class stand out?</h2>")
            parts += [self._scores(), *(self._perturbations(name) for name in self.diagnoses)]
        if self.history:
            heads = [name for name in self.history[0] if name != "round"]
            rows = [
                (str(row["round"]), *(f"{row[h]:.4g}" if h in row else "" for h in heads))
                for row in self.history
            ]
            parts += ["<h2>Round by round</h2>", _table(["round", *heads], rows)]
        if self.settings:
            parts += ["<h2>Settings</h2>", _table(["setting", ""], self.settings.items())]
        versions = {
            "ibau_lite": ibau_lite.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        parts += ["<h2>Versions</h2>", _table(["of", ""], versions.items())]
        return _PAGE.format(title=html.escape(title), body="\n".join(filter(None, parts)))

    def _summary(self) -> str:
        lines = [
            f"{name.capitalize()}: {self._says(found)}." for name, found in self.diagnoses.items()
        ]
        for name, (right, count) in self.accuracy.items():
            low, high = interval(right, count)
            lines.append(
                f"Accuracy {name}: {right / count:.1%} of {count:,} held-out images "
                f"(95 % interval {low:.1%} to {high:.1%})."
            )
        if self.diagnoses:
            lines.append(
                "A class that stands out is a reason to look closer. That none does is no proof of "
                "innocence."
            )
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"

    def _says(self, found: Diagnosis) -> str:
        return str(found).replace(
            f"class {found.suspect}", f"class {found.suspect} ({self.names[found.suspect]})", 1
        )

    def _scores(self) -> str:
        from ibau_lite import plots

        return _picture(
            plots.class_scores(self.diagnoses, list(self.names)),
            "; ".join(f"{name}: {self._says(found)}" for name, found in self.diagnoses.items()),
        )

    def _perturbations(self, name: str) -> str:
        from ibau_lite import plots

        found = self.diagnoses[name]
        largest = found.deltas.abs().flatten(1).amax(1).clamp_min(1e-12)
        shown = 0.5 + found.deltas / (2 * largest[:, None, None, None])
        titles = [type(region).__name__ for region in found.sets]
        what = f"{name}: the perturbations toward class {found.suspect}, grey where they are zero"
        return f"<p>{html.escape(what)}</p>" + _picture(plots.image_grid(shown, titles), what)


def _table(heads: Sequence[str], rows: Any) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(heads, 'th')}{body}</table>" if body else ""


def _picture(figure: Figure, alt: str) -> str:
    """A figure as SVG in the page, with a text for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    label = html.escape(alt, quote=True)
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
