"""What the guards of other publishers have in common: how they are opened, asked and read.

Their prompts are their publishers': a model's own chat template, an installed package or a file of the user. A guard
that runs here is sent each prompt as it stands, on a tokenizer whose template adds nothing.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from safereason.engines.base import Completion, Conversation, Engine, Sampling
from safereason.engines.open import REMOTE, load_tokenizer, open_engine
from safereason.guard.base import Finding, Label, OnFinding, Question
from safereason.guard.score import CHOICES, word_probability, written
from safereason.text.chat import Message
from safereason.text.inert import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AS_IT_STANDS = "{{ messages[0]['content'] }}"
_BEGUN = (
    "{% set text = messages[0]['content'] %}{% if not text.startswith(bos_token) %}{{ bos_token }}{% endif %}{{ text }}"
)


@dataclass(frozen=True)
class Options:
    """How a guard is to be opened; None leaves it to the guard."""

    base_url: str | None = None
    """Address of the server, for `openai/…`."""
    policy: str | None = None
    """Name of a shipped policy, or a file."""
    template: str | None = None
    """File with the guard's prompt."""
    precision: str = "fp32"
    """`fp32` or `bf16`, for transformers."""


class Kind(Protocol):
    """How one publisher's guard is asked and read."""

    @property
    def sampling(self) -> Sampling:
        """How its verdicts are drawn."""
        ...

    def prompts(self, question: Question, special: Sequence[str] = ()) -> Sequence[Conversation] | str:
        """What it is asked about a question, or why it cannot be.

        Args:
            question: What is judged.
            special: Special tokens of the guard's tokenizer, which its texts must not spell.
        """
        ...

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """The finding in its completions, one a prompt."""
        ...


class PromptedGuard:
    """A guard of some kind on an engine."""

    def __init__(self, name: str, engine: Engine, kind: Kind) -> None:
        self.name = name
        self.engine = engine
        self.kind = kind
        self._special = special_tokens(engine)

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_finding: OnFinding | None = None,
    ) -> list[Finding | None]:
        """See `Guard.classify`."""
        asked = [self.kind.prompts(question, self._special) for question in questions]
        prompts = [
            (i, k, prompt)
            for i, given in enumerate(asked)
            if not isinstance(given, str)
            for k, prompt in enumerate(given)
        ]
        drawn: dict[int, dict[int, Completion]] = {}
        found: dict[int, Finding] = {}

        def tell(index: int, finding: Finding) -> None:
            found[index] = finding
            if on_finding is not None:
                on_finding(index, finding)

        def finish(place: int, _: int, completion: Completion) -> None:
            index, number, _prompt = prompts[place]
            drawn.setdefault(index, {})[number] = completion
            if len(drawn[index]) == len(asked[index]):
                completions = drawn.pop(index)
                tell(index, self.kind.read(questions[index], [completions[k] for k in range(len(completions))]))

        for index, given in enumerate(asked):
            if isinstance(given, str) and index not in done:
                tell(index, Finding(None, None, reason=given))
        self.engine.generate(
            [prompt for _, _, prompt in prompts],
            self.kind.sampling,
            seed=seed,
            done=[place for place, (index, _, _) in enumerate(prompts) if index in done],
            on_finish=finish,
            choices=CHOICES,
        )
        return [found.get(i) for i in range(len(questions))]


@dataclass(frozen=True)
class Field:
    """Where a guard writes its verdict, and its two words for it, whatever their case."""

    before: str
    """Regular expression of what stands right before the verdict; the last one with a verdict after it counts.

    White space in it is optional, because tokens one by one may come without.
    """
    unsafe: str = "unsafe"
    safe: str = "safe"
    after: str = r"(?![\w/-])"
    """Regular expression of what follows it."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What is looked for: the text before, one of the words as the group `verdict`, and the text after."""
        words = rf"(?P<verdict>{self.unsafe}|{self.safe})"
        return re.compile(f"{self.before}{words}{self.after}", re.IGNORECASE | re.MULTILINE)

    def find(self, text: str) -> re.Match[str] | None:
        """The verdict in a text, as its group `verdict`."""
        matches = list(self.pattern.finditer(text))
        return matches[-1] if matches else None

    def label(self, text: str) -> Label | None:
        """The verdict in a text; None where there is none."""
        match = self.find(text)
        if match is None:
            return None
        return "unsafe" if match["verdict"].lower() == self.unsafe else "safe"

    def score(self, completion: Completion) -> float | None:
        """P(unsafe) in [0, 1] where the verdict was written; None without a verdict or probabilities."""
        match = self.find(written(completion))
        return match and word_probability(completion, match.start("verdict"), self.unsafe, self.safe)


def unread(completion: Completion, reason: str = "the guard gave no verdict") -> Finding:
    """The finding where a completion holds no verdict: why, and what it holds."""
    if completion.missing:
        reason = f"the guard could not be asked: {completion.error}"
        return Finding(None, None, reason=reason, failed=completion.failed)
    cut = " before its token limit" if completion.finish_reason == "length" else ""
    return Finding(None, None, text=completion.text, reason=f"{reason}{cut}", tokens=len(completion.token_ids))


def turns(question: Question, special: Iterable[str] = ()) -> list[Message]:
    """The conversation a question is about, its texts inert.

    Args:
        question: What is judged.
        special: Special tokens of the guard's tokenizer, where it is known.
    """
    prompt, response = question.texts(special)
    exchange = [("user", prompt)]
    if question.response is not None:
        exchange.append(("assistant", response))
    return [{"role": role, "content": text} for role, text in exchange]


def rendering_engine(model: str, precision: str) -> "tuple[Engine, PreTrainedTokenizerBase]":
    """An engine that takes prompts which its model's own tokenizer, given beside it, has rendered.

    Raises:
        InputError: The model is not to be had.
    """
    own = load_tokenizer(model)
    return _engine(model, precision, own, _AS_IT_STANDS), own


def completing_engine(model: str, options: Options) -> Engine:
    """An engine that goes on from a user's message as it stands, after the token that begins a text, if there is one.

    A server has to be started with a chat template that adds nothing.

    Raises:
        InputError: The model is not to be had.
    """
    if model.startswith(REMOTE):
        return open_engine(model, base_url=options.base_url)
    own = load_tokenizer(model)
    begins = own.bos_token_id is not None and list(own("")["input_ids"])[:1] == [own.bos_token_id]
    return _engine(model, options.precision, own, _BEGUN if begins else _AS_IT_STANDS)


def _engine(model: str, precision: str, own: "PreTrainedTokenizerBase", template: str) -> Engine:
    tokenizer = deepcopy(own)
    tokenizer.chat_template = template
    return open_engine(model, precision=precision, tokenizer=tokenizer)
