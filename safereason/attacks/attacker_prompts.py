"""Prompts of attackers and raters, as templates: those that this package ships, and those of a person's files."""

from collections.abc import Sequence
from pathlib import Path

from safereason.errors import InputError
from safereason.files import read_text
from safereason.text.template import missing_slot

_SHIPPED = Path(__file__).parent / "prompts"


def require_slots(template: str, slots: Sequence[str], where: str) -> str:
    """The template itself, if it has every slot.

    Raises:
        InputError: It lacks one; the message begins with `where`.
    """
    missing = missing_slot(template, slots)
    if missing:
        raise InputError(f"{where}: this prompt has no {missing}; put it where the text is to stand")
    return template


def read_prompt_templates(shipped: str, path: str | None, slots: Sequence[str], where: str) -> list[str]:
    """The templates of a file, or of a folder's `.txt` files in the order of their names.

    Args:
        shipped: Name of a folder of this package, which is read without a `path`.
        path: File or folder of a person.
        slots: Slots that each template must have.
        where: Beginning of error messages.

    Raises:
        InputError: A file cannot be read or lacks a slot, or the folder has no template.
    """
    source = _SHIPPED / shipped
    if path:
        source = Path(path)
    try:
        # Sorted: the order decides which stream uses which prompt, and file systems list a folder in different ones.
        files = sorted(source.glob("*.txt")) if source.is_dir() else [source]
        templates = [require_slots(read_text(file).strip(), slots, str(file)) for file in files]
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{where}: {error}; give a text file or a folder of them") from error
    if not templates:
        raise InputError(f"{where}: {source} holds no .txt file; give a text file or a folder of them")
    return templates
