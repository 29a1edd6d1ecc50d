"""The command line of the projects: grade one file, a folder of them, or export a notebook."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import PROJECTS, board, grade
from .export import FORMATS, export


def main(arguments: Sequence[str]) -> int:
    """Run one of the three commands; 2 and a line on stderr for what cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m ibau_lab projects", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, where, told in (
        ("grade", "file", "the points of one submission"),
        ("board", "folder", "a table of all submissions in a folder, the best first"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("project", choices=list(PROJECTS))
        command.add_argument(where, type=Path)
        command.add_argument("--seed", type=int, default=0, help="what is hidden (default: 0)")
        command.add_argument(
            "--limit", type=float, default=90.0, help="processor seconds (default: 90)"
        )
        command.add_argument(
            "--data",
            choices=["signs", "cifar10", "gtsrb"],
            default="signs",
            help="of the project defence: drawn signs, or the networks that come with the library",
        )
        if name == "board":
            command.add_argument("--csv", type=Path, help="write the table to this file, too")
    command = commands.add_parser("export", help="an instructor's notebook for Otter or nbgrader")
    command.add_argument("kind", choices=list(FORMATS))
    command.add_argument("notebook", type=Path)
    command.add_argument("target", type=Path)
    command.add_argument("--seed", type=int, required=True, help="the hidden seed")
    command.add_argument("--solution", type=Path, required=True, help="a file that is right")
    choice = parser.parse_args(arguments)
    try:
        if choice.command == "export":
            given = (choice.kind, choice.notebook, choice.target)
            export(*given, seed=choice.seed, solution=choice.solution)
            print(f"{choice.target} holds the solution and the seed: it is not for students")
            return 0
        options = {"seed": choice.seed, "limit": choice.limit}
        if choice.project == "defence":
            options["data"] = choice.data
        if choice.command == "grade":
            print(grade(choice.project, choice.file, **options))
            return 0
        table = board(choice.project, choice.folder, **options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(table.to_string())
    if choice.csv:
        table.to_csv(choice.csv)
    return 0
