"""The laboratory in the browser: its arithmetic against the library's, its files, and its page."""

from __future__ import annotations

import functools
import hashlib
import json
import mimetypes
import os
import re
import shutil
import signal
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl

import browser_lab
import chapters
import numpy as np
import pytest
import torch

import ibau_lite as ib
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.sets import L1Ball, L2Ball

FOLDER = browser_lab.TARGET
DATA = browser_lab.read(FOLDER / "data.js")
ROUNDS = len(DATA["rounds"])
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"
)

# What goes wrong in a page is kept where the test can read it.
START = """<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><script>
  window.said = [];
  addEventListener("error", (event) => said.push(String(event.message || event.target.src)), true);
  addEventListener("unhandledrejection", (event) => said.push(String(event.reason)));
  console.error = (...words) => said.push(words.join(" "));
  window.finish = (value) =>
    fetch("/finished", { method: "POST", body: JSON.stringify({ value, said }) });
</script><body>"""


class Visit(BaseHTTPRequestHandler):
    """Gives a page and the laboratory's files, and takes what the page has to say."""

    server: Any

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        file = FOLDER / Path(path).name
        known = path.startswith("/_static/browser_lab/") and file.is_file()
        content = self.server.page if path == "/book/page.html" else None
        content = file.read_bytes() if known else content
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", mimetypes.guess_type(path)[0] or "text/plain")
        self.end_headers()
        self.wfile.write(content or b"")

    def do_POST(self) -> None:
        self.server.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.finished.set()

    def log_message(self, *_: Any) -> None:
        """Nothing: a test is quiet."""


def in_browser(body: str, folder: Path, hash_: str = "") -> Any:
    """What a page of `body` calls `finish` with; it must not complain of anything."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Visit)
    server.page, server.finished, server.answer = f"{START}{body}".encode(), Event(), None
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/book/page.html{hash_}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # no other host
    command += [f"--user-data-dir={folder / 'profile'}", address]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen(command, **quiet, start_new_session=True)
    try:
        assert server.finished.wait(120), "the page did not finish within two minutes"
    finally:
        os.killpg(browser.pid, signal.SIGTERM)
        browser.wait()
        server.shutdown()
        server.server_close()
    assert server.answer["said"] == []
    return server.answer["value"]


def scripts(*names: str) -> str:
    return "".join(f'<script src="/_static/browser_lab/{name}"></script>' for name in names)


def signs() -> tuple[torch.Tensor, torch.Tensor]:
    """The signs of the page, float64 [24, 3, 32, 32], and their labels."""
    raw = np.frombuffer(browser_lab.base64.b64decode(DATA["signs"]), np.uint8)
    images = torch.from_numpy(raw.copy()).view(-1, 3, 32, 32).double() / 255
    return images, torch.tensor(DATA["labels"])


@functools.cache
def model(round_: int) -> torch.nn.Module:
    return browser_lab.network(browser_lab.decoded(DATA, round_), len(DATA["classes"])).double()


def risk_of(round_: int, count: int, toward: int = -1) -> Risk:
    images, labels = signs()
    if toward >= 0:
        labels = torch.full_like(labels, toward)
    return Risk(model(round_), images[:count], labels[:count], clamp=True)


# --- the arithmetic -------------------------------------------------------------------------------

ARITHMETIC = """<script>
const data = IBAU_LAB, lab = IbauNetwork;
const bytes = lab.bytesOf(data.signs);
const images = data.labels.map((_, n) =>
  Float64Array.from(bytes.subarray(n * lab.NUMBERS, (n + 1) * lab.NUMBERS), (v) => v / 255));
const networks = data.rounds.map((round) =>
  new lab.Network(lab.halves(round.f16), data.width, data.classes.length));
const noise = Float64Array.from({ length: lab.NUMBERS }, (_, i) => 0.2 * Math.sin(1 + i * i % 977));
const ends = [networks[0], networks.at(-1)];
const climbs = {};
for (const [name, n, options] of [
  ["l2", 0, { ball: "l2", radius: 4, steps: 6 }],
  ["l1", 0, { ball: "l1", radius: 24, steps: 6 }],
  ["l2 after", 1, { ball: "l2", radius: 2, steps: 4 }],
  ["l1 toward", 1, { ball: "l1", radius: 24, steps: 4, toward: 8 }],
]) {
  const climb = [...lab.climb(ends[n], images.slice(0, 6), data.labels, options)];
  climbs[name] = { values: climb.map((c) => c.value), delta: [...climb.at(-1).best.delta] };
}
finish({
  logits: networks.map((network) => images.map((image) => [...network.logits(image)])),
  noisy: networks.map((network) => [...network.logits(lab.worn(images[0], noise))]),
  noise: [...noise],
  gradients: ends.map((network) => {
    const { value, gradient } = lab.risk(network, images.slice(0, 6), data.labels, noise, -1);
    return { value, gradient: [...gradient] };
  }),
  climbs,
});
</script>"""


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    body = scripts("data.js", "network.js") + ARITHMETIC
    return in_browser(body, tmp_path_factory.mktemp("arithmetic"))


def distance(ours: Any, theirs: torch.Tensor) -> float:
    """The largest difference, for numbers beyond 1 relative to the largest of them."""
    difference = (torch.tensor(ours, dtype=torch.float64) - theirs).abs().max()
    return float(difference / theirs.abs().max().clamp_min(1))


def test_the_logits_are_those_of_torch(arithmetic: dict[str, Any]) -> None:
    images, _ = signs()
    noise = torch.tensor(arithmetic["noise"], dtype=torch.float64).view(3, 32, 32)
    for round_ in range(ROUNDS):
        assert distance(arithmetic["logits"][round_], model(round_)(images)) < 1e-4
        noisy = model(round_)((images[:1] + noise).clamp(0, 1))[0]
        assert distance(arithmetic["noisy"][round_], noisy) < 1e-4


def test_the_gradient_is_that_of_torch(arithmetic: dict[str, Any]) -> None:
    noise = torch.tensor(arithmetic["noise"], dtype=torch.float64).view(3, 32, 32)
    for round_, ours in zip((0, ROUNDS - 1), arithmetic["gradients"]):
        risk = risk_of(round_, 6)
        value, gradient = risk.value_and_gradient(noise, dict(risk.model.named_parameters()))
        assert distance(ours["value"], value) < 1e-4
        assert float(gradient.abs().max()) > 1e-3
        assert distance(ours["gradient"], gradient.flatten()) < 1e-4


@pytest.mark.parametrize(
    ("name", "round_", "ball", "steps", "toward"),
    [
        ("l2", 0, L2Ball(4.0), 6, -1),
        ("l1", 0, L1Ball(24.0), 6, -1),
        ("l2 after", ROUNDS - 1, L2Ball(2.0), 4, -1),
    ],
)
def test_the_search_is_the_librarys_ascent(
    arithmetic: dict[str, Any], name: str, round_: int, ball: Any, steps: int, toward: int
) -> None:
    risk = risk_of(round_, 6, toward)
    found = Ascent(steps)(risk, dict(risk.model.named_parameters()), ball)
    ours = arithmetic["climbs"][name]
    assert distance(ours["values"], found.values.double()) < 1e-4
    assert distance(ours["delta"], found.delta.double().flatten()) < 1e-4


def test_the_search_toward_a_class_lowers_the_loss_of_that_class(
    arithmetic: dict[str, Any],
) -> None:
    ours = arithmetic["climbs"]["l1 toward"]
    delta = torch.tensor(ours["delta"], dtype=torch.float64).view(3, 32, 32)
    risk = risk_of(ROUNDS - 1, 6, toward=8)
    theta = dict(risk.model.named_parameters())
    assert distance(-max(ours["values"]), risk(delta, theta)) < 1e-4
    assert risk(delta, theta) < risk(torch.zeros_like(delta), theta)


# --- the files ------------------------------------------------------------------------------------

PAGE = chapters.BOOK / "browser_lab.md"
NOTE = json.loads((FOLDER / "provenance.json").read_text())


def test_the_files_are_those_that_the_command_made() -> None:
    for name, digest in NOTE["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    settings = browser_lab.Settings()
    assert NOTE["settings"]["recipe"] == repr(settings.recipe)
    assert NOTE["settings"]["train"] == settings.train
    assert NOTE["settings"]["clean"] == settings.clean
    assert len(NOTE["rounds"]) == ROUNDS == settings.unlearning.rounds + 1


def test_they_are_small() -> None:
    made = sum((FOLDER / name).stat().st_size for name in NOTE["sha256"])
    assert made <= 600_000


def test_the_networks_are_as_good_and_as_bad_as_the_page_says() -> None:
    data, attack = ib.data.load("signs"), ib.attacks.badnets(target=DATA["target"])
    for round_ in (0, 3, 5, ROUNDS - 1):
        told = DATA["rounds"][round_]
        measured = browser_lab.measure(browser_lab.decoded(DATA, round_), data, attack)
        for rate in ("acc", "asr"):  # other processors may read an image or two otherwise
            assert measured[rate] == pytest.approx(told[rate], abs=2e-3)
            assert told[rate] == pytest.approx(NOTE["rounds"][round_][rate], abs=1e-5)
    first, last = DATA["rounds"][0], DATA["rounds"][-1]
    assert first["acc"] > 0.95 and first["asr"] > 0.95
    assert last["acc"] > 0.95 and last["asr"] < 0.2
    assert DATA["rounds"][5]["asr"] > DATA["rounds"][3]["asr"]  # the rebound of chapter 4


def test_the_signs_are_test_images_that_nobody_chose() -> None:
    data = ib.data.load("signs")
    index = browser_lab.shown(data)
    images, labels = signs()
    assert torch.equal(labels, data.test.labels[index])
    assert float((images - data.test.images[index]).abs().max()) < 1 / 255
    for label in range(data.num_classes):
        first_two = (data.test.labels == label).nonzero()[:2, 0].tolist()
        assert sorted(index[labels == label].tolist()) == first_two


def test_the_triggers_are_the_librarys() -> None:
    images, _ = signs()
    images = images.float()
    for told, (name, (_, trigger)) in zip(DATA["triggers"], browser_lab.triggers().items()):
        assert told["name"] == name
        a, b = (
            torch.tensor(list(browser_lab.base64.b64decode(told[part]))).view(3, 32, 32)
            for part in "ab"
        )
        ours = (a / 255 * images + (b - 128) / 127).clamp(0, 1)
        assert float((ours - trigger(images)).abs().max()) < 1 / 127, name


def test_a_network_that_is_stored_is_the_network() -> None:
    model = ib.models.small_cnn(12, width=browser_lab.WIDTH, seed=3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_().mul_(0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    images = signs()[0].float()
    again = browser_lab.network(browser_lab.stored(model), 12)
    with torch.no_grad():
        given = model(images)
    difference = (again(images) - given).abs().max()
    assert float(difference) < 5e-3 * float(given.abs().max())  # float16
    with pytest.raises(ValueError, match="has 16828 numbers, got 16829"):
        browser_lab.network(np.zeros(16829, np.float16), 12)


def test_the_command_still_makes_such_a_network(tmp_path: Path) -> None:
    made = browser_lab.write(browser_lab.quick(browser_lab.Settings()), tmp_path)
    assert made.measured[0]["acc"] > 0.6 and made.measured[0]["asr"] > 0.8
    assert made.measured[1]["asr"] < made.measured[0]["asr"]
    again = browser_lab.read(tmp_path / "data.js")
    assert {key: again[key] for key in again if key != "rounds"} == {
        key: DATA[key] for key in DATA if key != "rounds"
    }
    assert np.array_equal(browser_lab.decoded(again, 1), made.numbers[1])
    assert (tmp_path / "still.png").stat().st_size > 10_000


def test_the_still_says_what_it_shows() -> None:
    images, labels = signs()
    chosen = torch.tensor(browser_lab.STILL)
    stamped = ib.attacks.badnets().pairs[0][0](images[chosen].float())
    last = browser_lab.network(browser_lab.decoded(DATA, ROUNDS - 1), len(DATA["classes"]))
    right = int((ib.metrics.predict(last, stamped) == labels[chosen]).sum())
    words = {3: "three", 4: "four", 5: "five"}
    assert f"{words[right]} of the six are read as drawn" in PAGE.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in (PAGE, *FOLDER.glob("*.js"), *FOLDER.glob("*.css")):
        found = set(re.findall(r"https?://[^\s\"')]+|[\"'(]//\w", path.read_text(encoding="utf-8")))
        assert found <= {"http://www.w3.org/2000/svg"}, path.name


# --- the page -------------------------------------------------------------------------------------

DRIVER = """<script>
  const $ = (selector) => document.querySelector(selector);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const settled = async () => { await frame(); await frame(); await wait(300); };
  const until = async (ready) => { while (!ready()) await wait(50); };
  const told = () => ({
    sentence: $(".bl-sentence").textContent,
    tally: $(".bl-tally").textContent,
    count: $(".bl-count").textContent,
    round: $("#bl-round").value,
    rates: [...document.querySelectorAll(".bl-rates b")].map((b) => b.textContent),
    hash: location.hash,
    solved: [...document.querySelectorAll(".bl-badge")].map((b) => b.textContent),
  });
  const key = (name, options = {}) =>
    $(".bl-stage").dispatchEvent(new KeyboardEvent("keydown", { key: name, ...options }));
  addEventListener("load", async () => {
    await until(() => $(".bl-tally").textContent);
    await settled();
    finish(await drive());
  });
</script>"""


def page(drive: str, folder: Path, hash_: str = "") -> Any:
    """Open the page's own HTML at `hash_`, run `drive` and return what it returns."""
    source = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", source, re.DOTALL)
    return in_browser(f"{''.join(blocks)}<script>{drive}</script>{DRIVER}", folder, hash_)


def read_by(round_: int, image: torch.Tensor) -> str:
    return DATA["classes"][int(model(round_)(image[None].double()).argmax())]


@needs_browser
def test_the_page_opens_at_the_state_of_its_address(tmp_path: Path) -> None:
    state = "#sign=4&round=2&trigger=square"
    told = page("const drive = async () => told();", tmp_path, state)
    images, labels = signs()
    stamped = ib.attacks.badnets().pairs[0][0](images[4:5])[0]
    before, after = read_by(0, stamped), read_by(2, stamped)
    assert before == DATA["classes"][DATA["target"]]
    assert f"Drawn is “{DATA['classes'][int(labels[4])]}”" in told["sentence"]
    assert f"The poisoned network reads “{before}”" in told["sentence"]
    assert f"after round 2 it reads “{after}”" in told["sentence"]
    assert told["round"] == "2"
    assert told["rates"] == [f"{100 * DATA['rounds'][2][rate]:.1f} %" for rate in ("acc", "asr")]
    assert sorted(told["hash"][1:].split("&")) == sorted(state[1:].split("&"))


@needs_browser
def test_an_address_that_makes_no_sense_opens_the_page_all_the_same(tmp_path: Path) -> None:
    nonsense = "#sign=-3&round=99&trigger=__proto__&paint=zz9w&l2=NaN&search=x"
    told = page("const drive = async () => told();", tmp_path, nonsense)
    assert told["round"] == str(ROUNDS - 1)
    assert told["count"] == "Your sticker: nothing yet."


@needs_browser
def test_a_sticker_is_painted_with_the_keyboard_and_taken_back(tmp_path: Path) -> None:
    drive = """const drive = async () => {
      key("ArrowLeft"); key("ArrowDown", { shiftKey: true }); key(" "); await settled();
      const one = told();
      key("ArrowRight"); key("Enter"); await settled();
      const two = told();
      key("Delete"); key("z", { ctrlKey: true }); key("z", { ctrlKey: true }); await settled();
      const back = told();
      return [one, two, back];
    };"""
    one, two, back = page(drive, tmp_path)
    assert one["count"] == "Your sticker: 1 pixel."
    assert two["count"] == "Your sticker: 2 pixels."
    digits = np.base_repr(32 * 19 + 14, 36).lower()
    assert one["hash"] == f"#paint=w{digits}"
    assert back["hash"] == one["hash"]


@needs_browser
def test_a_sticker_is_painted_with_a_finger(tmp_path: Path) -> None:
    drive = """const drive = async () => {
      const stage = $(".bl-stage"), box = stage.getBoundingClientRect(), unit = box.width / 32;
      stage.setPointerCapture = () => {};
      const point = (type, column, row) => stage.dispatchEvent(new PointerEvent(type, {
        clientX: box.left + unit * (column + 0.5), clientY: box.top + unit * (row + 0.5),
        pointerType: "touch", bubbles: true, button: 0 }));
      point("pointerdown", 2, 5); point("pointermove", 6, 5); point("pointerup", 6, 5);
      point("pointermove", 20, 20); await settled();
      return told();
    };"""
    told = page(drive, tmp_path)
    assert told["count"] == "Your sticker: 5 pixels."


SEARCH = """const drive = async () => {
  await until(() => $(".bl-go").textContent === "Search");
  await settled();
  const cards = [...document.querySelectorAll(".bl-search-card .bl-told")];
  return { ...told(), search: cards.map((card) => card.textContent) };
};"""


@needs_browser
def test_the_search_finds_what_leads_the_poisoned_network_astray(tmp_path: Path) -> None:
    told = page(SEARCH, tmp_path, "#search=l2")
    risk = risk_of(0, len(DATA["labels"]))
    found = Ascent(30)(risk, dict(risk.model.named_parameters()), L2Ball(4.0))
    read = model(0)((risk.images + found.delta).clamp(0, 1)).argmax(1)
    astray = int((read != risk.labels).sum())
    assert f"Step 30 of 30: H = {found.value:.2f}." in told["search"][0]
    assert f"astray on {astray} of {len(read)} signs" in told["search"][0]
    assert "Step 30 of 30" in told["search"][1]
    assert told["tally"].startswith(f"Poisoned: {len(read) - astray} of {len(read)} right")


@needs_browser
def test_the_search_can_be_stopped(tmp_path: Path) -> None:
    drive = """const drive = async () => {
      const steps = () => $(".bl-search-card .bl-told").textContent;
      $(".bl-go").click(); await until(() => /Step [2-9] /.test(steps()));
      $(".bl-go").click(); const stopped = steps(); await wait(1500);
      return [stopped, steps(), $(".bl-go").textContent];
    };"""
    stopped, later, button = page(drive, tmp_path)
    assert stopped == later and "Step 30" not in later and button == "Search"


RECTANGLE = "".join(
    f"k{np.base_repr(32 * row + column, 36).lower():0>2}"
    for row in range(12, 15)
    for column in range(14, 18)
)
KEY = "".join(
    f"w{np.base_repr(32 * row + column, 36).lower():0>2}"
    for row, column in [(28, 30), (29, 30), (29, 28), (27, 30), (28, 29), (28, 28)]
)


@needs_browser
@pytest.mark.parametrize(
    ("state", "solved"),
    [
        (f"#paint={KEY}", 0),
        (f"#round=3&paint={RECTANGLE}", 1),
        (f"#round={ROUNDS - 1}&against=round&l2=2.5&search=l2", 2),
        ("#trigger=square&round=3", None),  # with the attacker's own square nothing is solved
    ],
)
def test_each_challenge_can_be_solved(tmp_path: Path, state: str, solved: int | None) -> None:
    told = page(SEARCH, tmp_path, state)
    assert told["solved"] == ["solved" if i == solved else "open" for i in range(3)]


def test_chapters_open_the_page_at_a_state_that_it_knows() -> None:
    known = {"sign", "round", "trigger", "paint", "against", "toward", "l2", "l1", "search"}
    opened = {}
    for chapter in chapters.find():
        source = "".join(
            "".join(cell["source"]) for cell in json.loads(chapter.read_text())["cells"]
        )
        for hash_ in re.findall(r"browser_lab\.html#([^\"]*)\"", source):
            opened[chapter.name[:2]] = dict(
                parse_qsl(hash_.replace("&amp;", "&"), strict_parsing=True)
            )
    assert set(opened) == {"01", "03", "04", "07"}
    triggers = set(browser_lab.triggers())
    for chapter, state in opened.items():
        assert set(state) <= known, chapter
        assert int(state.get("round", 0)) < ROUNDS, chapter
        assert state.get("trigger", "square") in triggers, chapter
