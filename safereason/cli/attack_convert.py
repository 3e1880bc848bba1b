"""`safereason attack convert`: test cases of one format in another."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.console import say
from safereason.errors import InputError

EXAMPLES = opt.examples(
    "safereason attack convert runs/attack/gcg/RUN/cases.jsonl --to harmbench --out test_cases.json",
    "safereason attack convert PAIR/black_box/vicuna-13b-v1.5.json --to jsonl",
)

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="HarmBench's test cases, completions or results, JailbreakBench's artifact, or our JSONL."
    ),
]
To = Annotated[Literal["harmbench", "jailbreakbench", "jsonl"], typer.Option("--to", help="Format to write.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write, in place of stdout.")]


def convert(
    source: SourceArgument,
    to: To,
    out: Out = None,
    overwrite: opt.OverwriteFile = False,
    verbose: opt.Verbose = False,
) -> None:
    """Convert test cases between HarmBench's, JailbreakBench's and our format; stderr says what was left out."""
    # This comes before the import, which is slow, and before anything is read.
    if out is not None and out.exists():
        if source.exists() and out.samefile(source):
            raise InputError(f"--out {out}: is the file that is read; name another")
        if not overwrite:
            raise InputError(f"{out}: exists already; choose another --out or pass --overwrite")
    from safereason.attacks import formats
    from safereason.runs.records import write_bytes

    rows = formats.read(source)
    converted = formats.write(rows, to)
    # A format that has no place for a value drops it, so a note names every kind of loss.
    for note in converted.notes:
        say(f"{to}: {note}")
    if out is None:
        # Bytes, since the formats are UTF-8 in every locale.
        sys.stdout.buffer.write(converted.content)
        return
    write_bytes(out, converted.content)
    summary = f"{len(rows)} rows in {out}"
    rate = formats.attack_success_rate(rows)
    if rate is not None:
        summary += f"; attack success rate {rate:.3f}"
    print(summary)
