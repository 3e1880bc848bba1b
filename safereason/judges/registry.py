"""The judges by name, each with what a listing, a precondition and a memory estimate need; nothing heavy is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges.base import MEASURES, Judge, Measure
from safereason.registry import Registry, split_argument
from safereason.runs.manifest import sha256

HARMBENCH_MODEL = "cais/HarmBench-Llama-2-13b-cls"
STRONGREJECT_MODEL = "qylu4156/strongreject-15k-v1"
"""The published weights of the two judges, which are loaded where no model is named."""
REWARD_MODEL = "reward-model"
"""Name of the judge that is a sequence classifier."""


def _model_in_argument(argument: str) -> str | None:
    return argument or None


def _no_model(argument: str) -> str | None:
    return None


def _identity_of_model(argument: str) -> str:
    if not argument:
        return ""
    return ModelSpec.parse(argument).identity()


@dataclass(frozen=True)
class JudgeEntry:
    """One judge that can be named `name` or `name:argument`. A new one is a line in `JUDGES`."""

    name: str
    summary: str
    """Summary in one line for a listing: what the judge scores."""
    open: Callable[[str, Measure], Judge]
    """Opens it with its argument, empty where none is given, as a judge of one of its measures.

    Raises InputError where it cannot be had."""
    measures: tuple[Measure, ...]
    """Quantities that it can measure; where a caller takes several of them, the first one counts."""
    argument: str = ""
    """Meaning of its argument, as help texts show it; empty where it takes none."""
    needs_argument: bool = False
    model_of: Callable[[str], str | None] = _model_in_argument
    """The model that it loads or asks, by its argument; None where it has none that could be checked beforehand."""
    identity_of: Callable[[str], str] = _identity_of_model
    """Part of a run's identity that the argument gives."""
    title: str = ""
    """Name in a report; empty where that is `name`."""


def _refusal(argument: str, measure: Measure) -> Judge:
    from safereason.judges.refusal import RefusalJudge

    return RefusalJudge()


def _refusal_learned(argument: str, measure: Measure) -> Judge:
    from safereason.judges.refusal_learned import LearnedRefusal

    return LearnedRefusal()


def _compliance(argument: str, measure: Measure) -> Judge:
    from safereason.judges.refusal import Compliance

    return Compliance()


def _moderation(argument: str, measure: Measure) -> Judge:
    from safereason.judges.moderation import DEFAULT_MODEL, Moderation

    return Moderation(argument or DEFAULT_MODEL)


def _reward_model(argument: str, measure: Measure) -> Judge:
    from safereason.judges.reward_model import RewardModel

    return RewardModel(argument)


def _guard(argument: str, measure: Measure) -> Judge:
    from safereason.engines.open import precision_here
    from safereason.judges.as_guard import open_named
    from safereason.judges.guard_judge import GuardJudge

    return GuardJudge(open_named(argument, precision=precision_here()))


def _guard_model(argument: str) -> str | None:
    from safereason.judges.as_guard import model_of

    return model_of(argument)


def _guard_identity(argument: str) -> str:
    from safereason.judges.as_guard import identity_of

    return identity_of(argument)


def _harmbench(argument: str, measure: Measure) -> Judge:
    from safereason.judges.harmbench import open_harmbench

    return open_harmbench(argument or HARMBENCH_MODEL)


def _strongreject(argument: str, measure: Measure) -> Judge:
    from safereason.judges.strongreject import StrongReject

    return StrongReject(argument or STRONGREJECT_MODEL, refusal=measure == "refusal")


def _strongreject_rubric(argument: str, measure: Measure) -> Judge:
    from safereason.judges.strongreject import open_strongreject_rubric

    return open_strongreject_rubric(argument, refusal=measure == "refusal")


def _xstest_rubric(argument: str, measure: Measure) -> Judge:
    from safereason.judges.xstest import open_xstest_rubric

    return open_xstest_rubric(argument)


def _rubric(argument: str, measure: Measure) -> Judge:
    from safereason.judges.rubric import open_own

    return open_own(argument)


def _rubric_model(argument: str) -> str | None:
    from safereason.judges.rubric import model_of

    return model_of(argument)


def _rubric_identity(argument: str) -> str:
    """Hash of the file's contents, and the model; the file's name does not count."""
    from safereason.judges.rubric import split

    file, model = split(argument)
    content = file  # of a file that is missing, which opening it refuses
    if Path(file).is_file():
        content = sha256(Path(file))
    return f"{content}@{_identity_of_model(model)}"


JUDGES: Registry[JudgeEntry] = Registry(
    "judge",
    JudgeEntry,
    (
        JudgeEntry(
            "refusal",
            "Refusal by how an answer opens; local, and weaker than refusal-learned",
            _refusal,
            ("refusal",),
            title="local refusal judge, weak",
        ),
        JudgeEntry(
            "refusal-learned",
            "Refusal by a small classifier learned from XSTest's human labels; the local default",
            _refusal_learned,
            ("refusal",),
            title="local learned refusal judge, weak",
        ),
        JudgeEntry(
            "compliance",
            "1 - refusal, and 0 for a degenerate answer; local and weak",
            _compliance,
            ("quality",),
            title="local compliance judge, weak",
        ),
        JudgeEntry(
            "moderation",
            "Largest category score of a Moderation API; moderation:MODEL names the model",
            _moderation,
            ("harm",),
            argument="MODEL",
            model_of=_no_model,
        ),
        JudgeEntry(
            REWARD_MODEL,
            "A sequence classifier's score: reward-model:ORG/NAME",
            _reward_model,
            ("quality",),
            argument="ORG/NAME or path",
            needs_argument=True,
        ),
        JudgeEntry(
            "guard",
            "A guard's verdict: guard:RUN, guard:MODEL, guard:RECIPE (its newest guard), guard:llama-guard:MODEL, ...",
            _guard,
            ("harm",),
            argument="RUN, model or NAME:MODEL",
            needs_argument=True,
            model_of=_guard_model,
            identity_of=_guard_identity,
        ),
        JudgeEntry(
            "harmbench",
            "HarmBench's classifier, Llama-2-13B by default; harmbench:MODEL names another",
            _harmbench,
            ("harm",),
            argument="ORG/NAME or path",
            model_of=lambda argument: argument or HARMBENCH_MODEL,
        ),
        JudgeEntry(
            "strongreject",
            "StrongREJECT's fine-tuned evaluator, of harm or refusal as the evaluation wants it",
            _strongreject,
            ("harm", "refusal"),
            argument="ORG/NAME or path",
            model_of=lambda argument: argument or STRONGREJECT_MODEL,
        ),
        JudgeEntry(
            "strongreject-rubric",
            "StrongREJECT's rubric put to a chat model: strongreject-rubric:openai/NAME",
            _strongreject_rubric,
            ("harm", "refusal"),
            argument="openai/NAME or another chat model",
            needs_argument=True,
        ),
        JudgeEntry(
            "xstest-rubric",
            "XSTest's classes of refusal, by a chat model: xstest-rubric:openai/NAME",
            _xstest_rubric,
            ("refusal",),
            argument="openai/NAME or another chat model",
            needs_argument=True,
        ),
        JudgeEntry(
            "rubric",
            "A rubric of your own put to a chat model: rubric:FILE.yaml or rubric:FILE.yaml@openai/NAME",
            _rubric,
            MEASURES,
            argument="FILE.yaml or FILE.yaml@MODEL",
            needs_argument=True,
            model_of=_rubric_model,
            identity_of=_rubric_identity,
        ),
    ),
)


@dataclass(frozen=True)
class JudgeSpec:
    """A judge as a person names it."""

    name: str
    """Name in `JUDGES`."""
    argument: str = ""

    @classmethod
    def parse(cls, text: str) -> "JudgeSpec":
        """The judge `name`, `name:argument`, `module:NAME` or `module:NAME:argument`.

        Raises:
            InputError: There is no such judge, or its argument is missing or unexpected.
        """
        name, argument = split_argument(text)
        entry = JUDGES.find(name)
        if argument and not entry.argument:
            raise InputError(f"judge {text!r}: {name!r} takes no argument; write {name!r} alone")
        if not argument and entry.needs_argument:
            raise InputError(f"judge {name!r} needs an argument; write '{name}:{entry.argument}'")
        return cls(entry.name, argument)

    def __str__(self) -> str:
        """The text that `parse` reads as this judge."""
        if not self.argument:
            return self.name
        return f"{self.name}:{self.argument}"

    @property
    def entry(self) -> JudgeEntry:
        """Entry that is registered under the name."""
        return JUDGES.find(self.name)

    @property
    def model(self) -> ModelSpec | None:
        """The model that it loads or asks; None where it has none, or has it behind a Moderation API.

        Raises:
            InputError: A rubric's file cannot be read, or names no model.
        """
        name = self.entry.model_of(self.argument)
        if name is None:
            return None
        return ModelSpec.parse(name)

    def identity(self) -> str:
        """The judge's part of a run's identity: its name, its model, and what a file of its own says.

        Raises:
            InputError: Its model is a run that did not finish.
        """
        if not self.argument:
            return self.name
        return f"{self.name}:{self.entry.identity_of(self.argument)}"

    def check(self) -> None:
        """Refuses a judge whose model is missing, without loading it.

        Raises:
            InputError: It is.
        """
        if self.model is not None:
            self.model.check()

    def open(self, measures: Sequence[Measure] = MEASURES) -> Judge:
        """The judge, with its model loaded or its server known.

        Args:
            measures: What the caller takes. A judge that can measure several of them measures the first of its own; one
                that can measure none of them is opened all the same, and the caller says what is wrong with it.

        Raises:
            InputError: It cannot be opened.
        """
        fitting = [measure for measure in self.entry.measures if measure in measures]
        measure = self.entry.measures[0]
        if fitting:
            measure = fitting[0]
        return self.entry.open(self.argument, measure)


def open_judge(text: str, measures: Sequence[Measure] = MEASURES) -> Judge:
    """The judge `name` or `name:argument`, opened; `measures` as of `JudgeSpec.open`.

    Raises:
        InputError: There is no such judge, or it cannot be opened.
    """
    return JudgeSpec.parse(text).open(measures)


def is_judge(text: str) -> bool:
    """Whether a text names a judge, with or without an argument; nothing is imported."""
    return JUDGES.has(split_argument(text)[0])


def own_name(text: str) -> str:
    """The judge by its entry's own name, where a dotted path or an entry point leads to it; else the text as it is.

    Raises:
        InputError: What it leads to is no judge, or cannot be imported; or its argument is missing or unexpected.
    """
    name, _ = split_argument(text)
    if name in JUDGES or not JUDGES.has(name):
        return text
    # Unlike `JUDGES.own_name`, parsing checks the argument, before anything else of the command is looked at.
    return str(JudgeSpec.parse(text))


def title_of(text: str) -> str:
    """The title of a judge that a record names; the text itself where there is none."""
    name, argument = split_argument(text)
    entry = JUDGES.installed(name)
    if entry is None or not entry.title:
        return text
    if argument:
        return f"{entry.title} ({argument})"
    return entry.title
