"""The laboratory behind the book's tables: what was run, on what, and what came out.

Installed as `ibau_lab`, beside the library; it imports the library, which never imports it.
"""

from __future__ import annotations

from .cells import describe, run
from .records import append, provenance, read
from .victims import Victim, victim

__all__ = ["Victim", "append", "describe", "provenance", "read", "run", "victim"]
