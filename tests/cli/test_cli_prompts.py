"""`--prompts` chooses the prompts of attacks and evaluations; options with an older name for it work, unlisted."""

import json

import pytest
from program import safereason

# Each command with its old name of the option, and sources that its dry run reads without a network.
COMMANDS = {
    "attack": (("attack", "prefill", "--recipe", "tars-smoke"), "--behaviors", ("sample",)),
    "attack rainbow": (
        ("attack", "rainbow", "--recipe", "tars-smoke", "--mutator", "openai/none"),
        "--seeds",
        ("sample-brief",),
    ),
    "eval": (("eval", "harmbench", "--recipe", "tars-smoke"), "--source", ("sample",)),
    "eval guard": (
        ("eval", "guard", "--recipe", "rsafe-smoke"),
        "--set",
        ("sample-verdicts", "sample"),
    ),
}


def choosing(option: str, sources: tuple[str, ...]) -> list[str]:
    words: list[str] = []
    for source in sources:
        words += [option, source]
    return words


@pytest.mark.parametrize("name", COMMANDS)
def test_the_old_name_does_what_the_new_one_does(name, tmp_path):
    command, old_name, sources = COMMANDS[name]
    plan = ("--root", tmp_path, "--dry-run", "--json")
    new = safereason(*command, *choosing("--prompts", sources), *plan)
    old = safereason(*command, *choosing(old_name, sources), *plan)
    assert (new.returncode, new.stderr) == (0, "")
    assert (old.returncode, old.stdout, old.stderr) == (0, new.stdout, "")
    document = json.loads(new.stdout)
    # Rainbow teaming has an outline in place of steps.
    planned = json.dumps(document.get("steps") or document["plan"])
    assert all(source in planned for source in sources)


@pytest.mark.parametrize("name", COMMANDS)
def test_both_names_at_once_are_an_input_error(name, tmp_path):
    command, old_name, sources = COMMANDS[name]
    words = (*choosing("--prompts", sources), *choosing(old_name, sources))
    done = safereason(*command, *words, "--root", tmp_path, "--dry-run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: --prompts and {old_name} are the same option; pass --prompts only\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_new_name_only(name):
    command, old_name, _ = COMMANDS[name]
    listed = safereason(*command[:2], "--help").stdout.split()
    assert "--prompts" in listed
    assert old_name not in listed


def test_a_source_that_is_not_known_is_named_under_either_name(tmp_path):
    for option in ("--prompts", "--source"):
        words = ("eval", "harmbench", "--model", "embedded/smollm2-135m", option, "smaple")
        done = safereason(*words, "--root", tmp_path)
        assert done.returncode == 2
        assert "source smaple: is not known; did you mean sample?" in done.stderr
