"""Print the built pages as one file, `_build/book.pdf`, with a Chromium of this machine.

python book/_press/pdf.py       # after `make book`; `make pdf` calls it. Skips without Chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from posixpath import dirname, join, normpath

import yaml

ROOT = Path(__file__).resolve().parents[2]
HTML, TARGET = ROOT / "_build" / "html", ROOT / "_build" / "book.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
STYLE = """
@page { size: A4; margin: 18mm 16mm; }
html { font-size: 10.5pt; }
body { display: block; background: #fff; }
main { max-width: none; padding: 0; }
article { break-before: page; padding: 0 !important; }
h1, h2, h3 { break-after: avoid; }
figure, img, svg, tr, .cell_input, .admonition-title { break-inside: avoid; }
pre, code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.math, .cell_output, .highlight, .pst-scrollable-table-container { overflow: visible !important; }
details.above-input, .headerlink, .copybtn, iframe { display: none !important; }
"""


def pages() -> list[str]:
    """The pages of `_toc.yml`, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def moved(text: str, page: str, known: set[str]) -> str:
    """Make the links of a page right in a file at the root that holds all `known` pages."""

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        if name == "id":
            return f'id="{page}:{target}"'
        if re.match(r"[a-z]+:", target):
            return match.group()
        path, _, anchor = target.partition("#")
        path = normpath(join(dirname(page), path)) if path else f"{page}.html"
        if name == "href" and path.removesuffix(".html") in known:
            return f'href="#{path.removesuffix(".html")}{":" if anchor else ""}{anchor}"'
        return f'{name}="{path}{"#" if anchor else ""}{anchor}"'

    return re.sub(r'\b(href|src|id)="([^"]*)"', link, text)


def whole() -> str:
    """All pages as one: the head of the first without scripts but MathJax, then every article."""
    known = pages()
    bodies = []
    for page in known:
        text = (HTML / f"{page}.html").read_text(encoding="utf-8")
        article = re.search(r'<article class="bd-article"[^>]*>(.*?)</article>', text, re.S)
        if article is None:
            raise ValueError(f"{page}.html: an article is expected, found none")
        body = re.sub(r"<script\b.*?</script>", "", article[1], flags=re.S)
        body = body.replace("<details", "<details open")  # the answers of the quizzes
        moved_body = moved(body, page, set(known))
        bodies.append(f'<article class="bd-article" id="{page}">{moved_body}</article>')
    text = (HTML / f"{known[0]}.html").read_text(encoding="utf-8")
    styles = "".join(re.findall(r'<link[^>]*rel="stylesheet"[^>]*>', text))
    maths = "".join(re.findall(r"<script>window.MathJax.*?</script>", text, re.S))
    maths += "".join(re.findall(r"<script[^>]*tex-mml-chtml[^>]*></script>", text))
    head = moved(styles + maths, known[0], set())
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">{head}'
        f"<style>{STYLE}</style></head><body><main>{''.join(bodies)}</main></body></html>"
    )


def main() -> int:
    """Write the file; status 1 if the pages are not built or the browser fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No PDF: none of {', '.join(BROWSERS)} is installed (Debian: apt install chromium).")
        return 0
    if not (HTML / "index.html").exists():
        print("No PDF: the pages are not built. Run `make book` first.", file=sys.stderr)
        return 1
    sheet = HTML / "print.html"
    sheet.write_text(whole(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--no-pdf-header-footer", "--virtual-time-budget=300000", "--timeout=300000"]
        command += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command += [f"--print-to-pdf={TARGET}", sheet.as_uri()]
        status = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
    sheet.unlink()
    if status == 0:
        print(f"The whole book on paper: {TARGET.as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
