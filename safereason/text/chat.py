"""Conversations to token ids and back, through the model's own chat template.

Chat templates differ in what they do around a completion, and this module alone knows:

1. A generation prompt may open the reasoning itself (DeepSeek-R1's distillates, Qwen3.5), or close it at once.
   `RenderedPrompt` says what it opened, and a generation prefix that opens the reasoning takes its place, so that
   it is opened once.
2. A turn ends with the template's own token (`<end_of_turn>`, `<|end|>`), which need not be `eos_token`.
3. Some templates have no system role: the system text then goes in front of the next user's.
4. The tags around reasoning may be special tokens: decoding keeps them.
5. Templates made for images show a content only as a list of parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from safereason import console
from safereason.errors import InputError, message_of
from safereason.text import reasoning as reasoning_text
from safereason.text.reasoning import CLOSE, OPEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""
Conversation = Sequence[Message]
Content = str | list[dict[str, str]]
"""A turn's content as chat templates take it: a text, or a list of parts."""
# transformers declares that a content is a text, and takes a list of parts all the same.
ShownTurn = dict[str, Any]
"""A turn with its `Content`."""

_PROBE = "safereason"
"""Text of a turn in conversations that only show what a template puts around it."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A rendered prompt, in two parts."""

    head: str
    """The rendered conversation and the generation prompt, up to where reasoning is opened."""
    opening: str
    """The beginning of the model's turn: the reasoning that the template opened, and the generation prefix."""

    @property
    def text(self) -> str:
        """The whole prompt as one text."""
        return self.head + self.opening


def user(prompt: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": prompt}]


def render(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> RenderedPrompt:
    """The text up to where the model writes: the rendered conversation, the generation prompt, then `prefix`.

    Where the generation prompt opens the reasoning, a prefix that opens it too takes its place. Where it opens the
    reasoning and closes it at once, such a prefix takes its place as well; any other one follows it.

    Raises:
        InputError: The tokenizer has no chat template, or its template refuses the conversation.
    """
    text = _applied(tokenizer, conversation, generation=True)
    head, opening = _split_opening(text)
    if prefix.lstrip().startswith(OPEN):
        return RenderedPrompt(head, prefix)
    # Reasoning is switched off: the completion is an answer, and the prefix belongs to it.
    if CLOSE in opening:
        return RenderedPrompt(text, prefix)
    return RenderedPrompt(head, opening + prefix)


def opening(tokenizer: "PreTrainedTokenizerBase", prefix: str = "") -> str:
    """The beginning of the model's turn after a user's message; as a prefix, it renders the prompts of `prefix`."""
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
    # Adding special tokens again would begin the text twice, which changes what the model writes.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> list[int]:
    """Token ids of the text of `render`.

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
    # Training sees the boundary between prompt and completion that generation will see.
    prompt = render(tokenizer, conversation)
    if prompt.opening:
        completion = _after(prompt.opening, reasoning_text.join(reasoning or "", answer))
    elif reasoning is None:
        completion = answer
    else:
        completion = reasoning_text.join(reasoning, answer)
        # A template that opens the reasoning and closes it at once leaves no room for the one that is trained.
        prompt = RenderedPrompt(_split_opening(prompt.text)[0], "")
    return ids_of(tokenizer, prompt.text), [*ids_of(tokenizer, completion), end_of_turn(tokenizer)]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that the chat template ends an assistant's turn with; `eos_token` where it shows none."""
    return _end_of_turn(tokenizer, str(tokenizer.chat_template))


def decoded(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of a completion: without special tokens, except the tags around reasoning where these are some."""
    special, tags = _special_ids(tokenizer, len(tokenizer))
    # The tokenizer's own decoding is the faster way, and the usual one.
    if tags.isdisjoint(ids):
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    # The library would leave out the tags with all other special tokens.
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
        shown = turns_as_shown(tokenizer, turns)
        return str(tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=generation))

    try:
        # Stripped, because templates trim the text that they render.
        systems = [turn["content"].strip() for turn in conversation if turn["role"] == "system"]
        if not systems:
            return apply(conversation)
        text = _apply_or_none(apply, conversation)
        # A template without the role refuses it, or drops the text without a word.
        if text is not None and all(system in text for system in systems):
            return text
        text = apply(_without_system(conversation))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in conversation)
        reason = message_of(error)[:200]
        raise InputError(
            f"{name}: its chat template refuses a conversation of turns {roles} ({reason}); give turns that it takes, "
            "or another model"
        ) from error
    _note_missing_system_role(name)
    return text


def turns_as_shown(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> list[ShownTurn]:
    """The turns with each content in the form that the chat template shows: a text, or a list of one text part.

    Raises:
        InputError: The template shows neither.
    """
    takes_parts = _takes_parts(tokenizer, str(tokenizer.chat_template))
    shown: list[ShownTurn] = []
    for turn in conversation:
        content: Content = turn["content"]
        if takes_parts:
            content = [{"type": "text", "text": turn["content"]}]
        shown.append({**turn, "content": content})
    return shown


@lru_cache(maxsize=64)
def _takes_parts(tokenizer: "PreTrainedTokenizerBase", template: str) -> bool:
    """Whether the template, which is the tokenizer's, drops a content that is a text, and shows a list of parts."""
    if _shows(tokenizer, _PROBE):
        return False
    if _shows(tokenizer, [{"type": "text", "text": _PROBE}]):
        return True
    # Without this error the model would answer an empty prompt, and nothing would show it.
    name = tokenizer.name_or_path or "this model"
    raise InputError(f"{name}: its chat template does not show a user's message; name another model")


def _shows(tokenizer: "PreTrainedTokenizerBase", content: Content) -> bool:
    """Whether a user's message with this content is in the rendered text; a template may also refuse a lone one."""
    from jinja2 import TemplateError

    turn: ShownTurn = {"role": "user", "content": content}
    try:
        return _PROBE in str(tokenizer.apply_chat_template([turn], tokenize=False))
    except (TemplateError, TypeError):
        return content == _PROBE


def _apply_or_none(apply: Callable[[Conversation], str], conversation: Conversation) -> str | None:
    from jinja2 import TemplateError

    try:
        return apply(conversation)
    except TemplateError:
        return None


def _without_system(conversation: Conversation) -> list[Message]:
    """The conversation with each system text in front of the next user's, or as a user's where none follows."""
    turns: list[Message] = []
    waiting: list[str] = []
    for turn in conversation:
        if turn["role"] == "system":
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            turns.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            turns.append(dict(turn))
    # A conversation that ends with a system turn still has its text.
    if waiting:
        turns.extend(user("\n\n".join(waiting)))
    return turns


@cache
def _note_missing_system_role(name: str) -> None:
    """Prints the notice once for each model."""
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
    """The rest of a reasoned text after its opening; white space at the opening's end does not count."""
    if whole.startswith(opening):
        return whole[len(opening) :]
    # Templates differ in the line breaks after the tag; the prompt has them already.
    return whole.removeprefix(OPEN).lstrip("\n")


@lru_cache(maxsize=64)
def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", template: str) -> int:
    from jinja2 import TemplateError

    # The token after the probe's text is the one that the template writes at the end of a completion.
    conversation = [*user("?"), {"role": "assistant", "content": _PROBE}]
    try:
        text = ""
        if template:
            shown = turns_as_shown(tokenizer, conversation)
            text = str(tokenizer.apply_chat_template(shown, tokenize=False))
    except (TemplateError, TypeError, InputError):
        # The template is made for other turns.
        text = ""
    _, probe, after = text.rpartition(_PROBE)
    tail = after.lstrip()
    ends: dict[str, int] = {}
    for i, token in tokenizer.added_tokens_decoder.items():
        if probe and token.content and tail.startswith(token.content):
            ends[token.content] = i
    if not ends:
        return int(tokenizer.eos_token_id)
    # One token may begin as another one does: the tokenizer takes the longest.
    return int(ends[max(ends, key=len)])


@lru_cache(maxsize=64)
def _special_ids(tokenizer: "PreTrainedTokenizerBase", size: int) -> tuple[frozenset[int], frozenset[int]]:
    """Ids of the special tokens, and of the reasoning's tags among them; `size` is the vocabulary's, which may grow."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Tokenizers list a special token in either of the two, and not always in both.
    special = {*added, *tokenizer.all_special_ids}
    tags = {i for i in special if str(tokenizer.convert_ids_to_tokens(i)).strip() in (OPEN, CLOSE)}
    return frozenset(special), frozenset(tags)
