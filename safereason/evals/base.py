"""The parts of every evaluation: its prompts, its judge and its figures."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from safereason.attacks.base import TestCase
from safereason.data.example import Example
from safereason.engines.base import Completion
from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.errors import InputError
from safereason.evals.metrics import Figure, FigureInfo
from safereason.judges import BehaviorRequest, Exchange, Judge, JudgeSpec, Measure, Verdict
from safereason.judges.base import THRESHOLD
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.records import Record
from safereason.text import reasoning

MISSING = ("error", "filtered")
"""Finish reasons of records that hold no completion."""


@dataclass(frozen=True)
class Case:
    """One prompt for the target model: a test case and the example whose behavior it elicits."""

    id: str
    """`behavior/attack`, with a number behind it where the attack has several test cases for the behavior."""
    test: TestCase
    example: Example


@dataclass(frozen=True)
class Outcome:
    """The recorded completion of a case and the judge's verdict on it."""

    completion: Record
    verdict: Verdict

    @property
    def scored_high(self) -> bool | None:
        """Whether the judge saw what it measures, by the threshold; None where the answer is unscored."""
        if self.verdict.score is None:
            return None
        return self.verdict.score >= THRESHOLD

    @property
    def failed(self) -> bool:
        """Whether there is no completion: generation failed, or the provider filtered it."""
        return self.completion["finish_reason"] in MISSING

    @property
    def filtered(self) -> bool:
        """Whether the provider's filter refused the prompt or cut the completion off."""
        return bool(self.completion["finish_reason"] == "filtered")

    @property
    def is_repeated(self) -> bool:
        """Whether a resumed run repeats the request: the completion failed, or its verdict did."""
        # What a provider filtered is not repeated: it would filter it again.
        return has_failed(self.completion) or self.verdict.failed

    @property
    def closed(self) -> bool | None:
        """Whether the reasoning was closed; None where there is no completion."""
        if self.failed:
            return None
        return bool(self.completion["closed"])

    @property
    def is_harmful(self) -> bool:
        """Whether the prompt is harmful."""
        return bool(self.completion["kind"] == "harmful")

    @property
    def categories(self) -> tuple[str, ...]:
        """Each of the prompt's categories; `none` where its source gives it none."""
        # Sources join the categories of a prompt that has several.
        return tuple(str(self.completion["category"] or "none").split("; "))


Figures = Callable[[Sequence[Outcome], Measure | None], list[Figure]]
"""A function from outcomes and the judge's measure, None where there is no judge, to figures."""


@dataclass(frozen=True)
class Eval:
    """One evaluation: its prompts, its judge, and the figures that come of the outcomes."""

    name: str
    summary: str
    """Measurement in one line, for listings."""
    sources: Callable[[Evaluation], tuple[str, ...]]
    """Names of the data sources for a recipe's section; none where the section leaves the evaluation out."""
    keeps: Callable[[Example], bool]
    """Whether an example of the sources belongs to the evaluation."""
    figures: Figures
    reports: tuple[FigureInfo, ...]
    """Figures that it reports, the main one first."""
    judge: Callable[[Evaluation], str] | None
    """The judge in a recipe's section; None for an evaluation that counts tokens and judges nothing."""
    measures: tuple[Measure, ...] = ()
    """Measures that its judge may have."""
    attacks: Callable[[Evaluation], tuple[str, ...]] | None = None
    """Default attacks on each example; None for an evaluation of plain requests."""
    draws: int | None = None
    """Default limit, of examples drawn by the seed; None takes all."""
    title: str = ""
    """Name in a report, as its publisher spells it; empty where that is `name`."""


def published(*names: str) -> Callable[[Evaluation], tuple[str, ...]]:
    """A choice of sources that is the same for every recipe."""
    return lambda section: names


def cases(examples: Sequence[Example], tests: Iterable[TestCase]) -> list[Case]:
    """The test cases of these examples, in the order of `tests`; those of other behaviors are left out."""
    examples_by_id = {example.id: example for example in examples}
    times = Counter[str]()
    made = []
    for test in tests:
        example = examples_by_id.get(test.behavior_id)
        if example is None:
            continue
        case_id = f"{test.behavior_id}/{test.attack}"
        times[case_id] += 1
        # One attack may have several test cases for a behavior. The first keeps the plain id, as a single one would.
        if times[case_id] > 1:
            case_id = f"{case_id}#{times[case_id]}"
        made.append(Case(case_id, test, example))
    return made


def case_record(case: Case) -> Record:
    """The part of a line of `completions.jsonl` that is known before there is a completion."""
    return {
        "id": case.id,
        "behavior": case.test.behavior_id,
        "attack": case.test.attack,
        "prompt": case.test.prompt,
        "kind": case.example.kind,
        "category": case.example.category,
        "source": case.example.source,
        "request": case.example.request,
        "context": case.example.context,
    }


def completion_record(completion: Completion) -> Record:
    """The part of a line of `completions.jsonl` that its completion gives."""
    # Everything that judges and figures need, since a run is scored again from this file alone.
    parts = completion.parts
    line: Record = {
        "prefix": completion.prefix,
        "text": completion.text,
        "reasoning": parts.reasoning,
        "answer": parts.answer,
        "closed": parts.closed,
        "well_formed": reasoning.is_well_formed(completion.full_text),
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids) or None,
    }
    # These two keys are only there where they say something. Earlier versions did not write them.
    if completion.missing:
        line["error"] = completion.error
    if completion.lasts:
        line["lasts"] = True
    return line


def eval_section(recipe: Recipe) -> Evaluation:
    """The recipe's `eval` section.

    Raises:
        InputError: It has none.
    """
    if recipe.eval is None:
        raise InputError(f"recipe {recipe.name}: it has no eval section; add one")
    return recipe.eval


def has_failed(record: Record) -> bool:
    """Whether a recorded completion failed in a way that another try may mend."""
    return record["finish_reason"] == "error" and not record.get("lasts", False)


def exchange(completion: Record) -> Exchange:
    """The exchange of such a record that a judge scores: the answer without its reasoning."""
    # The record has all of it, so that `eval score` needs neither the sources nor the model.
    request = BehaviorRequest(
        completion["behavior"], completion["request"], completion["context"], completion["category"]
    )
    return Exchange(completion["prompt"], completion["answer"], request)


def judge_for(evaluation: Eval, spec: JudgeSpec, loading: Loading = LOADED_AT_ONCE) -> Judge:
    """The judge, opened for an evaluation; `loading` says how its model is loaded.

    Raises:
        InputError: The judge cannot be opened, or measures something else.
    """
    # The measures go along, since some judges can measure one of several.
    judge = spec.open(evaluation.measures, loading)
    # Other judges have one measure, and ignore the argument.
    if judge.measure not in evaluation.measures:
        needed = " or ".join(evaluation.measures)
        raise InputError(f"eval {evaluation.name}: judge {spec} measures {judge.measure}; one of {needed} is needed")
    return judge
