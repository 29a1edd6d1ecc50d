"""How long the cells that are left may take, from those that were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .plan import Cell
from .records import device, provenance, usual_device

__all__ = ["estimate"]


def estimate(cells: Sequence[Cell], records: Iterable[Mapping[str, Any]], jobs: int = 1) -> str:
    """A line a defence and data set: cells left, seconds of one, hours of all.

    A cell's time is the mean of the recorded ones with the same defence, data set and profile on
    this machine's GPU or processor; without any, on the one that most of them used, which is named;
    where there is none at all, it says so and the total leaves it out. The networks that must be
    trained and that no finished cell has used are added, with the mean time of a recorded training.
    """
    done = [record for record in records if "cell" in record and "error" not in record]
    hours, unknown, lines = 0.0, 0, []
    here = device(provenance())
    groups: dict[tuple[str, str, str], int] = {}
    for cell in cells:
        kind = (cell.defense, cell.case.data, cell.profile)
        groups[kind] = groups.get(kind, 0) + 1
    for (defense, data, profile), count in groups.items():
        like = [r for r in _like(done, data, profile) if _is(r, defense=defense)]
        where = here if here in map(device, like) else usual_device(like)
        known = [record["cell_seconds"] for record in like if device(record) == where]
        head = f"{data:<8} {defense:<9} {count:4d} × "
        if not known:
            unknown += count
            lines.append(f"{head}? (none is recorded in profile {profile})")
            continue
        mean = sum(known) / len(known)
        hours += count * mean / 3600
        told = "" if where == here else f" on {where}"
        lines.append(f"{head}{mean:.0f} s = {count * mean / 3600:.2f} h{told}")
    for data, profile in dict.fromkeys((cell.case.data, cell.profile) for cell in cells):
        seen = {_network(r["cell"]) for r in _like(done, data, profile)}
        mine = [cell for cell in cells if (cell.case.data, cell.profile) == (data, profile)]
        asked = {_network(cell.told) for cell in mine if cell.needs}
        # A cell says 0.0 where its network came with the package.
        trained = {_network(r["cell"]): r["network_seconds"] for r in _like(done, data, profile)}
        known = [seconds for seconds in trained.values() if seconds > 0]
        head = f"{data:<8} {'networks':<9} {len(asked - seen):4d} × "
        if asked - seen and known:
            mean = sum(known) / len(known)
            hours += len(asked - seen) * mean / 3600
            lines.append(f"{head}{mean:.0f} s = {len(asked - seen) * mean / 3600:.2f} h at most")
        elif asked - seen:
            lines.append(f"{head}? (no training is recorded in profile {profile})")
    left_out = f", and {unknown} cells of unknown length" if unknown else ""
    lines.append(f"about {hours / jobs:.1f} h with {jobs} at a time{left_out}")
    return "\n".join(lines)


def _like(records: Iterable[Mapping[str, Any]], data: str, profile: str) -> list[Mapping[str, Any]]:
    return [r for r in records if _is(r, data=data, profile=profile)]


def _is(record: Mapping[str, Any], **wanted: str) -> bool:
    return all(record["cell"][name] == value for name, value in wanted.items())


def _network(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("data", "attack", "rate", "network_seed"))
