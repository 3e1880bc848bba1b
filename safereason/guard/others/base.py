"""Common parts of the guards of other publishers: how they are opened and prompted, and how verdicts are read.

Their prompts belong to their publishers: the model's own chat template, an installed package, or a file of the user. A
guard that runs here gets each prompt verbatim, through a tokenizer whose chat template adds nothing.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from safereason.engines.base import Completion, Conversation, Engine, GenerateOptions, Sampling, TokenizerEngine
from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading, Prepare
from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict, Label, OnVerdict, Question
from safereason.guard.score import CHOICES, joined_tokens, word_probability
from safereason.text.chat import Message
from safereason.text.inert import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERBATIM = "{{ messages[0]['content'] }}"
"""Chat template that passes the prompt on unchanged."""
_AFTER_BOS = (
    "{% set text = messages[0]['content'] %}{% if not text.startswith(bos_token) %}{{ bos_token }}{% endif %}{{ text }}"
)
"""Chat template that puts the beginning-of-sequence token in front, unless the prompt begins with it already."""


@dataclass(frozen=True)
class GuardOptions:
    """Options for opening a guard; None means the guard's own default."""

    base_url: str | None = None
    """Address of the server, for `openai/…`."""
    policy: str | None = None
    """Name of a shipped policy, or a file."""
    template: str | None = None
    """File with the guard's prompt."""
    loading: Loading = LOADED_AT_ONCE
    """How its model is loaded."""
    samples: int = 1
    """Verdicts that vote on a question, for a guard that reasons over a policy."""


class GuardFormat(Protocol):
    """The prompts and the answer format of one publisher's guard."""

    @property
    def sampling(self) -> Sampling:
        """Sampling of the guard's verdicts."""
        ...

    def prompts(self, question: Question, special: Sequence[str] = ()) -> Sequence[Conversation] | str:
        """The prompts for a question, or the reason why it cannot be judged.

        Args:
            question: A prompt or a response to judge.
            special: Special tokens of the guard's tokenizer. The texts must not spell them.
        """
        ...

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict in the guard's completions, one completion per prompt."""
        ...


class PromptedGuard:
    """A guard of one format on an engine."""

    def __init__(self, name: str, engine: Engine, guard_format: GuardFormat) -> None:
        self.name = name
        self.engine = engine
        self.format = guard_format
        self._special = special_tokens(engine.tokenizer)

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_verdict: OnVerdict | None = None,
    ) -> list[GuardVerdict | None]:
        """See `Guard.classify`."""
        verdicts: dict[int, GuardVerdict] = {}

        def report(index: int, verdict: GuardVerdict) -> None:
            verdicts[index] = verdict
            if on_verdict is not None:
                on_verdict(index, verdict)

        # One question can take several prompts (ShieldGemma). The engine gets them as one flat list, and `slots` says
        # for each of them which question it belongs to and which of its prompts it is.
        conversations: list[Conversation] = []
        slots: list[tuple[int, int]] = []
        prompt_counts: dict[int, int] = {}
        reasons: dict[int, str] = {}
        for index, question in enumerate(questions):
            prompts = self.format.prompts(question, self._special)
            if isinstance(prompts, str):
                reasons[index] = prompts
                continue
            prompt_counts[index] = len(prompts)
            for number, prompt in enumerate(prompts):
                conversations.append(prompt)
                slots.append((index, number))

        completions: dict[int, dict[int, Completion]] = {}

        def on_finish(position: int, _: int, completion: Completion) -> None:
            index, number = slots[position]
            drawn = completions.setdefault(index, {})
            drawn[number] = completion
            if len(drawn) < prompt_counts[index]:
                return
            del completions[index]
            report(index, self.format.read(questions[index], [drawn[k] for k in range(len(drawn))]))

        for index, reason in reasons.items():
            if index not in done:
                report(index, GuardVerdict(None, None, reason=reason))
        self.engine.generate(
            conversations,
            self.format.sampling,
            GenerateOptions(
                seed=seed,
                done=[position for position, (index, _) in enumerate(slots) if index in done],
                on_finish=on_finish,
                choices=CHOICES,
            ),
        )
        return [verdicts.get(i) for i in range(len(questions))]


@dataclass(frozen=True)
class VerdictField:
    """The part of a completion that holds the verdict, and the guard's two words for it, in any case."""

    before: str
    """Regular expression of the text directly before the verdict. The last match with a verdict after it counts.

    White space in it must be optional, because some tokenizers decode single tokens without it.
    """
    unsafe: str = "unsafe"
    safe: str = "safe"
    after: str = r"(?![\w/-])"
    """Regular expression of the text after the verdict."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The text before, one of the two words as the group `verdict`, and the text after."""
        words = rf"(?P<verdict>{self.unsafe}|{self.safe})"
        return re.compile(f"{self.before}{words}{self.after}", re.IGNORECASE | re.MULTILINE)

    def find(self, text: str) -> re.Match[str] | None:
        """The last verdict in a text, as the group `verdict` of the match."""
        matches = list(self.pattern.finditer(text))
        return matches[-1] if matches else None

    def label(self, text: str) -> Label | None:
        """The last verdict in a text; None without one."""
        match = self.find(text)
        if match is None:
            return None
        return "unsafe" if match["verdict"].lower() == self.unsafe else "safe"

    def score(self, completion: Completion) -> float | None:
        """P(unsafe) in [0, 1] at the verdict; None without a verdict or without log-probabilities."""
        # Not the completion's text: the offset has to fit its tokens.
        match = self.find(joined_tokens(completion))
        if match is None:
            return None
        return word_probability(completion, match.start("verdict"), self.unsafe, self.safe)


def inert_turns(question: Question, special: Iterable[str] = ()) -> list[Message]:
    """The conversation of a question, with inert texts.

    Args:
        question: A prompt or a response to judge.
        special: Special tokens of the guard's tokenizer, if it is known.
    """
    prompt, response = question.texts(special)
    turns = [{"role": "user", "content": prompt}]
    if question.response is not None:
        turns.append({"role": "assistant", "content": response})
    return turns


def rendering_engine(
    model: ModelSpec, loading: Loading, prepare: Prepare | None = None
) -> "tuple[TokenizerEngine, PreTrainedTokenizerBase]":
    """An engine that takes rendered prompts verbatim, and the model's own tokenizer to render them with.

    Raises:
        InputError: The model cannot be opened.
    """
    own = load_tokenizer(model)
    return loading.open_here(model, _with_template(own, _VERBATIM), prepare), own


def completing_engine(model: ModelSpec, options: GuardOptions) -> Engine:
    """An engine that continues a user's message verbatim, after the beginning-of-sequence token if the model has one.

    A server has to be started with a chat template that adds nothing.

    Raises:
        InputError: The model cannot be opened.
    """
    if model.is_remote:
        return options.loading.open(model, options.base_url)
    return completing_engine_here(model, options.loading)


def completing_engine_here(model: ModelSpec, loading: Loading) -> TokenizerEngine:
    """The `completing_engine` of a model that runs here, so that its tokenizer is at hand.

    Raises:
        InputError: The model cannot be opened.
    """
    own = load_tokenizer(model)
    # Some tokenizers have such a token and do not use it, so the tokens of an empty text decide.
    begins_with_bos = own.bos_token_id is not None and list(own("")["input_ids"])[:1] == [own.bos_token_id]
    template = _AFTER_BOS if begins_with_bos else _VERBATIM
    return loading.open_here(model, _with_template(own, template))


def _with_template(own: "PreTrainedTokenizerBase", template: str) -> "PreTrainedTokenizerBase":
    # A copy: callers still render prompts with the template of the original.
    tokenizer = deepcopy(own)
    tokenizer.chat_template = template
    return tokenizer
