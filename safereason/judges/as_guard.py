"""Opening of any guard by name: a Moderation API, another publisher's guard, or one that reasons over a policy."""

from collections.abc import Collection, Sequence

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, did_you_mean
from safereason.guard.base import Guard, GuardVerdict, Label, OnVerdict, Question
from safereason.guard.open import open_guard, open_other
from safereason.guard.others import GUARDS, GuardOptions
from safereason.judges.base import Exchange, Verdict
from safereason.recipe.schema import Precision
from safereason.registry import split_argument

MODELS_OF_OTHERS: dict[str, str] = {
    "moderation": "a Moderation API: OpenAI's, or any server that speaks it",
    **{name: entry.summary for name, entry in GUARDS.items()},
}
"""Guards of this package that are named `name` or `name:MODEL`, and what they are."""

CATEGORY_BAR = 0.5
"""Scores above it name a category."""
TEXTS_A_CALL = 64
"""Texts whose verdicts come together."""


class ModerationGuard:
    """A Moderation API as a guard: it sees the response alone, or the prompt where there is none.

    It is unsafe where the server flags it; the score is the largest of its category scores.
    """

    engine = None

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
        verdicts: dict[int, GuardVerdict] = {}
        done = set(done)
        left = [i for i in range(len(questions)) if i not in done]
        # In parts, so that a resumed run has most of the verdicts, as each part is recorded at once.
        for start in range(0, len(left), TEXTS_A_CALL):
            part = left[start : start + TEXTS_A_CALL]
            exchanges = [_exchange(questions[i]) for i in part]
            for i, verdict in zip(part, self.judge.judge(exchanges), strict=True):
                verdicts[i] = _guard_verdict(verdict)
                if on_verdict is not None:
                    on_verdict(i, verdicts[i])
        return [verdicts.get(i) for i in range(len(questions))]


def open_named(
    spec: str,
    *,
    base_url: str | None = None,
    policy: str | None = None,
    samples: int = 1,
    template: str | None = None,
    precision: Precision = "fp32",
) -> Guard:
    """Opens `moderation[:MODEL]`, `NAME:MODEL` with a name that `GUARDS` finds, or any model that `open_guard` opens.

    Args:
        spec: The guard.
        base_url: Address of the server, for `moderation` and `openai/…`.
        policy: Name of a shipped policy or a file, for a guard that takes one.
        samples: Verdicts that vote on a question, for a guard that reasons over a policy.
        template: File with the guard's prompt, for a guard that takes one.
        precision: `fp32` or `bf16`, for transformers.

    Raises:
        InputError: There is no such guard, it does not take an option, or it cannot be opened.
    """
    name, model = split_spec(spec)
    if not name:
        _check_reasoning(spec, template)
        return open_guard(spec, base_url=base_url, policy=policy, samples=samples, precision=precision)
    # These guards decode greedily, or run on a server that always decides alike.
    if samples != 1:
        raise InputError(f"{name}: always gives the same verdict; leave --samples out")
    if name != "moderation":
        return open_other(name, model, GuardOptions(base_url, policy, template, precision))
    if policy is not None or template is not None:
        option = "--template"
        if policy is not None:
            option = "--policy"
        raise InputError(f"{name}: takes no {option}; leave it out")
    return ModerationGuard(model, base_url=base_url)


def split_spec(spec: str) -> tuple[str, str]:
    """Name and model of `NAME:MODEL` or `module:NAME:MODEL`; for a guard that reasons, no name and the whole text."""
    name, model = split_argument(spec)
    if name in MODELS_OF_OTHERS or GUARDS.has(name):
        return name, model
    return "", spec


def model_of(spec: str) -> str | None:
    """Name of the model of a guard as `open_named` takes it; None for a Moderation API, which is no model's name."""
    name, model = split_spec(spec)
    if name == "moderation":
        return None
    return model or None


def identity_of(spec: str) -> str:
    """A guard's part of a run's identity: its name, and its model by that one's identity.

    Raises:
        InputError: Its model is a run that did not finish.
    """
    model = model_of(spec)
    if model is None:
        return spec
    name, _ = split_spec(spec)
    identity = ModelSpec.parse(model).identity()
    if not name:
        return identity
    return f"{name}:{identity}"


def _check_reasoning(spec: str, template: str | None) -> None:
    name = spec.partition(":")[0]
    hint = did_you_mean(name, MODELS_OF_OTHERS)
    # A misspelt name would otherwise be taken for a model's, and fail with a message about the Hub.
    if ":" in spec and "/" not in name and hint:
        raise InputError(f"{spec}: no guard is called {name!r}; {hint}")
    if template is not None:
        raise InputError(f"{spec}: takes no --template; its prompt comes with it, or from `guard.prompt_template`")


def _exchange(question: Question) -> Exchange:
    if question.response is None:
        return Exchange(question.prompt, question.prompt)
    return Exchange(question.prompt, question.response)


def _guard_verdict(verdict: Verdict) -> GuardVerdict:
    """Categories by their scores, the largest first."""
    if verdict.score is None:
        return GuardVerdict(None, None, reason=verdict.reason, failed=verdict.failed)
    above_bar: list[tuple[float, str]] = []
    for name, score in verdict.details.items():
        if score > CATEGORY_BAR:
            above_bar.append((-score, name))
    label: Label = "safe"
    # The server's own decision counts: its thresholds differ from category to category.
    if verdict.label == "flagged":
        label = "unsafe"
    # Largest first, and equal scores by name, so that the order never changes.
    return GuardVerdict(label, verdict.score, tuple(name for _, name in sorted(above_bar)))
