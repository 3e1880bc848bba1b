"""What a teacher is asked for reasoning traces, how it is asked, and what that comes to in tokens and money."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from safereason.data import traces
from safereason.data.draw import digest, limited
from safereason.data.example import Example
from safereason.data.traces import Reading
from safereason.engines.open import REMOTE
from safereason.errors import InputError
from safereason.guard import guide as guides
from safereason.guard.guide import Guide
from safereason.guard.prompt import Question
from safereason.judges import parse
from safereason.recipe.schema import Recipe, RSafeMix, Teacher
from safereason.runs.records import Record
from safereason.stages import data
from safereason.stages.base import Options, identity, judge_identity, model_identity, resolved_judge
from safereason.stages.contents import contents
from safereason.stages.training_sources import TEACHER_STAGE
from safereason.text import chat
from safereason.text.chat import Message

CHARACTERS_A_TOKEN = 4
"""Of English, roughly: what a teacher's tokenizer makes of a prompt is not known before it is asked."""


@dataclass(frozen=True)
class Price:
    """What a provider asks, in USD per million tokens."""

    read: float
    written: float

    def of(self, read: int, written: int) -> float:
        """USD for so many tokens."""
        return (self.read * read + self.written * written) / 1e6


@dataclass(frozen=True)
class Plan:
    """Whom to ask what."""

    examples: tuple[Example, ...]
    teacher: Teacher
    judge: str | None
    """Judge that an answer has to pass; of `guard:RECIPE`, the run of that recipe's guard."""
    guide: Guide | None
    """How a guard is asked, where the traces are for one."""
    limit: int | None

    @cached_property
    def jobs(self) -> list[tuple[Example, int]]:
        """Each reply that is wanted: its prompt, and which of the prompt's samples it is, from 1."""
        return [(e, k) for e in self.examples for k in range(1, self.teacher.samples + 1)]

    @cached_property
    def by_source(self) -> dict[str, list[Example]]:
        """The prompts of each source."""
        found: dict[str, list[Example]] = {}
        for example in self.examples:
            found.setdefault(example.source, []).append(example)
        return found

    @property
    def may_retry(self) -> bool:
        """Whether what failed may go well later: not so where a model here has no room for a prompt."""
        return self.teacher.model.startswith(REMOTE)

    def conversation(self, example: Example) -> list[Message]:
        """What the teacher is asked."""
        if self.guide is None:
            return chat.user(example.prompt)
        return self.guide.conversation(Question(example.prompt, example.response))

    def read(self, example: Example, reply: Record) -> Reading:
        """What a reply to an example comes to by itself."""
        label = example.label if self.guide else None
        return traces.read(reply["prefix"] + reply["text"], reply["finish_reason"], label)


def make_plan(recipe: Recipe, options: Options, limit: int | None = None) -> Plan:
    """Asks `options.model`, else the recipe's teacher, about all prompts or `limit` of them, drawn by the seed.

    No model is loaded.

    Raises:
        InputError: There is no teacher or nothing for it to answer, or a source or the judge cannot be had.
    """
    teacher, guide = _teacher(recipe, options.model), _guide(recipe)
    if guide is not None and teacher.judge:
        raise InputError("data.teacher.judge: a guard's replies are held against the rows' labels; set it to null")
    judge = resolved_judge(teacher.judge, options) if teacher.judge else None
    if judge is not None:
        parse(judge)
    found = data.to_trace(recipe)
    if not found:
        raise InputError(
            f"recipe {recipe.name}: data.traces leaves no prompt for a teacher to answer; name a source "
            "that has no traces of its own (`safereason data ls`)"
        )
    return Plan(tuple(limited(found, limit, recipe.seed)), teacher, judge, guide, limit)


def identity_of(recipe: Recipe, plan: Plan, options: Options) -> dict[str, Any]:
    """What the traces depend on."""
    teacher = plan.teacher.model_dump(mode="json", exclude={"model"})
    return identity(
        recipe,
        mix=recipe.data.mix,
        traces=[share.model_dump(mode="json") for share in recipe.data.traces],
        model=model_identity(plan.teacher.model),
        teacher={**teacher, "judge": judge_identity(plan.judge) if plan.judge else None},
        asked=plan.guide.asked() if plan.guide else None,
        prompts=digest(*((e.id, e.prompt, e.response, e.kind, e.label) for e in plan.examples)),
        limit=plan.limit,
        **({"base_url": options.base_url} if options.base_url else {}),
        **contents(models=[plan.teacher.model], judges=[plan.judge]),
    )


def outline(plan: Plan, price: Price | None = None) -> dict[str, Any]:
    """What a plan comes to, in all and by source.

    Tokens read are estimated by characters; tokens written are the most there can be.
    """
    return {
        "stage": TEACHER_STAGE,
        "teacher": plan.teacher.model,
        "asked": f"as a guard under policy {plan.guide.policy.name}" if plan.guide else "the prompt alone",
        "judge": plan.judge,
        **_size(plan, plan.examples, price),
        "sources": {source: _size(plan, examples, price) for source, examples in plan.by_source.items()},
    }


def _size(plan: Plan, examples: Sequence[Example], price: Price | None) -> dict[str, Any]:
    samples, prefix = plan.teacher.samples, len(plan.teacher.prefix)
    lengths = [prefix + sum(len(turn["content"]) for turn in plan.conversation(e)) for e in examples]
    read = samples * sum(math.ceil(length / CHARACTERS_A_TOKEN) for length in lengths)
    written = samples * len(examples) * plan.teacher.sampling.max_new_tokens
    return {
        "prompts": len(examples),
        "replies": samples * len(examples),
        "tokens read, about": read,
        "tokens written, at most": written,
        **({"USD, at most about": round(price.of(read, written), 2)} if price else {}),
    }


def tokens(replies: Sequence[Record]) -> dict[str, int | None]:
    """What the replies took that say so, null where none does; and how many do not, failed ones apart."""
    said = [reply["usage"] for reply in replies if reply["usage"]]
    return {
        "read": sum(usage["prompt"] for usage in said) if said else None,
        "written": sum(usage["completion"] for usage in said) if said else None,
        "replies_without": sum(
            not reply["usage"] and reply["finish_reason"] not in ("error", "filtered") for reply in replies
        ),
    }


def cost(counted: Mapping[str, int | None], price: Price | None) -> dict[str, float | None]:
    """What the counted tokens cost: null where none are counted, and nothing where no price is known."""
    if price is None:
        return {}
    read, written = counted["read"], counted["written"]
    return {"usd": None if read is None or written is None else round(price.of(read, written), 4)}


def has_failed(reply: Record) -> bool:
    """Whether the teacher could not be asked, or its server ended the reply."""
    return bool(reply["finish_reason"] == "error")


def _teacher(recipe: Recipe, model: str | None) -> Teacher:
    teacher = recipe.data.teacher
    if model is not None:
        return teacher.model_copy(update={"model": model}) if teacher else Teacher(model=model)
    if teacher is None:
        raise InputError(f"recipe {recipe.name}: it names no teacher; pass --model, or set data.teacher.model")
    return teacher


def _guide(recipe: Recipe) -> Guide | None:
    if not isinstance(recipe.data, RSafeMix):
        return None
    if recipe.guard is None:
        raise InputError(f"recipe {recipe.name}: a teacher is asked as the guard is, and it has no guard section")
    if not recipe.guard.reasoning:
        raise InputError(f"recipe {recipe.name}: guard.reasoning is false, and verdicts alone need no teacher")
    return guides.of_section(recipe.guard)
