"""Prompt templates: texts with slots, such as `{behavior}`, which other texts replace."""

import re
from collections.abc import Iterable, Mapping


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its slots filled; in one pass, so that a slot's name inside a value stays text.

    Args:
        template: Text with slots. Braces that are no slot are text, too.
        values: The text of each slot, by the slot as the template spells it.
    """
    # Chained `str.replace` would fill slots that a value spells, which is how a text could inject one.
    return re.sub("|".join(map(re.escape, values)), lambda slot: values[slot.group()], template)


def missing_slot(template: str, slots: Iterable[str]) -> str | None:
    """The first of the slots that a template lacks; None where it has all of them."""
    for slot in slots:
        if slot not in template:
            return slot
    return None
