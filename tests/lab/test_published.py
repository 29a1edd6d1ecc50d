"""The transcription against the slides' lines, copied here as text and read another way."""

from __future__ import annotations

import re

import pytest

from ibau_lab import published
from ibau_lab.published import FEATURES, PUBLISHED, SECONDS, Published

TABLE_1 = """
BadNets 84.94 98.28 83.42 8.76 82.12 48.50 83.78 8.12 82.22 96.66 78.72 11.66 11.08 21.77 83.35 12.30
Blend 84.82 99.78 83.08 33.96 81.84 52.62 83.42 21.26 81.24 89.78 77.48 13.02 11.68 13.72 82.30 12.96
l_0 inv 85.36 100 83.02 8.78 83.40 29.1 82.27 8.16 82.18 100 65.08 7.22 12.48 25.22 84.08 9.54
l_2 inv 85.26 100 80.68 8.08 82.46 7.82 80.30 11.64 81.50 98.94 43.18 12.56 11.58 20.57 83.48 7.48
Smooth 85.34 99.24 83.72 46.88 83.32 61.82 84.14 45.94 82.66 9.44 77.22 54.38 10.70 28.14 83.46 18.30
Trojan SQ 84.76 99.66 81.30 8.02 83.14 6.94 81.38 7.06 82.34 99.50 51.86 7.84 10.70 18.26 83.18 9.82
Trojan WM 84.92 99.96 81.76 6.02 82.88 7.24 82.60 49.26 81.64 99.88 56.84 0.82 15.21 32.89 83.58 3.42
All to all 86.38 85.02 85.38 82.88 84.74 56.38 × × 84.48 66.46 75.70 2.34 14.80 10.93 80.34 10.46
"""  # noqa: E501

TABLE_2 = """
BadNets 97.69 99.18 98.99 4.16 99.34 60.19 15.19 9.08 6.46 100 99.38 3.32
Blend 97.44 99.91 99.09 33.32 99.52 69.66 47.71 18.48 5.70 100 98.89 5.01
l_0 inv 97.72 100 98.80 0.47 99.41 74.86 17.41 1.20 7.40 88.23 99.24 0.42
l_2 inv 97.57 99.91 98.51 0.41 99.53 40.46 15.50 1.16 5.46 100 97.75 0.45
Smooth 97.87 99.89 98.62 0.47 99.55 47.75 10.06 0.70 5.94 95.58 98.96 0.22
Trojan SQ 98.12 99.98 99.06 5.70 99.48 75.96 23.31 14.68 5.51 100 99.04 5.11
Trojan WM 97.84 100 98.63 5.40 99.45 69.82 11.16 13.62 5.70 100 99.44 2.55
All to all 97.10 95.42 98.63 47.07 99.45 67.34 25.53 0.42 5.87 5.70 99.13 0.04
"""

TABLE_3 = """
ACC 85.96 × 83.74 84.04 83.42 77.38 11.18 77.44
avg. ASR 98.37 × 30.37 40.68 73.18 10.93 12.83 12.96
Trojan WM 99.92 × 9.68 28.02 99.7 18.38 13.40 11.48
Trojan SQ 99.42 × 13.78 19.56 99.36 11.94 2.58 10.80
BadNets 94.5 × 72.6 9.16 9.56 13.32 6.94 18.64
Smooth 97.08 × 30.58 89.70 9.32 8.38 6.28 15.22
Blend 98.12 × 48.84 50.84 96.14 8.46 27.98 18.24
l_0 inv 100 × 23.78 80.96 99.88 9.88 18.02 9.46
l_2 inv 99.54 × 13.34 6.52 98.32 6.16 14.62 6.92
ACC 97.18 68.72 99.33 76.38 99.36 10.83 6.17 99.09
avg. ASR 99.37 10.87 7.21 11.89 9.38 11.59 42.86 4.18
Trojan WM 99.49 4.00 3.60 3.86 1.56 6.61 100 1.78
Trojan SQ 99.59 2.79 6.26 2.33 0.12 4.14 0 5.68
BadNets 98.19 6.61 0.47 10.29 14.09 4.79 0 0.72
Smooth 99.89 8.56 6.92 15.28 10.05 2.83 100 5.65
Blend 99.15 46.89 22.66 45.91 29.69 41.54 100 3.76
l_0 inv 100 1.31 5.15 1.06 0.59 17.70 0 5.25
l_2 inv 99.33 5.94 5.43 4.52 9.60 3.52 0 6.46
"""

TABLE_4 = """
5.0% ACC 86.58 83.14 78.63 × 83.16 79.74 36.80 84.76
ASR 99.88 5.58 10.40 × 99.72 6.34 96.84 9.78
0.5% ACC 86.42 84.16 83.56 × 84.72 80.92 39.92 83.22
ASR 98.58 12.9 20.22 × 93.78 28.6 61.27 13.08
"""

TABLE_5 = """
2,500 ACC 84.92 78.39 80.63 80.23 81.36 46.8 82.21
ASR 99.96 6.53 10.07 33.40 99.58 7.12 6.96
500 ACC 84.92 78.24 80.17 77.03 78.1 38.5 80.07
ASR 99.96 25.66 1.14 21.92 85.68 9.08 5.20
100 ACC 84.92 84.101 69.51 83.495 73.00 36.14 76.9
ASR 99.96 99.92 1.12 99.687 97.80 5.76 4.00
"""

TABLE_6 = """
NC 384.92 1864.96
DI 394.38 472.21
TABOR 1123.31 3529.70
FP 45.33 83.78
NAD 79.90 79.14
Ours 6.82 7.84
"""

MATRIX = """
One-tri-one-tar* ✗ ✗ ✗ ✗ ✗ ✓
Multi-target* ✗ ✗ ✗ ✗ ✓ ✓
Poi-rate insensitive ✓ ✗ ✗ ✗ ✗ ✓
Dataset-agnostic ✓ ✓ ✓ ✓ ✗ ✓
Low clean access ✗ ✗ ✗ ✗ ✗ ✓
Overhead (GTSRB) 1865s 472s 3530s 83.8s 79.1s 7.8s
"""


def figures(line: str) -> list[float | None]:
    """What a line prints after its name: numbers, None for ×; names hold no separate number."""
    words = re.findall(r"(?<=\s)(?:\d+(?:\.\d+)?|×)(?=\s|$)", line)
    return [None if word == "×" else float(word) for word in words]


def lines(text: str) -> list[list[float | None]]:
    return [figures(line) for line in text.strip().splitlines()]


def in_order(cells: tuple[Published, ...], row: object) -> list[list[Published]]:
    """The cells row by row, each row by its key, as they come."""
    rows: dict[object, list[Published]] = {}
    for cell in cells:
        rows.setdefault(row(cell), []).append(cell)  # type: ignore[operator]
    return list(rows.values())


@pytest.mark.parametrize(
    ("name", "text", "columns"), [("Table 1", TABLE_1, 8), ("Table 2", TABLE_2, 6)]
)
def test_one_trigger_tables_hold_what_is_printed(name: str, text: str, columns: int) -> None:
    rows = in_order(published.table(name), lambda cell: cell.attack)
    assert [len(row) for row in rows] == [columns] * 8
    told = [[x for c in row for x in (c.accuracy, c.attack_success_rate)] for row in rows]
    assert told == lines(text)
    names = [re.sub(r"[^a-z0-9]", "", line.lower()) for line in text.strip().splitlines()]
    for row, printed in zip(rows, names, strict=True):
        assert printed.startswith(row[0].attack.replace("_", ""))


def test_table_3_holds_what_is_printed_and_its_averages_are_those_of_its_triggers() -> None:
    cells = published.table("Table 3")
    told = []
    for row in in_order(cells, lambda cell: cell.data):
        assert len(row) == 8
        told += [[c.accuracy for c in row], [c.attack_success_rate for c in row]]
        for number in range(7):
            told.append([c.by_trigger[number][1] if c.by_trigger else None for c in row])
    assert told == lines(TABLE_3)
    for cell in cells:
        if cell.by_trigger:
            mean = sum(asr for _, asr in cell.by_trigger) / 7
            assert cell.attack_success_rate == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize(
    ("name", "text", "columns"), [("Table 4", TABLE_4, 8), ("Table 5", TABLE_5, 7)]
)
def test_tables_of_one_attack_hold_what_is_printed(name: str, text: str, columns: int) -> None:
    rows = in_order(published.table(name), lambda cell: (cell.rate, cell.clean))
    assert [len(row) for row in rows] == [columns] * len(rows)
    told = [x for row in rows for x in ([c.accuracy for c in row], _rates(row))]
    printed = lines(text)
    assert [line[-columns:] for line in printed] == told
    keys = [line.split()[0].replace(",", "") for line in text.strip().splitlines()[::2]]
    for row, key in zip(rows, keys, strict=True):
        assert key == (f"{100 * row[0].rate:.1f}%" if name == "Table 4" else str(row[0].clean))
        assert (row[0].clean if name == "Table 4" else row[0].rate) in (5000, 0.2)


def _rates(row: list[Published]) -> list[float | None]:
    return [cell.attack_success_rate for cell in row]


def test_sums_of_everything_that_is_printed() -> None:
    """Counted from the slides by another program: cells, ×, and the sums of all percentages."""
    found = [cell for cell in PUBLISHED if cell.accuracy is not None]
    assert (len(PUBLISHED), len(PUBLISHED) - len(found)) == (165, 4)
    assert all((c.accuracy is None) == (c.attack_success_rate is None) for c in PUBLISHED)
    percentages = [x for c in found for x in (c.accuracy, c.attack_success_rate)]
    assert all(0 <= x <= 100 for x in percentages)
    assert sum(c.accuracy for c in found) == pytest.approx(11601.006)
    assert sum(c.attack_success_rate for c in found) == pytest.approx(6650.907)


def test_table_6_and_the_matrix() -> None:
    rows = [(line.split()[0].replace("Ours", "I-BAU"), figures(line)) for line in _lines(TABLE_6)]
    assert {name: [SECONDS[d][name] for d in ("cifar10", "gtsrb")] for name, _ in rows} == dict(
        rows
    )
    *marks, overhead = _lines(MATRIX)
    columns = list(FEATURES)
    assert columns == ["NC", "DI", "TABOR", "FP", "NAD", "I-BAU"]
    for number, line in enumerate(marks):
        told = [list(FEATURES[name].values())[number] for name in columns]
        assert told == [word == "✓" for word in line.split()[-6:]]
    for name, printed in zip(columns, overhead.split()[-6:], strict=True):
        decimals = len(printed.rstrip("s").partition(".")[2])
        assert f"{SECONDS['gtsrb'][name]:.{decimals}f}s" == printed


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


def test_a_cell_by_its_place() -> None:
    tabor = published.printed("TABOR", "cifar10", "all_to_all")
    assert tabor is not None and tabor.accuracy is None and tabor.table == "Table 1"
    assert tabor.told() == ["×", "×"]
    rare = published.printed("I-BAU", "cifar10", "trojan_wm", rate=0.005)
    assert rare is not None and rare.told() == ["83.22 %", "13.08 %"]
    assert published.printed("NC", "gtsrb", "badnets") is None
    places = {(c.defense, c.data, c.attack, c.rate, c.clean) for c in PUBLISHED}
    assert len(places) == len(PUBLISHED)


def test_what_is_not_transcribed_is_refused_with_what_is() -> None:
    with pytest.raises(KeyError, match="Table 7 is not transcribed as cells; known: Table 1"):
        published.table("Table 7")
