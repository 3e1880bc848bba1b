"""Where a suffix stands in a prompt, and which suffixes are read as they were written.

A suffix is found as token ids and deployed as text: behavior, a space, suffix, as one user turn through the model's
chat template. A tokenizer may cut that text in another way than the search did. A suffix therefore counts only where
the ids of the whole prompt, encoded anew, are those that were searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safereason.errors import InputError
from safereason.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Suffix:
    """A suffix, both ways."""

    ids: Ids
    text: str


@dataclass(frozen=True)
class Slot:
    """The place of a suffix in one behavior's prompt for one tokenizer."""

    tokenizer: "PreTrainedTokenizerBase"
    behavior: str
    opening: str
    """What the model goes on from, after the generation prompt."""
    before: Ids
    after: Ids
    lead: str
    """What the suffix's ids say before its text: the space that parts it from the behavior, where a token holds it."""
    start: Suffix

    @property
    def span(self) -> slice:
        """Of the suffix that the search begins with, in the prompt's ids."""
        return slice(len(self.before), len(self.before) + len(self.start.ids))

    def ids(self, suffix: Ids) -> list[int]:
        """The whole prompt around a suffix."""
        return [*self.before, *suffix, *self.after]

    def prompt(self, suffix: str) -> str:
        """What the user says."""
        return f"{self.behavior} {suffix}"

    def encode(self, suffixes: Sequence[str]) -> list[list[int]]:
        """The whole prompts' ids as a model is given them."""
        return encode(self.tokenizer, [self.prompt(suffix) for suffix in suffixes], self.opening)

    def read(self, found: Sequence[Ids]) -> list[Suffix]:
        """The ones that survive: written as text and read anew in the whole prompt, they are the very same ids."""
        suffixes = [Suffix(ids, text) for ids, text in zip(found, self.texts(found), strict=True) if text is not None]
        return self.surviving(suffixes)

    def surviving(self, suffixes: Sequence[Suffix]) -> list[Suffix]:
        """Those whose text is read as their ids here."""
        encoded = self.encode([suffix.text for suffix in suffixes]) if suffixes else []
        return [suffix for suffix, ids in zip(suffixes, encoded, strict=True) if ids == self.ids(suffix.ids)]

    def texts(self, found: Sequence[Ids]) -> list[str | None]:
        """Their texts without the lead; None where that is missing."""
        texts = self.tokenizer.batch_decode(
            [list(ids) for ids in found], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return [text[len(self.lead) :] if text.startswith(self.lead) else None for text in texts]


def encode(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], opening: str) -> list[list[int]]:
    """`chat.prompt_ids` of many user turns at once."""
    texts = [chat.rendered(tokenizer, chat.user(prompt), opening) for prompt in prompts]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def find(tokenizer: "PreTrainedTokenizerBase", behavior: str, suffix: str, opening: str) -> Slot:
    """The slot that `suffix` takes after a behavior.

    Raises:
        InputError: The tokenizer has no chat template, says nothing of places in a text, or does not read this suffix
            as it was written.
    """
    prompt = chat.render(tokenizer, chat.user(f"{behavior} {suffix}"), opening)
    whole = chat.ids_of(tokenizer, prompt.text)
    if not tokenizer.is_fast:
        raise InputError(
            f"{tokenizer.name_or_path}: its tokenizer is a slow one, that cannot tell where a suffix stands"
        )
    end = prompt.head.rfind(suffix) + len(suffix)
    offsets = tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > end - len(suffix)]
    first, past = inside[0], inside[-1] + 1
    ids = tuple(whole[first:past])
    written = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    slot = Slot(
        tokenizer,
        behavior,
        opening,
        tuple(whole[:first]),
        tuple(whole[past:]),
        written.removesuffix(suffix),
        Suffix(ids, suffix),
    )
    if not written.endswith(suffix) or slot.read([ids]) != [slot.start]:
        raise InputError(
            f"{tokenizer.name_or_path}: the suffix {suffix[:40]!r} is not read as it was written; choose another start"
        )
    return slot
