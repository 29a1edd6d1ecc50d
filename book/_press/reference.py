"""The API reference: its text, a Sphinx extension that reads docstrings, and links into it.

Rooms stand in `PAGES`. The names of a room stand as its docstring mentions them, the others as its
file does, so that the order is kept where the code is.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

MARK = "<!-- the press puts the reference here -->"
METHOD = """
    ibau_lite hypergrad solvers curvature sets minimax protocol defenses diagnosis speed
"""
AROUND = "metrics attacks data models training checkpoints zoo testing plots widgets streams"
THEORY = """
    convergence quadratic certified sampled neumann active_constraint margins rademacher
    generalisation_linear worst_shift generalisation_networks chain spectral_norms covering
    rank_correlation
"""


def modules(names: str, above: str) -> list[str]:
    """Full names of the modules that `names` lists."""
    return [name if name == above else f"{above}.{name}" for name in names.split()]


PAGES = {
    "api": modules(METHOD, "ibau_lite"),
    "api_around": modules(AROUND, "ibau_lite"),
    "api_theory": modules(THEORY, "ibau_lite.theory"),
}


def public(module: types.ModuleType) -> list[str]:
    """The public names of a room that are no rooms themselves, in the order of the reference."""
    given = getattr(module, "__all__", None)
    if given is None:
        given = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]
    kept = [name for name in given if not inspect.ismodule(getattr(module, name))]
    source = inspect.getsource(module)
    told = module.__doc__ or ""

    def place(name: str) -> tuple[int, int]:
        mentioned = re.search(rf"[`.]{name}\b", told)
        defined = re.search(rf"^(?:def |class )?{name}\b|import .*\b{name}\b", source, re.MULTILINE)
        return (
            mentioned.start() if mentioned else len(told),
            defined.start() if defined else len(source),
        )

    return sorted(kept, key=place)


class Home(NamedTuple):
    """Where the reference has a name: the full one, under a room, on a page."""

    name: str
    room: str
    page: str


@functools.cache
def homes() -> dict[tuple[str, str], Home]:
    """(room, name) -> its home. What several rooms share stands in the first of them."""
    known: dict[Any, Home] = {}
    found = {}
    for page, rooms in PAGES.items():
        for room in rooms:
            module = importlib.import_module(room)
            for name in public(module):
                value = getattr(module, name)
                # Equal constants may be one object: their name tells which one is meant.
                own = inspect.isclass(value) or inspect.isfunction(value)
                full = f"{room}.{name}" if own else written(module, name)
                key = id(value) if own else full
                found[room, name] = known.setdefault(key, Home(full, room, page))
    return found


def written(module: types.ModuleType, name: str) -> str:
    """The full name of a constant where it is written, and its docstring with it."""
    source = inspect.getsource(module)
    imports = rf"^from (\S+) import (?:[^()\n]*\b{name}\b|\([^()]*\b{name}\b[^()]*\))"
    match = re.search(imports, source, re.MULTILINE)
    return f"{match[1]}.{name}" if match else f"{module.__name__}.{name}"


def text(page: str) -> str:
    """Markdown of one page of the reference: a section for each room."""
    return "\n".join(_room(room) for room in PAGES[page])


def _room(room: str) -> str:
    module = importlib.import_module(room)
    lines = [f"## `{re.sub('^ibau_lite(?=.)', 'ib', room)}`", "", "```{eval-rst}"]
    if room == "ibau_lite":  # `ibau_lite.ibau` is a module as well, to Python and to Sphinx
        lines += ["Names at the top, as in ``import ibau_lite as ib``.", ""]
    else:
        lines += [f".. automodule:: {room}", ""]
    elsewhere = []
    for name in public(module):
        home = homes()[room, name]
        if home.room != room:
            elsewhere.append(f"`{home.name}`")
            continue
        value = getattr(module, name)
        if inspect.isclass(value):
            lines += [f".. autoclass:: {home.name}", "   :members:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {home.name}", ""]
        else:
            lines += [f".. autodata:: {home.name}", "   :no-value:", ""]
    if elsewhere:
        lines += [f"Here, too, and described elsewhere: {', '.join(elsewhere)}.", ""]
    return "\n".join([*lines, "```", ""])


_CALL = re.compile(r"`((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)((?:\([^`]*\))?)`")


def linked(markdown: str, everywhere: bool = False) -> str:
    """The Markdown of a page with each name in its tables that the reference has as a link to it.

    Only in tables, unless `everywhere` is asked for: in a text a link a line would be in the way.

    >>> linked("| the algorithm | `ib.ibau(model, clean)` |")
    '| the algorithm | {py:obj}`ib.ibau(model, clean) <ibau_lite.ibau>` |'
    """
    lines = markdown.split("\n")
    return "\n".join(
        _CALL.sub(_link, line) if everywhere or line.startswith("|") else line for line in lines
    )


def _link(match: re.Match[str]) -> str:
    home = resolve(match[1])
    if home is None or "<" in match[2]:
        return match[0]
    return f"{{py:obj}}`{match[1]}{match[2]} <{home}>`"


def resolve(name: str) -> str | None:
    """The full name in the reference of what chapters call `name`, None if it is not there.

    A field or method leads to its class.
    """
    room, _, last = name.rpartition(".")
    if not room:
        return None
    inside = re.sub(r"^(ib|ibau_lite)(\.|$)", "", room)
    for place in (f"ibau_lite.{inside}".rstrip("."), f"ibau_lite.theory.{inside}"):
        if (place, last) in homes():
            return homes()[place, last].name
    return resolve(room)


def rst(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: an indented block is code, and a lone * or | is itself."""
    made: list[str] = []
    inside = -1  # the indentation of the directive or block that is open
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        before = next((old for old in reversed(lines[:place]) if old.strip()), "")
        outer = len(before) - len(before.lstrip())
        if line.strip() and indent <= inside:
            inside = -1
        opens = line.strip() and place and not lines[place - 1].strip() and indent > outer
        if line.lstrip().startswith(".. "):
            inside = indent
        elif inside < 0 and opens and before:
            made += [] if before.endswith("::") else [" " * outer + "::", ""]
            inside = outer
        verbatim = inside >= 0 or line.lstrip().startswith((">>>", "...", "==="))
        made.append(line if verbatim else "".join(_escaped(line)))
    return made


def _escaped(line: str) -> Iterator[str]:
    code = r"``.+?``|:\w+:`[^`]+`|`[^`]+`"
    emphasis = r"(?<![\w*])\*{1,2}[^\s*](?:[^*]*[^\s*])?\*{1,2}(?![\w*])"
    for place, part in enumerate(re.split(f"({code}|{emphasis})", line)):
        yield part if place % 2 else re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)


def name_role(
    role: str,
    source: str,
    text: str,
    line: int,
    inliner: Any,
    options: Any = None,
    content: Any = None,
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What stands between backticks in a docstring: code, and a link where it is a public name."""
    room = inliner.document.settings.env.ref_context.get("py:module", "")
    full = homes()[room, text].name if (room, text) in homes() else resolve(text)
    code = nodes.literal(text, text)
    if full is None:
        return [code], []
    reference = addnodes.pending_xref(
        source, code, refdomain="py", reftype="obj", reftarget=full, refdoc=None
    )
    reference["refdoc"] = inliner.document.settings.env.docname
    return [reference], []


def _docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    lines[:] = rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Before napoleon, which reads the sections of a docstring."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.add_role("name", name_role)
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
