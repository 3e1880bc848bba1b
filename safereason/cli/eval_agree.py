"""`safereason eval agree`: how far a judge agrees with people's labels in a file."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safereason.evals.agreement import Agreement, Columns, Labelled
    from safereason.judges import Judge, Verdict

EXAMPLES = opt.examples(
    "safereason eval agree xstest-gpt4 xstest-llama2orig --judge refusal --fail-under f1=0.92",
    "safereason eval agree labels.csv --judge guard:runs/guard/rl/RUN --label-column harmful --positive 1 --negative 0",
)
BATCH = 64
"""Exchanges judged at a time."""

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="CSV, JSON or JSONL files with labels; or xstest-gpt4 and its like."),
]
JudgeName = Annotated[str, typer.Option("--judge", metavar="JUDGE", help="The judge, as `eval ls` names it.")]
Measures = Annotated[
    str, typer.Option("--measures", metavar="WHAT", help="What the labels tell: refusal, harm, quality.")
]
PromptColumn = Annotated[str | None, typer.Option("--prompt-column", metavar="NAME", help="By default `prompt`.")]
AnswerColumn = Annotated[str | None, typer.Option("--answer-column", metavar="NAME", help="By default `completion`.")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", metavar="NAME", help="By default `final_label`.")]
PeopleColumns = Annotated[
    list[str] | None,
    typer.Option("--person-column", metavar="NAME", help="One person's labels; twice, for how far two people agree."),
]
Positive = Annotated[
    list[str] | None, typer.Option("--positive", metavar="VALUE", help="A label of answers that have it; repeatable.")
]
Negative = Annotated[
    list[str] | None, typer.Option("--negative", metavar="VALUE", help="A label of those that do not; repeatable.")
]


def agree(
    files: Files,
    judge: JudgeName,
    measures: Measures = "refusal",
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    label_column: LabelColumn = None,
    person_column: PeopleColumns = None,
    positive: Positive = None,
    negative: Negative = None,
    fail_under: opt.FailUnder = None,
    fail_over: opt.FailOver = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure a judge against people's labels: F1, precision, recall, accuracy, Cohen's kappa; by file, then of all."""
    from safereason import console
    from safereason.evals import agreement, bars

    held = opt.bars("agree", agreement.FIGURES, fail_under, fail_over)
    columns = _columns(prompt_column, answer_column, label_column, person_column, positive, negative)
    labelled = {name: agreement.read(name, columns) for name in dict.fromkeys(files)}
    scorer = _open(judge, measures)
    unseen = {name: agreement.unseen(name, rows, scorer, columns) for name, rows in labelled.items()}
    left_out = {name: len(rows) - len(unseen[name]) for name, rows in labelled.items() if len(rows) > len(unseen[name])}
    labelled = unseen
    with output.results_only():
        verdicts = {name: _verdicts(scorer, rows) for name, rows in labelled.items()}
    parts = {name: agreement.agreement(labelled[name], verdicts[name], columns, name) for name in labelled}
    whole = agreement.agreement(
        [one for rows in labelled.values() for one in rows], [v for found in verdicts.values() for v in found], columns
    )
    several = {"all": whole, **(parts if len(parts) > 1 else {})}
    figures = [asdict(figure) for one in several.values() for figure in one.figures]
    if as_json:
        by_file = {name: asdict(one) for name, one in parts.items()}
        output.print_json(
            {
                "judge": judge,
                "measures": scorer.measures,
                "files": list(labelled),
                "figures": figures,
                "left_out": left_out,
                "by_file": by_file,
            }
        )
    else:
        _print(parts, several)
    for name, count in left_out.items():
        console.say(f"{name}: {count} answers that {scorer.name} was trained on are left out of its figures")
    bars.check({"eval": "agree", "figures": figures}, held)


def _columns(prompt: Any, answer: Any, label: Any, people: Any, positive: Any, negative: Any) -> "Columns":
    from safereason.evals.agreement import Columns

    if people and len(people) != 2:
        raise InputError("--person-column: two columns are needed, one a person; give it twice or leave it out")
    given = {
        "prompt": prompt,
        "answer": answer,
        "label": label,
        "people": people and tuple(people),
        "positive": positive and tuple(positive),
        "negative": negative and tuple(negative),
    }
    named = {key: value for key, value in given.items() if value is not None}
    columns = Columns(**named)
    if both := set(columns.positive) & set(columns.negative):
        raise InputError(f"--positive {min(both)}: is named as --negative too; a label is one of them")
    return columns


def _open(spec: str, measures: str) -> "Judge":
    from safereason.judges import open_judge

    judge = open_judge(spec, (measures,))
    if judge.measures != measures:
        raise InputError(
            f"--judge {spec}: measures {judge.measures}, not {measures}; name another judge, or what the "
            f"labels tell with --measures {judge.measures}"
        )
    return judge


def _verdicts(judge: "Judge", rows: "Sequence[Labelled]") -> "list[Verdict]":
    from safereason import console

    found: list[Verdict] = []
    with console.progress("verdicts", len(rows)) as advance:
        for start in range(0, len(rows), BATCH):
            batch = judge.judge([one.exchange for one in rows[start : start + BATCH]])
            found += batch
            for _ in batch:
                advance("")
    return found


def _print(parts: "dict[str, Agreement]", several: "dict[str, Agreement]") -> None:
    output.print_figures(
        [asdict(figure) for one in several.values() for figure in (*one.figures, *filter(None, [one.people]))]
    )
    print()
    rows = [
        (name, label, *(counts[key] for key in ("positive", "negative", "unscored")), note)
        for name, one in parts.items()
        for table, note in ((one.confusion, ""), (one.apart, "no part of the figures"))
        for label, counts in table.items()
    ]
    output.print_table(("file", "people say", "judge: yes", "no", "unscored", ""), rows)
