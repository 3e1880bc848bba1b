"""Prompt templates: slots are filled in one pass, and a template that lacks one is found out."""

from safereason.text.template import filled, missing_slot


def test_each_slot_gets_its_text_as_often_as_it_is_there():
    assert filled("{a} and {b}, {a} {c}", {"{a}": "x", "{b}": "y"}) == "x and y, x {c}"


def test_a_text_that_spells_a_slot_is_not_filled():
    assert filled("{a} {b}", {"{a}": "{b}", "{b}": "{a}"}) == "{b} {a}"


def test_a_text_is_put_in_as_it_is():
    assert filled("<{a}>", {"{a}": r"\1 \g<0> $b {}"}) == r"<\1 \g<0> $b {}>"


def test_the_first_slot_that_is_missing_is_named():
    assert missing_slot("{a}", ("{a}", "{b}", "{c}")) == "{b}"
    assert missing_slot("{b} {a}", ("{a}", "{b}")) is None
