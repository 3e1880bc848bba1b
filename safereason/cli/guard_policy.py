"""`safereason guard policy`: the policies by which a guard can judge: list, show and check them."""

from dataclasses import asdict
from typing import Annotated

import typer

from safereason.cli import groups, output
from safereason.cli import options as opt
from safereason.errors import InputError

app = groups.group("List, show and check the policies a guard can judge by.")

Spec = Annotated[str, typer.Argument(metavar="POLICY", help="A shipped policy or a YAML file.")]


@app.command("ls", epilog=opt.examples("safereason guard policy ls", "safereason guard policy ls --json"))
def list_policies(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the shipped policies."""
    from safereason.guard import policy as policies

    documents: list[dict[str, object]] = []
    rows: list[tuple[object, ...]] = []
    for name in policies.shipped():
        policy = policies.load(name)
        count = len(policy.categories)
        documents.append({"name": policy.name, "categories": count, "title": policy.title, "source": policy.source})
        rows.append((policy.name, count, policy.title, policy.source))
    if as_json:
        output.print_json(documents)
    else:
        output.print_table(("policy", "categories", "what it lists", "source"), rows)


@app.command(
    "show",
    epilog=opt.examples("safereason guard policy show wildguard", "safereason guard policy show default --yaml"),
)
def show_policy(
    policy: Spec,
    as_json: opt.Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a file to start one of your own from.")] = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print the categories of a policy."""
    from safereason.guard import policy as policies

    # Both go to stdout, where they would be one broken document.
    if as_json and as_yaml:
        raise InputError("--json and --yaml exclude each other; pass one of them")
    loaded = policies.load(policy)
    if as_json:
        output.print_json(asdict(loaded))
    elif as_yaml:
        # Without the name: a file of a person's own must not pass for a shipped policy.
        print(policies.to_yaml(loaded, named=False), end="")
    else:
        rows = [(category.id, category.name, category.definition) for category in loaded.categories]
        output.print_table(("id", "name", "definition"), rows)


@app.command(
    "validate",
    epilog=opt.examples("safereason guard policy validate mine.yaml"),
)
def validate_policy(
    policy: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file.")], verbose: opt.Verbose = False
) -> None:
    """Check a policy: its keys and texts, and that no id or name is there twice."""
    from safereason.guard.policy import load

    count = len(load(policy).categories)
    print(f"{policy}: ok, {count} {'category' if count == 1 else 'categories'}")
