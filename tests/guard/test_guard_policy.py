"""Policies: what ships, what a file may hold, and the one line that says what is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safereason.errors import InputError
from safereason.guard.policy import Category, Policy, load, shipped, to_yaml
from safereason.text.inert import inert

MINE = """\
title: House rules
categories:
  - id: A
    name: Rudeness
    definition: Being rude.
  - {id: B, name: Spoilers}
"""
LINE = (
    st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30)
    | st.sampled_from(["no", "1e3", "- a", "#", "a: b", "null", "~", "'", '"', "a <b> c", "{policy}", "\u2018<\u2019"])
).filter(lambda text: text.strip() and inert(text) == text)
ID = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,6}", fullmatch=True)
CATEGORIES = st.lists(
    st.builds(Category, id=ID, name=LINE, definition=st.none() | LINE),
    min_size=1,
    max_size=6,
    unique_by=(lambda c: c.id.casefold(), lambda c: c.name.casefold()),
).map(tuple)
POLICIES = st.builds(Policy, name=LINE, title=LINE, categories=CATEGORIES, source=st.none() | LINE)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def refusal(path: Path, text: str | None = None) -> str:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path}", path.name)


def test_the_default_policy_has_rsafes_eighteen_categories():
    policy = load("default")
    assert [c.id for c in policy.categories] == [f"U{n}" for n in range(1, 19)]
    assert policy.categories[5].name == "Sexual Content Involving Minors"
    assert policy.name == "default"


def test_wildguard_has_thirteen_and_openai_eight():
    assert [c.id for c in load("wildguard").categories] == [f"W{n}" for n in range(1, 14)]
    assert {c.id: c.name for c in load("openai").categories} == {
        "S": "sexual",
        "H": "hate",
        "V": "violence",
        "HR": "harassment",
        "SH": "self-harm",
        "S3": "sexual/minors",
        "H2": "hate/threatening",
        "V2": "violence/graphic",
    }


def test_the_emerging_harm_policies_are_parts_of_wildguards_that_do_not_overlap():
    train, test = (load(f"wildguard-emerging-{part}").categories for part in ("train", "test"))
    assert ([c.id for c in train], [c.id for c in test]) == (["W2", "W6", "W10"], ["W4", "W5"])
    assert {*train, *test} <= {*load("wildguard").categories}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_policy_is_called_as_its_file_and_says_where_it_is_from(name):
    policy = load(name)
    assert policy.source
    assert policy.name == name


@pytest.mark.parametrize("name", [name for name in shipped() if not name.endswith("-names")])
def test_every_shipped_policy_defines_each_category_in_a_sentence(name):
    definitions = [c.definition for c in load(name).categories]
    assert all(text and text.endswith(".") and len(text) < 120 for text in definitions)
    assert len(set(definitions)) == len(definitions)


@pytest.mark.parametrize("name", ["default", "openai"])
def test_a_policy_of_names_is_the_same_one_without_definitions(name):
    brief, whole = load(f"{name}-names"), load(name)
    assert [(c.id, c.name, c.definition) for c in brief.categories] == [(c.id, c.name, None) for c in whole.categories]


def test_a_file_of_ones_own_is_named_by_itself_or_by_its_file(mine):
    policy = load(str(mine))
    assert policy == Policy(
        name="mine",
        title="House rules",
        categories=(Category("A", "Rudeness", "Being rude."), Category("B", "Spoilers")),
    )
    mine.write_text("name: rules\n" + MINE)
    assert load(str(mine)).name == "rules"


def test_a_definition_may_be_folded_from_several_lines(mine):
    mine.write_text(MINE.replace("Being rude.", ">-\n      Being\n      rude."))
    assert load(str(mine)).categories[0].definition == "Being rude."


def test_the_policy_in_the_docs_loads(mine):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-policy.md"
    mine.write_text(page.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    assert [c.id for c in load(str(mine)).categories] == ["R1", "R2"]


def test_a_path_without_a_suffix_is_a_path_where_it_has_a_slash(mine):
    bare = mine.rename(mine.with_name("default"))
    assert load(str(bare)).title == "House rules"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(POLICIES)
@example(Policy("on", "1:30", (Category("y", "\ufeff\u200d"),), "\ufffe"))
def test_what_is_written_is_read_back(tmp_path, policy):
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(policy), encoding="utf-8")
    assert load(str(path)) == policy
    path.write_text(to_yaml(policy, named=False), encoding="utf-8")
    assert load(str(path)) == Policy("again", policy.title, policy.categories, policy.source)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "mine.yaml:1: titel: unknown key; did you mean title? (and 1 more)"),
        ("definition:", "defintion:", "mine.yaml:5: categories[0].defintion: unknown key; did you mean definition?"),
        ("title:", "definition: x\ntitle:", "mine.yaml:1: definition: unknown key; did you mean categories.def"),
        ("title:", "colour: x\ntitle:", "mine.yaml:1: colour: unknown key; known here: name, title, categories"),
        ("title: House rules\n", "", "mine.yaml:1: title: is missing"),
        (", name: Spoilers", "", "mine.yaml:6: categories[1].name: is missing"),
        ("title: House rules", "title: [a]", 'mine.yaml:1: title: should be a string, not ["a"]'),
        ("id: A", "id: 1", "mine.yaml:3: categories[0].id: should be a string, not 1"),
        ("id: A", "id: 1st", "mine.yaml:3: categories[0].id: should be a letter, then letters, digits, `_`, `.`"),
        ("id: A", 'id: "A\\n"', "mine.yaml:3: categories[0].id: should be a letter, then"),
        ("id: A", "id: A\n    id: C", "mine.yaml:4: 'id' is here twice (line 3 too); keep one"),
        ("id: B", "id: a", 'mine.yaml:6: categories[1].id: "a" is that of categories[0] too'),
        ("Spoilers", "RUDENESS", 'mine.yaml:6: categories[1].name: "RUDENESS" is that of categories[0] too'),
        ("name: Rudeness", "name: ' '", "mine.yaml:4: categories[0].name: is blank"),
        ("Being rude.", "''", "mine.yaml:5: categories[0].definition: is blank"),
        ("title:", "name: ''\ntitle:", "mine.yaml:1: name: is blank"),
        ("Being rude.", "|\n      Being\n      rude.", "mine.yaml:5: categories[0].definition: holds a line break"),
        ("Being rude.", '"a\\u2028b"', "mine.yaml:5: categories[0].definition: holds a line break"),
        ("Being rude.", "a <END POLICY>", "mine.yaml:5: categories[0].definition: holds a marker"),
        ("Rudeness", "<|im_end|>", "mine.yaml:4: categories[0].name: holds a marker"),
        ("House rules", "</s>", "mine.yaml:1: title: holds a marker"),
        ("title:", "source: <end_of_turn>\ntitle:", "mine.yaml:1: source: holds a marker"),
        (
            "  - {id: B, name: Spoilers}",
            "  - Spoilers",
            'mine.yaml:6: categories[1]: should be a mapping of keys to values, not "Spoilers"',
        ),
    ],
)
def test_each_mistake_is_one_line_with_its_place(mine, old, new, message):
    text = MINE.replace(old, new)
    assert text != MINE
    assert refusal(mine, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml: is empty; a policy is a mapping with `title:` and `categories:`"),
        ("- a\n", "mine.yaml:1: a policy is a mapping with `title:` and `categories:`, not a list"),
        ("title: a\ncategories: []\n", "mine.yaml:2: categories: is empty; a policy has one category at least"),
        ("title: a\ncategories: {id: A}\n", 'mine.yaml:2: categories: should be a list, not {"id": "A"}'),
        ("title: a\ncategories:\n", "mine.yaml:2: categories: should be a list, not null"),
        ("title: a\n  b: c\n", "mine.yaml:2: not YAML"),
    ],
)
def test_what_is_no_policy_says_what_one_is(mine, text, message):
    assert refusal(mine, text).startswith(message)


def test_a_file_that_is_not_text_is_named(mine):
    mine.write_bytes(b"title: \xff\n")
    assert refusal(mine) == "mine.yaml: byte 7 is not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("wildgard", "no such policy; did you mean wildguard?"),
        ("mine/openai.yml", "no such policy file; did you mean openai?"),
        ("houserules", f"no such policy; a policy is a path ending in .yaml or one of {', '.join(shipped())}"),
        ("", "no such policy; a policy is a path"),
        ("./", "no such policy file; a policy is a path"),
    ],
)
def test_a_policy_that_is_not_there_is_refused_with_a_hint(spec, hint):
    with pytest.raises(InputError) as caught:
        load(spec)
    assert str(caught.value).startswith(f"{spec}: {hint}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.text(max_size=60) | st.lists(st.sampled_from([*MINE.splitlines(), "&a", "*a", "{", "]"])).map("\n".join))
def test_whatever_a_file_holds_is_a_policy_or_one_refusal(tmp_path, text):
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        outcome = to_yaml(load(str(path)))
    except InputError as error:
        outcome = str(error)
    assert outcome.startswith(("name: ", f"{path}:"))


def test_what_no_file_may_hold_no_code_can_make():
    with pytest.raises(ValidationError, match="that of categories"):
        Policy("p", "t", (Category("A", "a"), Category("A", "b")))
    with pytest.raises(ValidationError, match="holds a marker"):
        Category("A", "<END POLICY>")
