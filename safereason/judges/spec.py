"""A judge as a person names it: `name`, `name:argument`, `module:NAME` or `module:NAME:argument`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges.base import MEASURES, Judge, Measure
from safereason.judges.entry import JudgeArgument, JudgeEntry
from safereason.judges.registry import JUDGES
from safereason.registry import split_argument


@dataclass(frozen=True)
class JudgeSpec:
    """A judge and its argument."""

    name: str
    """Name by which `JUDGES` finds it: its own, or a dotted path."""
    argument: JudgeArgument | None = None
    """What is named after the colon; None where nothing is."""

    @classmethod
    def parse(cls, text: str) -> "JudgeSpec":
        """The judge that a command line or a recipe names; no model is loaded.

        Raises:
            InputError: There is no such judge, or its argument is missing, unexpected or misspelt.
        """
        name, argument = split_argument(text)
        entry = JUDGES.find(name)
        if argument and not entry.argument:
            raise InputError(f"judge {text!r}: {name!r} takes no argument; write {name!r} alone")
        if not argument and entry.needs_argument:
            raise InputError(f"judge {name!r} needs an argument; write '{name}:{entry.argument}'")
        if not argument:
            return cls(name)
        return cls(name, entry.parse(argument))

    def __str__(self) -> str:
        """The text that `parse` reads as this judge, in another process, too."""
        if self.argument is None:
            return self.name
        return f"{self.name}:{self.argument}"

    def label(self) -> str:
        """The text that records and metrics hold: the same with the entry's own name, by whichever it was found."""
        return str(replace(self, name=self.entry.name))

    @property
    def entry(self) -> JudgeEntry:
        """Entry that the name leads to."""
        return JUDGES.find(self.name)

    @property
    def argument_in_use(self) -> JudgeArgument | None:
        """The argument, else the entry's default."""
        if self.argument is None:
            return self.entry.default
        return self.argument

    @property
    def model(self) -> ModelSpec | None:
        """The model that it loads or asks; None where it has none, or has it behind a Moderation API.

        Raises:
            InputError: A rubric's file cannot be read, or names no model.
        """
        if self.argument_in_use is None:
            return None
        return self.argument_in_use.model

    def absolute(self) -> "JudgeSpec":
        """The same judge, with its files and models named so that they are found from any folder."""
        if self.argument is None:
            return self
        return replace(self, argument=self.argument.absolute())

    def identity(self) -> str:
        """The judge's part of a run's identity: its name, its model, and what a file of its own says.

        Raises:
            InputError: Its model is a run that did not finish.
        """
        if self.argument is None:
            return self.entry.name
        return f"{self.entry.name}:{self.argument.identity()}"

    def check(self) -> None:
        """Refuses a judge whose model is missing, without loading it.

        Raises:
            InputError: It is.
        """
        model = self.model
        if model is not None:
            model.check()

    def open(self, measures: Sequence[Measure] = MEASURES, loading: Loading = LOADED_AT_ONCE) -> Judge:
        """The judge, with its model loaded or its server known.

        Args:
            measures: What the caller takes. A judge that can measure several of them measures the first of its own; one
                that can measure none of them is opened all the same, and the caller says what is wrong with it.
            loading: How its model is loaded, if it has one.

        Raises:
            InputError: It cannot be opened.
        """
        fitting = [measure for measure in self.entry.measures if measure in measures]
        measure = self.entry.measures[0]
        if fitting:
            measure = fitting[0]
        return self.entry.open(self.argument_in_use, measure, loading)


def open_judge(text: str, measures: Sequence[Measure] = MEASURES) -> Judge:
    """The judge `name` or `name:argument`, opened; `measures` as of `JudgeSpec.open`.

    Raises:
        InputError: There is no such judge, or it cannot be opened.
    """
    return JudgeSpec.parse(text).open(measures)


def is_judge(text: str) -> bool:
    """Whether a text names a judge, with or without an argument; nothing is imported."""
    return JUDGES.has(split_argument(text)[0])


def name_of(text: str) -> str:
    """The name of a judge that a record names, without its argument; it need not be known here."""
    return split_argument(text)[0]


def title_of(text: str) -> str:
    """The title of a judge that a record names; the text itself where there is none."""
    name, argument = split_argument(text)
    entry = JUDGES.installed(name)
    if entry is None or not entry.title:
        return text
    if argument:
        return f"{entry.title} ({argument})"
    return entry.title
