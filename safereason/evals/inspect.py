"""The evaluations as tasks of inspect_ai: `inspect eval safereason/xstest --model openai/NAME`.

inspect asks the model and keeps its log; the prompts, the judge and the figures are those of `safereason eval`. Imports
inspect_ai, which finds this module by its entry point.

Deviations from `safereason eval`: (1) no generation prefix is set, since providers take none: the server's template has
to open the thought; (2) prompts are asked as they are or as files of test cases have them, and no attack is run here;
(3) inspect leaves samples that are unscored out before figures are made, and counts them itself.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

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
from safereason.data.draw import limited
from safereason.engines.base import Completion, Message
from safereason.errors import InputError, command
from safereason.evals.base import MISSING, Case, Eval, Outcome, exchange
from safereason.evals.metrics import OVERALL
from safereason.judges import Judge, Verdict
from safereason.recipe.load import load
from safereason.recipe.schema import Evaluation, Sampling
from safereason.text import reasoning

RECIPE = "tars-1.5b"
"""Whose eval section says how a task asks and judges, where none is named."""
_MESSAGES: dict[str, Callable[..., ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def _task_of(evaluation: Eval) -> Callable[..., Task]:
    def build(
        recipe: str = RECIPE,
        judge: str | None = None,
        source: str | None = None,
        cases: str | None = None,
        limit: int | None = None,
    ) -> Task:
        section = load(recipe).eval
        if section is None:
            raise InputError(f"recipe {recipe}: it has no eval section; add one")
        assert evaluation.judge is not None
        asked = _cases(evaluation, section, source, cases, limit)
        judged_by = judge or evaluation.judge(section)
        return Task(
            dataset=MemoryDataset([_sample(case) for case in asked], name=evaluation.name),
            solver=generate(),
            scorer=judged(evaluation.name, judged_by),
            metrics=[figures(evaluation.name, _judge(evaluation.name, judged_by).measures)],
            config=_config(section.sampling),
        )

    build.__doc__ = f"{evaluation.summary}."
    return build


def _cases(
    evaluation: Eval, section: Evaluation, source: str | None, cases: str | None, limit: int | None
) -> list[Case]:
    """The prompts, at most `limit` of them drawn by seed 0; those of a file where one is named."""
    names = (source,) if source else evaluation.sources(section)
    found = [e for name in names for e in sources.get(name).load("test") if evaluation.keeps(e)]
    tests = formats.read_cases(Path(cases)) if cases else [TestCase(e.id, "direct", e.prompt) for e in found]
    if any(test.prefix or test.completion for test in tests):
        instead = command("eval", evaluation.name, "--model", "MODEL", "--cases", cases)
        raise InputError(
            f"cases={cases}: some put words into the model's mouth, which inspect cannot; use {instead} for them"
        )
    attacked = {test.behavior_id for test in tests}
    most = limit or section.limit or evaluation.draws
    asked = evals.cases(limited([e for e in found if e.id in attacked], most, 0), tests)
    if not asked:
        raise InputError(f"source {', '.join(names)}: has no prompts that {evaluation.name} is about; name another")
    return asked


def _sample(case: Case) -> Sample:
    said: list[Message] = [*case.turns, {"role": "user", "content": case.prompt}]
    turns = [_MESSAGES[message["role"]](content=message["content"]) for message in said]
    return Sample(input=turns, id=case.id, metadata=asdict(case))


def _config(sampling: Sampling) -> GenerateConfig:
    return GenerateConfig(temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_new_tokens)


@cache
def _judge(evaluation: str, spec: str) -> Judge:
    """A judge, opened once: it may be a model."""
    return evals.judge_for(evals.get(evaluation), spec)


@scorer(metrics=[])
def judged(evaluation: str, judge: str) -> Scorer:
    """The judge's score of the answer without its reasoning; NaN, with the reason, where it is unscored."""
    scores, one_at_a_time = _judge(evaluation, judge), Lock()

    async def score(state: TaskState, target: Target) -> Score:
        record = evals.record(Case(**state.metadata), _completion(state.output))
        if record["finish_reason"] in MISSING:
            verdict = Verdict.unscored(f"no completion: {record['error']}")
        else:
            async with one_at_a_time:
                [verdict] = await to_thread.run_sync(scores.judge, [exchange(record)])
        kept = {"completion": record, "verdict": asdict(verdict)}
        if verdict.score is None:
            return Score.unscored(
                reason="scoring_failed", answer=record["answer"], explanation=verdict.reason, metadata=kept
            )
        return Score(value=verdict.score, answer=record["answer"], explanation=verdict.label, metadata=kept)

    return score


@metric
def figures(evaluation: str, measures: str) -> Metric:
    """The figures of `safereason eval`, those of all samples with the ends of their 95 % intervals."""

    def worked_out(scores: list[SampleScore]) -> dict[str, float | None]:
        kept = [score.score.metadata or {} for score in scores]
        outcomes = [Outcome(k["completion"], Verdict(**k["verdict"])) for k in kept]
        found: dict[str, float | None] = {}
        for figure in evals.get(evaluation).figures(outcomes, measures):
            found[figure.label] = figure.value
            if figure.group == OVERALL:
                found |= {f"{figure.label}:low": figure.low, f"{figure.label}:high": figure.high}
        return found

    return worked_out


def _completion(output: ModelOutput) -> Completion:
    """What the model wrote; where the provider gives the reasoning apart, it is put back in its place."""
    if output.error or output.empty:
        return Completion("", (), "error", error=output.error or "the model gave no output")
    content: Any = output.message.content
    thoughts = [] if isinstance(content, str) else [c.reasoning for c in content if isinstance(c, ContentReasoning)]
    text = reasoning.join("\n".join(thoughts), output.completion) if thoughts else output.completion
    cut = output.stop_reason in ("max_tokens", "model_length")
    return Completion(text, (), "length" if cut else "stop")


for _evaluation in evals.EVALS.values():
    if _evaluation.judge is not None:
        task(name=_evaluation.name)(_task_of(_evaluation))
