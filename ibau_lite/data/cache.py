"""Where drawn and downloaded datasets are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """`$IBAU_CACHE` if it is set, else `ibau_lite` in `$XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("IBAU_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ibau_lite"
