"""The plan of a teacher's reasoning traces: its prompts, its settings, and their cost in tokens and money."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from safereason.data import traces
from safereason.data.example import Example
from safereason.data.sampling import digest, limited
from safereason.data.traces import Reading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.prompt import Question
from safereason.judges import JudgeSpec
from safereason.recipe.schema import Recipe, RSafeMix, Teacher
from safereason.runs.records import Record
from safereason.stages.base import (
    Identity,
    Options,
    Outline,
    given_inputs,
    resolved_judge,
    run_identity,
)
from safereason.stages.contents import contents
from safereason.stages.own_names import DATA_SECTIONS, with_own_names
from safereason.stages.preparation.mixture import prompts_for_teacher
from safereason.stages.preparation.training_sources import TEACHER_STAGE
from safereason.text import chat
from safereason.text.chat import Message

CHARACTERS_A_TOKEN = 4
"""Characters of English text a token, roughly. The tokenizer of a teacher behind a server is unknown."""


@dataclass(frozen=True)
class Price:
    """A provider's price, in USD per million tokens."""

    read: float
    written: float

    def of(self, read: int, written: int) -> float:
        """Cost in USD of so many tokens."""
        return (self.read * read + self.written * written) / 1e6


@dataclass(frozen=True)
class TeacherPlan:
    """The prompts of a teacher, and its settings."""

    examples: tuple[Example, ...]
    teacher: Teacher
    """The recipe's settings; the command line may name another model."""
    model: ModelSpec
    judge: JudgeSpec | None
    """Judge that an answer has to pass; of `guard:RECIPE`, the run of that recipe's guard."""
    guard_prompt: GuardPrompt | None
    """Prompt of the guard that the traces are for; None where they are for a reasoning model."""
    limit: int | None

    @cached_property
    def jobs(self) -> list[tuple[Example, int]]:
        """Each requested reply: its prompt, and the number of the sample, from 1."""
        jobs = []
        for example in self.examples:
            for sample in range(1, self.teacher.samples + 1):
                jobs.append((example, sample))
        return jobs

    @cached_property
    def by_source(self) -> dict[str, list[Example]]:
        """The prompts by source."""
        examples_by_source: dict[str, list[Example]] = {}
        for example in self.examples:
            examples_by_source.setdefault(example.source, []).append(example)
        return examples_by_source

    @property
    def may_retry(self) -> bool:
        """Whether a failed reply may succeed later. A local model fails only at prompts that are too long for it."""
        return self.model.is_remote

    def conversation(self, example: Example) -> list[Message]:
        """The teacher's conversation for an example."""
        if self.guard_prompt is None:
            return chat.user(example.prompt)
        return self.guard_prompt.conversation(Question(example.prompt, example.response))

    def read(self, example: Example, reply: Record) -> Reading:
        """The trace in a reply to an example, or the reason why it holds none."""
        # A reasoning model's reply is a trace with any answer; a guard's has to give the row's label.
        expected_label = None
        if self.guard_prompt:
            expected_label = example.label
        return traces.read(reply["prefix"] + reply["text"], reply["finish_reason"], expected_label)


def plan_teacher(recipe: Recipe, options: Options, limit: int | None = None) -> TeacherPlan:
    """Plans replies of `options.model`, else of the recipe's teacher, to all prompts or to `limit` of them.

    No model is loaded.

    Raises:
        InputError: There is no teacher or no prompt for it, or a source or the judge cannot be had.
    """
    teacher, model = _chosen_teacher(recipe, options.model)
    guard_prompt = _guard_prompt(recipe)
    # A guard's verdict is right or wrong by its row's label, so no judge is needed.
    if guard_prompt is not None and teacher.judge:
        raise InputError("data.teacher.judge: a guard's replies are compared with the rows' labels; set it to null")
    judge = None
    if teacher.judge:
        judge = resolved_judge(JudgeSpec.parse(teacher.judge), options)
    prompts = prompts_for_teacher(with_own_names(recipe, DATA_SECTIONS))
    if not prompts:
        raise InputError(
            f"recipe {recipe.name}: data.traces leaves no prompt for a teacher to answer; name a source "
            "that has no traces of its own (`safereason data ls`)"
        )
    return TeacherPlan(tuple(limited(prompts, limit, recipe.seed)), teacher, model, judge, guard_prompt, limit)


def teacher_identity(recipe: Recipe, plan: TeacherPlan, options: Options) -> Identity:
    """The identity of the traces. It holds the prompts and not the mix's shares, which training alone reads."""
    # The model may have been named on the command line, and counts by its own identity below.
    teacher = plan.teacher.model_dump(mode="json", exclude={"model"})
    judge = None
    if plan.judge is not None:
        judge = plan.judge.identity()
    guard_prompt = None
    if plan.guard_prompt:
        guard_prompt = plan.guard_prompt.prompt_settings()
    return run_identity(
        recipe,
        mix=recipe.data.mix,
        traces=[share.model_dump(mode="json") for share in with_own_names(recipe, ("data",)).data.traces],
        model=plan.model.identity(),
        teacher={**teacher, "judge": judge},
        asked=guard_prompt,
        prompts=digest(*((e.id, e.prompt, e.response, e.kind, e.label) for e in plan.examples)),
        limit=plan.limit,
        **given_inputs(base_url=options.base_url),
        **contents(models=[plan.model], judges=[plan.judge]),
    )


def teacher_outline(plan: TeacherPlan, price: Price | None = None) -> Outline:
    """A plan's size, in total and by source.

    Tokens read are estimated from characters. Tokens written are the most that the sampling allows.
    """
    # The policy makes a guard's prompt many times longer, which a person should see before paying.
    prompt = "the prompt alone"
    if plan.guard_prompt:
        prompt = f"as a guard under policy {plan.guard_prompt.policy.name}"
    judge = None
    if plan.judge is not None:
        judge = plan.judge.label()
    return {
        "stage": TEACHER_STAGE,
        "teacher": str(plan.model),
        "asked": prompt,
        "judge": judge,
        **_request_size(plan, plan.examples, price),
        "sources": {source: _request_size(plan, examples, price) for source, examples in plan.by_source.items()},
    }


def _request_size(plan: TeacherPlan, examples: Sequence[Example], price: Price | None) -> Outline:
    """The number of prompts, replies and tokens for these examples, and their cost."""
    tokens_read = 0
    for example in examples:
        characters = len(plan.teacher.prefix)
        characters += sum(len(turn["content"]) for turn in plan.conversation(example))
        tokens_read += math.ceil(characters / CHARACTERS_A_TOKEN)
    # A provider bills a prompt once a sample.
    tokens_read *= plan.teacher.samples
    replies = plan.teacher.samples * len(examples)
    tokens_written = replies * plan.teacher.sampling.max_new_tokens
    size: Outline = {
        "prompts": len(examples),
        "replies": replies,
        "tokens read, about": tokens_read,
        "tokens written, at most": tokens_written,
    }
    if price:
        size["USD, at most about"] = round(price.of(tokens_read, tokens_written), 2)
    return size


def count_tokens(replies: Sequence[Record]) -> dict[str, int | None]:
    """The tokens of the replies that report them, null where none does, and the number of replies that do not.

    Failed and filtered replies took no tokens that a provider bills, so they are not missed.
    """
    # None and not 0: a server that counts nothing has not worked for free.
    read = None
    written = None
    replies_without = 0
    for reply in replies:
        usage = reply["usage"]
        if usage:
            read = (read or 0) + usage["prompt"]
            written = (written or 0) + usage["completion"]
        elif reply["finish_reason"] not in ("error", "filtered"):
            replies_without += 1
    return {"read": read, "written": written, "replies_without": replies_without}


def cost(counted: Mapping[str, int | None], price: Price | None) -> dict[str, float | None]:
    """The cost of counted tokens: null where none are counted, and empty where no price is known."""
    if price is None:
        return {}
    read = counted["read"]
    written = counted["written"]
    # A cost from some of the replies would look like the cost of all.
    if read is None or written is None:
        return {"usd": None}
    return {"usd": round(price.of(read, written), 4)}


def reply_failed(reply: Record) -> bool:
    """Whether the teacher could not be reached, or its server ended the reply."""
    return bool(reply["finish_reason"] == "error")


def _chosen_teacher(recipe: Recipe, model: ModelSpec | None) -> tuple[Teacher, ModelSpec]:
    """The recipe's settings of the teacher, and its model, or another one if that is named."""
    teacher = recipe.data.teacher
    if teacher is not None:
        return teacher, model or ModelSpec.parse(teacher.model)
    if model is None:
        raise InputError(f"recipe {recipe.name}: it names no teacher; pass --model, or set data.teacher.model")
    return Teacher(model=str(model)), model


def _guard_prompt(recipe: Recipe) -> GuardPrompt | None:
    """The prompt of the guard that the traces are for; None for a reasoning model's recipe."""
    if not isinstance(recipe.data, RSafeMix):
        return None
    if recipe.guard is None:
        raise InputError(f"recipe {recipe.name}: a teacher uses the guard's prompt, and it has no guard section")
    if not recipe.guard.reasoning:
        raise InputError(f"recipe {recipe.name}: guard.reasoning is false, and verdicts alone need no teacher")
    return guard_prompts.of_section(recipe.guard)
