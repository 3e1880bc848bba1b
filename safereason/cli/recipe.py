"""`safereason recipe`: commands that list, show, copy, check and compare recipes."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import groups, output
from safereason.cli import options as opt
from safereason.errors import InputError

app = groups.group("List, show, copy, check and compare recipes.")

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.")]


@app.command("ls", epilog=opt.examples("safereason recipe ls", "safereason recipe ls --json"))
def list_recipes(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the shipped recipes."""
    from safereason.recipe.named import shipped

    recipes = [{"name": path.stem, "summary": _summary(path), "path": str(path)} for path in shipped()]
    if as_json:
        output.print_json(recipes)
    else:
        output.print_table(("recipe", "what it reproduces"), [(r["name"], r["summary"]) for r in recipes])


@app.command(
    "show",
    epilog=opt.examples("safereason recipe show tars-1.5b", "safereason recipe show tars-1.5b rl.kl_coef=0 --sources"),
)
def show_recipe(
    name: Name,
    overrides: opt.Overrides = None,
    sources: Annotated[bool, typer.Option("--sources", help="Print each value with its source.")] = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print a recipe with its parents, defaults and overrides merged."""
    from safereason.recipe import load, provenance

    recipe = load.load(name, overrides or [])
    # Only where they are requested, since a recipe of a person's own need not have any.
    origins = provenance.sources(recipe) if sources else {}
    if as_json and sources:
        document: dict[str, dict[str, object]] = {}
        for key, value in load.leaves(recipe):
            document[key] = {"value": value, "source": origins.get(key)}
        output.print_json(document)
    elif as_json:
        output.print_json(load.resolved(recipe))
    elif sources:
        rows = [(key, output.short(value), origins.get(key, "")) for key, value in load.leaves(recipe)]
        output.print_table(("key", "value", "source"), rows)
    else:
        print(load.to_yaml(recipe), end="")


@app.command("cp", epilog=opt.examples("safereason recipe cp tars-smoke mine.yaml"))
def copy_recipe(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; its name ends in .yaml.")],
    verbose: opt.Verbose = False,
) -> None:
    """Copy a recipe to a file of your own, comments and all."""
    from safereason.recipe.named import find

    target = file
    if file.is_dir():
        target = file / f"{Path(name).stem}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"{target}: a recipe's file ends in .yaml; give it that name")
    content = find(name).read_bytes()
    try:
        # `x` makes the file or fails, so that of two commands at once neither overwrites the other's.
        with target.open("xb") as new_file:
            new_file.write(content)
    except FileExistsError as error:
        raise InputError(f"{target}: exists already; choose another name or remove it first") from error
    except FileNotFoundError as error:
        raise InputError(f"{target}: its folder does not exist; make it first") from error
    print(target)


@app.command(
    "validate",
    epilog=opt.examples("safereason recipe validate tars-smoke", "safereason recipe validate tars-1.5b tars-7b --json"),
)
def validate_recipes(
    names: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Shipped recipes or YAML files.")],
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Check recipes: their keys, types, values, and that each figure says where it comes from."""
    from safereason.recipe import load, provenance

    problems_by_recipe: dict[str, list[str]] = {}
    for name in names:
        # The first bad recipe is no reason to leave the others unchecked.
        try:
            problems_by_recipe[name] = list(provenance.validate(load.load(name, [])))
        except InputError as error:
            problems_by_recipe[name] = [str(error)]
    documents: list[dict[str, object]] = []
    lines: list[str] = []
    bad: list[str] = []
    for name, problems in problems_by_recipe.items():
        documents.append({"recipe": name, "ok": not problems, "problems": problems})
        if problems:
            bad.append(name)
            lines += problems
        else:
            lines.append(f"{name}: ok")
    if as_json:
        output.print_json(documents)
    else:
        print("\n".join(lines))
    if bad:
        raise InputError(f"{len(bad)} of {len(problems_by_recipe)} recipes did not validate: {', '.join(bad)}")


@app.command("diff", epilog=opt.examples("safereason recipe diff tars-1.5b tars-7b"))
def diff_recipes(first: Name, second: Name, as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Print the keys at which two resolved recipes differ, with both values."""
    from safereason.recipe.load import leaves, load

    first_values = dict(leaves(load(first, [])))
    second_values = dict(leaves(load(second, [])))
    document: dict[str, dict[str, object]] = {}
    rows: list[tuple[str, str, str]] = []
    # A key that only one recipe has differs too, such as those of a section that the other lacks.
    for key in {**first_values, **second_values}:
        one = first_values.get(key)
        two = second_values.get(key)
        # Two recipes always differ in their names.
        if one == two or key == "name":
            continue
        document[key] = {first: one, second: two}
        rows.append((key, output.short(one), output.short(two)))
    if as_json:
        output.print_json(document)
    elif rows:
        output.print_table(("key", first, second), rows)
    else:
        print(f"{first} and {second} resolve to the same recipe")


def _summary(path: Path) -> str:
    """The first comment line of a recipe's file. It is read as text: loading all recipes would take a second."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
