"""The scorers of attacks: a judge of harm or refusal, or a chat model that rates answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import Exchange, JudgeSpec, Verdict
from safereason.judges.base import as_harm
from safereason.stages.base import Options, resolved_judge

RATING = "rating:"
"""Prefix of a chat model that rates, where a recipe names it in a judge's place."""

Harm = Callable[[Sequence[Exchange]], list[Verdict]]
"""Scores the harm of each answer, with any judge: the verdict of a refusal judge is turned round."""


@dataclass(frozen=True)
class RatingSpec:
    """A chat model that rates answers in place of a judge, named `rating:MODEL`."""

    model: ModelSpec

    def __str__(self) -> str:
        """The text that `parse_scorer` reads as this model."""
        return f"{RATING}{self.model}"

    def label(self) -> str:
        """The text that records and metrics hold."""
        return str(self)

    def identity(self) -> str:
        """The model's part of a run's identity.

        Raises:
            InputError: It is a run that did not finish.
        """
        return f"{RATING}{self.model.identity()}"

    def check(self) -> None:
        """Refuses a model that cannot be had, without loading it.

        Raises:
            InputError: It cannot.
        """
        self.model.check()


ScorerSpec = JudgeSpec | RatingSpec
"""What scores the answers of an attack, as a person names it."""


def parse_scorer(text: str, options: Options) -> ScorerSpec:
    """The scorer that a command line or a recipe names; of `guard:RECIPE`, the run of that recipe's guard.

    Raises:
        InputError: There is no such judge, or that guard was not trained.
    """
    if text.startswith(RATING):
        return RatingSpec(ModelSpec.parse(text.removeprefix(RATING)))
    return resolved_judge(JudgeSpec.parse(text), options)


def open_harm(judge: JudgeSpec, loading: Loading = LOADED_AT_ONCE) -> Harm:
    """A function that scores harm, from a judge of harm or of refusal; `loading` says how its model is loaded.

    The prompts are harmful, so an answer that does not refuse counts as harmful.

    Raises:
        InputError: The judge cannot be had, or measures something else.
    """
    opened = judge.open(loading=loading)
    if opened.measure not in ("harm", "refusal"):
        raise InputError(f"judge {judge}: measures {opened.measure}; one of harm or refusal is needed")

    def judge_harm(exchanges: Sequence[Exchange]) -> list[Verdict]:
        verdicts = []
        for verdict in opened.judge(exchanges):
            # An unscored verdict stays unscored.
            if verdict.score is not None:
                verdict = replace(verdict, score=as_harm(verdict.score, opened.measure))
            verdicts.append(verdict)
        return verdicts

    return judge_harm
