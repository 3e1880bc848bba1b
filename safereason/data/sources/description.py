"""The YAML file that describes a person's own data: where it is, and which column holds what.

Every mistake in it is one line, as it is in a recipe: `file:line: key: what is wrong; what to do`.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from safereason.data.example import KINDS, Kind, Label
from safereason.data.sources.base import FORMATS, Split
from safereason.errors import InputError
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import text_of

_EXPECTED = "a data source is a mapping with `file:` or `hub:`, `columns:` and `kind:`"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
Text = Annotated[str, Field(min_length=1)]
Scalar = str | bool | int | float


class _Part(BaseModel):
    """A part of a description: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Hub(_Part):
    """A file of a dataset on the Hugging Face Hub."""

    repo: Text
    """Dataset repository, `owner/name`."""
    file: Text
    """Path in the repository."""
    revision: str
    """Commit it is read at."""

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
            raise ValueError("should be a commit in full, 40 hexadecimal digits; what a branch holds may change")
        return revision


class Columns(_Part):
    """The columns that hold what an example has."""

    prompt: Text
    id: Text | None = None
    """Null numbers the rows."""
    category: Text | None = None
    """Holds texts, or lists of them."""
    reasoning: Text | None = None
    answer: Text | None = None
    response: Text | None = None
    target: Text | None = None


class KindOf(_Part):
    """The kind of the rows: the same for all, or told by a column."""

    all: Kind | None = None
    column: Text | None = None
    values: dict[str, Kind] = Field(default_factory=dict)
    """What each of the column's values stands for."""

    @model_validator(mode="after")
    def _one_way(self) -> "KindOf":
        if (self.all is None) != (self.column is not None and bool(self.values)):
            raise ValueError("should be a kind, or a mapping with `column` and `values`")
        return self


class LabelOf(_Part):
    """The label of each row, by a column; a row where that is null has none."""

    column: Text
    unsafe: tuple[Scalar, ...]
    """Values that stand for unsafe."""
    safe: tuple[Scalar, ...]
    """Values that stand for safe."""

    @property
    def values(self) -> dict[str, Label]:
        """What each value stands for, as `plain` writes it."""
        safe, unsafe = (dict.fromkeys(map(plain, values)) for values in (self.safe, self.unsafe))
        return {**dict.fromkeys(safe, "safe"), **dict.fromkeys(unsafe, "unsafe")}

    @model_validator(mode="after")
    def _each_once(self) -> "LabelOf":
        if len(self.values) < len(self.safe) + len(self.unsafe):
            raise ValueError("`safe` and `unsafe` list a value twice; list each once")
        return self


class Description(_Part):
    """Where a person's own rows are, and what they hold."""

    file: Text | None = None
    """Path of the file, from the description's folder."""
    hub: Hub | None = None
    """The file's place on the Hub."""
    columns: Columns
    kind: KindOf
    label: LabelOf | None = None
    title: Text = "your own data"
    licence: Text = "yours"
    serves: tuple[Split, ...] = ("train", "test")
    """Splits it may be used as."""

    @field_validator("kind", mode="before")
    @classmethod
    def _of_all(cls, kind: Any) -> Any:
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
    def _something(cls, serves: tuple[Split, ...]) -> tuple[Split, ...]:
        if not serves:
            raise ValueError("is empty; name train, test or both, or delete the line")
        return serves

    @model_validator(mode="after")
    def _of_one_file(self) -> "Description":
        name = self.file or (self.hub.file if self.hub else None)
        key: Literal["file", "hub"] = "hub" if self.hub and not self.file else "file"
        problem = None
        if name is None:
            problem = "is missing; name a file, or one of the Hub under `hub`"
        elif self.file and self.hub:
            problem = "is here and `hub` is too; delete one of them"
        elif not name.endswith(FORMATS):
            problem = f"should be a .csv, .tsv, .json, .jsonl or .parquet file, not {strict_yaml.shown(name)}"
        if problem:
            raise PydanticCustomError(explain.PART, "{problem}", {"part": (key,), "problem": problem})
        return self


def load(name: str) -> Description:
    """Reads a description and checks it.

    Raises:
        InputError: There is no such file, or something is wrong with it; the message says where.
    """
    document = strict_yaml.parse(text_of(Path(name)), name, _EXPECTED)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no number for text.
        return Description.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document, Description)) from error


def plain(value: Any) -> str:
    """A cell as a description writes it, whichever format it comes from: `true`, `1`, `0.5`, or the text itself."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
