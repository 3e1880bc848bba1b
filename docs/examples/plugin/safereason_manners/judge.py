"""Mentions: whether an answer has a word in it, as in `mentions:please`."""

from collections.abc import Sequence

from safereason.engines.engine_spec import Loading
from safereason.judges import Exchange, Judge, JudgeEntry, Measure, TextArgument, Verdict


class Mentions:
    """Scores 1 where the answer has the word in it, in any case."""

    name = "mentions"
    measure: Measure = "quality"

    def __init__(self, word: str) -> None:
        self.word = word.lower()

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict for each exchange; an empty answer is unscored."""
        verdicts = []
        for exchange in exchanges:
            answer = exchange.answer.lower()
            if not answer.strip():
                verdicts.append(Verdict.unscored("empty answer"))
            elif self.word in answer:
                verdicts.append(Verdict(1.0, "mentioned"))
            else:
                verdicts.append(Verdict(0.0, "not mentioned"))
        return verdicts


def open_mentions(argument: TextArgument, measure: Measure, loading: Loading) -> Judge:
    """The judge of one word. What is heavy is imported in such a function, not at the top of the module.

    `loading` says how a judge's model is loaded. This judge has none.
    """
    return Mentions(argument.text)


MENTIONS = JudgeEntry(
    "mentions",
    "Whether an answer has a word in it: mentions:WORD",
    open_mentions,
    ("quality",),
    argument="WORD",
    needs_argument=True,
    # The argument is a word. Without this it would be taken for the name of a model.
    parse=TextArgument,
)
