"""The table of the status page: where, when and with what each chapter was run, and how long."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path

MARK = "<!-- the press puts its table here -->"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def here() -> dict[str, str]:
    """What `chapters.run` writes into a result: the machine and the versions at that time."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores"
    return {"system": system, "versions": ", ".join(versions)}


def table(results: dict[str, dict[str, Path | None]]) -> str:
    """Markdown for `results`: kept notebooks by name of the chapter and by profile."""
    profiles = list(dict.fromkeys(name for kept in results.values() for name in kept))
    head = " | ".join(f"{profile}, seconds" for profile in profiles)
    lines = [f"| chapter | {head} | run on |", "|---|" + "---:|" * len(profiles) + "---|"]
    places: dict[tuple[str, str], list[str]] = {}
    for name, kept in sorted(results.items()):
        cells, days = [], []
        for profile in profiles:
            result = kept.get(profile)
            if result is None:
                cells.append("not run")
                continue
            notebook = json.loads(result.read_text(encoding="utf-8"))
            run = notebook["metadata"]["papermill"]
            cells.append(f"{run['duration']:.0f}")
            days.append(run["start_time"][:10])
            place = notebook["metadata"]["run"]
            places.setdefault((place["system"], place["versions"]), []).append(Path(name).stem[:2])
        day = " / ".join(dict.fromkeys(days)) or "–"
        lines.append(f"| [{Path(name).stem[:2]}]({name}) | {' | '.join(cells)} | {day} |")
    lines.append("")
    for (system, versions), numbers in places.items():
        some = ", ".join(dict.fromkeys(numbers))
        lines += [f"Chapters {some}: {system}; {versions}.", ""]
    return "\n".join(lines)
