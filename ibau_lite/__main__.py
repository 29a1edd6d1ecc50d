"""The command line: `python -m ibau_lite reproduce …`; each command's own help says the rest."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "zoo": "ibau_lite.experiments.zoo",
    "reproduce": "ibau_lite.experiments.runner",
    "tables": "ibau_lite.experiments.report",
}


def main(arguments: list[str] | None = None) -> int:
    """Hand the arguments to the command that the first of them names; 2 if there is none."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python -m ibau_lite {{{','.join(COMMANDS)}}} …", file=sys.stderr)
        return 2
    status: int = importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
