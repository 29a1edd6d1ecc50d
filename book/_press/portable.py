"""From a chapter as committed, in Markdown that every notebook shows, to the page's MyST.

A committed chapter uses CommonMark, formulas, links and a little HTML, and nothing else:

    [its title](07_ibau.ipynb)                         a link that MyST understands as it is
    [words](07_ibau.ipynb#sec-x), [words](#fig-x)      a section, a figure        {ref}
    [words](../theory/danskin.md#thm-x)                a theorem                  {prf:ref}
    [theorem “its title”](#thm-x)                      the page prints its number {prf:ref}
    [(2)](#eq-x)                                       a formula with \\tag{2}     {eq}
    [Gu et al. (2019)](bibliography.md#gu2019badnets)  {cite:t}; ([Gu et al., 2019](…)) {cite:p}
    <a id="x"></a> on a line of its own                names the heading or formula that follows
    > **Title**                                        a box; one with displayed formulas is a
    <div class="box">, theorem, proof, …               division, which begins with **Title**
    <details class="quiz right">                       an answer of a quiz, the right one
    **Exercise: title** <a id="ex-x"></a>              reaches as far as its solution
    <details class="hint">                             a hint, folded
    <details class="solution">                         its Python blocks become cells that run

Blocks stand at the left margin. What looks like one of these and is not raises PortableError.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

BOXES = {"Before you start": "note", "Make a prediction": "tip", "Write your answers down": "tip"}
KINDS = ("theorem", "proposition", "lemma", "corollary", "remark", "algorithm")
MYST = re.compile(r"^\s*:::|^\s*```+\{|\{[a-z][a-z:-]*\}`|^\([\w-]+\)=", re.MULTILINE)
BIBLIOGRAPHY = Path(__file__).resolve().parents[1] / "references.bib"

_OPEN = re.compile(
    r'<details class="(?P<d>quiz|quiz right|hint|solution)"><summary>(?P<summary>.*)</summary>'
    r'|<div class="(?P<k>\w+)"(?: id="(?P<id>[\w-]+)")?>'
)
_EXERCISE = re.compile(r'\*\*Exercise: (.+)\*\* <a id="([\w-]+)"></a>')
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_CODE = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)(\(?)\[((?:[^\[\]]|\[[^\[\]]*\])+)\]\(([\w./-]*)#([\w-]+)\)(\)?)")
_HTML = re.compile(r"^</?(?:div|details)|<a id=", re.MULTILINE)


class PortableError(ValueError):
    """A chapter holds markup that the press does not understand; the message quotes it."""


def page(notebook: dict) -> dict:
    """The notebook that is run and printed: the same chapter, its Markdown as MyST."""
    result = copy.deepcopy(notebook)
    result["cells"] = []
    exercise: list[str] = []  # the label of the exercise that is open, if one is
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            result["cells"].append(copy.deepcopy(cell))
            continue
        for place, (kind, source) in enumerate(_cells("".join(cell["source"]), exercise)):
            made: dict = {"cell_type": kind, "metadata": dict(cell["metadata"]), "source": source}
            if "id" in cell:
                made["id"] = cell["id"] if place == 0 else f"{cell['id'][:60]}-{place}"
            if kind == "code":
                made.update(metadata={}, outputs=[], execution_count=None)
            result["cells"].append(made)
    if exercise:
        raise PortableError(f"the exercise {exercise[0]} has no solution")
    return result


def markdown(text: str) -> str:
    """One portable text as MyST; it holds no solution with code."""
    exercise: list[str] = []
    (cell,) = _cells(text, exercise)
    return cell[1]


def _cells(text: str, exercise: list[str]) -> list[tuple[str, str]]:
    """The cells that one Markdown cell becomes: more than one where a solution holds code."""
    if found := MYST.search(text):
        raise PortableError(f"MyST in a committed chapter: {_line(text, found.start())!r}")
    cells: list[tuple[str, str]] = [("markdown", "")]
    for kind, source in _blocks(text.split("\n"), exercise):
        if kind == "markdown" and cells[-1][0] == "markdown":
            cells[-1] = (kind, cells[-1][1] + "\n" + source)
        else:
            cells.append((kind, source))
    return [(kind, source.strip("\n")) for kind, source in cells if source.strip()] or [
        ("markdown", "")
    ]


def _blocks(lines: list[str], exercise: list[str]) -> Iterator[tuple[str, str]]:
    place = 0
    fenced = False
    while place < len(lines):
        line = lines[place]
        place += 1
        fenced ^= line.startswith("```")
        if fenced or line.startswith("```"):
            yield "markdown", line
        elif match := _OPEN.fullmatch(line):
            end = "</details>" if match["d"] else "</div>"
            try:
                last = lines.index(end, place)
            except ValueError:
                raise PortableError(f"no {end} follows {line!r}") from None
            body = "\n".join(lines[place:last]).strip("\n")
            place = last + 1
            if match["d"] == "solution":
                yield from _solution(body, exercise)
            elif match["d"]:
                box = f":::{{dropdown}} {_inline(_plain(match['summary']))}"
                yield "markdown", f"{box}\n:class-container: {match['d']}\n\n{_text(body)}\n:::"
            else:
                yield "markdown", _division(match["k"], match["id"], body)
        elif line.startswith("> **"):
            quote = [line]
            while place < len(lines) and lines[place].startswith(">"):
                quote.append(lines[place])
                place += 1
            body = "\n".join(re.sub("^> ?", "", line) for line in quote)
            if "$$" in body or any(line.count("$") % 2 for line in quote):
                raise PortableError(f"a formula over lines of a quotation: {line!r}")
            yield "markdown", _division("box", None, body)
        elif match := _EXERCISE.fullmatch(line):
            if exercise:
                raise PortableError(f"the exercise {exercise[0]} has no solution")
            exercise.append(match[2])
            start = f"```{{exercise-start}} {_inline(match[1])}\n:label: {match[2]}\n```"
            yield "markdown", start
        elif line == "$$":
            if "$$" not in lines[place:]:
                raise PortableError(f"a formula does not end: {lines[place : place + 1]}")
            last = lines.index("$$", place)
            yield "markdown", "\n".join(["$$", *lines[place:last], "$$"])
            place = last + 1
        elif match := _ANCHOR.fullmatch(line):
            if match[1].startswith("eq-"):
                place = _skip_blank(lines, place)
                last = lines.index("$$", place + 1) if "$$" in lines[place + 1 :] else place
                body = "\n".join(lines[place + 1 : last])
                formula, tags = re.subn(r" *\\tag\{\d+\}", "", body)
                if lines[place : place + 1] != ["$$"] or tags != 1:
                    raise PortableError(f"no formula with one \\tag follows {line!r}")
                yield "markdown", f"$$\n{formula}\n$$ ({match[1]})"
                place = last + 1
            else:
                yield "markdown", f"({match[1]})="
                place = _skip_blank(lines, place)
        else:
            yield "markdown", _inline(line)


def _skip_blank(lines: list[str], place: int) -> int:
    while place < len(lines) and not lines[place].strip():
        place += 1
    return place


def _text(text: str) -> str:
    """A text inside a block: the same rules, but no exercise and no solution."""
    exercise: list[str] = []
    result = "\n".join(source for _, source in _blocks(text.split("\n"), exercise))
    if exercise:
        raise PortableError(f"the exercise {exercise[0]} stands inside another block")
    return result


def _solution(body: str, exercise: list[str]) -> Iterator[tuple[str, str]]:
    if not exercise:
        raise PortableError(f"a solution without an exercise: {body[:60]!r}")
    label = exercise.pop()
    yield "markdown", f"```{{exercise-end}}\n```\n\n```{{solution-start}} {label}"
    yield "markdown", ":class: dropdown\n```\n"
    for place, part in enumerate(_CODE.split(body)):
        if place % 2:
            yield "code", part
        elif part.strip():
            yield "markdown", _text(part.strip("\n"))
    yield "markdown", "\n```{solution-end}\n```"


def _division(kind: str, label: str | None, body: str) -> str:
    title, _, rest = body.partition("\n")
    found = re.fullmatch(r"\*\*(.+)\*\*", title)
    if not found:
        raise PortableError(f"a box begins with a line **Title**, not {title!r}")
    head, rest = found[1], _text(rest.strip("\n"))
    if kind == "box":
        if head not in BOXES and not head.startswith("["):
            raise PortableError(f"no box is called {head!r}: see BOXES")
        options = f"\n:class: {BOXES[head]}" if head in BOXES else ""
        return f":::{{admonition}} {_inline(head)}{options}\n\n{rest}\n:::"
    if kind == "proof" and head == "Proof":
        return f":::{{prf:proof}}\n{rest}\n:::"
    named = re.fullmatch(r"(\w+): (.+)", head)
    if kind not in KINDS or not label or not named or named[1].lower() != kind:
        raise PortableError(f"not understood: a division {kind!r} with the title {head!r}")
    return f":::{{prf:{kind}}} {_inline(named[2])}\n:label: {label}\n\n{rest}\n:::"


def _inline(line: str) -> str:
    """Links of one line. What stands between backticks is code and stays."""
    parts = re.split(r"(`+[^`]*`+)", line)
    # A link may hold code in its words, so links are replaced in the whole line.
    if "](" not in line and not _HTML.search(line):
        return line
    if _HTML.search("".join(parts[::2])):
        raise PortableError(f"HTML that the press does not understand: {line!r}")
    return _LINK.sub(_link, line)


def _link(match: re.Match[str]) -> str:
    before, words, file, label, after = match.groups()
    role = label.split("-")[0]
    if file == "bibliography.md":
        narrative, parenthesis = citation(label)
        if words == narrative:
            return f"{before}{{cite:t}}`{label}`{after}"
        if words == parenthesis and before and after:
            return f"{{cite:p}}`{label}`"
        raise PortableError(f"[{words}] for {label}: say [{narrative}] or ([{parenthesis}])")
    if role == "eq":
        made = f"{{eq}}`{label}`"
    elif role in ("thm", "prop", "lem", "cor", "rem", "alg"):
        own = re.fullmatch(rf"(?:{'|'.join(KINDS)})(?: “.*”)?", words)
        made = f"{{prf:ref}}`{label}`" if own else f"{{prf:ref}}`{words} <{label}>`"
    elif role in ("sec", "fig", "ex", "sol"):
        made = f"[{words}]({label})"
    else:
        raise PortableError(f"a link to an unknown kind of thing: {match[0]!r}")
    return f"{before}{made}{after}"


def _plain(summary: str) -> str:
    """A summary, where only HTML is understood, as Markdown."""
    for tag, mark in (("code", "`"), ("em", "*"), ("strong", "**")):
        summary = re.sub(f"</?{tag}>", mark, summary)
    if re.search(r"</?[a-z]+[ >]", summary):
        raise PortableError(f"a summary with HTML that is not understood: {summary!r}")
    return summary.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@cache
def citation(key: str) -> tuple[str, str]:
    """The words that cite `key`, from `references.bib`: in a sentence, and in parentheses."""
    from pybtex.database import parse_file  # comes with jupyter-book

    entries = parse_file(str(BIBLIOGRAPHY)).entries
    if key not in entries:
        raise PortableError(f"references.bib has no {key!r}")
    entry = entries[key]
    people = [
        " ".join([*person.prelast_names, *person.last_names]).translate(str.maketrans("", "", "{}"))
        for person in entry.persons["author"]
    ]
    names = people[0] if len(people) == 1 else f"{people[0]} et al."
    if len(people) == 2:
        names = " and ".join(people)
    return f"{names} ({entry.fields['year']})", f"{names}, {entry.fields['year']}"


def _line(text: str, place: int) -> str:
    return text[place:].lstrip("\n").partition("\n")[0][:80]
