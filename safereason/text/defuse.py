"""Text that cannot step out of the place it is put in."""

import re

# What could close a marker of ours, or open a turn of a chat template (`<|im_start|>`, DeepSeek's `<｜User｜>`,
# `<end_of_turn>`, `<eos>`, `</s>`).
_OPENING = re.compile(r"<(?=\s*/?\s*(?:[|｜]|begin|end|start_of|(?:s|bos|eos)\s*>))", re.IGNORECASE)


def defuse(text: str) -> str:
    """Text that can neither close a marker nor open a chat turn: the `<` of such a sequence becomes `‹`."""
    return _OPENING.sub("‹", text)
