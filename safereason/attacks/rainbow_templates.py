"""What the models of rainbow teaming are told, and the axes of its archive: ours, or a person's own files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from safereason.attacks.rainbow_archive import Cell
from safereason.errors import InputError
from safereason.files import read_text
from safereason.text.inert import inert

FOLDER = Path(__file__).parent / "prompts"
RISK, STYLE, JUDGE = "rainbow_risk.txt", "rainbow_style.txt", "rainbow_judge.txt"
PROMPTS = {
    RISK: ("prompt", "risk", "about"),
    STYLE: ("prompt", "style", "about"),
    JUDGE: ("risk", "about", "prompt_a", "answer_a", "prompt_b", "answer_b"),
}
"""What each prompt's `$names` may be, by its file."""
LISTS = ("rainbow_risks.txt", "rainbow_styles.txt")


@dataclass(frozen=True)
class Templates:
    """What models are told, and the axes of the archive."""

    texts: Mapping[str, str]
    """The prompts, by file name."""
    risks: Mapping[str, str]
    """Descriptions by name."""
    styles: Mapping[str, str]

    @property
    def cells(self) -> list[Cell]:
        """All cells, risk by risk."""
        return [Cell(risk, style) for risk in self.risks for style in self.styles]

    def fill(self, name: str, special: Iterable[str] = (), **values: str) -> str:
        """A prompt with its values, none of which can step out of its place.

        Args:
            name: The prompt's.
            special: Special tokens of the tokenizer that will read it, where it is known.
            values: What goes in, by its name.
        """
        return Template(self.texts[name]).substitute({key: inert(value, special) for key, value in values.items()})


def load_templates(folder: str | None) -> Templates:
    """Our prompts and lists, or those of a folder where it has them.

    Raises:
        InputError: The folder has none of them, or one has a mistake in it.
    """
    if folder is not None and not any((Path(folder) / name).is_file() for name in (*PROMPTS, *LISTS)):
        raise InputError(f"{folder}: holds none of {', '.join((*PROMPTS, *LISTS))}; name the folder that does")

    def place(name: str) -> Path:
        own = Path(folder) / name if folder is not None else None
        return own if own is not None and own.is_file() else FOLDER / name

    texts = {name: _prompt(place(name), fields) for name, fields in PROMPTS.items()}
    risks, styles = (_listed(place(name)) for name in LISTS)
    return Templates(texts, risks, styles)


def _prompt(path: Path, fields: Sequence[str]) -> str:
    """A prompt's text, which has every field.

    Raises:
        InputError: It lacks one, or has one that it cannot be given.
    """
    text = read_text(path)
    try:
        filled = Template(text).substitute({name: f"\0{name}\0" for name in fields})
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error} is no field; it may have {_dollars(fields)}, and $$ for a dollar") from error
    missing = [name for name in fields if f"\0{name}\0" not in filled and name != "about"]
    if missing:
        raise InputError(f"{path}: lacks {_dollars(missing)}; put it where it belongs")
    return text


def _listed(path: Path) -> dict[str, str]:
    """Names with what they are about, one a line.

    Raises:
        InputError: A line is something else, or a name is there twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, about = (part.strip() for part in line.partition(":"))
        if not name or not about or name in found or set("/;") & set(name):
            raise InputError(f"{path}:{number}: `name: what it is about` is expected, a name once and without / and ;")
        found[name] = about
    if not found:
        raise InputError(f"{path}: names nothing; put `name: what it is about` in each line")
    return found


def _dollars(names: Sequence[str]) -> str:
    return ", ".join(f"${name}" for name in names)
