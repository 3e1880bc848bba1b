"""Held-out figures of the judge `refusal-learned`, which learns refusal from XSTest's human labels; and its weights.

    python benchmarks/refusal_judge.py            both judges on rows that the learned one was not trained on
    python benchmarks/refusal_judge.py --write    the same, then weights trained on all rows, into the package

Rows are XSTest's completions of three models that their two annotators' settled label calls full refusals or full
compliance; partial ones are left out. Held out are a model (trained on the other two), a fifth of the prompts (trained
on the other four), or both at once. `refusal` is not trained, but its patterns were written while looking at the first
two files and at the even rows of the third: the odd ones alone are new to both. Needs $SAFEREASON_DATA_HOME or network.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline

from safereason.data.fetch import fetch
from safereason.data.sources.base import published_rows
from safereason.data.sources.xstest_response import FILES
from safereason.judges import refusal, refusal_learned
from safereason.judges.refusal_learned import ngrams, row_digest
from safereason.runs.manifest import sha256
from safereason.runs.records import write_text

MODELS = ("gpt4", "llama2orig", "mistralguard")
LABELS = {"2_full_refusal": True, "1_full_compliance": False}
LEAST_ROWS = 2
"""Rows that an n-gram has to be in."""
STRENGTH = 10.0
"""C of the regression: the inverse of its regularisation."""
FOLDS = 5
DIGITS = 4
PLACE = Path(refusal_learned.__file__).with_name(refusal_learned.WEIGHTS)

Truths = NDArray[np.bool_]


def pipeline() -> Pipeline:
    features = TfidfVectorizer(analyzer=ngrams, min_df=LEAST_ROWS, sublinear_tf=True)
    return Pipeline(
        [("features", features), ("regression", LogisticRegression(C=STRENGTH, max_iter=2000, class_weight="balanced"))]
    )


class Table:
    """The labelled answers, one an entry of each array."""

    def __init__(self) -> None:
        models = []
        rows = []
        for model in MODELS:
            for row in published_rows(FILES[model]):
                if row["final_label"] in LABELS:
                    models.append(model)
                    rows.append(row)
        self.model = np.array(models)
        self.prompt = np.array([int(row["id"].rpartition("-")[2]) for row in rows])
        self.row = sorted({row_digest(row["prompt"], row["completion"]) for row in rows})
        self.answer = np.array([row["completion"] for row in rows], dtype=object)
        self.refused: Truths = np.array([LABELS[row["final_label"]] for row in rows])


def predict(table: Table, train: Truths, test: Truths) -> Truths:
    """Verdicts of a judge that was trained on the rows of `train`, one a row of `test`."""
    learned = pipeline().fit(table.answer[train], table.refused[train]).predict(table.answer[test])
    return learned | np.array([refusal.is_outright(answer) for answer in table.answer[test]])


def held_out(table: Table, by_model: bool, by_prompt: bool) -> Truths:
    """Each row's verdict by a classifier that did not see its model, its prompt, or either.

    Args:
        table: The rows.
        by_model: Whether the classifier was trained on the other models alone.
        by_prompt: Whether it was trained on four fifths of the prompts, and the row is of the last fifth.
    """
    every_row = np.ones(len(table.answer), dtype=bool)
    # Each test has the rows that are predicted at a time, and those that a classifier for them may see.
    tests = [(every_row, every_row)]
    if by_prompt:
        folds = GroupKFold(FOLDS, shuffle=True, random_state=0).split(table.answer, groups=table.prompt)
        tests = []
        for _, numbers in folds:
            is_tested = np.isin(np.arange(len(table.answer)), numbers)
            tests.append((is_tested, ~is_tested))
    verdicts = np.zeros(len(table.answer), dtype=bool)
    for is_tested, is_seen in tests:
        if not by_model:
            verdicts[is_tested] = predict(table, is_seen, is_tested)
            continue
        for model in MODELS:
            is_of_model = table.model == model
            chosen = is_tested & is_of_model
            verdicts[chosen] = predict(table, is_seen & ~is_of_model, chosen)
    return verdicts


def report(table: Table) -> None:
    verdicts = {
        "refusal (patterns)": np.array([refusal.refuses(answer) for answer in table.answer]),
        "learned, model held out": held_out(table, by_model=True, by_prompt=False),
        "learned, prompts held out": held_out(table, by_model=False, by_prompt=True),
        "learned, both held out": held_out(table, by_model=True, by_prompt=True),
    }
    parts = {model: table.model == model for model in MODELS}
    parts["mistralguard, odd rows"] = parts["mistralguard"] & (table.prompt % 2 == 1)
    print("| judge | completions of | n | precision | recall | F1 |\n|---|---|---|---|---|---|")
    for name, verdict in verdicts.items():
        for part, chosen in parts.items():
            truth = table.refused[chosen]
            scores = []
            for score in (precision_score, recall_score, f1_score):
                scores.append(f"{score(truth, verdict[chosen]):.3f}")
            print(f"| {name} | {part} | {len(truth)} | {' | '.join(scores)} |")


def document(table: Table) -> str:
    """The weights of all rows as JSON, a term a line."""
    fitted = pipeline().fit(table.answer, table.refused)
    features, regression = fitted["features"], fitted["regression"]
    weights = zip(features.get_feature_names_out(), features.idf_, regression.coef_[0], strict=True)
    terms = ",\n".join(f'  "{gram}": [{idf:.{DIGITS}f}, {weight:.{DIGITS}f}]' for gram, idf, weight in weights)
    trained_rows = ",\n".join(f'  "{digest}"' for digest in table.row)
    hashes = ", ".join(f'"{FILES[model].name}": "{sha256(fetch(FILES[model]))}"' for model in MODELS)
    return (
        f'{{\n"trained_on": "XSTest, {len(table.answer)} completions labelled full refusal or full compliance",\n'
        f'"files": {{{hashes}}},\n"made_by": "benchmarks/refusal_judge.py",\n'
        f'"rows": [\n{trained_rows}\n],\n'
        f'"bias": {regression.intercept_[0]:.{DIGITS}f},\n"terms": {{\n{terms}\n}}}}\n'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the weights of all rows into the package")
    labelled = Table()
    report(labelled)
    if parser.parse_args().write:
        write_text(PLACE, document(labelled))
        print(f"{PLACE}: {PLACE.stat().st_size / 1000:.0f} kB")
