"""Experiments as cells with records: what was run, on what, and what came out."""

from __future__ import annotations

from ibau_lite.experiments.cells import describe, run
from ibau_lite.experiments.records import append, provenance, read
from ibau_lite.experiments.victims import Victim, victim
from ibau_lite.experiments.zoo import shipped

__all__ = ["Victim", "append", "describe", "provenance", "read", "run", "shipped", "victim"]
