"""Description of your own data in a YAML file: the place of the rows, and the meaning of their columns.

A mistake in it is one line, as in a recipe: `file:line: key: what is wrong; what to do`.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from safereason.data.example import KINDS, PromptKind
from safereason.data.sources.base import FILE_ENDINGS, Split
from safereason.errors import InputError
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import text_of
from safereason.text.verdict import Label

_EXPECTED = "a data source is a mapping with `file:` or `hub:`, `columns:` and `kind:`"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
NonEmpty = Annotated[str, Field(min_length=1)]
Scalar = str | bool | int | float


class _DescriptionPart(BaseModel):
    """A part of a description; it is immutable and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Hub(_DescriptionPart):
    """A file of a dataset on the Hugging Face Hub."""

    repo: NonEmpty
    """Dataset repository, `owner/name`."""
    file: NonEmpty
    """Path in the repository."""
    revision: str
    """Commit of the repository."""

    @field_validator("repo")
    @classmethod
    def _is_a_name(cls, repo: str) -> str:
        if not _REPO.fullmatch(repo):
            raise ValueError("should be `owner/name`, of letters, digits, `-`, `_` and `.`")
        return repo

    @field_validator("file")
    @classmethod
    def _is_inside(cls, file: str) -> str:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ValueError("should be a path inside the repository")
        return file

    @field_validator("revision")
    @classmethod
    def _is_a_commit(cls, revision: str) -> str:
        if not _COMMIT.fullmatch(revision):
            # A branch or a tag can move, and the same recipe would then train on other rows.
            raise ValueError("should be a commit in full, 40 hexadecimal digits; what a branch holds may change")
        return revision


class Columns(_DescriptionPart):
    """Names of the columns that an example is made of."""

    prompt: NonEmpty
    id: NonEmpty | None = None
    """With null, the row's number is its id."""
    category: NonEmpty | None = None
    """The column holds texts, or lists of texts."""
    reasoning: NonEmpty | None = None
    answer: NonEmpty | None = None
    response: NonEmpty | None = None
    target: NonEmpty | None = None


class KindOf(_DescriptionPart):
    """Kind of the rows: one for all of them, or by a column."""

    all: PromptKind | None = None
    column: NonEmpty | None = None
    values: dict[str, PromptKind] = Field(default_factory=dict)
    """Kind of each value of the column."""

    @model_validator(mode="after")
    def _one_way(self) -> "KindOf":
        if (self.all is None) != (self.column is not None and bool(self.values)):
            raise ValueError("should be a kind, or a mapping with `column` and `values`")
        return self


class LabelOf(_DescriptionPart):
    """Label of the rows, by a column; a row with null in it has no label."""

    column: NonEmpty
    unsafe: tuple[Scalar, ...]
    """Values that mean unsafe."""
    safe: tuple[Scalar, ...]
    """Values that mean safe."""

    @property
    def values(self) -> dict[str, Label]:
        """Label of each value, by the value's `cell_text`."""
        labels: dict[str, Label] = {}
        for value in self.safe:
            labels[cell_text(value)] = "safe"
        for value in self.unsafe:
            labels[cell_text(value)] = "unsafe"
        return labels

    @model_validator(mode="after")
    def _each_once(self) -> "LabelOf":
        # The mapping has fewer entries than the lists if two values have the same text, such as 1 and 1.0.
        if len(self.values) < len(self.safe) + len(self.unsafe):
            raise ValueError("`safe` and `unsafe` list a value twice; list each once")
        return self


class Description(_DescriptionPart):
    """Description of a file of rows."""

    file: NonEmpty | None = None
    """Path of the file, relative to the description's folder."""
    hub: Hub | None = None
    """The file on the Hub, in place of `file`."""
    columns: Columns
    kind: KindOf
    label: LabelOf | None = None
    title: NonEmpty = "your own data"
    licence: NonEmpty = "yours"
    serves: tuple[Split, ...] = ("train", "test")
    """Splits it may be used as."""

    @field_validator("kind", mode="before")
    @classmethod
    def _expand_single_kind(cls, kind: object) -> object:
        if isinstance(kind, dict):
            return kind
        if kind not in KINDS:
            raise ValueError(
                f"should be one of {', '.join(KINDS)}, or a mapping with `column` and `values`, "
                f"not {strict_yaml.shown(kind)}"
            )
        return {"all": kind}

    @field_validator("serves")
    @classmethod
    def _require_a_split(cls, serves: tuple[Split, ...]) -> tuple[Split, ...]:
        if not serves:
            raise ValueError("is empty; name train, test or both, or delete the line")
        return serves

    @model_validator(mode="after")
    def _of_one_file(self) -> "Description":
        name = self.file
        key: Literal["file", "hub"] = "file"
        if self.hub and not self.file:
            name = self.hub.file
            key = "hub"
        problem = None
        if name is None:
            problem = "is missing; name a file, or one of the Hub under `hub`"
        elif self.file and self.hub:
            problem = "is here and `hub` is too; delete one of them"
        elif not name.endswith(FILE_ENDINGS):
            problem = f"should be a .csv, .tsv, .json, .jsonl or .parquet file, not {strict_yaml.shown(name)}"
        if problem:
            # With the key, the message gets the line of the file that the mistake is on.
            raise PydanticCustomError(explain.PART, "{problem}", {"part": (key,), "problem": problem})
        return self


def load_description(name: str) -> Description:
    """The description in a YAML file.

    Raises:
        InputError: There is no such file, or it has a mistake; the message says where.
    """
    document = strict_yaml.parse(text_of(Path(name)), name, _EXPECTED)
    try:
        # In JSON, pydantic's strict mode accepts a list for a tuple, and still no number for a text.
        return Description.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document, Description)) from error


def cell_text(value: object) -> str:
    """A cell as a description writes it, the same for every file format: `true`, `1`, `0.5`, or the text itself."""
    if isinstance(value, bool):
        return "true" if value else "false"
    # A parquet file may have whole numbers in a column of floats, if some of its rows are null.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
