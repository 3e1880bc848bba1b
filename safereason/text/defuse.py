"""Text that cannot step out of the place it is put in."""

import re
from collections.abc import Iterable

# What could close a marker of ours, or open a turn of a chat template (`<|im_start|>`, DeepSeek's `<｜User｜>`,
# `<end_of_turn>`, `<eos>`, `</s>`).
_OPENING = re.compile(r"<(?=\s*/?\s*(?:[|｜]|begin|end|start_of|(?:s|bos|eos)\s*>))", re.IGNORECASE)


def defuse(text: str) -> str:
    """Text that can neither close a marker nor open a chat turn: the `<` of such a sequence becomes `‹`."""
    return _OPENING.sub("‹", text)


def broken(text: str, tokens: Iterable[str]) -> str:
    """Text in which none of these tokens is spelled out: a space stands after the first character of each."""
    listed = sorted(filter(None, tokens), key=len, reverse=True)
    if not listed:
        return text
    return re.sub("|".join(map(re.escape, listed)), lambda found: f"{found[0][0]} {found[0][1:]}", text)
