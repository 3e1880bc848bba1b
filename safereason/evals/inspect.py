"""The evaluations as tasks of inspect_ai: `inspect eval safereason/xstest --model openai/NAME`.

inspect queries the model and keeps its log; the prompts, the judge and the figures are those of `safereason eval`.
Imports inspect_ai, which finds this module by its entry point.

Deviations from `safereason eval`: (1) no generation prefix is set, since providers take none: the server's template has
to open the reasoning; (2) prompts are those of the source or of a file of test cases, and no attack is run here;
(3) inspect leaves samples that are unscored out before figures are made, and counts them itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from anyio import Lock, to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    GenerateConfig,
    ModelOutput,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from safereason import evals
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.data import sources
from safereason.data.sampling import limited
from safereason.engines.base import Completion, Message
from safereason.errors import InputError, command
from safereason.evals.base import MISSING, Case, Eval, Outcome, eval_section, exchange
from safereason.evals.metrics import OVERALL
from safereason.judges import Judge, JudgeSpec, Measure, Verdict
from safereason.recipe.load import load
from safereason.recipe.schema import Evaluation, Sampling
from safereason.text import reasoning

DEFAULT_RECIPE = "tars-1.5b"
"""The default recipe, whose `eval` section holds the sampling settings and the judges."""
FigureValues: TypeAlias = dict[str, float | None]
"""Values by the figure's label, with `:low` and `:high` for the ends of intervals."""
_MESSAGE_TYPES: dict[str, Callable[..., ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def _task_builder(evaluation: Eval) -> Callable[..., Task]:
    """A function that builds the task of an evaluation; its parameters are those of `inspect eval -T`."""

    def build(
        recipe: str = DEFAULT_RECIPE,
        judge: str | None = None,
        prompts: str | None = None,
        cases: str | None = None,
        limit: int | None = None,
        source: str | None = None,
    ) -> Task:
        # The name of `prompts` in earlier versions.
        if source and prompts:
            raise InputError("prompts and source are the same argument; pass prompts only")
        section = eval_section(load(recipe))
        assert evaluation.judge is not None
        chosen = _choose_cases(evaluation, section, prompts or source, cases, limit)
        judge_spec = judge or evaluation.judge(section)
        return Task(
            dataset=MemoryDataset([_sample_of(case) for case in chosen], name=evaluation.name),
            solver=generate(),
            scorer=judged(evaluation.name, judge_spec),
            metrics=[figures(evaluation.name, _open_judge(evaluation.name, judge_spec).measure)],
            config=_generation_config(section.sampling),
        )

    # inspect shows the docstring in its list of tasks.
    build.__doc__ = f"{evaluation.summary}."
    return build


def _choose_cases(
    evaluation: Eval, section: Evaluation, prompts: str | None, cases: str | None, limit: int | None
) -> list[Case]:
    """The cases of at most `limit` examples, drawn by seed 0; with the prompts of a file where one is named."""
    source_names = evaluation.sources(section)
    if prompts:
        source_names = (prompts,)
    examples = []
    for name in source_names:
        examples += [example for example in sources.get(name).load("test") if evaluation.keeps(example)]
    if cases:
        tests = formats.read_cases(Path(cases))
    else:
        tests = [TestCase(example.id, "direct", example.prompt) for example in examples]
    # Such test cases need a prefix or an engine of ours, and inspect's providers take only messages.
    if any(test.prefix or test.completion for test in tests):
        instead = command("eval", evaluation.name, "--model", "MODEL", "--cases", cases)
        raise InputError(
            f"cases={cases}: some put words into the model's mouth, which inspect cannot; use {instead} for them"
        )
    # The limit counts behaviors that have a test case, or a short file would leave few of those that are drawn.
    behavior_ids = {test.behavior_id for test in tests}
    attacked = [example for example in examples if example.id in behavior_ids]
    most = limit or section.limit or evaluation.draws
    chosen = evals.cases(limited(attacked, most, 0), tests)
    if not chosen:
        raise InputError(
            f"source {', '.join(source_names)}: has no prompts that {evaluation.name} is about; name another"
        )
    return chosen


def _sample_of(case: Case) -> Sample:
    """The sample of a case, which carries the case's part of the record as its metadata."""
    conversation: list[Message] = [*case.test.turns, {"role": "user", "content": case.test.prompt}]
    messages = []
    for message in conversation:
        messages.append(_MESSAGE_TYPES[message["role"]](content=message["content"]))
    return Sample(input=messages, id=case.id, metadata=evals.case_record(case))


def _generation_config(sampling: Sampling) -> GenerateConfig:
    return GenerateConfig(temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_new_tokens)


@cache
def _open_judge(evaluation: str, spec: str) -> Judge:
    """The judge of a task. It may be a model, and so it is opened once."""
    return evals.judge_for(evals.get(evaluation), JudgeSpec.parse(spec))


@scorer(metrics=[])
def judged(evaluation: str, judge: str) -> Scorer:
    """The judge's score of the answer without its reasoning; NaN, with the reason, where it is unscored."""
    opened = _open_judge(evaluation, judge)
    # inspect scores many samples at once. A judge that is a model on one GPU cannot.
    one_at_a_time = Lock()

    async def score(state: TaskState, target: Target) -> Score:
        record = {**state.metadata, **evals.completion_record(_completion_of(state.output))}
        if record["finish_reason"] in MISSING:
            verdict = Verdict.unscored(f"no completion: {record['error']}")
        else:
            async with one_at_a_time:
                # In a thread, so that the requests to the model go on meanwhile.
                [verdict] = await to_thread.run_sync(opened.judge, [exchange(record)])
        # `figures` makes the outcome again from these two.
        metadata = {"completion": record, "verdict": asdict(verdict)}
        if verdict.score is None:
            return Score.unscored(
                reason="scoring_failed", answer=record["answer"], explanation=verdict.reason, metadata=metadata
            )
        return Score(value=verdict.score, answer=record["answer"], explanation=verdict.label, metadata=metadata)

    return score


@metric
def figures(evaluation: str, measure: Measure) -> Metric:
    """The figures of `safereason eval`, those of all samples with the ends of their 95 % intervals."""

    def compute(scores: list[SampleScore]) -> FigureValues:
        outcomes = []
        for score in scores:
            metadata = score.score.metadata or {}
            outcomes.append(Outcome(metadata["completion"], Verdict(**metadata["verdict"])))
        values: FigureValues = {}
        for figure in evals.get(evaluation).figures(outcomes, measure):
            values[figure.label] = figure.value
            # inspect shows every value as a line of its own, so that intervals of all groups would be too many.
            if figure.group == OVERALL:
                values[f"{figure.label}:low"] = figure.low
                values[f"{figure.label}:high"] = figure.high
        return values

    return compute


def _completion_of(output: ModelOutput) -> Completion:
    """The completion of inspect's output, with the reasoning before the answer in our tags."""
    if output.error or output.empty:
        return Completion("", (), "error", error=output.error or "the model gave no output")
    text = output.completion
    content = output.message.content
    # Providers that return the reasoning apart give a list of parts; others give one text with the tags in it.
    if not isinstance(content, str):
        reasoning_parts = [part.reasoning for part in content if isinstance(part, ContentReasoning)]
        if reasoning_parts:
            text = reasoning.join("\n".join(reasoning_parts), output.completion)
    finish_reason: Literal["stop", "length"] = "stop"
    if output.stop_reason in ("max_tokens", "model_length"):
        finish_reason = "length"
    return Completion(text, (), finish_reason)


def _judged_evaluations() -> Iterator[Eval]:
    """The evaluations that have a judge, those of installed packages included; broken ones are left out."""
    for name, _ in evals.EVALS.every():
        try:
            # Found by its name, a plug-in is registered under its own, by which the scorer looks it up.
            evaluation = evals.get(name)
        except InputError:
            # `safereason eval ls` says what is wrong with it. The others go on working.
            continue
        # Evaluations without a judge count tokens, which providers' texts do not give.
        if evaluation.judge is not None:
            yield evaluation


# inspect finds tasks by this decorator.
for _evaluation in _judged_evaluations():
    task(name=_evaluation.name)(_task_builder(_evaluation))
