"""How a guard is asked: kept beside its weights, and read back from there."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.base import Question
from safereason.guard.guard_prompt import FILE, GuardPrompt
from safereason.guard.open import guard_prompt_of
from safereason.guard.policy import Category, Policy, load
from safereason.guard.prompt import GuardTemplates
from safereason.recipe.load import load as load_recipe
from safereason.recipe.schema import Sampling

LINE = st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="<"), min_size=1, max_size=9).filter(
    str.strip
)
POLICIES = st.builds(
    Policy,
    LINE,
    LINE,
    st.lists(
        st.builds(Category, st.from_regex("[a-z][a-z0-9.-]{0,4}", fullmatch=True), LINE, st.none() | LINE),
        min_size=1,
        max_size=4,
        unique_by=(lambda c: c.id, lambda c: c.name.casefold()),
    ).map(tuple),
    st.none() | LINE,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
GUARD_PROMPTS = st.builds(
    GuardPrompt,
    POLICIES,
    st.builds(GuardTemplates, TEXT, TEXT, TEXT),
    st.booleans(),
    st.builds(Sampling, temperature=st.floats(0, 2), top_k=st.integers(0, 50), max_new_tokens=st.integers(1, 5000)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(GUARD_PROMPTS)
def test_what_is_saved_is_read_back(tmp_path: Path, guard_prompt: GuardPrompt):
    guard_prompt.save(tmp_path)
    assert guard_prompts.of_model(str(tmp_path)) == guard_prompt
    assert json.loads((tmp_path / FILE).read_text(encoding="utf-8")) == guard_prompt.document()


def test_a_model_without_a_guide_is_asked_as_rsafe_is_or_as_the_caller_says(tmp_path: Path):
    guard_prompt = guard_prompts.of_model(str(tmp_path))
    assert guard_prompt == guard_prompts.default()
    assert (guard_prompt.policy, guard_prompt.reasoning, guard_prompt.sampling) == (
        load("default"),
        True,
        guard_prompts.SAMPLING,
    )
    other = GuardPrompt(load("openai"), GuardTemplates(), False, Sampling())
    assert guard_prompts.of_model(str(tmp_path), other) == other
    guard_prompt.save(tmp_path)
    assert guard_prompts.of_model(str(tmp_path), other) == guard_prompt


def test_a_recipe_s_guard_is_asked_as_its_section_says():
    section = load_recipe("rsafe", []).guard
    assert section is not None
    guard_prompt = guard_prompts.of_section(section)
    assert guard_prompt == guard_prompts.default()


def test_policy_and_sampling_may_be_given_in_place_of_the_guide_s(tmp_path: Path):
    guard_prompts.default().save(tmp_path)
    chosen = guard_prompt_of(ModelSpec(str(tmp_path)), policy="openai", sampling=Sampling(temperature=0.0))
    assert (chosen.policy, chosen.sampling) == (load("openai"), Sampling(temperature=0.0))
    assert (chosen.templates, chosen.reasoning) == (guard_prompts.default().templates, True)
    assert guard_prompt_of(ModelSpec("any", "openai"), policy="wildguard").policy == load("wildguard")


def test_a_question_is_asked_in_one_user_turn():
    turns = guard_prompts.default().conversation(Question("whittle?", "yes"))
    assert [turn["role"] for turn in turns] == ["user"]
    assert "whittle?" in turns[0]["content"]
    assert turns[0]["content"].endswith("\\boxed{unsafe}.")


def change(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("policy", None, "policy: "),
        ("policy.categories", [], "policy.categories: "),
        ("policy.colour", "red", "policy.colour: "),
        ("templates.order", 5, "templates.order: "),
        ("reasoning", "perhaps", "reasoning: "),
        ("sampling.temperature", -1, "sampling.temperature: "),
    ],
)
def test_a_file_that_is_no_guide_is_named_with_what_is_wrong(tmp_path: Path, path: str, value: Any, message: str):
    guard_prompts.default().save(tmp_path)
    document = json.loads((tmp_path / FILE).read_text())
    change(document, path, value)
    (tmp_path / FILE).write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        guard_prompts.of_model(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / FILE}: is no guard prompt ({message}")
    assert str(caught.value).endswith("train it again or delete the file")


@pytest.mark.parametrize("text", ["[]", "{}", "5", "null"])
def test_a_document_of_another_form_is_no_guide(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match="is no guard prompt"):
        guard_prompts.of_model(str(tmp_path))
