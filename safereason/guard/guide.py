"""How a guard is asked: its policy, its templates, and how its verdicts are drawn.

A guard that `guard train` made carries all of it in `guard.json` beside its weights, so that it is asked after training
as it was asked in training, wherever the folder goes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.policy import Policy
from safereason.guard.prompt import Question, Templates, read_templates
from safereason.recipe.schema import Guard, Sampling
from safereason.runs.records import read_json, write_json
from safereason.text import chat
from safereason.text.chat import Message

FILE = "guard.json"
SAMPLING = Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=4096)
"""How RSafe draws verdicts after training (arXiv 2506.07736, evaluation): one sample."""


@dataclass(frozen=True)
class Guide:
    """What a guard is asked with, and how it answers."""

    policy: Policy
    templates: Templates
    reasoning: bool
    sampling: Sampling

    def conversation(self, question: Question, special: Iterable[str] = ()) -> list[Message]:
        """The conversation that asks this question.

        Args:
            question: What is judged.
            special: Special tokens of the guard's tokenizer, where it is known.
        """
        return chat.user(self.templates.render(self.policy, question, special))

    def asked(self) -> dict[str, Any]:
        """What it is asked with, and not how its verdicts are drawn, as JSON has it."""
        return {key: value for key, value in self.document().items() if key != "sampling"}

    def document(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return dict(_GUIDE.dump_python(self, mode="json"))

    def save(self, folder: Path) -> None:
        """Writes `guard.json` beside a model."""
        write_json(folder / FILE, self.document())


_GUIDE = TypeAdapter(Guide)


def default() -> Guide:
    """RSafe's: eighteen categories, reasoning before the verdict."""
    return Guide(policies.load("default"), Templates(), True, SAMPLING)


def of_section(section: Guard) -> Guide:
    """The guide of a recipe's guard.

    Raises:
        InputError: Its policy or a template cannot be had.
    """
    templates = read_templates(section.prompt_template, section.response_template, section.reasoning)
    return Guide(policies.load(section.policy), templates, section.reasoning, section.sampling)


def of_model(location: str, otherwise: Guide | None = None) -> Guide:
    """The guide that lies beside a model (a folder or a hub id); where none does, `otherwise` or the default one.

    Raises:
        InputError: What lies there is no guide.
    """
    file = _find(location)
    return _load(file) if file else otherwise or default()


def _find(location: str) -> Path | None:
    if Path(location).is_dir():
        file = Path(location) / FILE
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            location, FILE, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{location}: its {FILE} cannot be looked for ({reason}); check the name and HF_TOKEN"
        ) from error
    return Path(found) if found else None


def _load(file: Path) -> Guide:
    document = read_json(file)
    try:
        return _GUIDE.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{file}: is no guide of a guard ({place}: {first['msg']}); train it again or delete the file"
        ) from error
