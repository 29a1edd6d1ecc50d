"""One theorem is one page and one module that computes its constants.

The folder lies beside the book in the repository; installed, it is `ibau_lite.theory`. Modules are
imported when they are first named, as the rooms of `ibau_lite` are.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import the module `name` on first use; AttributeError if there is none."""
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
