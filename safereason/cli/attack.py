"""`safereason attack`: prompts that elicit behaviors."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from safereason.attacks import NOT_YET
from safereason.cli import catalog, output, pending
from safereason.cli import options as opt
from safereason.errors import InputError

app = opt.group("Find prompts that elicit behaviors.")


@app.command("ls", epilog=opt.examples("safereason attack ls", "safereason attack ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the attacks, and which of them this version has."""
    found = catalog.listing()["attacks"]
    if as_json:
        output.print_json(found)
    else:
        rows = [(entry["name"], "yes" if entry["there"] else "not yet", entry["summary"]) for entry in found]
        output.print_table(("attack", "there", "what it does"), rows)


@app.command(
    "direct",
    epilog=opt.examples(
        "safereason attack direct --limit 5", "safereason attack direct --behaviors sample --out cases.jsonl"
    ),
)
def direct(
    behaviors: Annotated[
        str, typer.Option("--behaviors", metavar="SOURCE", help="A data source, or a file of examples.")
    ] = "harmbench",
    limit: opt.Limit = None,
    out: opt.Out = None,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write each harmful behavior in its own words as a test case, as JSONL on stdout or to --out."""
    from safereason.attacks.direct import attack
    from safereason.data import sources
    from safereason.runs.records import write_text

    harmful = [example for example in sources.get(behaviors).load("test") if example.kind == "harmful"][:limit]
    cases = [asdict(case) for case in attack(harmful)]
    if out is not None and out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another --out or pass --overwrite")
    lines = "".join(f"{json.dumps(case, ensure_ascii=False)}\n" for case in cases)
    if out is not None:
        write_text(out, lines)
    if as_json:
        output.print_json(cases)
    elif out is None:
        sys.stdout.write(lines)
    else:
        print(f"{len(cases)} test cases in {out}")


for name, summary in catalog.ATTACKS.items():
    if name in NOT_YET:
        pending.add(app, f"attack {name}", summary, f"safereason attack {name} --model runs/rl/RUN")
