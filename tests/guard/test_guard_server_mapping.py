"""Tables from a policy's categories to the Moderation API's."""

from pathlib import Path

import pytest

from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.server.mapping import (
    API_CATEGORIES,
    CATCH_ALL,
    OTHERWISE,
    Mapping,
    for_policy,
    load,
    without_table,
)

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "serve-a-guard.md"


@pytest.mark.parametrize("name", policies.shipped())
def test_every_shipped_policy_has_a_table_with_a_line_for_each_category(name: str):
    policy = policies.load(name)
    mapping = for_policy(policy)
    assert mapping is not None
    assert {category.id for category in policy.categories} <= set(mapping.names)
    assert mapping.of(()) == (CATCH_ALL,)


def test_the_openai_policys_categories_keep_their_names():
    policy = policies.load("openai")
    mapping = for_policy(policy)
    assert mapping is not None
    assert all(category.name in mapping.of((category.id,)) for category in policy.categories)


def test_a_changed_policy_has_no_table():
    policy = policies.load("openai")
    changed = policies.Policy("openai", policy.title, (policies.Category("S", "spam"), *policy.categories[1:]))
    assert for_policy(changed) is None
    assert without_table().of(("S",)) == (CATCH_ALL,)


def test_several_categories_give_all_their_names_once_in_the_apis_order():
    mapping = Mapping({"A": ("violence", "hate"), "B": ("hate",), OTHERWISE: ("sexual",)})
    assert mapping.of(("B", "A")) == ("hate", "violence")
    assert mapping.of(("A", "left out")) == ("hate", "sexual", "violence")


def test_a_file_of_ones_own(tmp_path: Path):
    file = tmp_path / "m.yaml"
    file.write_text('U9: [self-harm, self-harm/instructions]\n"*": [hate]\n')
    mapping = load(file, policies.load("default"))
    assert mapping.of(("U9",)) == ("self-harm", "self-harm/instructions")
    assert mapping.of(("U1",)) == ("hate",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'U1: [violence]\nU99: [hate]\n"*": [hate]',
            "m.yaml:2: U99: policy default has no such category; did you mean U9",
        ),
        ('"*": [hate]\nX: [hate]', "m.yaml:2: X: policy default has no such category; it has U1, U2"),
        (
            'U1:\n  - violence\n  - violense\n"*": [hate]',
            'm.yaml:3: U1[1]: the API has no category "violense"; did you mean violence?',
        ),
        ('U1: [3]\n"*": [hate]', "m.yaml:1: U1[0]: the API has no category 3; it has harassment, "),
        ('U1: [hate, hate]\n"*": [hate]', 'm.yaml:1: U1[1]: "hate" is here twice; keep one'),
        ('U1: hate\n"*": [hate]', 'm.yaml:1: U1: should be a list of the API\'s categories, not "hate"'),
        ('"*": []', "m.yaml:1: *: should be a list"),
        ("U1: [hate]", 'm.yaml: "*": is missing'),
        ("- a", "m.yaml:1: a mapping has a line for each category"),
        ("", "m.yaml: is empty; a mapping has"),
        ("U1: [hate]\nU1: [hate]", "m.yaml:2: 'U1' is here twice"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, expected: str):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load(file, policies.load("default"))
    message = str(caught.value).replace(f"{file}", "m.yaml")
    assert message.startswith(expected)
    assert "\n" not in message


def test_the_docs_have_the_tables_as_they_are():
    page = DOCS.read_text(encoding="utf-8")
    for name in ("default", "openai", "wildguard"):
        policy = policies.load(name)
        mapping = for_policy(policy)
        assert mapping is not None
        for category in policy.categories:
            names = ", ".join(f"`{theirs}`" for theirs in mapping.of((category.id,)))
            assert f"| `{category.id}` | {category.name} | {names} |" in page
    assert all(f"`{name}`" in page for name in API_CATEGORIES)
