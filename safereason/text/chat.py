"""Conversations to token ids and back, through the model's own chat template.

Chat templates differ in what they do around a reply, and this is the one place that knows:

1. A generation prompt may open the reasoning itself (DeepSeek-R1's distillates, Qwen3.5), or close it at once. `Prompt`
   says what it opened, and a generation prefix that opens the reasoning takes its place, so that it is opened once.
2. A turn ends with the template's own token (`<end_of_turn>`, `<|end|>`), which need not be `eos_token`.
3. Some templates have no system role: the system text then goes in front of the next user's.
4. The tags around reasoning may be special tokens: decoding keeps them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from safereason import console
from safereason.errors import InputError
from safereason.text import reasoning as reasoning_text
from safereason.text.reasoning import CLOSE, OPEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""
Conversation = Sequence[Message]

_PROBE = "safereason"
"""A word that stands for a turn's text where only what a template puts around it is looked at."""


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it writes."""

    head: str
    """The rendered conversation and the generation prompt, up to where reasoning is opened."""
    opening: str
    """What the completion goes on from: the reasoning that the template opened, and the generation prefix."""

    @property
    def text(self) -> str:
        """All of it."""
        return self.head + self.opening


def user(prompt: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": prompt}]


def render(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> Prompt:
    """The text up to where the model writes: the rendered conversation, the generation prompt, then `prefix`.

    Where the generation prompt opens the reasoning, a prefix that opens it too takes its place. Where it opens the
    reasoning and closes it at once, such a prefix takes its place as well; any other one follows it.

    Raises:
        InputError: The tokenizer has no chat template, or its template refuses the conversation.
    """
    text = _applied(tokenizer, conversation, generation=True)
    head, opening = _split_opening(text)
    if prefix.lstrip().startswith(OPEN):
        return Prompt(head, prefix)
    if CLOSE in opening:  # the completion is an answer, and has no reasoning of its own
        return Prompt(text, prefix)
    return Prompt(head, opening + prefix)


def opening(tokenizer: "PreTrainedTokenizerBase", prefix: str = "") -> str:
    """What completions of a user's message go on from; as a prefix, it renders what `prefix` renders."""
    return render(tokenizer, user(_PROBE), prefix).opening


def rendered(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> str:
    """The text of `render`.

    Raises:
        InputError: As `render` does.
    """
    return render(tokenizer, conversation, prefix).text


def transcript(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> str:
    """A conversation that is over, rendered: no model goes on from here.

    Raises:
        InputError: As `render` does.
    """
    return _applied(tokenizer, conversation, generation=False)


def ids_of(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a rendered text, which holds its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> list[int]:
    """Token ids of what `rendered` gives.

    Raises:
        InputError: As `render` does.
    """
    return ids_of(tokenizer, rendered(tokenizer, conversation, prefix))


def trace_ids(
    tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, reasoning: str | None, answer: str
) -> tuple[list[int], list[int]]:
    """A training text as (prompt ids, completion ids); the completion ends with the template's end-of-turn token.

    The two are tokenized apart, as they are when the model writes the completion itself. Without reasoning the
    completion is the answer alone. Where the generation prompt opens the reasoning, that tag is part of the prompt, and
    an answer without reasoning closes it first.

    Raises:
        InputError: As `render` does.
    """
    prompt = render(tokenizer, conversation)
    if prompt.opening:
        completion = _after(prompt.opening, reasoning_text.join(reasoning or "", answer))
    elif reasoning is None:
        completion = answer
    else:
        completion = reasoning_text.join(reasoning, answer)
        # A template that closes the reasoning at once is asked for the reasoning that is trained.
        prompt = Prompt(_split_opening(prompt.text)[0], "")
    return ids_of(tokenizer, prompt.text), [*ids_of(tokenizer, completion), end_of_turn(tokenizer)]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that the chat template ends an assistant's turn with; `eos_token` where it shows none."""
    return _end_of_turn(tokenizer, str(tokenizer.chat_template))


def decoded(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of a completion: without special tokens, except the tags around reasoning where these are some."""
    special, tags = _special_ids(tokenizer, len(tokenizer))
    if tags.isdisjoint(ids):
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    kept = [token for token in ids if token in tags or token not in special]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def special_tags(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a tag around reasoning is a special token, which other programs leave out when they decode."""
    return bool(_special_ids(tokenizer, len(tokenizer))[1])


def _applied(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, generation: bool) -> str:
    from jinja2 import TemplateError

    name = tokenizer.name_or_path or "this model"
    if not tokenizer.chat_template:
        raise InputError(
            f"{name}: its tokenizer has no chat template; use an instruction-tuned model or add chat_template.jinja"
        )

    def apply(turns: Conversation) -> str:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=generation))

    try:
        systems = [turn["content"].strip() for turn in conversation if turn["role"] == "system"]
        if not systems:
            return apply(conversation)
        text = _tried(apply, conversation)
        if text is not None and all(system in text for system in systems):
            return text
        text = apply(_without_system(conversation))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in conversation)
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: its chat template refuses a conversation of turns {roles} ({reason}); give turns that it takes, "
            "or another model"
        ) from error
    _say_no_system_role(name)
    return text


def _tried(apply: Callable[[Conversation], str], conversation: Conversation) -> str | None:
    from jinja2 import TemplateError

    try:
        return apply(conversation)
    except TemplateError:
        return None


def _without_system(conversation: Conversation) -> list[Message]:
    """The conversation with each system text in front of the next user's, or as a user's where none follows."""
    found: list[Message] = []
    waiting: list[str] = []
    for turn in conversation:
        if turn["role"] == "system":
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            found.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            found.append(dict(turn))
    return [*found, *user("\n\n".join(waiting))] if waiting else found


@cache
def _say_no_system_role(name: str) -> None:
    """Says so once for each model."""
    console.say(f"{name}: its chat template has no system role; the system text goes in front of the user's")


def _split_opening(text: str) -> tuple[str, str]:
    """A rendered prompt up to where it opens the reasoning, or closes it at once, at its end; and the rest."""
    bare = text.rstrip()
    start = len(text)
    if bare.endswith(CLOSE):
        start = len(bare) - len(CLOSE)
        bare = bare[:start].rstrip()
    if bare.endswith(OPEN):
        start = len(bare) - len(OPEN)
    return text[:start], text[start:]


def _after(opening: str, whole: str) -> str:
    """What is left to write of a reasoned text after its opening, whatever white space the opening ends with."""
    if whole.startswith(opening):
        return whole[len(opening) :]
    return whole.removeprefix(OPEN).lstrip("\n")


@lru_cache(maxsize=64)
def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", template: str) -> int:
    from jinja2 import TemplateError

    conversation = [*user("?"), {"role": "assistant", "content": _PROBE}]
    try:
        text = str(tokenizer.apply_chat_template(conversation, tokenize=False)) if template else ""
    except (TemplateError, TypeError):  # made for other turns, or for a content that is a list
        text = ""
    _, found, after = text.rpartition(_PROBE)
    tail = after.lstrip()
    tokens = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    beginning = [content for content in tokens if found and content and tail.startswith(content)]
    if not beginning:
        return int(tokenizer.eos_token_id)
    return int(tokens[max(beginning, key=len)])


@lru_cache(maxsize=64)
def _special_ids(tokenizer: "PreTrainedTokenizerBase", size: int) -> tuple[frozenset[int], frozenset[int]]:
    """Ids of the special tokens, and of the reasoning's tags among them; `size` is the vocabulary's, which may grow."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = {*added, *tokenizer.all_special_ids}
    tags = {i for i in special if str(tokenizer.convert_ids_to_tokens(i)).strip() in (OPEN, CLOSE)}
    return frozenset(special), frozenset(tags)
