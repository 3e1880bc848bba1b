"""Templates: texts with slots."""

import re
from collections.abc import Mapping


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its slots filled; in one pass, so that a slot's name inside a value stays text."""
    # Chained `str.replace` would fill slots that a value spells, which is how a text could inject one.
    return re.sub("|".join(map(re.escape, values)), lambda slot: values[slot.group()], template)
