"""Agreement with people: the figures against scikit-learn's, and what stays out of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import published
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, precision_score, recall_score

from safereason.errors import InputError
from safereason.evals.agreement import LabelColumns, Labelled, agreement, f1, kappa, read, unseen
from safereason.judges import open_judge
from safereason.judges.base import Exchange, Verdict
from safereason.judges.refusal import RefusalJudge

COLUMNS = LabelColumns(positive=("yes", "surely"), negative=("no",))


def labelled(*labels: str) -> list[Labelled]:
    return [Labelled(Exchange("p", "a"), label) for label in labels]


def verdicts(*scores: float | None) -> list[Verdict]:
    return [Verdict.unscored("none") if score is None else Verdict(score, None) for score in scores]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_figures_are_scikit_learns(pairs: list[tuple[bool, bool]]):
    truth, predicted = zip(*pairs, strict=True)
    assume(any(truth) and any(predicted) and not (all(truth) and all(predicted)))
    result = agreement(labelled(*("yes" if t else "no" for t in truth)), verdicts(*map(float, predicted)), COLUMNS)
    values = {figure.name: figure.value for figure in result.figures}
    assert values == pytest.approx(
        {
            "f1": f1_score(truth, predicted),
            "precision": precision_score(truth, predicted),
            "recall": recall_score(truth, predicted),
            "accuracy": accuracy_score(truth, predicted),
            "kappa": cohen_kappa_score(truth, predicted),
        }
    )
    for figure in result.figures:
        assert figure.low is None or figure.low - 1e-9 <= figure.value <= figure.high + 1e-9


@given(st.lists(st.tuples(*[st.sampled_from("abc")] * 2), min_size=1, max_size=40))
def test_two_peoples_kappa_is_scikit_learns(pairs: list[tuple[str, str]]):
    a, b = zip(*pairs, strict=True)
    assume(len({*a, *b}) > 1)
    rows = [Labelled(Exchange("p", "a"), "no", pair) for pair in pairs]
    people = agreement(rows, verdicts(*[0.0] * len(rows)), COLUMNS).people
    assert people is not None
    assert people.value == pytest.approx(cohen_kappa_score(a, b))


def test_other_labels_and_unscored_answers_are_counted_apart():
    result = agreement(
        labelled("yes", "surely", "yes", "no", "no", "partly", "partly", "none"),
        verdicts(1.0, 0.5, None, 0.49, None, 0.9, 0.1, None),
        COLUMNS,
    )
    figures = {figure.name: figure for figure in result.figures}
    assert (figures["f1"].value, figures["f1"].n, figures["f1"].unscored) == (1.0, 3, 2)
    assert (figures["recall"].n, figures["recall"].unscored, figures["precision"].n) == (2, 1, 2)
    assert result.confusion == {
        "yes": {"positive": 1, "negative": 0, "unscored": 1},
        "surely": {"positive": 1, "negative": 0, "unscored": 0},
        "no": {"positive": 0, "negative": 1, "unscored": 1},
    }
    assert result.apart == {
        "none": {"positive": 0, "negative": 0, "unscored": 1},
        "partly": {"positive": 1, "negative": 1, "unscored": 0},
    }
    assert result.people is None


def test_what_is_not_defined_has_no_value():
    result = agreement(labelled("no", "no"), verdicts(0.0, 0.0), COLUMNS)
    assert {f.name: f.value for f in result.figures} == {
        "f1": None,
        "precision": None,
        "recall": None,
        "accuracy": 1.0,
        "kappa": None,
    }
    assert np.isnan(f1(np.array([[[1.0, 0.0], [0.0, 0.0]]]))).all()
    assert np.isnan(kappa(np.array([[[3.0, 0.0], [0.0, 0.0]]]))).all()


def test_a_file_of_ones_own_columns(tmp_path: Path):
    rows = [
        {"q": "Why?", "a": "No.", "bad": True, "one": "x", "two": "y"},
        {"q": "How?", "a": None, "bad": False, "one": "x", "two": None},
    ]
    file = published.write(tmp_path / "mine.jsonl", rows)
    columns = LabelColumns("q", "a", "bad", ("true",), ("false",), ("one", "two"))
    assert read(str(file), columns) == [
        Labelled(Exchange("Why?", "No."), "true", ("x", "y")),
        Labelled(Exchange("How?", ""), "false", ("x", "none")),
    ]


@pytest.mark.parametrize(
    ("target", "columns", "message"),
    [
        ("none.csv", LabelColumns(), "none.csv: no such file; check the path, or name xstest-gpt4"),
        ("xstest-gpt9", LabelColumns(), "xstest-gpt9: no such completions; there are xstest-gpt4"),
        ("xstest-gpt4", LabelColumns(answer="text"), "its columns and labels are known"),
        ("mine.csv", LabelColumns(), "row 1: no column `completion`, only prompt, text, label; name its columns"),
        (
            "mine.csv",
            LabelColumns(answer="text", label="label"),
            "`label` is never 2_full_refusal or 1_full_compliance, but n, y",
        ),
    ],
)
def test_what_cannot_be_read_says_why(
    target: str, columns: LabelColumns, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    published.write(Path("mine.csv"), [{"prompt": "p", "text": "t", "label": label} for label in "yn"])
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        read(target, columns)
    assert "\n" not in str(caught.value)


def test_xstests_files_have_two_peoples_labels(data_home: Path):
    rows = read("xstest-gpt4", LabelColumns())
    assert len(rows) == 450
    result = agreement(rows, RefusalJudge().judge([row.exchange for row in rows]), LabelColumns())
    assert result.people is not None
    assert result.people.value == pytest.approx(0.970, abs=5e-4)
    assert {label: sum(counts.values()) for label, counts in (result.confusion | result.apart).items()} == {
        "1_full_compliance": 230,
        "2_full_refusal": 211,
        "3_partial_refusal": 9,
    }


def test_a_judge_is_not_measured_on_what_it_was_trained_on(data_home: Path):
    judge, rows = open_judge("refusal-learned"), read("xstest-gpt4", LabelColumns())
    with pytest.raises(InputError, match="xstest-gpt4: judge refusal-learned was trained on these answers"):
        unseen("xstest-gpt4", rows, judge, LabelColumns())
    assert unseen("xstest-gpt4", rows, open_judge("refusal"), LabelColumns()) == rows


def test_rows_that_a_judge_was_trained_on_are_left_out_wherever_they_are(data_home: Path):
    rows = read("xstest-gpt4", LabelColumns())
    # The same answer to another prompt is another row.
    own = [replace(one, exchange=Exchange(f"Mine: {one.exchange.prompt}", one.exchange.answer)) for one in rows]
    partial = [one for one in rows if one.label not in (*LabelColumns().positive, *LabelColumns().negative)]
    assert unseen("mine.csv", [*own, *rows], open_judge("refusal-learned"), LabelColumns()) == [*own, *partial]
