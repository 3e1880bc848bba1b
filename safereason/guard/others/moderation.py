"""The Moderation API as a guard: OpenAI's, or any server that speaks it, such as `guard serve`.

The judge `moderation` (`judges/moderation.py`) asks the same API, and both keep what was paid for in the same file.
"""

import json
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import openai

from safereason.engines import replies, server
from safereason.engines.dialect import is_too_long
from safereason.engines.result_cache import ResultCache, cache_key
from safereason.engines.server import BadReply, Patience
from safereason.errors import InputError
from safereason.guard.base import GuardVerdict, Label, OnVerdict, Question

CONCURRENT_CALLS = 8
SECONDS_A_TRY = 60.0
TEXTS_A_CALL = 64
"""Texts whose verdicts come together."""
CATEGORY_BAR = 0.5
"""Scores above it name a category."""
UNPARSED = "unparsed"
"""Error code of `guard serve` for a guard's reply without a verdict."""


@dataclass(frozen=True)
class ModerationReply:
    """What the API says of one text: its scores, or none and the reason."""

    scores: dict[str, float] = field(default_factory=dict)
    """Probability of each category, in [0, 1]; empty where the text got none."""
    flagged: bool = False
    """The server's own decision; its thresholds differ from category to category."""
    reason: str | None = None
    """The reason why there are no scores."""
    failed: bool = False
    """Whether the call failed, so that another try may bring scores."""

    @property
    def largest(self) -> float | None:
        """The largest category score; None without scores."""
        return max(self.scores.values(), default=None)


class ReplyCache(ResultCache[ModerationReply]):
    """A cache of replies. One without scores is not kept, so that its text is sent again."""

    def to_text(self, result: ModerationReply) -> str | None:
        """The reply as the JSON of a judge's verdict, which is how earlier versions wrote it; None without scores."""
        if result.largest is None:
            return None
        label = "clean"
        if result.flagged:
            label = "flagged"
        return json.dumps(
            {"score": result.largest, "label": label, "reason": None, "details": result.scores, "failed": False}
        )

    def from_text(self, text: str) -> ModerationReply:
        """The reply that `to_text` wrote."""
        match json.loads(text):
            case {"label": "flagged" | "clean" as label, "details": {**scores}} if scores:
                return ModerationReply(_probabilities(scores), label == "flagged")
        raise ValueError("holds no scores of the Moderation API")


class ModerationAPI:
    """A client of the Moderation API. It sends equal texts once, and none that was paid for before.

    `calls_made` and `calls_saved` count the texts that went to the server and those that did not have to.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        cache: ReplyCache | None = None,
        patience: float | None = None,
    ) -> None:
        """Connects to `base_url`, else `$OPENAI_BASE_URL`, else OpenAI, with `$OPENAI_API_KEY`.

        `patience` overrides `$SAFEREASON_PATIENCE`: seconds for which a call that fails is tried again.

        Raises:
            InputError: There is no key and no address of a server that may need none, or one of them is not one.
        """
        connection = server.connect("moderation", base_url)
        self.model = model
        self.url = connection.url
        self.calls_made = 0
        self.calls_saved = 0
        self._client = connection.client(server.seconds(server.TIMEOUT, SECONDS_A_TRY))
        self._patience = Patience(f"moderation at {connection.url}", patience)
        self._cache = cache or ReplyCache()

    def moderate(self, texts: Sequence[str]) -> list[ModerationReply]:
        """One reply for each text, in order; an empty text is not sent.

        Raises:
            InputError: The server refuses the key or knows no such model: no text would ever get scores.
        """
        written = [text for text in texts if text.strip()]
        # With and without a slash at its end, an address is the same server.
        url = f"{self.url.rstrip('/')}/"
        keys = [cache_key("moderation", self.model, url, text) for text in written]
        made = 0

        def call_server(missing: Sequence[int], keep: Callable[[int, ModerationReply], None]) -> None:
            nonlocal made
            made += len(missing)
            # The API takes seconds for a text and allows many calls at a time.
            with ThreadPoolExecutor(CONCURRENT_CALLS) as pool:
                calls = {pool.submit(self._call, written[i]): i for i in missing}
                try:
                    for call in as_completed(calls):
                        keep(calls[call], call.result())
                finally:
                    # An error or an interrupt must not wait for the calls that have not begun.
                    pool.shutdown(wait=False, cancel_futures=True)

        had = iter(self._cache.through(keys, call_server))
        self.calls_made += made
        self.calls_saved += len(written) - made
        moderated: list[ModerationReply] = []
        for text in texts:
            if text.strip():
                moderated.append(next(had))
            else:
                moderated.append(ModerationReply(reason="empty answer"))
        return moderated

    def _call(self, text: str) -> ModerationReply:
        try:
            return self._patience.call(lambda: self._send(text))
        except BadReply as error:
            return _failure(error)
        except openai.APIStatusError as error:
            reason = server.reason_of(error)
            # 413 is a text that is too large: it would be refused again.
            is_final = error.status_code == 413 or getattr(error, "code", None) == UNPARSED
            if is_final or replies.is_filtered(error.body) or is_too_long(error):
                return ModerationReply(reason=f"the moderation server refuses the text: {reason}")
            if isinstance(error, server.OURS_TO_MEND):
                where = f"moderation: {self.url} refuses model {self.model!r} ({reason})"
                raise InputError(f"{where}; check OPENAI_API_KEY, OPENAI_BASE_URL and the model's name") from error
            return _failure(error)
        except openai.OpenAIError as error:
            return _failure(error)

    def _send(self, text: str) -> ModerationReply:
        # The raw reply, because compatible servers have categories that the client's types do not know.
        raw = self._client.moderations.with_raw_response.create(model=self.model, input=text)
        document = replies.parse(raw.http_response.content)
        replies.raise_error(document)
        results = document.get("results")
        result: object = None
        if isinstance(results, list) and results:
            result = results[0]
        if not isinstance(result, dict):
            raise BadReply("the moderation server gave no category scores")
        scores = _probabilities(result.get("category_scores"))
        # A 0 in place of missing scores would count as harmless.
        if not scores:
            raise BadReply("the moderation server gave no category scores")
        return ModerationReply(scores, bool(result.get("flagged")))


class ModerationGuard:
    """A Moderation API as a guard: it sees the response alone, or the prompt where there is none.

    It is unsafe where the server flags it; the score is the largest of its category scores.
    """

    engine = None

    def __init__(self, model: str, *, base_url: str | None = None) -> None:
        """Connects as `ModerationAPI` does.

        Raises:
            InputError: There is no key and no address of a server that may need none.
        """
        self.api = ModerationAPI(model, base_url=base_url)
        self.name = f"moderation:{model}"

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
            texts = [_judged_text(questions[i]) for i in part]
            for i, reply in zip(part, self.api.moderate(texts), strict=True):
                verdicts[i] = _verdict_of_reply(reply)
                if on_verdict is not None:
                    on_verdict(i, verdicts[i])
        return [verdicts.get(i) for i in range(len(questions))]


def _failure(error: Exception) -> ModerationReply:
    return ModerationReply(reason=f"moderation call failed: {server.reason_of(error)}", failed=True)


def _probabilities(scores: object) -> dict[str, float]:
    """The category scores that are probabilities; a server may leave a category null."""
    if not isinstance(scores, dict):
        return {}
    probabilities: dict[str, float] = {}
    for category, score in scores.items():
        if isinstance(score, (int, float)) and math.isfinite(score) and 0 <= score <= 1:
            probabilities[category] = float(score)
    return probabilities


def _judged_text(question: Question) -> str:
    if question.response is None:
        return question.prompt
    return question.response


def _verdict_of_reply(reply: ModerationReply) -> GuardVerdict:
    """Categories by their scores, the largest first."""
    if reply.largest is None:
        return GuardVerdict(None, None, reason=reply.reason, failed=reply.failed)
    above_bar: list[tuple[float, str]] = []
    for name, score in reply.scores.items():
        if score > CATEGORY_BAR:
            above_bar.append((-score, name))
    label: Label = "safe"
    if reply.flagged:
        label = "unsafe"
    # Largest first, and equal scores by name, so that the order never changes.
    return GuardVerdict(label, reply.largest, tuple(name for _, name in sorted(above_bar)))
