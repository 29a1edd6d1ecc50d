"""A handful of the damaged and hostile files that `make fuzz` reads by the thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "fuzz" / "run.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")
def test_what_is_damaged_or_hostile_is_refused_and_nothing_leaks() -> None:
    command = [sys.executable, str(RUN), "--cases", "15", "--quick", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    targets = [line.split()[0] for line in done.stdout.splitlines() if " files: " in line]
    assert targets == ["npz", "folder", "checkpoint", "attack"]
    assert done.stdout.rstrip().endswith("0 leaks")
