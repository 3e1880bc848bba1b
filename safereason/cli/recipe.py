"""`safereason recipe`: list, show, copy, check and compare recipes."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

app = opt.group("List, show, copy, check and compare recipes.")

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.")]


@app.command("ls", epilog=opt.examples("safereason recipe ls", "safereason recipe ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the shipped recipes."""
    from safereason.recipe.load import shipped

    recipes = [{"name": path.stem, "summary": _summary(path), "path": str(path)} for path in shipped()]
    if as_json:
        output.print_json(recipes)
    else:
        output.print_table(("recipe", "what it reproduces"), [(r["name"], r["summary"]) for r in recipes])


@app.command(
    "show",
    epilog=opt.examples("safereason recipe show tars-1.5b", "safereason recipe show tars-1.5b rl.kl_coef=0 --sources"),
)
def show(
    name: Name,
    overrides: opt.Overrides = None,
    sources: Annotated[bool, typer.Option("--sources", help="Print each value beside where it comes from.")] = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print a recipe as it resolves: parents, defaults and overrides put in."""
    from safereason.recipe import load, provenance

    recipe = load.load(name, overrides or [])
    origins = provenance.sources(recipe) if sources else {}
    if as_json and sources:
        output.print_json({key: {"value": value, "source": origins.get(key)} for key, value in load.leaves(recipe)})
    elif as_json:
        output.print_json(load.resolved(recipe))
    elif sources:
        rows = [(key, output.short(value), origins.get(key, "")) for key, value in load.leaves(recipe)]
        output.print_table(("key", "value", "source"), rows)
    else:
        print(load.to_yaml(recipe), end="")


@app.command("cp", epilog=opt.examples("safereason recipe cp tars-smoke mine.yaml"))
def cp(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; its name ends in .yaml.")],
    verbose: opt.Verbose = False,
) -> None:
    """Copy a recipe to a file of your own, comments and all."""
    from safereason.recipe.load import find

    target = file / f"{Path(name).stem}.yaml" if file.is_dir() else file
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"{target}: a recipe's file ends in .yaml; give it that name")
    content = find(name).read_bytes()
    try:
        with target.open("xb") as made:  # of two at once, one makes the file
            made.write(content)
    except FileExistsError as error:
        raise InputError(f"{target}: exists already; choose another name or remove it first") from error
    except FileNotFoundError as error:
        raise InputError(f"{target}: its folder does not exist; make it first") from error
    print(target)


@app.command(
    "validate",
    epilog=opt.examples("safereason recipe validate tars-smoke", "safereason recipe validate tars-1.5b tars-7b --json"),
)
def validate(
    names: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Shipped recipes or YAML files.")],
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Check recipes: their keys, types, values, and that each figure says where it comes from."""
    from safereason.recipe import load, provenance

    found: dict[str, list[str]] = {}
    for name in names:
        try:
            found[name] = list(provenance.validate(load.load(name, [])))
        except InputError as error:
            found[name] = [str(error)]
    bad = [name for name, problems in found.items() if problems]
    if as_json:
        output.print_json(
            [{"recipe": name, "ok": not problems, "problems": problems} for name, problems in found.items()]
        )
    else:
        for name, problems in found.items():
            print("\n".join(problems) if problems else f"{name}: ok")
    if bad:
        raise InputError(f"{len(bad)} of {len(found)} recipes did not validate: {', '.join(bad)}")


@app.command("diff", epilog=opt.examples("safereason recipe diff tars-1.5b tars-7b"))
def diff(first: Name, second: Name, as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Print the keys at which two resolved recipes differ, with both values."""
    from safereason.recipe.load import leaves, load

    one, two = dict(leaves(load(first, []))), dict(leaves(load(second, [])))
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key) and key != "name"]
    if as_json:
        output.print_json({key: {first: one.get(key), second: two.get(key)} for key in keys})
    elif keys:
        output.print_table(
            ("key", first, second), [(key, output.short(one.get(key)), output.short(two.get(key))) for key in keys]
        )
    else:
        print(f"{first} and {second} resolve to the same recipe")


def _summary(path: Path) -> str:
    """The first comment line of a recipe's file."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
