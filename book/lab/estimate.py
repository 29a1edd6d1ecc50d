"""How long the cells that are left may take, from those that were run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .plan import Cell
from .records import Records, device, provenance, usual_device

_KIND = ["defense", "data", "profile"]
_NETWORK = ["data", "attack", "rate", "network_seed"]


def estimate(cells: Sequence[Cell], records: Records, jobs: int = 1) -> str:
    """A line a defence and data set: cells left, seconds of one, hours of all.

    A cell's time is the mean of the recorded ones with the same defence, data set and profile on
    this machine's GPU or processor; without any, on the one that most of them used, which is named;
    where there is none at all, it says so and the total leaves it out. The networks that must be
    trained and that no finished cell has used are added, with the mean time of a recorded training.
    """
    told = [record for record in records if "cell" in record and "error" not in record]
    clocks = ["cell_seconds", "network_seconds"]
    done = pd.DataFrame(
        [
            {**r["cell"], **{clock: r[clock] for clock in clocks}, "device": device(r), "record": r}
            for r in told
        ],
        columns=[*_KIND, *_NETWORK[1:], *clocks, "device", "record"],
    )
    left = pd.DataFrame(
        [{**cell.told, "needs": bool(cell.needs)} for cell in cells],
        columns=[*_KIND, *_NETWORK[1:], "needs"],
    )
    here, hours, unknown, lines = device(provenance()), 0.0, 0, []
    for (defense, data, profile), group in left.groupby(_KIND, sort=False):
        like = done[(done[_KIND] == [defense, data, profile]).all(axis=1)]
        where = here if here in set(like["device"]) else usual_device(like["record"])
        mean = like.loc[like["device"] == where, "cell_seconds"].mean()
        head = f"{data:<8} {defense:<9} {len(group):4d} × "
        if like.empty:
            unknown += len(group)
            lines.append(f"{head}? (none is recorded in profile {profile})")
        else:
            hours += len(group) * mean / 3600
            elsewhere = "" if where == here else f" on {where}"
            lines.append(f"{head}{mean:.0f} s = {len(group) * mean / 3600:.2f} h{elsewhere}")
    for (data, profile), group in left.groupby(_KIND[1:], sort=False):
        like = done[(done[_KIND[1:]] == [data, profile]).all(axis=1)]
        seen = set(like[_NETWORK].itertuples(index=False, name=None))
        asked = set(group.loc[group["needs"], _NETWORK].itertuples(index=False, name=None))
        if not (count := len(asked - seen)):
            continue
        # A cell says 0.0 where its network came with the package.
        trained = like.drop_duplicates(_NETWORK, keep="last")["network_seconds"]
        mean = trained[trained > 0].mean()
        head = f"{data:<8} {'networks':<9} {count:4d} × "
        if pd.isna(mean):
            lines.append(f"{head}? (no training is recorded in profile {profile})")
        else:
            hours += count * mean / 3600
            lines.append(f"{head}{mean:.0f} s = {count * mean / 3600:.2f} h at most")
    left_out = f", and {unknown} cells of unknown length" if unknown else ""
    lines.append(f"about {hours / jobs:.1f} h with {jobs} at a time{left_out}")
    return "\n".join(lines)
