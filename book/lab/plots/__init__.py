"""The figures that are drawn from records: each function returns a matplotlib `Figure`."""

from __future__ import annotations

from .evidence import over_setting, paths, price
from .seeds import per_row

__all__ = ["over_setting", "paths", "per_row", "price"]
