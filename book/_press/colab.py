"""Install the library beside what Colab has loaded. The first cell of a chapter runs this there.

pip is given only packages that are missing, without their dependencies, so that it replaces
nothing: a torch or numpy that changes under a running kernel breaks it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions, requires
from pathlib import Path


def compare(requirements: list[str], installed: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The requirements that are not installed, and a sentence for each that is too old.

    `installed` maps names to versions. Requirements of an extra are left out.
    """
    have = {_normal(name): version for name, version in installed.items()}
    missing, old = [], []
    for requirement in requirements:
        if ";" in requirement:  # we have markers for extras only
            continue
        found = re.fullmatch(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement.strip())
        if found is None:
            raise ValueError(f"{requirement!r} is not of the form name>=1.2")
        name, bound = found.groups()
        version = have.get(_normal(name))
        if version is None:
            missing.append(requirement)
        elif _release(version) < _release(bound):
            old.append(f"{name} is {version}; the book asks for {bound} or newer")
    return missing, old


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def install(checkout: Path) -> None:
    """Install `checkout`, and what it needs and this Python has not; replace nothing."""
    _pip(str(checkout))
    installed = {d.name: d.version for d in distributions() if d.name}
    missing, old = compare(requires("ibau_lite") or [], installed)
    if missing:
        _pip(*missing)
    print(f"ibau_lite is installed; added beside it: {', '.join(missing) or 'nothing'}")
    for sentence in old:
        print(sentence)


def _pip(*what: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *what], check=True)


if __name__ == "__main__":
    install(Path(__file__).resolve().parents[2])
