"""Tables: records gathered over seeds, a line for each defence, beside what the talk reports."""

from __future__ import annotations

import pandas as pd

from ibau_lite.metrics import spread

from .grid import grid
from .published import printed
from .records import Records

NO_DEFENCE = "no defence"

_WHERE = ["data", "source", "profile"]
_MEASURES = ["accuracy", "attack_success_rate"]
_CLOCKS = ["seconds", "cpu_seconds"]


def gather(records: Records) -> pd.DataFrame:
    """A line for each defence on one data set and profile, in the order of first appearance.

    `accuracy` and `attack_success_rate` are `Spread`s over the `n` seeds; `seconds` are the wall's,
    `cpu_seconds` those of all threads, both means. Each group begins with the network before any
    defence, which has no seconds. Of two records with the same row and seed the later one counts.
    """
    told = [
        {name: record[name] for name in (*_WHERE, "seed", *_CLOCKS, "before")}
        | {"label": record["defense"], **{name: record["after"][name] for name in _MEASURES}}
        for record in records
    ]
    runs = pd.DataFrame(told, columns=[*_WHERE, "label", "seed", *_MEASURES, *_CLOCKS, "before"])
    lines = []
    for where, there in runs.groupby(_WHERE, sort=False):
        for number, (label, every) in enumerate(there.groupby("label", sort=False)):
            seeds = every.drop_duplicates("seed", keep="last").set_index("seed")
            if number == 0:
                before = seeds.loc[every["seed"].iloc[0], "before"]
                measured = [spread([before[name]]) for name in _MEASURES]
                lines.append([*where, NO_DEFENCE, *measured, None, None, 1])
            measured = [spread(seeds[name].tolist()) for name in _MEASURES]
            lines.append([*where, label, *measured, *seeds[_CLOCKS].mean(), len(seeds)])
    columns = [*_WHERE, "label", *_MEASURES, *_CLOCKS, "n"]
    return pd.DataFrame(lines, columns=columns, dtype=object)


def markdown(lines: pd.DataFrame, *, talk: bool = True) -> str:
    """The lines as a Markdown table; with `talk`, two columns with the talk's BadNets results.

    The talk's numbers stand beside "no defence" and "I-BAU", which it reports as well.
    """
    table = pd.DataFrame(
        {
            "data": lines["data"] + " (" + lines["profile"] + ")",
            "row": lines["label"],
            "ACC": lines["accuracy"],
            "ASR": lines["attack_success_rate"],
            "seconds": lines["seconds"].map(_whole),
            "n": lines["n"],
        }
    )
    if talk:
        cells = [printed(line.label, line.data, "badnets") for line in lines.itertuples()]
        told = [cell.told() if cell else ["", ""] for cell in cells]
        table[["the talk: ACC", "the talk: ASR"]] = told
    return grid(table, "llr")


def side_by_side(records: Records) -> str:
    """A Markdown table with one line a row, with ACC, ASR and CPU seconds for each data set.

    Mean ± sample deviation over seeds; where a row has another number of seeds than the first one,
    the number stands behind it.
    """
    lines = gather(records)
    some = lines["cpu_seconds"].notna() & (lines["n"] < max(lines["n"], default=0))
    few = (" (n = " + lines["n"].map(str) + ")").where(some, "")
    told = {
        "ACC": lines["accuracy"].map(str) + few,
        "ASR": lines["attack_success_rate"].map(str),
        "CPU s": lines["cpu_seconds"].map(_whole),
    }
    table = pd.DataFrame({"row": lines["label"].unique()})
    for name in lines["data"].unique():
        here = lines.index[lines["data"] == name]
        for what, column in told.items():
            by_row = pd.Series(column[here].values, lines["label"][here])
            by_row = by_row[~by_row.index.duplicated()]
            missing = "not run" if what == "ACC" else ""
            table[f"{name}: {what}"] = table["row"].map(by_row).fillna(missing)
    return grid(table)


def _whole(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f}"
