"""What the talk reports: Tables 1 to 6 and its ✓/✗ matrix as data, as printed there.

Accuracies and attack success rates in per cent, times in seconds. Source: the slides of Zeng, Chen,
Park, Mao, Jin, Jia, *Adversarial Unlearning of Backdoors via Implicit Hypergradient* (ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """One printed result: clean accuracy and attack success rate in per cent, and its table.

    Both are None where the talk prints × (no trigger was found). `rate` is the poisoning rate,
    `clean` how many clean images the defender has, `by_trigger` the ASR of each trigger where the
    network has seven (Table 3); `attack_success_rate` is their printed average then.
    """

    data: str
    attack: str
    defense: str
    accuracy: float | None
    attack_success_rate: float | None
    table: str
    rate: float = 0.2
    clean: int = 5000
    by_trigger: tuple[tuple[str, float], ...] = ()

    def told(self, number: str = "{:.2f} %") -> list[str]:
        """ACC and ASR as text."""
        numbers = (self.accuracy, self.attack_success_rate)
        return ["×" if each is None else number.format(each) for each in numbers]


# A column a defence; in each cell ACC and ASR.
_TABLE_1 = """
no-defence   NC           DI           TABOR        FP           NAD          DP           I-BAU
badnets      84.94 98.28  83.42  8.76  82.12 48.50  83.78  8.12  82.22 96.66  78.72 11.66  11.08 21.77  83.35 12.30
blend        84.82 99.78  83.08 33.96  81.84 52.62  83.42 21.26  81.24 89.78  77.48 13.02  11.68 13.72  82.30 12.96
l0_inv       85.36 100    83.02  8.78  83.40 29.1   82.27  8.16  82.18 100    65.08  7.22  12.48 25.22  84.08  9.54
l2_inv       85.26 100    80.68  8.08  82.46  7.82  80.30 11.64  81.50 98.94  43.18 12.56  11.58 20.57  83.48  7.48
smooth       85.34 99.24  83.72 46.88  83.32 61.82  84.14 45.94  82.66  9.44  77.22 54.38  10.70 28.14  83.46 18.30
trojan_sq    84.76 99.66  81.30  8.02  83.14  6.94  81.38  7.06  82.34 99.50  51.86  7.84  10.70 18.26  83.18  9.82
trojan_wm    84.92 99.96  81.76  6.02  82.88  7.24  82.60 49.26  81.64 99.88  56.84  0.82  15.21 32.89  83.58  3.42
all_to_all   86.38 85.02  85.38 82.88  84.74 56.38  ×     ×      84.48 66.46  75.70  2.34  14.80 10.93  80.34 10.46
"""  # noqa: E501

_TABLE_2 = """
no-defence   TABOR        FP           NAD          DP           I-BAU
badnets      97.69 99.18  98.99  4.16  99.34 60.19  15.19  9.08   6.46 100    99.38  3.32
blend        97.44 99.91  99.09 33.32  99.52 69.66  47.71 18.48   5.70 100    98.89  5.01
l0_inv       97.72 100    98.80  0.47  99.41 74.86  17.41  1.20   7.40 88.23  99.24  0.42
l2_inv       97.57 99.91  98.51  0.41  99.53 40.46  15.50  1.16   5.46 100    97.75  0.45
smooth       97.87 99.89  98.62  0.47  99.55 47.75  10.06  0.70   5.94 95.58  98.96  0.22
trojan_sq    98.12 99.98  99.06  5.70  99.48 75.96  23.31 14.68   5.51 100    99.04  5.11
trojan_wm    97.84 100    98.63  5.40  99.45 69.82  11.16 13.62   5.70 100    99.44  2.55
all_to_all   97.10 95.42  98.63 47.07  99.45 67.34  25.53  0.42   5.87  5.70  99.13  0.04
"""

# Rows: ACC, the printed average ASR, and the ASR of each trigger.
_TABLE_3 = {
    "cifar10": """
           no-defence  NC  DI     TABOR  FP     NAD    DP     I-BAU
ACC        85.96       ×   83.74  84.04  83.42  77.38  11.18  77.44
average    98.37       ×   30.37  40.68  73.18  10.93  12.83  12.96
trojan_wm  99.92       ×    9.68  28.02  99.7   18.38  13.40  11.48
trojan_sq  99.42       ×   13.78  19.56  99.36  11.94   2.58  10.80
badnets    94.5        ×   72.6    9.16   9.56  13.32   6.94  18.64
smooth     97.08       ×   30.58  89.70   9.32   8.38   6.28  15.22
blend      98.12       ×   48.84  50.84  96.14   8.46  27.98  18.24
l0_inv     100         ×   23.78  80.96  99.88   9.88  18.02   9.46
l2_inv     99.54       ×   13.34   6.52  98.32   6.16  14.62   6.92
""",
    "gtsrb": """
           no-defence  NC     DI     TABOR  FP     NAD    DP     I-BAU
ACC        97.18       68.72  99.33  76.38  99.36  10.83   6.17  99.09
average    99.37       10.87   7.21  11.89   9.38  11.59  42.86   4.18
trojan_wm  99.49        4.00   3.60   3.86   1.56   6.61  100     1.78
trojan_sq  99.59        2.79   6.26   2.33   0.12   4.14    0     5.68
badnets    98.19        6.61   0.47  10.29  14.09   4.79    0     0.72
smooth     99.89        8.56   6.92  15.28  10.05   2.83  100     5.65
blend      99.15       46.89  22.66  45.91  29.69  41.54  100     3.76
l0_inv     100          1.31   5.15   1.06   0.59  17.70    0     5.25
l2_inv     99.33        5.94   5.43   4.52   9.60   3.52    0     6.46
""",
}

# Trojan WM on CIFAR-10. The first number of a row is the poisoning rate in per cent.
_TABLE_4 = """
no-defence  NC  DI  TABOR  FP  NAD  DP  I-BAU
5.0  86.58 99.88  83.14  5.58  78.63 10.40  × ×  83.16 99.72  79.74  6.34  36.80 96.84  84.76  9.78
0.5  86.42 98.58  84.16 12.9   83.56 20.22  × ×  84.72 93.78  80.92 28.6   39.92 61.27  83.22 13.08
"""

# Trojan WM on CIFAR-10. The first number of a row is how many clean images there are.
_TABLE_5 = """
no-defence  NC  DI  TABOR  FP  NAD  I-BAU
2500  84.92 99.96  78.39   6.53  80.63 10.07  80.23  33.40   81.36 99.58  46.8   7.12  82.21  6.96
500   84.92 99.96  78.24  25.66  80.17  1.14  77.03  21.92   78.1  85.68  38.5   9.08  80.07  5.20
100   84.92 99.96  84.101 99.92  69.51  1.12  83.495 99.687  73.00 97.80  36.14  5.76  76.9   4.00
"""

_TABLE_6 = """
cifar10  gtsrb
NC        384.92  1864.96
DI        394.38   472.21
TABOR    1123.31  3529.70
FP         45.33    83.78
NAD        79.90    79.14
I-BAU       6.82     7.84
"""

_FEATURES = """
NC  DI  TABOR  FP  NAD  I-BAU
one-trigger-one-target      ✗ ✗ ✗ ✗ ✗ ✓
multi-target                ✗ ✗ ✗ ✗ ✓ ✓
poisoning-rate-insensitive  ✓ ✗ ✗ ✗ ✗ ✓
data-set-agnostic           ✓ ✓ ✓ ✓ ✗ ✓
low-clean-access            ✗ ✗ ✗ ✗ ✗ ✓
"""


def _grid(text: str) -> dict[str, dict[str, list[str]]]:
    """Row -> column -> its cells: one, or ACC and ASR. The first line has the columns' names."""
    head, *lines = (line.split() for line in text.strip().splitlines())
    names = [name.replace("no-defence", "no defence") for name in head]
    width = (len(lines[0]) - 1) // len(names)
    return {
        row: {name: cells[width * k : width * (k + 1)] for k, name in enumerate(names)}
        for row, *cells in lines
    }


def _columns(text: str) -> dict[str, dict[str, str]]:
    """Column -> row -> its only cell."""
    rows = _grid(text)
    names = next(iter(rows.values()))
    return {name: {row: cells[name][0] for row, cells in rows.items()} for name in names}


def _number(printed: str) -> float | None:
    return None if printed == "×" else float(printed)


def _cells(number: int, text: str, told: Callable[[str], dict[str, Any]]) -> Iterator[Published]:
    """The cells of a table with two numbers in each; `told` says what a row's first word means."""
    for row, cells in _grid(text).items():
        for name, (acc, asr) in cells.items():
            fixed = {"data": "cifar10", "attack": "trojan_wm", **told(row)}
            yield Published(
                defense=name, accuracy=_number(acc), attack_success_rate=_number(asr),
                table=f"Table {number}", **fixed,
            )  # fmt: skip


def _seven() -> Iterator[Published]:
    for data, text in _TABLE_3.items():
        for name, column in _columns(text).items():
            printed = {row: _number(cell) for row, cell in column.items()}
            acc, average = printed.pop("ACC"), printed.pop("average")
            each = tuple((row, asr) for row, asr in printed.items() if asr is not None)
            yield Published(data, "seven_to_seven", name, acc, average, "Table 3", by_trigger=each)


PUBLISHED: tuple[Published, ...] = (
    *_cells(1, _TABLE_1, lambda attack: {"attack": attack}),
    *_cells(2, _TABLE_2, lambda attack: {"attack": attack, "data": "gtsrb"}),
    *_seven(),
    *_cells(4, _TABLE_4, lambda rate: {"rate": float(rate) / 100}),
    *_cells(5, _TABLE_5, lambda clean: {"clean": int(clean)}),
)
"""Every cell of Tables 1 to 5, the column "no defence" included."""

SECONDS: dict[str, dict[str, float]] = {
    data: {name: float(printed) for name, printed in column.items()}
    for data, column in _columns(_TABLE_6).items()
}
"""Table 6: average time in seconds for a defence to be effective, one trigger and one target."""

FEATURES: dict[str, dict[str, bool]] = {
    name: {feature: mark == "✓" for feature, mark in column.items()}
    for name, column in _columns(_FEATURES).items()
}
"""The talk's matrix: defence -> feature -> ✓ or ✗. Its last row, overhead, is Table 6's GTSRB."""


def table(name: str) -> tuple[Published, ...]:
    """The cells of "Table 1" to "Table 5", row by row; `KeyError` for another name."""
    cells = tuple(entry for entry in PUBLISHED if entry.table == name)
    if not cells:
        known = ", ".join(dict.fromkeys(entry.table for entry in PUBLISHED))
        raise KeyError(f"{name} is not transcribed as cells; known: {known}")
    return cells


def printed(
    column: str, data: str, attack: str, rate: float = 0.2, clean: int = 5000
) -> Published | None:
    """The cell of a row in a column, if the talk has it; Table 4 is Trojan WM at other rates."""
    return _BY_PLACE.get((column, data, attack, rate, clean))


_BY_PLACE = {(e.defense, e.data, e.attack, e.rate, e.clean): e for e in PUBLISHED}
