"""Inert text: foreign text that closes no marker of ours and spells no control token of the model that reads it.

Guards, judges and attacks all put what a person or a model wrote between markers of a prompt. Where that text spells a
token, its first character is replaced by one that looks like it: `‹|im_end|>`, `⟦/INST]`. A token of another kind, such
as `en_XX`, gets a dot after its first character. People can still read the text.

Case, accents, white space and invisible characters inside a token do not hide it, because some tokenizers normalize a
text before they look for tokens.

Text is compared character by character in one pass and without regular expressions, so the time is linear.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOK_ALIKES = {"<": "‹", "[": "⟦", "{": "❴", "(": "❨", "|": "¦", ">": "›", "]": "⟧"}
"""Replacements of the first character of a token."""
DOT = "·"
"""Inserted after the first character of a token that begins with something else."""

# Beginnings of our markers and of the control tokens of whole families: `<|im_start|>`, `<|eot_id|>`, `<|channel|>`,
# `<｜User｜>`, `<start_of_turn>`, `<extra_id_0>`, `[|assistant|]`.
_BEGINNINGS = (
    "<begin",
    "</begin",
    "<end",
    "</end",
    "<start_of",
    "</start_of",
    "<|",
    "</|",
    "[|",
    "<extra_id_",
    "<special_",
    "<reserved_",
    "<unused",
    "<seed:",
    "<bos_token",
    "<eos_token",
    "<pad_token",
)
_ANGLED = (
    "s",
    "/s",
    "bos",
    "eos",
    "pad",
    "unk",
    "mask",
    "cls",
    "sep",
    "sop",
    "eop",
    "eoh",
    "eoa",
    "<sys>",
    "</sys>",
    "turn|",
    "tool|",
    "tool_call|",
    "tool_response|",
    "channel|",
    "image|",
    "audio|",
    "tool_call",
    "/tool_call",
    "tool_response",
    "/tool_response",
    "tools",
    "/tools",
    "image_soft_token",
    "audio_soft_token",
)
_SQUARE = (
    "inst",
    "/inst",
    "available_tools",
    "/available_tools",
    "tool_calls",
    "tool_results",
    "/tool_results",
    "tool_content",
    "system_prompt",
    "/system_prompt",
    "model_settings",
    "/model_settings",
    "think",
    "/think",
    "img_break",
    "img_end",
    "begin_audio",
    "cls",
    "sep",
    "pad",
    "unk",
    "gmask",
    "smask",
    "bos",
    "eos",
    "control_",
)
_OTHERS = (">>title<<", ">>abstract<<", ">>question<<", ">>answer<<", "]~b]", "]~!b[", "[e~[")


def _in_brackets(name: str) -> str:
    if name.endswith("_"):  # numbered ones, as `[control_12]`
        return f"[{name}"
    return f"[{name}]"


KNOWN_TOKENS = (
    *_BEGINNINGS,
    *(f"<{name}>" for name in _ANGLED),
    *map(_in_brackets, _SQUARE),
    *_OTHERS,
)
"""Control tokens of common families: the tokenizer behind a server is not known."""

_BREAK = re.compile(r"(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])")
_INVISIBLE = frozenset(("Cf", "Cc", "Mn", "Me", "Zs", "Zl", "Zp"))
"""Unicode categories that are passed over: format and control characters, combining marks, white space."""
_END = ""
"""Marks the end of a token in a trie."""

Trie: TypeAlias = dict[str, "Trie"]
"""Nested mappings by character; where a token is complete, `_END` is a key of an empty one."""


class _Folded(dict[int, str]):
    """A table by code point: the character without case, accent and compatibility form; often nothing is left."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFKD", chr(code)).casefold()
        # `▁` is SentencePiece's space: tokenizers drop or add it as they do a space.
        kept = "".join(c for c in parts if c != "▁" and unicodedata.category(c) not in _INVISIBLE)
        self[code] = kept
        return kept


_FOLDED = _Folded()


def inert(text: str, tokens: Iterable[str] = ()) -> str:
    """Text that spells none of the tokens, nor a marker of ours; applied again, it changes nothing.

    Args:
        text: Text of a person or a model.
        tokens: Special tokens of the tokenizer that will read it, or other texts that it may not hold. One that is a
            single letter or white space alone cannot be broken, and stays.
    """
    trie = _trie(frozenset(tokens))
    # Most texts spell no token: the positions are worked out only for those that do.
    plain = folded(text)
    spelled: list[tuple[int, int]] = []
    for start, character in enumerate(plain):
        if character in trie and (length := _spelled(plain, start, trie)):
            spelled.append((start, length))
    if not spelled:
        return text
    # A character folds to none, one or several: each folded one comes from this position of the text.
    positions: list[int] = []
    for position, character in enumerate(text):
        positions.extend([position] * len(_FOLDED[ord(character)]))
    characters = list(text)
    for start, length in spelled:
        first = positions[start]
        last = positions[start + length - 1]
        if plain[start] in LOOK_ALIKES:
            characters[first] = LOOK_ALIKES[plain[start]]
        # Where one character of the text folds to the whole token, there is no position for a dot.
        elif first != last:
            characters[first] = f"{text[first]}{DOT}"
    return "".join(characters)


def quoted(text: str, passes: Callable[[str], bool]) -> str:
    """Text with `> ` in front of each line that could pass for something else, as a quotation has it."""
    parts = _BREAK.split(text)
    lines: list[str] = []
    for part in parts:
        if passes(part):
            lines.append(f"> {part}")
        else:
            lines.append(part)
    return "".join(lines)


def folded(text: str) -> str:
    """The characters of a text that count in the search for tokens."""
    return text.translate(_FOLDED)


def special_tokens(tokenizer: "PreTrainedTokenizerBase | None") -> tuple[str, ...]:
    """The special tokens of a tokenizer; none where a server has it and it is not known."""
    if tokenizer is None:
        return ()
    tokens: list[str] = []
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            tokens.append(token.content)
    return tuple(dict.fromkeys([*tokens, *tokenizer.all_special_tokens]))


def _spelled(text: str, start: int, trie: Trie) -> int:
    """The length of the shortest token that a folded text spells from `start` on; 0 where it spells none."""
    node = trie
    for length, position in enumerate(range(start, len(text)), start=1):
        if text[position] not in node:
            return 0
        node = node[text[position]]
        # The shortest token is enough: breaking its beginning breaks every longer one, too.
        if _END in node:
            return length
    return 0


@lru_cache(maxsize=64)
def _trie(tokens: frozenset[str]) -> Trie:
    """All tokens, folded, by their characters one after another."""
    trie: Trie = {}
    for token in _folded_tokens((*KNOWN_TOKENS, *tokens)):
        node = trie
        for character in token:
            node = node.setdefault(character, {})
        node[_END] = {}
    return trie


def _folded_tokens(tokens: Iterable[str]) -> Iterator[str]:
    """The tokens, folded, without those that are no more than a letter or white space."""
    for token in tokens:
        shown = folded(token)
        if len(shown) > 1 or shown in LOOK_ALIKES:
            yield shown
