"""Guard prompts: a policy, the templates around it, and how verdicts are sampled.

`guard train` saves the prompt as `guard.json` beside the weights. The guard is then used with the prompt that it was
trained with, even after its folder moves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from safereason.errors import InputError, first_line
from safereason.guard import policy as policies
from safereason.guard.policy import Policy
from safereason.guard.prompt import GuardTemplates, Question, read_guard_templates
from safereason.recipe.schema import GuardSection, Sampling
from safereason.runs.records import read_json, write_json
from safereason.text import chat
from safereason.text.chat import Message

FILE = "guard.json"
SAMPLING = Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=4096)
"""RSafe's sampling of verdicts after training (arXiv 2506.07736, evaluation): one sample."""


@dataclass(frozen=True)
class GuardPrompt:
    """Policy, templates and sampling of one guard."""

    policy: Policy
    templates: GuardTemplates
    reasoning: bool
    sampling: Sampling

    def conversation(self, question: Question, special: Iterable[str] = ()) -> list[Message]:
        """The conversation that puts this question to the guard.

        Args:
            question: A prompt or a response to judge.
            special: Special tokens of the guard's tokenizer, if it is known.
        """
        return chat.user(self.templates.render(self.policy, question, special))

    # Sampling may change after training without another prompt, so it is not part of a training run's identity.
    def prompt_settings(self) -> dict[str, object]:
        """Everything but the sampling, as JSON: the part that training depends on."""
        document = self.document()
        del document["sampling"]
        return document

    def document(self) -> dict[str, object]:
        """The prompt as JSON."""
        return dict(_GUARD_PROMPT.dump_python(self, mode="json"))

    def save(self, folder: Path) -> None:
        """Writes `guard.json` beside a model."""
        write_json(folder / FILE, self.document())


# The same adapter writes and reads `guard.json`, so that the two cannot disagree.
_GUARD_PROMPT = TypeAdapter(GuardPrompt)


def default() -> GuardPrompt:
    """RSafe's prompt: eighteen categories, and reasoning before the verdict."""
    return GuardPrompt(policies.load("default"), GuardTemplates(), True, SAMPLING)


def of_section(section: GuardSection) -> GuardPrompt:
    """The prompt of a recipe's guard section.

    Raises:
        InputError: Its policy or a template cannot be read.
    """
    templates = read_guard_templates(section.prompt_template, section.response_template, section.reasoning)
    return GuardPrompt(policies.load(section.policy), templates, section.reasoning, section.sampling)


def of_model(location: str, otherwise: GuardPrompt | None = None) -> GuardPrompt:
    """The prompt saved beside a model.

    Args:
        location: A folder or a hub id.
        otherwise: Prompt for a model without a saved one; by default RSafe's.

    Raises:
        InputError: The saved file holds no guard prompt.
    """
    file = _find_saved_prompt(location)
    if file is not None:
        return _load_saved_prompt(file)
    return otherwise or default()


def _find_saved_prompt(location: str) -> Path | None:
    folder = Path(location)
    if folder.is_dir():
        file = folder / FILE
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        # Most models on the hub have no guard.json, so a missing file is no error, nor is a hub that does not answer.
        cached = cached_file(
            location, FILE, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError as error:
        raise InputError(
            f"{location}: its {FILE} cannot be looked for ({first_line(error)}); check the name and HF_TOKEN"
        ) from error
    return Path(cached) if cached else None


def _load_saved_prompt(file: Path) -> GuardPrompt:
    document = read_json(file)
    try:
        return _GUARD_PROMPT.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{file}: is no guard prompt ({key}: {first['msg']}); train it again or delete the file"
        ) from error
