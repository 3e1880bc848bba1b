r"""Llama Guard 3 and 4 (Meta): `safe`, or `unsafe` and on the next line the ids of categories.

The prompt is the model's own chat template over the turns. Llama Guard judges the last turn, a user's or an agent's.

Deviations: (1) control tokens inside the conversation are made inert; (2) of Llama Guard 4 only the text part is used;
(3) if its published settings leave out the size of an attention chunk, Llama 4's size is used.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation, TokenizerEngine
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict, Question, unparsed_verdict
from safereason.guard.others.base import GuardOptions, PromptedGuard, VerdictField, inert_turns, rendering_engine
from safereason.recipe.schema import Sampling
from safereason.text import chat
from safereason.text.chat import Message

# The verdict is the whole first line. A server may leave the end-of-turn token, `<|eot_id|>`, behind it.
VERDICT = VerdictField(r"\A\s*", after=r"[^\S\n]*(?:$|<)")
CHUNK_TOKENS = 8192
"""Tokens per attention chunk in Llama 4."""


@dataclass(frozen=True)
class LlamaGuard:
    """The format of Llama Guard: one prompt, which `render` makes from the turns."""

    render: Callable[[list[Message]], Conversation]
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=64)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation]:
        """One conversation: the turns of the question, rendered."""
        return [self.render(inert_turns(question, special))]

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict in the completion; see `verdict_of_first_line`."""
        return verdict_of_first_line(completions[0])


def open_llama_guard(model: ModelSpec, options: GuardOptions) -> PromptedGuard:
    """Llama Guard on this machine, or on a server, which applies the chat template itself.

    Raises:
        InputError: The model cannot be opened, or its chat template does not render the turns.
    """
    name = f"llama-guard:{model}"
    if model.is_remote:
        return PromptedGuard(name, options.loading.open(model, options.base_url), LlamaGuard(list))
    engine, tokenizer = rendering_engine(model, options.loading, _mend_settings)
    # A template that shows no message is refused before anything is judged.
    chat.turns_as_shown(tokenizer, chat.user("safereason"))

    def render(conversation: list[Message]) -> Conversation:
        turns = chat.turns_as_shown(tokenizer, conversation)
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return chat.user(str(text))

    return PromptedGuard(name, engine, LlamaGuard(render))


def verdict_of_first_line(completion: Completion) -> GuardVerdict:
    """The verdict in a completion whose first line is the label and whose next non-blank line lists categories."""
    label = VERDICT.label(completion.text)
    if label is None:
        return unparsed_verdict(completion)
    categories: tuple[str, ...] = ()
    if label == "unsafe":
        categories = _listed_categories(completion.text)
    tokens = len(completion.token_ids)
    return GuardVerdict(label, VERDICT.score(completion), categories, text=completion.text, tokens=tokens)


def _listed_categories(text: str) -> tuple[str, ...]:
    """The ids on the line after the verdict, separated by commas or semicolons."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return ()
    # A server may leave the end-of-turn token behind the ids.
    listed = lines[1].partition("<")[0]
    ids = [name for name in re.split(r"[\s,;]+", listed) if name]
    return tuple(dict.fromkeys(ids))


def _mend_settings(engine: TokenizerEngine) -> None:
    """Sets the chunk size that Llama Guard 4's settings leave out, and which its attention needs."""
    # vLLM reads the model's settings by itself.
    if engine.local is None:
        return
    config = engine.local.model.config
    layer_types = getattr(config, "layer_types", None) or ()
    if "chunked_attention" in layer_types and config.attention_chunk_size is None:
        config.attention_chunk_size = CHUNK_TOKENS
