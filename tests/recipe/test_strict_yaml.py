"""Every trap of YAML, and that what is written is read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.recipe.strict_yaml import dump, parse, parse_value, shown

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
TREES = st.dictionaries(
    TEXT, st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3))
)


def refusal(text: str, name: str = "r.yaml") -> str:
    with pytest.raises(InputError) as caught:
        parse(text, name)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("3.0e-5", 3e-5),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e+2", 100.0),
        ("0", 0),
        ("-3", -3),
        ("+3", 3),
        ("0.0", 0.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("# only a comment", None),
        ('"3"', "3"),
        ("'true'", "true"),
        ('"a\\nb"', "a\nb"),
        ("!!str 3", "3"),
        ("[1, 2]", [1, 2]),
        ("{a: 1e-3}", {"a": 0.001}),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    read = parse_value(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "no",
        "on",
        "off",
        "Yes",
        "NO",
        "y",
        "n",
        "010",
        "0o17",
        "0x1F",
        "0b1",
        "1_000",
        "1:30",
        "12:30:45",
        "2024-01-01",
        "2024-01-01 10:00:00",
        ".inf",
        "-.inf",
        ".nan",
        "1e",
        "e5",
        "1.2.3",
        "=",
        "<<",
        "None",
        "org/name",
        "moderation:omni",
    ],
)
def test_what_yaml_1_1_makes_something_else_of_is_text(text):
    assert parse_value(text, "here") == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_way_to_write_a_float_is_a_float(value):
    for text in (repr(value), f"{value:e}", f"{value:E}"):
        read = parse_value(text, "here")
        assert isinstance(read, float)
        assert math.isclose(read, value, rel_tol=1e-6)


@given(st.integers(-(10**30), 10**30))
def test_every_whole_number_is_an_int(value):
    assert parse_value(str(value), "here") == value


@given(TREES)
def test_what_is_dumped_is_parsed_back(tree):
    assert parse(dump(tree), "r.yaml").values == tree


@given(SCALARS)
def test_types_survive_the_round_trip(value):
    assert type(parse(dump({"k": value}), "r.yaml").values["k"]) is type(value)


@given(TEXT)
def test_text_that_is_written_means_the_same_to_other_readers(text):
    import yaml

    assert yaml.safe_load(dump({"k": text})) == {"k": text}


def test_each_value_has_the_line_of_its_key():
    document = parse("# head\nmodel: m\nrl:\n  a: 1\n  b:\n    - x\n    - {c: 2}\n", "r.yaml")
    assert document.values == {"model": "m", "rl": {"a": 1, "b": ["x", {"c": 2}]}}
    assert document.locations == {
        (): "r.yaml:1",
        ("model",): "r.yaml:2",
        ("rl",): "r.yaml:3",
        ("rl", "a"): "r.yaml:4",
        ("rl", "b"): "r.yaml:5",
        ("rl", "b", 0): "r.yaml:6",
        ("rl", "b", 1): "r.yaml:7",
        ("rl", "b", 1, "c"): "r.yaml:7",
    }
    assert document.location(("rl", "b", 1, "missing")) == "r.yaml:7"
    assert document.location(("absent",)) == "r.yaml:1"


def test_an_anchor_is_a_copy():
    assert parse("a: &x {n: 1}\nb: *x\n", "r.yaml").values == {"a": {"n": 1}, "b": {"n": 1}}


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("", "r.yaml: is empty"),
        ("# nothing\n", "r.yaml: is empty"),
        ("- a\n- b\n", "r.yaml:1: a recipe is a mapping"),
        ("\njust words\n", "r.yaml:2: a recipe is a mapping"),
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: 'a' is here twice (line 1 too)"),
        ("rl: {k: 1,\n  k: 2}\n", "r.yaml:2: 'k' is here twice (line 1 too)"),
        ("a: 1\nb: [1, 2\n", "r.yaml:3: not YAML"),
        ("a: 1\n\tb: 2\n", "r.yaml:2: not YAML"),
        ("a: b: c\n", "r.yaml:1: not YAML"),
        ("a: *nowhere\n", "r.yaml:1: not YAML"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: not YAML"),
        ("a: 1\nb: \x07\n", "r.yaml:2: not YAML: the control character U+0007"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "r.yaml:2: the tag 'tag:yaml.org,2002:python/object/apply"),
        ("a: !mine x\n", "r.yaml:1: the tag '!mine'"),
        ("a: !!timestamp 2024-01-01\n", "r.yaml:1: the tag"),
        ("a: !!omap [x: 1]\n", "r.yaml:1: the tag"),
        ("a: !!int x\n", 'r.yaml:1: "x" cannot be read as int'),
        ("a: !!bool yes\n", 'r.yaml:1: "yes" cannot be read as bool'),
        ("a: 1e999\n", 'r.yaml:1: "1e999" cannot be read as float'),
        (f"a: {'9' * 5000}\n", 'r.yaml:1: "999'),
        ('a: "\\ud800"\n', "r.yaml:1: half a surrogate pair"),
        ("ok: 1\n3: x\n", "r.yaml:2: a key is text"),
        ("true: x\n", "r.yaml:1: a key is text"),
        ("? [a]\n: x\n", "r.yaml:1: a key is text"),
        ("a: &x [1, *x]\n", "r.yaml:1: an anchor that holds itself"),
        (f"a: {'[' * 60}{']' * 60}\n", "r.yaml:1: nested too deeply"),
        (f"a: {'[' * 5000}{']' * 5000}\n", "r.yaml: nested too deeply"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text, beginning):
    assert refusal(text).startswith(beginning)


def test_aliases_that_multiply_are_refused():
    rows = [
        f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]"
        for before, after in zip("abcdef", "bcdefg", strict=True)
    ]
    assert "more than 2000 values" in refusal("a: &a [1]\n" + "\n".join(rows))


def test_an_override_is_blamed_by_its_words():
    with pytest.raises(InputError, match=r"^override 'a=\[1': not YAML"):
        parse_value("[1", "override 'a=[1'")
    with pytest.raises(InputError, match=r"^override 'a=\{k: 1, k: 2\}': 'k' is here twice"):
        parse_value("{k: 1, k: 2}", "override 'a={k: 1, k: 2}'")


def test_a_quoted_value_is_short_and_on_one_line():
    assert shown("a\nb") == '"a\\nb"'
    assert shown(None) == "null"
    assert shown("x" * 100) == f'"{"x" * 56}…'
