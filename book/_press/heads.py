"""A Sphinx extension: what a page says of itself to search engines and where its link is shared.

Every page gets a description, its first paragraph, and the tags of a share card; the picture lies
beside the pages. On the search page TeX is left out of the excerpts.
"""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urljoin

from docutils import nodes
from sphinx.application import Sphinx

CARD = "_static/share_card.png"
LONGEST = 200


def description(doctree: nodes.document) -> str:
    """The first paragraph of 40 characters or more that has no formula, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) >= 40 and not any(paragraph.findall(nodes.math)):
            return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the tags of one page, and to the search page the script for its excerpts."""
    if page == "search":
        app.add_js_file("search_words.js", loading_method="defer")
    if doctree is None:
        return
    title = html.unescape(re.sub(r"<[^>]+>", "", context.get("title", "")))
    book = str(app.config.html_title)
    if title == book:
        context["docstitle"] = ""  # else the first page is called by its name twice
    base = app.config.html_baseurl
    picture = urljoin(base, CARD) if base else context["pathto"](CARD, 1)
    said = {
        "og:type": "article",
        "og:site_name": book,
        "og:title": title,
        "og:description": description(doctree) or book,
        "og:image": picture,
    }
    tags = [f'<meta property="{name}" content="{html.escape(v)}" />' for name, v in said.items()]
    tags.append(f'<meta name="description" content="{html.escape(said["og:description"])}" />')
    tags.append('<meta name="twitter:card" content="summary_large_image" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect after the theme, which fills in the title."""
    app.connect("html-page-context", describe, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
