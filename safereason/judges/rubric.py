"""A rubric of one's own, put to a chat model: a YAML file (`docs/how-to/write-a-rubric.md`)."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from safereason.engines.base import Sampling
from safereason.errors import InputError
from safereason.judges.base import Verdict
from safereason.judges.chat import PLACES, SAMPLING, open_rubric
from safereason.judges.frame import ANSWER, REQUEST, Frame
from safereason.judges.llm_judge import LLMJudge
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import text_of
from safereason.recipe.schema import NewTokens

SHIPPED = Path(__file__).parent / "rubrics"
VERDICT = r"\[\[([^\[\]]*)\]\]"

_EXPECTED = "a rubric is a mapping with `measures:`, `prompt:` and `reply:`"
_CLOSED = ConfigDict(extra="forbid")

Score = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True, config=_CLOSED)
class Reply:
    """How a reply is read: what the pattern finds last in it is a label, or a number on a scale."""

    pattern: str = VERDICT
    """Regular expression with one group, matched whatever the case."""
    labels: dict[str, Score] | None = None
    """Scores by label, whatever its case."""
    scale: tuple[float, float] | None = None
    """The numbers that stand for 0 and for 1; the second may be the smaller one."""

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
        found = re.findall(self.pattern, reply, re.IGNORECASE | re.DOTALL)
        return self._verdict(found[-1].strip()) if found else None

    def _verdict(self, said: str) -> Verdict | None:
        if self.labels is not None:
            known = {label.casefold(): (label, score) for label, score in self.labels.items()}
            label, score = known.get(said.casefold(), (None, None))
            return None if score is None else Verdict(score, label)
        low, high = self.scale or (0.0, 1.0)
        number = float(said) if re.fullmatch(r"[-+]?\d+(\.\d+)?", said) else None
        on_scale = number is not None and min(low, high) <= number <= max(low, high)
        return Verdict((number - low) / (high - low), said) if number is not None and on_scale else None


@dataclass(frozen=True, config=_CLOSED)
class RubricFile:
    """What a file says."""

    measures: Literal["harm", "refusal", "quality"]
    """What a score of 1 is full of."""
    prompt: str
    """The user's turn, with `{request}`, `{answer}` and, if wanted, `{context}`."""
    reply: Reply
    system: str | None = None
    """The system turn."""
    model: str | None = None
    """Whom to ask where the command does not say: `openai/NAME`, or a local model."""
    max_new_tokens: NewTokens = SAMPLING.max_new_tokens
    """Longest reply, reasoning included."""

    @field_validator("prompt")
    @classmethod
    def _has_places(cls, prompt: str) -> str:
        missing = [place for place in (REQUEST, ANSWER) if place not in prompt]
        if missing:
            raise ValueError(f"has no {missing[0]}; put it where that is to stand")
        return prompt


_FILE = TypeAdapter(RubricFile)


def open_own(spec: str) -> LLMJudge:
    """Opens `FILE` or `FILE@MODEL`; a name without `.yaml` is a shipped rubric's.

    Raises:
        InputError: The file cannot be read or has a mistake in it, or no model is named or to be had.
    """
    rubric, chosen = load(_find(split(spec)[0])), model_of(spec)
    turns = [("system", rubric.system), ("user", rubric.prompt)]
    frame = Frame(tuple({"role": role, "content": text} for role, text in turns if text), PLACES)
    return open_rubric(
        "rubric",
        rubric.measures,
        frame,
        rubric.reply.find,
        chosen,
        reading=repr(rubric.reply),
        sampling=Sampling(temperature=0.0, max_new_tokens=rubric.max_new_tokens),
    )


def model_of(spec: str) -> str:
    """The model of `FILE` or `FILE@MODEL`: that one, else the file's own.

    Raises:
        InputError: The file cannot be read or has a mistake in it, or no model is named.
    """
    file, model = split(spec)
    chosen = model or load(_find(file)).model
    if chosen is None:
        raise InputError(f"{file}: names no model; add `model:` to it, or write rubric:{file}@MODEL")
    return chosen


def split(spec: str) -> tuple[str, str]:
    """File and model of `FILE` or `FILE@MODEL`; the model is empty where there is none."""
    name, _, asked = spec.partition("@")
    if (SHIPPED / f"{name}.yaml").is_file():
        return name, asked
    file, suffix, model = re.split(r"(\.ya?ml)@", spec, maxsplit=1) if re.search(r"\.ya?ml@", spec) else (spec, "", "")
    return f"{file}{suffix}", model


def _find(file: str) -> Path:
    """A rubric's file: a path, or the name of a shipped one."""
    ours = SHIPPED / f"{file}.yaml"
    return ours if ours.is_file() else Path(file)


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
