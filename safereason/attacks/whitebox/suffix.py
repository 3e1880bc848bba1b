"""Suffixes: the position of a suffix in a prompt, and the check that a suffix survives the way through text.

A suffix is searched as token ids and deployed as text: behavior, a space, suffix, as one user turn through the model's
chat template. A tokenizer may split that text differently. A suffix therefore counts only if encoding the whole prompt
gives the same ids that were searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safereason.errors import InputError
from safereason.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Suffix:
    """A suffix as token ids and as text."""

    ids: TokenIds
    text: str


@dataclass(frozen=True)
class SuffixPosition:
    """The position of a suffix in one behavior's prompt for one tokenizer."""

    tokenizer: "PreTrainedTokenizerBase"
    behavior: str
    opening: str
    """Text after the generation prompt that the completion continues."""
    before: TokenIds
    """Ids of the prompt before the suffix."""
    after: TokenIds
    """Ids of the prompt after the suffix."""
    lead: str
    """Text of the suffix's ids before the suffix itself: the space after the behavior, if a token includes it."""
    start: Suffix
    """The initial suffix of the search."""

    @property
    def span(self) -> slice:
        """The positions of the initial suffix in the prompt's ids."""
        return slice(len(self.before), len(self.before) + len(self.start.ids))

    def ids(self, suffix: TokenIds) -> list[int]:
        """The ids of the whole prompt with a suffix."""
        return [*self.before, *suffix, *self.after]

    def prompt(self, suffix: str) -> str:
        """The user message with a suffix."""
        return f"{self.behavior} {suffix}"

    def encode(self, suffixes: Sequence[str]) -> list[list[int]]:
        """The ids of the whole prompts, encoded from text as they are deployed."""
        return encode_prompts(self.tokenizer, [self.prompt(suffix) for suffix in suffixes], self.opening)

    def read(self, candidates: Sequence[TokenIds]) -> list[Suffix]:
        """The candidates that survive: written as text and encoded in the whole prompt, they have the same ids."""
        suffixes: list[Suffix] = []
        for ids, text in zip(candidates, self.texts(candidates), strict=True):
            if text is not None:
                suffixes.append(Suffix(ids, text))
        return self.surviving(suffixes)

    def surviving(self, suffixes: Sequence[Suffix]) -> list[Suffix]:
        """The suffixes whose text has their ids at this position."""
        if not suffixes:
            return []
        encoded = self.encode([suffix.text for suffix in suffixes])
        return [suffix for suffix, ids in zip(suffixes, encoded, strict=True) if ids == self.ids(suffix.ids)]

    def texts(self, candidates: Sequence[TokenIds]) -> list[str | None]:
        """The texts of candidates without the lead; None for a candidate that lacks it."""
        # Special tokens are kept and spaces are not cleaned up, because both would hide a difference.
        decoded = self.tokenizer.batch_decode(
            [list(ids) for ids in candidates], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        texts: list[str | None] = []
        for text in decoded:
            texts.append(text[len(self.lead) :] if text.startswith(self.lead) else None)
        return texts


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], opening: str) -> list[list[int]]:
    """`chat.prompt_ids` of many user turns at once."""
    # One call of the tokenizer for all, which a fast one spreads over threads.
    texts = [chat.rendered(tokenizer, chat.user(prompt), opening) for prompt in prompts]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def find_suffix_position(
    tokenizer: "PreTrainedTokenizerBase", behavior: str, suffix: str, opening: str
) -> SuffixPosition:
    """The position of `suffix` after a behavior.

    Raises:
        InputError: The tokenizer has no chat template, gives no positions in a text, or encodes this suffix to ids that
            decode to another text.
    """
    prompt = chat.render(tokenizer, chat.user(f"{behavior} {suffix}"), opening)
    whole = chat.ids_of(tokenizer, prompt.text)
    if not tokenizer.is_fast:
        raise InputError(f"{tokenizer.name_or_path}: its tokenizer is a slow one, which gives no positions in a text")
    # The last occurrence, because the behavior may contain the suffix's text, too.
    suffix_end = prompt.head.rfind(suffix) + len(suffix)
    suffix_start = suffix_end - len(suffix)
    offsets = tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # A token that only overlaps the suffix belongs to it, such as one that includes the space before it.
    inside: list[int] = []
    for i, (start, end) in enumerate(offsets):
        if start < suffix_end and end > suffix_start:
            inside.append(i)
    first = inside[0]
    past = inside[-1] + 1
    ids = tuple(whole[first:past])
    decoded = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    position = SuffixPosition(
        tokenizer=tokenizer,
        behavior=behavior,
        opening=opening,
        before=tuple(whole[:first]),
        after=tuple(whole[past:]),
        lead=decoded.removesuffix(suffix),
        start=Suffix(ids, suffix),
    )
    # Some tokenizers change a text, such as one that drops trailing spaces.
    if not decoded.endswith(suffix) or position.read([ids]) != [position.start]:
        raise InputError(
            f"{tokenizer.name_or_path}: the suffix {suffix[:40]!r} is not read as it was written; choose another start"
        )
    return position
