"""`safereason data verify`: what is wrong with each bad row of a file."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import say
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.data.verify import Problem, Tally

EXAMPLES = opt.examples("safereason data verify prompts.jsonl", "safereason data verify prompts.jsonl --json")
LISTED = 1000
"""Most problems in a JSON document."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file of examples, or a YAML file that describes one.")]


def verify(file: File, as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Check every row of a file of examples, and name each bad one by its line."""
    from safereason.data.verify import Tally, check

    tally = Tally()
    problems = check(file, tally)
    if as_json:
        output.print_json(_document(file, problems, tally))
    else:
        for problem in problems:
            print(output.visible(f"{file}:{problem.line}: {problem.text}"))
    if tally.bad:
        for kind, count in tally.kinds.most_common():
            say(output.visible(f"{count:>9}  {kind}"))
        are = "is" if tally.bad == 1 else "are"
        raise InputError(f"{file}: {tally.bad} of {tally.rows} rows {are} bad; mend or delete them")
    if not as_json:
        print(f"{file}: ok, {tally.rows} rows")


def _document(file: Path, problems: "Iterator[Problem]", tally: "Tally") -> dict[str, Any]:
    listed = [{"line": p.line, "kind": p.kind, "problem": p.text} for p in islice(problems, LISTED)]
    left_out = sum(1 for _ in problems)
    return {
        "file": str(file),
        "rows": tally.rows,
        "bad": tally.bad,
        "kinds": dict(tally.kinds.most_common()),
        "problems": listed,
        "problems_left_out": left_out,
    }
