"""A Sphinx extension: no page loads one script twice.

Sphinx 7 writes an inline script twice if an extension adds it while pages are read, as sphinx-thebe
does; the second one stops with "already declared" in the reader's console.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def keep_first(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Drop inline scripts that repeat an earlier one of the same page."""
    seen: set[str] = set()
    kept = []
    for script in context["script_files"]:
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
        if body is not None:
            seen.add(body)
    context["script_files"] = kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect after the extensions that add scripts of their own to a page."""
    app.connect("html-page-context", keep_first, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
