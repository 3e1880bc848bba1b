"""Rubrics from YAML files, as judges on a chat model (`docs/how-to/write-a-rubric.md`)."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from safereason.engines.base import Sampling
from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges.base import Measure, Verdict
from safereason.judges.chat import SAMPLING, SLOTS, open_rubric
from safereason.judges.llm_judge import LLMJudge
from safereason.judges.template import ANSWER, REQUEST, JudgeTemplate
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import text_of
from safereason.recipe.schema import NewTokens
from safereason.runs.manifest import sha256
from safereason.text import chat
from safereason.text.template import missing_slot

SHIPPED = Path(__file__).parent / "rubrics"
VERDICT_PATTERN = r"\[\[([^\[\]]*)\]\]"

_EXPECTED = "a rubric is a mapping with `measures:`, `prompt:` and `reply:`"
_CLOSED = ConfigDict(extra="forbid")

Score = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True, config=_CLOSED)
class Reply:
    """Rules for reading a reply: the last match of the pattern is a label, or a number on a scale."""

    pattern: str = VERDICT_PATTERN
    """Regular expression with one group, matched without regard to case."""
    labels: dict[str, Score] | None = None
    """Scores by label, without regard to case."""
    scale: tuple[float, float] | None = None
    """The numbers that mean 0 and 1; the second may be the smaller one."""

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}); mend it") from error
        if groups != 1:
            raise ValueError(f"has {groups} groups; put what is to be read, and only that, into ( )")
        return pattern

    @model_validator(mode="after")
    def _has_one_way(self) -> "Reply":
        if (self.labels is None) == (self.scale is None):
            raise ValueError("says either labels or scale; write one of them")
        if self.labels == {} or (self.scale and self.scale[0] == self.scale[1]):
            raise ValueError("tells nothing apart; give a label at least, or two different ends of the scale")
        return self

    def find(self, reply: str) -> Verdict | None:
        """The verdict in a reply; None where it holds none, an unknown label, or a number off the scale."""
        matches = re.findall(self.pattern, reply, re.IGNORECASE | re.DOTALL)
        if not matches:
            return None
        # The last match: models discuss other labels before they decide.
        last = matches[-1].strip()
        if self.labels is not None:
            return self._of_label(last, self.labels)
        return self._of_number(last, self.scale or (0.0, 1.0))

    def _of_label(self, text: str, labels: Mapping[str, float]) -> Verdict | None:
        verdict = None
        for label, score in labels.items():
            if label.casefold() == text.casefold():
                verdict = Verdict(score, label)
        return verdict

    def _of_number(self, text: str, scale: tuple[float, float]) -> Verdict | None:
        if not re.fullmatch(r"[-+]?\d+(\.\d+)?", text):
            return None
        number = float(text)
        zero, one = scale  # the scale may run downwards
        if not min(scale) <= number <= max(scale):
            return None
        return Verdict((number - zero) / (one - zero), text)


@dataclass(frozen=True, config=_CLOSED)
class RubricFile:
    """The contents of a rubric's file."""

    measures: Measure
    """See `Judge.measure`."""
    prompt: str
    """The user's turn, with `{request}`, `{answer}` and optionally `{context}`."""
    reply: Reply
    system: str | None = None
    """Text of the system turn; None for none."""
    model: str | None = None
    """The model where the command names none: `openai/NAME`, or a local model."""
    max_new_tokens: NewTokens = SAMPLING.max_new_tokens
    """Longest reply, reasoning included."""

    @field_validator("prompt")
    @classmethod
    def _has_slots(cls, prompt: str) -> str:
        missing = missing_slot(prompt, (REQUEST, ANSWER))
        if missing:
            raise ValueError(f"has no {missing}; put it where that is to stand")
        return prompt


_FILE = TypeAdapter(RubricFile)


@dataclasses.dataclass(frozen=True)
class RubricSpec:
    """A rubric and its model as a person names them: `FILE` or `FILE@MODEL`."""

    file: str
    """A path, or the name of a shipped rubric, without `.yaml`."""
    named_model: ModelSpec | None = None
    """The model after the @; None where the file names it."""

    @classmethod
    def parse(cls, text: str) -> "RubricSpec":
        """The rubric that a command line or a recipe names; its file is not read."""
        file, _, model = text.partition("@")
        if not _shipped_file(file).is_file():
            # A path may hold an @ of its own; the one after the suffix divides.
            suffix = re.search(r"\.ya?ml(?=@)", text)
            file, model = text, ""
            if suffix is not None:
                file, model = text[: suffix.end()], text[suffix.end() + 1 :]
        if not model:
            return cls(file)
        return cls(file, ModelSpec.parse(model))

    def __str__(self) -> str:
        """The text that `parse` reads as this rubric."""
        if self.named_model is None:
            return self.file
        return f"{self.file}@{self.named_model}"

    @property
    def path(self) -> Path:
        """The rubric's file."""
        shipped = _shipped_file(self.file)
        if shipped.is_file():
            return shipped
        return Path(self.file)

    @property
    def model(self) -> ModelSpec:
        """The model that is named, else the file's own.

        Raises:
            InputError: The file cannot be read or has a mistake in it, or no model is named.
        """
        if self.named_model is not None:
            return self.named_model
        own = load(self.path).model
        if own is None:
            raise InputError(f"{self.file}: names no model; add `model:` to it, or write rubric:{self.file}@MODEL")
        return ModelSpec.parse(own)

    def absolute(self) -> "RubricSpec":
        """The same rubric, its file and its model named so that they are found from any folder."""
        file = self.file
        if Path(file).exists():
            file = str(Path(file).resolve())
        model = self.named_model
        if model is not None:
            model = model.absolute()
        return RubricSpec(file, model)

    def identity(self) -> str:
        """Hash of the file's contents, and the named model; the file's name does not count.

        Raises:
            InputError: The model is a run that did not finish.
        """
        content = self.file  # of a file that is missing, which opening it refuses
        if Path(self.file).is_file():
            content = sha256(Path(self.file))
        model = ""
        if self.named_model is not None:
            model = self.named_model.identity()
        return f"{content}@{model}"


def open_own(spec: RubricSpec, loading: Loading = LOADED_AT_ONCE) -> LLMJudge:
    """Opens a rubric of a file, or a shipped one.

    Raises:
        InputError: The file cannot be read or has a mistake in it, or no model is named or to be had.
    """
    rubric = load(spec.path)
    messages = chat.user(rubric.prompt)
    if rubric.system:
        messages.insert(0, {"role": "system", "content": rubric.system})
    template = JudgeTemplate(tuple(messages), SLOTS)
    return open_rubric(
        "rubric",
        rubric.measures,
        template,
        rubric.reply.find,
        spec.model,
        loading,
        reading=repr(rubric.reply),
        sampling=Sampling(temperature=0.0, max_new_tokens=rubric.max_new_tokens),
    )


def _shipped_file(name: str) -> Path:
    return SHIPPED / f"{name}.yaml"


def load(path: Path) -> RubricFile:
    """Reads a rubric and checks it.

    Raises:
        InputError: It cannot be read, or something is wrong with it; the message says where.
    """
    document = strict_yaml.parse(text_of(path), str(path), _EXPECTED)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no number for text.
        return _FILE.validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document, RubricFile)) from error
