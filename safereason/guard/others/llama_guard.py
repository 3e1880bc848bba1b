r"""Llama Guard 3 and 4 (Meta): `safe`, or `unsafe` and on the next line the ids of categories.

The prompt is the model's own chat template on the turns. What Llama Guard judges is the last turn, a user's or an
agent's.

Deviations: (1) control tokens inside the conversation are made inert; (2) the text part of Llama Guard 4 is used alone;
(3) where its published settings leave out the size of an attention chunk, Llama 4's is put in.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from safereason.engines.base import Completion, Conversation, Engine
from safereason.engines.open import REMOTE, open_engine
from safereason.errors import InputError
from safereason.guard.base import Finding, Question
from safereason.guard.others.base import Field, Options, rendering_engine, turns, unread
from safereason.recipe.schema import Sampling
from safereason.text import chat
from safereason.text.chat import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERDICT = Field(r"\A\s*", after=r"[^\S\n]*(?:$|<)")
CHUNK_TOKENS = 8192
"""Tokens of an attention chunk in Llama 4."""

_PROBE = "safereason"


@dataclass(frozen=True)
class LlamaGuard:
    """Asks with a conversation, which `render` makes into what the engine is sent."""

    render: Callable[[list[Message]], Conversation]
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=64)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation]:
        """One prompt."""
        return [self.render(turns(question, special))]

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """See `first_line`."""
        return first_line(completions[0])


def open_llama_guard(model: str, options: Options) -> tuple[Engine, LlamaGuard]:
    """Opens it here, or on a server, which puts the turns into the chat template itself.

    Raises:
        InputError: The model is not to be had, or its chat template does not show what it is given.
    """
    if model.startswith(REMOTE):
        return open_engine(model, base_url=options.base_url), LlamaGuard(list)
    engine, tokenizer = rendering_engine(model, options.precision)
    if hasattr(engine, "model"):  # vLLM reads the model's settings by itself
        _mend(engine.model.config)
    as_content = _content_of(tokenizer, model)

    def render(conversation: list[Message]) -> Conversation:
        given = [{"role": turn["role"], "content": as_content(turn["content"])} for turn in conversation]
        return chat.user(_rendered(tokenizer, given))

    return engine, LlamaGuard(render)


def first_line(completion: Completion) -> Finding:
    """The finding where the first line is the verdict, and the next one that is not blank lists categories."""
    label = VERDICT.label(completion.text)
    if label is None:
        return unread(completion)
    named = _categories(completion.text) if label == "unsafe" else ()
    return Finding(label, VERDICT.score(completion), named, text=completion.text, tokens=len(completion.token_ids))


def _categories(text: str) -> tuple[str, ...]:
    """The ids after the verdict, between commas or semicolons; a server may leave the end-of-turn token behind them."""
    lines = [line for line in text.splitlines() if line.strip()]
    listed = lines[1].partition("<")[0] if len(lines) > 1 else ""
    return tuple(dict.fromkeys(name for name in re.split(r"[\s,;]+", listed) if name))


def _content_of(tokenizer: "PreTrainedTokenizerBase", model: str) -> Callable[[str], Any]:
    """How a text is given to a chat template: as text, or as the one part of a list (Llama Guard 3 1B, and 4)."""
    from jinja2 import TemplateError

    for form in (str, _as_parts):
        try:
            if _PROBE in _rendered(tokenizer, [{"role": "user", "content": form(_PROBE)}]):
                return form
        except TemplateError:
            continue
    raise InputError(f"{model}: its chat template does not show a user's message; name a Llama Guard")


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _rendered(tokenizer: "PreTrainedTokenizerBase", conversation: list[dict[str, Any]]) -> str:
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _mend(config: Any) -> None:
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()) and config.attention_chunk_size is None:
        config.attention_chunk_size = CHUNK_TOKENS
