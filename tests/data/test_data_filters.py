"""What a row has to pass before it is drawn."""

from collections import Counter

from safereason.data.example import Example
from safereason.data.filters import RefuseDuplicates, drop_refused, refuse_any, refuse_longer_than, refuse_test_rows
from safereason.data.overlap import build_indexes
from safereason.recipe.schema import Hygiene

QUESTION = "Which herbs grow well in a pot that stands on a balcony facing north?"


def row(prompt, number=0, response=None):
    return Example(f"s/{number}", prompt, "harmless", "s", response=response, label="safe")


def test_what_is_refused_is_counted_by_its_first_reason_and_the_rest_comes_in_order():
    drops = Counter()
    rows = [row("a" * n, n) for n in (3, 9, 1, 12)]
    refuse = refuse_any(refuse_longer_than(10), refuse_longer_than(8))
    assert [e.id for e in drop_refused(rows, refuse, drops, "prompts")] == ["s/3", "s/1"]
    assert drops == {"prompts: longer than 8 characters": 1, "prompts: longer than 10 characters": 1}


def test_rows_are_asked_for_one_by_one():
    numbers = []

    def rows():
        for n in range(5):
            numbers.append(n)
            yield row("short", n)

    first = drop_refused(rows(), lambda example: None, Counter(), "prompts")
    assert next(first).id == "s/0"
    assert numbers == [0]


def test_a_row_like_one_that_passed_is_refused_and_one_like_a_refused_row_is_not_for_that():
    unlike = RefuseDuplicates(0.8)
    assert unlike(row(QUESTION)) is None
    assert unlike(row(f"  {QUESTION.upper()} ")) == "a duplicate"
    assert unlike(row(QUESTION.replace("north", "South"))) == "a near-duplicate"
    assert unlike(row("How long do eggs boil?")) is None
    assert RefuseDuplicates(None)(row(QUESTION)) is None


def test_without_a_threshold_only_the_letter_counts():
    unlike = RefuseDuplicates(None)
    assert [unlike(row(text)) for text in (QUESTION, QUESTION.replace("north", "south"), QUESTION.lower())] == [
        None,
        None,
        "a duplicate",
    ]


def test_the_same_question_with_another_response_is_another_row():
    unlike = RefuseDuplicates(0.8)
    assert unlike(row(QUESTION, response="Mint and parsley, which like the shade more than most others do.")) is None
    assert unlike(row(QUESTION, response="None: buy them at the market, which is open each Saturday.")) is None


def test_a_row_of_a_test_set_is_refused_by_the_sets_name():
    tests = build_indexes({"herbs": [row(QUESTION)], "eggs": [row("How long do eggs boil?")]}, Hygiene())
    refuse = refuse_test_rows(tests)
    assert refuse(row("how long do EGGS boil?")) == "in the test set eggs"
    assert refuse(row(f"Tell me, as a gardener would: {QUESTION[:-1]}, and why")) == "in the test set herbs"
    assert refuse(row("How long do potatoes boil?")) is None
