"""The prompts of rainbow teaming and the two axes of its archive: ours, or those of a person's own files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from safereason.attacks.rainbow_archive import Cell
from safereason.errors import InputError
from safereason.files import read_text
from safereason.text.inert import inert
from safereason.text.template import filled

FOLDER = Path(__file__).parent / "prompts"
RISK, STYLE, JUDGE = "rainbow_risk.txt", "rainbow_style.txt", "rainbow_judge.txt"
PROMPTS = {
    RISK: ("prompt", "risk", "about"),
    STYLE: ("prompt", "style", "about"),
    JUDGE: ("risk", "about", "prompt_a", "answer_a", "prompt_b", "answer_b"),
}
"""The fields of each prompt, written `$name` in its file."""
LISTS = ("rainbow_risks.txt", "rainbow_styles.txt")


@dataclass(frozen=True)
class RainbowTemplates:
    """The prompts for the models, and the axes of the archive."""

    texts: Mapping[str, str]
    """The prompts as their files have them, by file name; the identity of a run holds them."""
    risks: Mapping[str, str]
    """Descriptions of the risks, by name."""
    styles: Mapping[str, str]
    """Descriptions of the attack styles, by name."""

    @property
    def cells(self) -> list[Cell]:
        """The cells of an archive: every risk with every style, risk by risk."""
        cells: list[Cell] = []
        for risk in self.risks:
            for style in self.styles:
                cells.append(Cell(risk, style))
        return cells

    def fill(self, name: str, special: Iterable[str] = (), **values: str) -> str:
        """A prompt with its values, which are made inert first: none can close its marker.

        Args:
            name: File name of the prompt.
            special: Special tokens of the model that reads it, as far as they are known.
            values: Text of each field.
        """
        inert_values: dict[str, str] = {}
        for field, value in values.items():
            inert_values[_slot(field)] = inert(value, special)
        return filled(_with_slots(self.texts[name], PROMPTS[name]), inert_values)


def load_templates(folder: str | None) -> RainbowTemplates:
    """The prompts and lists of a folder; ours replace those that it lacks.

    Raises:
        InputError: The folder has none of them, or one has a mistake in it.
    """
    own_folder: Path | None = None
    if folder is not None:
        own_folder = Path(folder)
        # A folder without any of the files is most likely a mistyped path.
        if not any((own_folder / name).is_file() for name in (*PROMPTS, *LISTS)):
            raise InputError(f"{folder}: holds none of {', '.join((*PROMPTS, *LISTS))}; name the folder that does")
    texts: dict[str, str] = {}
    for name, fields in PROMPTS.items():
        texts[name] = _read_rainbow_prompt(_template_path(own_folder, name), fields)
    risks_name, styles_name = LISTS
    risks = _read_descriptions(_template_path(own_folder, risks_name))
    styles = _read_descriptions(_template_path(own_folder, styles_name))
    return RainbowTemplates(texts, risks, styles)


def _template_path(own_folder: Path | None, name: str) -> Path:
    """The file of this name in a person's folder, or else ours."""
    if own_folder is not None and (own_folder / name).is_file():
        return own_folder / name
    return FOLDER / name


def _read_rainbow_prompt(path: Path, fields: Sequence[str]) -> str:
    """The text of a prompt that has every field; `$about` may be missing.

    Raises:
        InputError: It lacks a field, or has an unknown one.
    """
    text = read_text(path)
    try:
        template = _with_slots(text, fields)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: {error} is no field; it may have {_list_fields(fields)}, and $$ for a dollar"
        ) from error
    # A prompt may do without the description: the name alone may be enough for a model.
    missing = [name for name in fields if _slot(name) not in template and name != "about"]
    if missing:
        raise InputError(f"{path}: lacks {_list_fields(missing)}; put it where it belongs")
    return text


def _with_slots(text: str, fields: Iterable[str]) -> str:
    """The template of a prompt: its `$field`s are slots, and `$$` is a dollar.

    Raises:
        KeyError: It has another field.
        ValueError: A dollar sign begins no slot.
    """
    return Template(text).substitute({field: _slot(field) for field in fields})


def _slot(field: str) -> str:
    """The slot of a field. Its NUL characters tell it from a word of the prompt that is spelled like its name."""
    return f"\0{field}\0"


def _read_descriptions(path: Path) -> dict[str, str]:
    """Names with their descriptions, one on each line. Lines that begin with `#` are comments.

    Raises:
        InputError: A line has another form, or a name comes twice.
    """
    descriptions: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, about = line.partition(":")
        name = name.strip()
        about = about.strip()
        # A category of an example is `risk/style`, and `; ` joins several categories.
        if not name or not about or name in descriptions or set("/;") & set(name):
            raise InputError(f"{path}:{number}: `name: what it is about` is expected, a name once and without / and ;")
        descriptions[name] = about
    if not descriptions:
        raise InputError(f"{path}: names nothing; put `name: what it is about` in each line")
    return descriptions


def _list_fields(names: Sequence[str]) -> str:
    """Field names as they are written in a prompt."""
    return ", ".join(f"${name}" for name in names)
