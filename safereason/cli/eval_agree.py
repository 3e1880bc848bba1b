"""`safereason eval agree`: the agreement of a judge with people's labels."""

from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from safereason.evals.agreement import Agreement, LabelColumns, Labelled
    from safereason.evals.metrics import Figure
    from safereason.judges import Judge, Measure, Verdict

T = TypeVar("T")

EXAMPLES = opt.examples(
    "safereason eval agree xstest-gpt4 xstest-llama2orig --judge refusal --fail-under f1=0.92",
    "safereason eval agree labels.csv --judge guard:runs/guard/rl/RUN --label-column harmful --positive 1 --negative 0",
)
# Exchanges that are judged together; the progress bar moves after each batch.
BATCH = 64

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="CSV, JSON or JSONL files with labels, or a name such as xstest-gpt4."),
]
MeasureName = Annotated[
    Literal["refusal", "harm", "quality"],
    typer.Option("--measures", metavar="WHAT", help="What the labels measure: refusal, harm, quality."),
]
PromptColumn = Annotated[str | None, typer.Option("--prompt-column", metavar="NAME", help="By default `prompt`.")]
AnswerColumn = Annotated[str | None, typer.Option("--answer-column", metavar="NAME", help="By default `completion`.")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", metavar="NAME", help="By default `final_label`.")]
PeopleColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--person-column", metavar="NAME", help="Column of one person's labels; name two to compare two people."
    ),
]
Positive = Annotated[
    list[str] | None,
    typer.Option("--positive", metavar="VALUE", help="Label of answers with the measured quality; repeatable."),
]
Negative = Annotated[
    list[str] | None, typer.Option("--negative", metavar="VALUE", help="Label of answers without it; repeatable.")
]


def agree(
    files: Files,
    judge: opt.JudgeName,
    measure: MeasureName = "refusal",
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    label_column: LabelColumn = None,
    person_column: PeopleColumns = None,
    positive: Positive = None,
    negative: Negative = None,
    precision: opt.PrecisionOption = None,
    fail_under: opt.FailUnder = None,
    fail_over: opt.FailOver = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure a judge against people's labels: F1, precision, recall, accuracy, Cohen's kappa; by file, then of all."""
    from safereason import console
    from safereason.evals import agreement, bars

    parsed_bars = opt.parse_bars("agree", agreement.FIGURES, fail_under, fail_over)
    columns = _label_columns(prompt_column, answer_column, label_column, person_column, positive, negative)
    # All files are read before the judge is loaded, which may take minutes.
    all_answers = {name: agreement.read(name, columns) for name in dict.fromkeys(files)}
    opened_judge = _open_judge_to_measure(judge, measure, precision)
    answers = {name: agreement.unseen(name, rows, opened_judge, columns) for name, rows in all_answers.items()}
    left_out = _count_left_out(all_answers, answers)
    with output.results_only():
        verdicts = {name: _judge_answers(opened_judge, rows) for name, rows in answers.items()}
    by_file: dict[str, Agreement] = {}
    for name, rows in answers.items():
        by_file[name] = agreement.agreement(rows, verdicts[name], columns, name)
    whole = agreement.agreement(_joined(answers.values()), _joined(verdicts.values()), columns)
    agreements = [whole]
    # With a single file, its figures would be those of the whole again.
    if len(by_file) > 1:
        agreements += by_file.values()
    figures = [asdict(figure) for part in agreements for figure in part.figures]
    if as_json:
        output.print_json(
            {
                "judge": judge,
                "measures": opened_judge.measure,
                "files": list(answers),
                "figures": figures,
                "left_out": left_out,
                "by_file": {name: asdict(part) for name, part in by_file.items()},
            }
        )
    else:
        _print_agreement(by_file, agreements)
    # The person has to know this before the figures are quoted, however the result is printed.
    for name, count in left_out.items():
        console.say(f"{name}: {count} answers that {opened_judge.name} was trained on are left out of its figures")
    bars.refuse_unmet_bars({"eval": "agree", "figures": figures}, parsed_bars)


def _label_columns(
    prompt: str | None,
    answer: str | None,
    label: str | None,
    people: list[str] | None,
    positive: list[str] | None,
    negative: list[str] | None,
) -> "LabelColumns":
    """The columns and labels of the files. Those that are not named are XSTest's.

    Raises:
        InputError: One person's column is named without a second one, or a label is both positive and negative.
    """
    from safereason.evals.agreement import LabelColumns

    columns = LabelColumns()
    if people and len(people) != 2:
        raise InputError("--person-column: two columns are needed, one a person; give it twice or leave it out")
    if prompt is not None:
        columns = replace(columns, prompt=prompt)
    if answer is not None:
        columns = replace(columns, answer=answer)
    if label is not None:
        columns = replace(columns, label=label)
    if people is not None:
        columns = replace(columns, people=tuple(people))
    if positive is not None:
        columns = replace(columns, positive=tuple(positive))
    if negative is not None:
        columns = replace(columns, negative=tuple(negative))
    if both := set(columns.positive) & set(columns.negative):
        raise InputError(f"--positive {min(both)}: is named as --negative too; a label is one of them")
    return columns


def _open_judge_to_measure(judge_name: str, measure: "Measure", precision: opt.PrecisionOption) -> "Judge":
    """The judge, opened for this measure; `precision` is that of its model.

    Raises:
        InputError: The judge measures something else than the labels tell.
    """
    from safereason.engines.engine_spec import Loading
    from safereason.judges import JudgeSpec

    judge = JudgeSpec.parse(judge_name).open((measure,), Loading(precision))
    # Labels of refusal, compared with verdicts on harm, would give figures that look plausible.
    if judge.measure != measure:
        raise InputError(
            f"--judge {judge_name}: measures {judge.measure}, not {measure}; name another judge, or what the "
            f"labels tell with --measures {judge.measure}"
        )
    return judge


def _count_left_out(
    all_answers: "Mapping[str, Sequence[Labelled]]", answers: "Mapping[str, Sequence[Labelled]]"
) -> dict[str, int]:
    """The number of answers that the judge was trained on, of each file that has some."""
    counts: dict[str, int] = {}
    for name, rows in all_answers.items():
        if count := len(rows) - len(answers[name]):
            counts[name] = count
    return counts


def _judge_answers(judge: "Judge", answers: "Sequence[Labelled]") -> "list[Verdict]":
    from safereason import console

    verdicts: list[Verdict] = []
    with console.progress("verdicts", len(answers)) as advance:
        for start in range(0, len(answers), BATCH):
            exchanges = [answer.exchange for answer in answers[start : start + BATCH]]
            batch = judge.judge(exchanges)
            verdicts += batch
            for _ in batch:
                advance("")
    return verdicts


def _joined(lists: "Iterable[list[T]]") -> "list[T]":
    return list(chain.from_iterable(lists))


def _print_agreement(by_file: "dict[str, Agreement]", agreements: "Sequence[Agreement]") -> None:
    figures: list[Figure] = []
    for part in agreements:
        figures += part.figures
        if part.people:
            figures.append(part.people)
    output.print_figures([asdict(figure) for figure in figures])
    print()
    rows: list[tuple[object, ...]] = []
    for name, part in by_file.items():
        rows += _confusion_rows(name, part.confusion, "")
        # Labels that are neither positive nor negative, such as a partial refusal, are shown but not counted.
        rows += _confusion_rows(name, part.apart, "no part of the figures")
    output.print_table(("file", "people say", "judge: yes", "no", "unscored", ""), rows)


def _confusion_rows(name: str, confusion: "Mapping[str, Mapping[str, int]]", note: str) -> list[tuple[object, ...]]:
    """One row per label of people's, with the numbers of the judge's verdicts."""
    rows: list[tuple[object, ...]] = []
    for label, counts in confusion.items():
        rows.append((name, label, counts["positive"], counts["negative"], counts["unscored"], note))
    return rows
