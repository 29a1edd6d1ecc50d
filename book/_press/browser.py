"""Look at every built page in a headless Chromium, on a phone's width, and report what is wrong.

python book/_press/browser.py [--html _build/html] [--axe axe.min.js] [PAGE …]

Asked of a page: no console error, no missing file, no request to another host, formulas rendered,
instruments that move, nothing wider than 390 px, no serious violation that axe-core finds, no
part cut off on paper, at most 1.5 MB besides MathJax, the theme's scripts and the search index.
The search must find "hypergradient".
"""

from __future__ import annotations

import argparse
import json
import mimetypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CACHE = ROOT / "_build" / "axe"
AXE = "axe-core@4.10.2"
HEAVIEST = 1_500_000  # bytes of a page without vendored scripts
PHONE, SHEET = 390, 718  # CSS pixels: a small phone; A4 between margins of 1 cm
NAMES = ("chromium", "chromium-browser", "google-chrome")

# A page looks at the others, one by one, in a frame; the injected script answers for each.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe style="border:0;width:%(phone)dpx;height:844px"></iframe><script>
const pages = %(pages)s;
const frame = document.querySelector("iframe");
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  for (const page of pages) {
    let answer = { failed: "" };
    try {
      frame.style.width = "%(phone)dpx";
      frame.src = "/" + page;
      await new Promise((done) => frame.addEventListener("load", done, { once: true }));
      await wait(300);
      answer = await frame.contentWindow.inspectPage();
      frame.style.width = "%(sheet)dpx";
      await wait(100);
      answer.found.print = frame.contentWindow.inspectPrint();
    } catch (error) {
      answer = { failed: String(error) };
    }
    await fetch("/__seen", { method: "POST", body: JSON.stringify({ page, ...answer }) });
  }
  await fetch("/__end", { method: "POST", body: "{}" });
})();
</script>"""


class Visit(BaseHTTPRequestHandler):
    """Serves the built pages, each with the script that looks at it, and takes what it found."""

    server: Any

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if path in self.server.extra:
            return self.reply(
                200, "text/html" if path == "/__all" else "text/javascript", self.server.extra[path]
            )
        file = (self.server.html / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.server.html) or not file.is_file():
            self.server.missing.append(path)
            return self.reply(404, "text/plain", b"")
        content = file.read_bytes()
        if file.suffix == ".html":
            content = content.replace(b"<head>", b"<head>" + self.server.injected, 1)
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return self.reply(200, kind, content)

    def do_POST(self) -> None:
        answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/__seen":
            answer["missing"], self.server.missing[:] = list(self.server.missing), []
            self.server.answers.append(answer)
            self.server.tell(answer)
        self.reply(204, "text/plain", b"")
        if self.path == "/__end":
            self.server.finished.set()

    def reply(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the report is the log."""


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def problems(answer: dict[str, Any]) -> list[str]:
    """What is wrong with a page, in words."""
    if "failed" in answer:
        return [f"the page could not be looked at: {answer['failed']}"]
    found = [f"{kind}: {each}" for kind, all_ in answer["found"].items() for each in all_]
    found += [f"console: {each}" for each in answer["said"]]
    found += [f"missing: {each}" for each in answer["missing"]]
    if answer["bytes"] > HEAVIEST:
        found.append(f"weight: {answer['bytes'] / 1e6:.2f} MB")
    return found


def inspect(
    html: Path, pages: Sequence[str] = (), axe: Path | None = None, seconds: float = 1200
) -> dict[str, list[str]]:
    """Page -> what is wrong with it; all pages and the search if none is named.

    Raises RuntimeError without a Chromium, FileNotFoundError without pages, TimeoutError.
    """
    browser = chromium()
    if browser is None:
        raise RuntimeError("no Chromium here (Debian: apt install chromium)")
    built = sorted(str(p.relative_to(html)) for p in html.rglob("*.html"))
    pages = list(pages) or [
        *(p for p in built if not p.startswith(("_static", "search"))),
        "search.html?q=hypergradient",
    ]
    if not built:
        raise FileNotFoundError(f"no page in {html}: run make book first")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Visit)
    scripts = {"/__look.js": Path(__file__).with_suffix(".js").read_bytes()}
    if axe is not None:
        scripts["/__axe.js"] = axe.read_bytes()
    server.injected = "".join(f'<script src="{name}"></script>' for name in scripts).encode()
    frame = HARNESS % {"phone": PHONE, "sheet": SHEET, "pages": json.dumps(list(pages))}
    server.extra = {**scripts, "/__all": frame.encode()}
    server.html, server.missing, server.answers = html.resolve(), [], []
    server.finished = Event()
    server.tell = lambda answer: print(
        f"{'ok ' if not problems(answer) else 'BAD'} {answer['page']}"
        f"  {answer.get('bytes', 0) / 1e6:.2f} MB",
        *problems(answer),
        sep="\n      ",
        flush=True,
    )
    Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--window-size=1280,900", f"--user-data-dir={profile}"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # no other host
        command += [f"http://127.0.0.1:{server.server_port}/__all"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        try:
            if not server.finished.wait(seconds):
                raise TimeoutError(f"{len(server.answers)} of {len(pages)} pages in {seconds:g} s")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            server.shutdown()
            server.server_close()
    return {answer["page"]: problems(answer) for answer in server.answers}


def fetched_axe() -> Path | None:
    """axe-core from npm, kept beside the build; None where there is no npm or no network."""
    script = CACHE / "package" / "axe.min.js"
    if not script.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            options: dict[str, Any] = {"check": True, "capture_output": True, "timeout": 120}
            packed = subprocess.run(["npm", "pack", AXE], cwd=CACHE, text=True, **options).stdout
            archive = CACHE / packed.strip().splitlines()[-1]
            shutil.unpack_archive(archive, CACHE, filter="data")
        except (OSError, subprocess.SubprocessError):
            return None
    return script


def main() -> int:
    """Print the report; status 1 if a page has a problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=HTML)
    parser.add_argument("--axe", type=Path, help="axe.min.js (else it is fetched by npm)")
    parser.add_argument("pages", nargs="*", help="as book/index.html; all if none is named")
    choice = parser.parse_args()
    axe = choice.axe or fetched_axe()
    if axe is None:
        print("accessibility is NOT checked: npm could not fetch axe-core", flush=True)
    try:
        found = inspect(choice.html, choice.pages, axe)
    except (RuntimeError, FileNotFoundError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    wrong = sum(map(bool, found.values()))
    print(f"{len(found)} pages, {wrong} with a problem")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
