"""`safereason data verify`: the fault of each bad row in a file."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import say
from safereason.errors import InputError
from safereason.text.visible import visible

if TYPE_CHECKING:
    from safereason.data.verify import Problem, VerifyCounts

EXAMPLES = opt.examples("safereason data verify prompts.jsonl", "safereason data verify prompts.jsonl --json")
# The most problems in a JSON document, which has to fit into memory; lines of text are printed one by one.
LISTED = 1000

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A file of examples, or a YAML file that describes one.")
]


def verify(file: FileArgument, as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Check every row of a file of examples, and name each bad one by its line."""
    from safereason.data.verify import VerifyCounts, check_rows

    tally = VerifyCounts()
    problems = check_rows(file, tally)
    if as_json:
        output.print_json(_verify_document(file, problems, tally))
    else:
        for problem in problems:
            print(visible(f"{file}:{problem.line}: {problem.text}"))
    # The tally is complete only now: `check` counts while its problems are iterated over.
    if tally.bad:
        for kind, count in tally.kinds.most_common():
            say(visible(f"{count:>9}  {kind}"))
        are = "is" if tally.bad == 1 else "are"
        raise InputError(f"{file}: {tally.bad} of {tally.rows} rows {are} bad; mend or delete them")
    if not as_json:
        print(f"{file}: ok, {tally.rows} rows")


def _verify_document(file: Path, problems: "Iterator[Problem]", tally: "VerifyCounts") -> dict[str, object]:
    """The counts of good and bad rows, and the first problems; it reads the file to its end."""
    listed: list[dict[str, object]] = []
    for problem in islice(problems, LISTED):
        listed.append({"line": problem.line, "kind": problem.kind, "problem": problem.text})
    # Counting the rest also completes the tally.
    left_out = sum(1 for _ in problems)
    return {
        "file": str(file),
        "rows": tally.rows,
        "bad": tally.bad,
        "kinds": dict(tally.kinds.most_common()),
        "problems": listed,
        "problems_left_out": left_out,
    }
