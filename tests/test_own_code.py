"""No command runs a model's own code, whatever a row on standard input says."""

import ast
import importlib.util
import io
import json
from pathlib import Path

import own_code
import pytest
from program import safereason

from safereason.cli import errors
from safereason.cli.app import app
from safereason.runs.directory import is_finished

PACKAGE = Path(importlib.util.find_spec("safereason").submodule_search_locations[0])
LOADS = ("from_pretrained", "from_config", "load_dataset", "LLM", "pipeline")
YES = "y\n" * 9
LINE = "wants to run its own code (auto_map in its files), which safereason never does"


def loads_of(source: str) -> list[tuple[int, bool]]:
    """Line of each call that loads something, and whether it says that no code of it runs."""
    loads = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        # A function of ours of this name reads JSON; a classmethod of transformers is asked through its class.
        if name in LOADS and not (name == "from_config" and isinstance(node.func, ast.Name)):
            loads.append((node.lineno, _refuses(node)))
    return loads


def _refuses(call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if None in keywords:  # `LLM(**arguments)`: what they hold is tested by the engine's own tests
        return isinstance(keywords[None], ast.Name) and keywords[None].id == "arguments"
    value = keywords.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def test_every_load_in_the_package_says_that_no_code_of_a_model_runs():
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    loads = {
        f"{path.relative_to(PACKAGE)}:{line}": refuses
        for path, text in sources.items()
        for line, refuses in loads_of(text)
    }
    assert len(loads) >= 8, "the loads are not seen any more"
    assert [place for place, refuses in loads.items() if not refuses] == []


CALLS = [
    "AutoModel.from_pretrained(name)",
    "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
    "AutoModel.from_pretrained(name, trust_remote_code=trusted)",
    "datasets.load_dataset('x')",
    "LLM(model=name)",
    "AutoModel.from_config(config)",
    "x.from_pretrained(name, **named)",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_load_that_does_not_say_so_is_seen(call: str):
    assert loads_of(call) == [(1, False)]


RECIPE = """# A recipe for tests
extends: tars-smoke
model: {model}
data: {{prompts: 8}}
sft: {{max_steps: 1, batch_size: 2, micro_batch_size: 2}}
rl: {{max_steps: 1, prompts_per_step: 2, rollouts_per_prompt: 2, micro_batch_size: 4}}
eval: {{limit: 2}}
"""
GUARD = """# A recipe for tests
extends: rsafe-smoke
model: {model}
"""
COMMANDS = {
    "guard classify": "guard classify --model {model} {rows}",
    "guard serve": "guard serve --model {model} --port 0",
    "eval xstest": "eval xstest --recipe {recipe} --model {model}",
    "eval adaptivity": "eval adaptivity --recipe {recipe} --model {model} --prompts sample",
    "eval guard": "eval guard --model {model} --prompts sample-verdicts",
    "eval separation": "eval separation --recipe {recipe} --model {model} --limit 20",
    "eval score": "eval score {run} --judge reward-model:{model}",
    "eval score by a rubric": "eval score {run} --judge strongreject-rubric:{model}",
    "eval with a judge": "eval harmbench --recipe {recipe} --model {micro} --judge guard:{model}",
    "attack gcg": "attack gcg --recipe {recipe} --model {model} --prompts {rows}",
    "attack pair": "attack pair --recipe {recipe} --model {micro} --attacker {model} --judge refusal",
    "attack rainbow": "attack rainbow --recipe {recipe} --model {model} --mutator {micro} --judge refusal",
    "data show": "data show sample-brief --traces --rendered --recipe {recipe} --model {model} --no-pager",
    "data build": "data build --recipe {guard}",
    "data traces": "data traces --recipe {guard} --model {model} --limit 1",
    "sft": "sft --recipe {recipe}",
    "rl": "rl --recipe {recipe} --model {model}",
    "rl --backend verl": "rl --recipe {recipe} --model {model} --backend verl --export {out}",
    "guard train": "guard train --recipe {guard}",
}


@pytest.fixture(params=["model", "tokenizer"], scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_code.save(tmp_path_factory.mktemp("own"), request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model: Path, micro_model: Path) -> dict[str, Path]:
    """Recipes on this model, a file of rows, built data and an evaluation to score."""
    work = tmp_path_factory.mktemp("work")
    rows, recipe, guard = work / "rows.jsonl", work / "own.yaml", work / "guard.yaml"
    row = {"prompt": "Why?", "id": "own/1", "kind": "harmful", "source": "own", "target": "Sure"}
    rows.write_text(json.dumps(row) + "\n")
    recipe.write_text(RECIPE.format(model=model))
    guard.write_text(GUARD.format(model=model))
    (work / "micro").mkdir()
    (work / "micro/guard.yaml").write_text(GUARD.format(model=micro_model))
    run = work / "run"
    command_lines = (
        f"data build --recipe {recipe} --root {work}/runs",
        f"data build --recipe {work}/micro/guard.yaml --root {work}/runs",
    )
    for words in command_lines:
        assert errors.guarded(lambda words=words: app(words.split(), standalone_mode=False)) == 0, words
    evaluated = f"eval xstest --recipe {recipe} --model {micro_model} --out {run} eval.sampling.max_new_tokens=2"
    errors.guarded(lambda: app(evaluated.split(), standalone_mode=False))
    assert is_finished(run)  # the micro model writes nothing that can be scored, which is no matter here
    named = {"model": model, "micro": micro_model, "rows": rows, "recipe": recipe, "guard": guard, "run": run}
    return {**named, "root": work / "runs"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_refuses_a_model_with_its_own_code(name: str, folders, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SAFEREASON_RUNS", str(folders["root"]))
    monkeypatch.setattr("sys.stdin", io.StringIO(YES))
    words = COMMANDS[name].format(**folders, out=tmp_path / "out").split()
    code = errors.guarded(lambda: app(words, standalone_mode=False))
    output = capfd.readouterr()
    assert list(folders["model"].rglob(own_code.MARKER)) == []
    assert (code, LINE in output.err) == (2, True), output.err
    assert "[y/N]" not in output.err + output.out
    assert output.err.rstrip("\n").count("\n") <= output.err.count("safereason: "), output.err


def test_rows_on_standard_input_answer_no_question_of_a_models(tmp_path: Path):
    folder = own_code.save(tmp_path / "own", "model")
    done = safereason("guard", "classify", "--model", folder, stdin=YES)
    assert not (folder / own_code.MARKER).exists()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {folder}: this model {LINE}; name a model of an architecture that transformers has\n"
