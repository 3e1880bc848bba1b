"""Judges as a person names them: what a name means, how it is written, and what it says in a run's identity."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard.open import GuardSpec
from safereason.judges import JUDGES, JudgeSpec, ModelArgument, TextArgument, name_of
from safereason.judges.rubric import RubricSpec
from safereason.runs.manifest import sha256

MODELS = st.from_regex(r"((vllm|openai)/)?[a-z]{1,8}/[a-zA-Z0-9._-]{1,12}", fullmatch=True)
WITH_MODEL = ("harmbench", "strongreject", "strongreject-rubric", "xstest-rubric", "reward-model", "guard")
PLUGIN = """
from safereason.judges import JudgeEntry, TextArgument, Verdict


class Word:
    name = "word"
    measure = "quality"

    def __init__(self, word):
        self.word = word

    def judge(self, exchanges):
        return [Verdict(1.0, self.word) for _ in exchanges]


WORD = JudgeEntry(
    "word",
    "A word",
    lambda argument, measure, loading: Word(argument.text),
    ("quality",),
    argument="WORD",
    parse=TextArgument,
)
"""


@pytest.mark.parametrize(
    ("text", "spec", "model"),
    [
        ("refusal", JudgeSpec("refusal"), None),
        ("harmbench", JudgeSpec("harmbench"), ModelSpec("cais/HarmBench-Llama-2-13b-cls")),
        ("harmbench:org/x", JudgeSpec("harmbench", ModelArgument(ModelSpec("org/x"))), ModelSpec("org/x")),
        ("moderation", JudgeSpec("moderation"), None),
        ("moderation:omni", JudgeSpec("moderation", TextArgument("omni")), None),
        ("guard:llama-guard:org/x", JudgeSpec("guard", GuardSpec("llama-guard", "org/x")), ModelSpec("org/x")),
        ("guard:vllm/org/x", JudgeSpec("guard", GuardSpec("", "vllm/org/x")), ModelSpec("org/x", "vllm")),
        (
            "rubric:deliberative@openai/x",
            JudgeSpec("rubric", RubricSpec("deliberative", ModelSpec("x", "openai"))),
            ModelSpec("x", "openai"),
        ),
    ],
)
def test_a_name_is_read_once(text: str, spec: JudgeSpec, model: ModelSpec | None):
    assert JudgeSpec.parse(text) == spec
    assert (str(spec), spec.label(), spec.model) == (text, text, model)


@given(name=st.sampled_from(WITH_MODEL), model=MODELS)
def test_a_judge_with_a_model_is_written_as_it_is_read(name: str, model: str):
    spec = JudgeSpec.parse(f"{name}:{model}")
    assert str(spec) == f"{name}:{model}"
    assert JudgeSpec.parse(str(spec)) == spec
    assert (spec.model, spec.identity()) == (ModelSpec.parse(model), f"{name}:{ModelSpec.parse(model).identity()}")


@given(name=st.sampled_from([*JUDGES, "refusals", "guard:lama-guard", ""]), argument=st.text(max_size=20))
def test_any_text_is_a_judge_or_refused_in_one_line(name: str, argument: str):
    # A dot would make it the path of a module, which is imported.
    text = f"{name}:{argument}".replace(".", "")
    spec, refusal = None, ""
    try:
        spec = JudgeSpec.parse(text)
    except InputError as error:
        refusal = str(error)
    assert (spec is None) == bool(refusal)
    assert "\n" not in refusal.replace(text, "").replace(argument, "")
    assert spec is None or JudgeSpec.parse(str(spec)) == spec


def test_a_misspelt_guard_is_refused_before_anything_is_opened():
    with pytest.raises(InputError, match="no guard is called 'lama-guard'; did you mean llama-guard"):
        JudgeSpec.parse("guard:lama-guard:org/x")
    with pytest.raises(InputError, match="llama-guard: name its model after a colon"):
        JudgeSpec.parse("guard:llama-guard")


def test_a_plugin_is_typed_by_its_path_and_recorded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "spec_plugin").mkdir()
    (tmp_path / "spec_plugin" / "judge.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    spec = JudgeSpec.parse("spec_plugin.judge:WORD:please")
    # The entry is registered now. Set again, it goes with the test.
    monkeypatch.setitem(JUDGES, "word", JUDGES.pop("word"))
    # What another process reads has to lead it to the module; a record may not depend on how a person typed it.
    assert str(spec) == "spec_plugin.judge:WORD:please"
    assert (spec.label(), spec.identity(), spec.model) == ("word:please", "word:please", None)
    assert spec.open().judge([None])[0].label == "please"
    assert JudgeSpec.parse("word:please").identity() == spec.identity()


def test_a_record_may_name_a_judge_that_is_not_known_here():
    names = {text: name_of(text) for text in ("gone", "gone:x:y", "pkg.mod:GONE:x", "guard:llama-guard:m")}
    assert list(names.values()) == ["gone", "gone", "pkg.mod:GONE", "guard"]


@given(file=st.from_regex(r"[a-z@]{1,8}(/[a-z@]{1,8})?\.ya?ml", fullmatch=True), model=st.none() | MODELS)
def test_a_rubric_is_written_as_it_is_read(file: str, model: str | None):
    text = file
    named = None
    if model is not None:
        text, named = f"{file}@{model}", ModelSpec.parse(model)
    spec = RubricSpec.parse(text)
    assert (spec, str(spec)) == (RubricSpec(file, named), text)


def test_a_rubric_counts_by_its_contents_and_its_named_model(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("measures: harm\n")
    assert RubricSpec.parse(str(file)).identity() == f"{sha256(file)}@"
    assert RubricSpec.parse(f"{file}@openai/x").identity() == f"{sha256(file)}@openai/x"
    assert RubricSpec.parse("deliberative").identity() == "deliberative@"
