"""The README's ten lines are run as they stand, and hold to what it says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ibau_lite as ib

README = Path(__file__).parents[1] / "README.md"


def test_the_ten_lines_poison_and_unlearn() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) == 10
    names: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), names)
    test, attack = names["signs"].test, names["attack"]
    before = ib.metrics.evaluate(names["model"], test, attack)
    after = ib.metrics.evaluate(names["defended"].model, test, attack)
    assert before.attack_success_rate >= 0.95 and before.accuracy >= 0.95
    assert after.attack_success_rate <= 0.20
    assert after.accuracy >= before.accuracy - 0.05


def test_every_file_that_the_readme_points_at_exists() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert targets and not missing, f"README.md points at {', '.join(missing)}"
