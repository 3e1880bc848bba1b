"""The entry of a judge in the registry, and what may follow its name: a model, a word, or an argument of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from safereason.engines.engine_spec import Loading
from safereason.engines.spec import ModelSpec
from safereason.judges.base import Judge, Measure


class JudgeArgument(Protocol):
    """The value of the text after a judge's colon. Two of them are equal where their texts mean the same."""

    @property
    def model(self) -> ModelSpec | None:
        """The model that the judge loads or asks; None where it has none that could be checked beforehand.

        Raises:
            InputError: A file that names it cannot be read.
        """
        ...

    def identity(self) -> str:
        """The argument's part of a run's identity.

        Raises:
            InputError: It names a run that did not finish.
        """
        ...

    def absolute(self) -> "JudgeArgument":
        """The same argument, with its files and models named so that they are found from any folder."""
        ...

    def __str__(self) -> str:
        """The text itself."""
        ...


@dataclass(frozen=True)
class TextArgument:
    """A text that names no model, such as a word."""

    text: str

    @property
    def model(self) -> None:
        """No model."""
        return None

    def identity(self) -> str:
        """The text."""
        return self.text

    def absolute(self) -> "TextArgument":
        """The same text: it names no file."""
        return self

    def __str__(self) -> str:
        """The text itself."""
        return self.text


@dataclass(frozen=True)
class ModelArgument:
    """A model that the judge loads or asks."""

    model: ModelSpec

    @classmethod
    def parse(cls, text: str) -> "ModelArgument":
        """The argument that a model's name makes."""
        return cls(ModelSpec.parse(text))

    def identity(self) -> str:
        """The model's own identity."""
        return self.model.identity()

    def absolute(self) -> "ModelArgument":
        """The same model, by an absolute path if it is on this machine."""
        return ModelArgument(self.model.absolute())

    def __str__(self) -> str:
        """The model's name."""
        return str(self.model)


@dataclass(frozen=True)
class JudgeEntry:
    """One judge that can be named `name` or `name:argument`. A new one is a line in `JUDGES`."""

    name: str
    summary: str
    """Summary in one line for a listing: what the judge scores."""
    # `Any` is the argument's own class, as `parse` makes it; the protocol here would refuse functions of that class.
    open: Callable[[Any, Measure, Loading], Judge]
    """Opens it as a judge of one of its measures, with its argument, else `default`; None where it takes none.

    A judge without a model of its own passes over how one is loaded.

    Raises InputError where it cannot be had."""
    measures: tuple[Measure, ...]
    """Quantities that it can measure; where a caller takes several of them, the first one counts."""
    argument: str = ""
    """Meaning of its argument, as help texts show it; empty where it takes none."""
    needs_argument: bool = False
    parse: Callable[[str], JudgeArgument] = ModelArgument.parse
    """Makes its argument of the text after the colon."""
    default: JudgeArgument | None = None
    """Its argument where none is given."""
    title: str = ""
    """Name in a report; empty where that is `name`."""
