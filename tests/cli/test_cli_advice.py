"""What messages tell a person to do: every command and option they name is there, and is about the case at hand."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from program import safereason

import safereason as package
from safereason import errors
from safereason.cli.app import app
from safereason.cli.groups import whole
from safereason.recipe.load import load
from safereason.recipe.named import reference_of
from safereason.stages.base import COMMANDS, Options, advice

ROOT = typer.main.get_command(app)
SOURCE = Path(package.__file__).parent
FOREIGN = {"--no-deps", "--runner"}
"""Options of other programs."""
MINE = "# A recipe of a person's own.\nextends: {parent}\n"


def parsed(words: list[str]) -> object:
    """The context of a command line; a usage error is raised where it is not to be had."""
    assert words[0] == "safereason"
    command, rest = ROOT, words[1:]
    while hasattr(command, "commands"):
        assert rest
        assert rest[0] in command.commands, f"no command {' '.join(words)}"
        command, rest = whole(command.commands[rest[0]]), rest[1:]
    return command.make_context(" ".join(words), list(rest))


def options(command: object = ROOT) -> set[str]:
    inner = map(whole, getattr(command, "commands", {}).values())
    own = {name for parameter in getattr(command, "params", ()) for name in parameter.opts}
    return own.union(*map(options, inner))


def commands_in(text: str) -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"`(safereason [^`]+)`", text)]


def messages() -> Iterator[tuple[str, str]]:
    """Where a message is made, and its text; what is filled in stands as `X`."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if name in ("InputError", "StageFailed", "BarNotMet", "say", "_refusal", "unscored"):
                for argument in node.args:
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", _text(argument)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} {_text(node.orelse)}"
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, (ast.Constant, ast.IfExp)):
        return _text(node.value)
    return "X"


MESSAGES = list(messages())


def test_messages_are_found():
    assert len(MESSAGES) > 300
    assert sum("--resume" in text for _, text in MESSAGES) > 5
    assert any(commands_in(text) for _, text in MESSAGES)


@pytest.mark.parametrize(("where", "text"), [m for m in MESSAGES if commands_in(m[1])], ids=lambda value: value[:40])
def test_commands_written_out_in_messages_parse(where, text):
    for words in commands_in(text):
        parsed(words)


def test_options_named_in_messages_are_some_commands():
    known = options() | FOREIGN
    named = {
        (where, name)
        for where, text in MESSAGES
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])", text)
    }
    assert {(where, name) for where, name in named if name not in known} == set()


def test_no_message_puts_a_command_together_by_itself():
    """A recipe, a root or a name needs quoting and has to resolve: `errors.command` and `advice` see to that."""
    assert [where for where, text in MESSAGES if re.search(r"`safereason [^`]*X[^`]*`", text)] == []


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("recipe", ["tars-1.5b", "a folder/mine.yaml"])
def test_the_command_behind_each_stage_parses_for_any_recipe_and_root(stage, recipe):
    text = advice(COMMANDS[stage], recipe, Options(root=Path("my runs")))
    (words,) = commands_in(text)
    context = parsed(words)
    assert context.params["recipe"] == recipe
    assert context.params["root"] == Path("my runs")
    assert "--root" not in advice(COMMANDS[stage], recipe, Options())


def test_a_command_is_quoted_for_a_shell():
    assert errors.command("sft", "--recipe", "it's mine.yaml") == "`safereason sft --recipe 'it'\"'\"'s mine.yaml'`"


def test_a_recipe_is_called_what_the_command_line_called_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE.format(parent="tars-smoke"))
    recipe = load(str(path))
    assert (recipe.name, recipe.reference) == ("mine", str(path))
    assert recipe.model_copy(update={"seed": 3}).reference == str(path)
    assert load("tars-smoke").reference == "tars-smoke"
    assert (reference_of("tars-smoke"), reference_of("mine")) == ("tars-smoke", "mine.yaml")


CASES = {
    "sft": (("sft",), ["data build"]),
    "rl": (("rl",), ["sft"]),
    "eval": (("eval", "harmbench"), ["sft"]),
    "attack": (("attack", "prefill", "--prompts", "sample"), []),
    "attack of a trained model": (("attack", "best-of-n", "attack.judge=refusal"), ["sft"]),
    "guard as a judge": (("eval", "harmbench", "--judge", "guard:rsafe-smoke"), ["guard train"]),
}


@pytest.mark.parametrize("case", CASES)
def test_advice_is_about_the_recipe_and_the_root_at_hand(case, tmp_path):
    path, root = tmp_path / "my recipe.yaml", tmp_path / "my runs"
    path.write_text(MINE.format(parent="tars-smoke"))
    command, expected = CASES[case]
    done = safereason(*command, "--recipe", path, "--root", root)
    commands = commands_in(done.stderr)
    assert [" ".join(words[1 : words.index("--recipe")]) for words in commands] == expected, done.stderr
    for words in commands:
        context = parsed(words)
        assert context.params["root"] == root
        assert context.params["recipe"] == ("rsafe-smoke" if case == "guard as a judge" else str(path))


@pytest.mark.parametrize("command", [("data", "build"), ("data", "ls")])
@pytest.mark.parametrize("parent", ["tars-1.5b", "tars-7b"])
def test_the_archive_of_rainbow_teaming_is_to_be_made_for_the_recipe_at_hand(command, parent, tmp_path):
    home, path, root = tmp_path / "home", tmp_path / "mine.yaml", tmp_path / "runs"
    home.mkdir()
    path.write_text(MINE.format(parent=parent))
    for recipe in (parent, str(path)):
        done = safereason(*command, "--recipe", recipe, "--root", root, SAFEREASON_DATA_HOME=str(home))
        commands = [words for words in commands_in(done.stdout + done.stderr) if "rainbow" in words]
        assert [parsed(words).params["recipe"] for words in commands] == [recipe], done.stderr
        plan = safereason(*commands[0][1:], "--dry-run")
        assert plan.returncode == 0, plan.stderr


def test_a_guard_that_was_not_trained_is_trained_by_the_recipe_that_was_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE.format(parent="rsafe-smoke"))
    done = safereason("eval", "guard", "--recipe", path, "--root", tmp_path)
    (words,) = commands_in(done.stderr)
    assert parsed(words).params["recipe"] == str(path)
    named = safereason("eval", "harmbench", "--model", "embedded/smollm2-135m", "--judge", "guard:mine", cwd=tmp_path)
    (words,) = commands_in(named.stderr)
    assert parsed(words).params["recipe"] == "mine.yaml"
    load(str(path.parent / words[-1]))
