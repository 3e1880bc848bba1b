"""`safereason guard policy`: list, show and check the policies a guard can judge by."""

from dataclasses import asdict
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

app = opt.group("List, show and check the policies a guard can judge by.")

Spec = Annotated[str, typer.Argument(metavar="POLICY", help="A shipped policy or a YAML file.")]


@app.command("ls", epilog=opt.examples("safereason guard policy ls", "safereason guard policy ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the shipped policies."""
    from safereason.guard import policy as policies

    found = [policies.load(name) for name in policies.shipped()]
    rows = [{"name": p.name, "categories": len(p.categories), "title": p.title, "source": p.source} for p in found]
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(("policy", "categories", "what it lists", "source"), [tuple(row.values()) for row in rows])


@app.command(
    "show",
    epilog=opt.examples("safereason guard policy show wildguard", "safereason guard policy show default --yaml"),
)
def show(
    policy: Spec,
    as_json: opt.Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a file to start one of your own from.")] = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print the categories of a policy."""
    from safereason.guard import policy as policies

    if as_json and as_yaml:
        raise InputError("--json and --yaml exclude each other; pass one of them")
    found = policies.load(policy)
    if as_json:
        output.print_json(asdict(found))
    elif as_yaml:
        print(policies.to_yaml(found, named=False), end="")
    else:
        rows = [(category.id, category.name, category.definition) for category in found.categories]
        output.print_table(("id", "name", "definition"), rows)


@app.command(
    "validate",
    epilog=opt.examples("safereason guard policy validate mine.yaml"),
)
def validate(
    policy: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file.")], verbose: opt.Verbose = False
) -> None:
    """Check a policy: its keys and texts, and that no id or name is there twice."""
    from safereason.guard.policy import load

    count = len(load(policy).categories)
    print(f"{policy}: ok, {count} {'category' if count == 1 else 'categories'}")
