"""From a name to any guard: a Moderation API, another publisher's guard, or one that reasons over a policy."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from safereason.errors import InputError
from safereason.guard.base import Guard, GuardVerdict, Label, OnVerdict, Question
from safereason.guard.open import open_guard
from safereason.guard.others import GUARDS, Options, open_other
from safereason.judges.base import Exchange, Verdict

NAMES: dict[str, str] = {
    "moderation": "a Moderation API: OpenAI's, or any server that speaks it",
    **{name: known.about for name, known in GUARDS.items()},
}
"""Guards that are named `name` or `name:MODEL`, and what they are."""

CATEGORY_BAR = 0.5
"""Scores above it name a category."""
TEXTS_A_CALL = 64
"""Texts whose findings are told together."""


class ModerationGuard:
    """Asks a Moderation API about the response alone, or about the prompt where there is none.

    It is unsafe where the server flags it; the score is the largest of its category scores.
    """

    def __init__(self, model: str = "", *, base_url: str | None = None) -> None:
        """Connects as `judges.moderation.Moderation` does.

        Raises:
            InputError: There is no key and no address of a server that may need none.
        """
        from safereason.judges.moderation import DEFAULT_MODEL, Moderation

        self.judge = Moderation(model or DEFAULT_MODEL, base_url=base_url)
        self.name = f"moderation:{self.judge.model}"

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_verdict: OnVerdict | None = None,
    ) -> list[GuardVerdict | None]:
        """See `Guard.classify`.

        Raises:
            InputError: The server refuses the key or knows no such model.
        """
        found: dict[int, GuardVerdict] = {}
        left = [i for i in range(len(questions)) if i not in set(done)]
        for start in range(0, len(left), TEXTS_A_CALL):
            part = left[start : start + TEXTS_A_CALL]
            exchanges = [_exchange(questions[i]) for i in part]
            for i, verdict in zip(part, self.judge.judge(exchanges), strict=True):
                found[i] = _finding(verdict)
                if on_verdict is not None:
                    on_verdict(i, found[i])
        return [found.get(i) for i in range(len(questions))]


def open_named(
    spec: str,
    *,
    base_url: str | None = None,
    policy: str | None = None,
    samples: int = 1,
    template: str | None = None,
    precision: str = "fp32",
) -> Guard:
    """Opens `moderation[:MODEL]`, `NAME:MODEL` with NAME in `NAMES`, or whatever `open_guard` opens.

    Args:
        spec: The guard.
        base_url: Address of the server, for `moderation` and `openai/…`.
        policy: Name of a shipped policy or a file, for a guard that takes one.
        samples: Verdicts that vote on a question, for a guard that reasons over a policy.
        template: File with the guard's prompt, for a guard that takes one.
        precision: `fp32` or `bf16`, for transformers.

    Raises:
        InputError: There is no such guard, it does not take what it is given, or it is not to be had.
    """
    name, _, model = spec.partition(":")
    if name not in NAMES:
        _check_reasoning(spec, name, template)
        return open_guard(spec, base_url=base_url, policy=policy, samples=samples, precision=precision)
    if samples != 1:
        raise InputError(f"{name}: always gives the same verdict; leave --samples out")
    if name != "moderation":
        return open_other(name, model, Options(base_url, policy, template, precision))
    if policy is not None or template is not None:
        raise InputError(f"{name}: takes no --{'policy' if policy is not None else 'template'}; leave it out")
    return ModerationGuard(model, base_url=base_url)


def _check_reasoning(spec: str, name: str, template: str | None) -> None:
    close = get_close_matches(name, NAMES, n=1)
    if ":" in spec and "/" not in name and close:
        raise InputError(f"{spec}: no guard is called {name!r}; did you mean {close[0]}?")
    if template is not None:
        raise InputError(f"{spec}: takes no --template; its prompt comes with it, or from `guard.prompt_template`")


def _exchange(question: Question) -> Exchange:
    text = question.prompt if question.response is None else question.response
    return Exchange(question.prompt, text)


def _finding(verdict: Verdict) -> GuardVerdict:
    """Categories by their scores, the largest first."""
    if verdict.score is None:
        return GuardVerdict(None, None, reason=verdict.reason, failed=verdict.failed)
    scores = sorted((-score, name) for name, score in verdict.details.items() if score > CATEGORY_BAR)
    label: Label = "unsafe" if verdict.label == "flagged" else "safe"
    return GuardVerdict(label, verdict.score, tuple(name for _, name in scores))
