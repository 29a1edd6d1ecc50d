"""The command line: `python -m ibau_lab reproduce …`; each command's own help says the rest."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "zoo": "ibau_lab.zoo",
    "reproduce": "ibau_lab.runner",
    "rerun": "ibau_lab.rerun",
    "tables": "ibau_lab.report",
    "near_duplicates": "ibau_lab.near_duplicates",
    "diagnoses": "ibau_lab.diagnoses",
    "candidates": "ibau_lab.candidates",
    "indirect": "ibau_lab.indirect",
    "projects": "ibau_lab.projects.command",
}
HELP = """usage: python -m ibau_lab COMMAND …

  zoo        train poisoned networks, or print the table of those that are recorded
  reproduce  run the cells of the talk's tables, list them, or estimate their time
  rerun      run a recorded cell again, and say whether it agrees
  tables     print what is recorded of the tables, beside the talk's numbers
  near_duplicates
             count the test images that are nearly among the clean ones
  diagnoses  see in which networks of the zoo a class stands out
  candidates run the settings from which I-BAU's defaults were chosen
  indirect   run I-BAU with and without the indirect term, in pairs, on drawn signs
  projects   grade a submission or a folder of them, or export a project to Otter or nbgrader

python -m ibau_lab COMMAND --help says the rest."""


def main(arguments: list[str] | None = None) -> int:
    """Hand the arguments to the command that the first of them names; 2 if there is none."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["--help"], ["-h"]):
        print(HELP)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        print(HELP, file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(COMMANDS[arguments[0]])
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        print('the laboratory needs pandas: pip install "ibau_lite[lab]"', file=sys.stderr)
        return 2
    status: int = command.main(arguments[1:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
