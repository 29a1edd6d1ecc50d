"""Where our records and the talk give different answers, and where our own seeds do.

Each of the talk's cells counts once. Another recipe of I-BAU (*released*, *exact*) stands beside
the talk's I-BAU in the tables; held against the same cell once more it has a line of its own here
and is left out of every sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from .compare import Comparison, Outcome, named, points
from .evidence import COMPARED, shown
from .grid import grid, share
from .records import Records

_NOTHING = "No cell is recorded yet that the talk has, too."


def disagreements(records: Records, tables: Sequence[str] = COMPARED) -> str:
    """Every cell whose answers are not the talk's as Markdown, from the profile that is shown.

    The last columns say who alone removed the backdoor, or kept the accuracy.
    """
    judged = _judged(records, tables)
    judged = judged[~judged["repeats"]]
    if judged.empty:
        return _NOTHING
    profiles = sorted(set(judged["profile"]))
    rows = judged[~judged["agrees"]]
    if rows.empty:
        return f"None: all {len(judged)} cells that both have give the same answers."
    if len(profiles) > 1:
        rows = rows.assign(table=rows["table"] + " (" + rows["profile"] + ")")
    columns = ["table", "row", "defence", "n", "our loss", "our ASR", "their loss", "their ASR"]
    told = rows[[*columns, "removed", "kept"]]
    head = [*columns[:4], "ours: lost", "ASR", "the talk: lost", "ASR", "removed by", "kept by"]
    count = f"{len(rows)} of the {len(judged)} cells that both have"
    table = grid(told.set_axis(head, axis=1), "lllr")
    return f"{count} (profile {' and '.join(profiles)}):\n\n{table}"


def tally(records: Records, tables: Sequence[str] = COMPARED) -> str:
    """A line a defence as Markdown: in how many cells it agrees, and of what kind they are.

    The two columns at the end tell apart where the talk's backdoor is removed and the accuracy
    kept, and where it is not. Under the table stands how often which answer differs.
    """
    judged = _judged(records, tables)
    if judged.empty:
        return _NOTHING
    once = judged[~judged["repeats"]]
    groups = [*judged.groupby("defence", sort=False), ("**each of the talk's cells once**", once)]
    rows = []
    for label, group in groups:
        both = group["both"]
        kinds = (group, group[both], group[~both])
        rows.append([label, *(share(kind["agrees"]) for kind in kinds)])
    table = pd.DataFrame(rows, columns=["defence", "agree", "the talk: both", "the talk: not both"])
    differs = [
        ", ".join(f"{what}: {who} only" for what, who in whos.items() if who)
        for _, whos in once.loc[~once["agrees"], ["removed", "kept"]].iterrows()
    ]
    told = "; ".join(f"{what}: {count}" for what, count in Counter(differs).most_common())
    return f"{grid(table)}\n\nWhat differs: {told or 'nothing'}."


def divided(compared: Iterable[Comparison]) -> str:
    """The cells of which some seeds removed the backdoor and others not, as Markdown."""
    lines = []
    for each in compared:
        if 0 < each.removed_by < each.n:
            told = ", ".join(f"{100 * rate:.1f}" for rate in each.rates)
            lines.append(f"- {each.label}, {named(each.case)}: {told} %")
    return "\n".join(lines) or "- none that is recorded"


def _judged(records: Records, tables: Sequence[str]) -> pd.DataFrame:
    """A line for every cell that both have; `removed` and `kept` say who alone did, if one did."""
    records, lines = list(records), []
    for table in tables:
        profile, compared = shown(records, table)
        for each in compared:
            ours, theirs = each.ours, each.theirs
            if ours and theirs:
                lines.append(
                    {
                        "table": table[-1], "profile": profile, "row": named(each.case),
                        "defence": each.label, "n": each.n, "repeats": each.repeats,
                        "our loss": points(ours.drop), "our ASR": _rate(ours),
                        "their loss": points(theirs.drop), "their ASR": _rate(theirs),
                        "removed": _alone(ours.removed, theirs.removed),
                        "kept": _alone(ours.kept, theirs.kept),
                        "agrees": bool(each.agrees), "both": theirs.both,
                    }
                )  # fmt: skip
    columns = None if lines else ["repeats"]
    return pd.DataFrame(lines, columns=columns)


def _alone(ours: bool, theirs: bool) -> str:
    return "" if ours == theirs else "ours" if ours else "the talk"


def _rate(outcome: Outcome) -> str:
    return f"{100 * outcome.attack_success_rate:.1f} %"
