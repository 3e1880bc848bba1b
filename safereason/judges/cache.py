"""Verdicts on disk: those of judges that ask a model."""

import json
from dataclasses import asdict

from safereason.engines.result_cache import ResultCache
from safereason.judges.base import Verdict


class VerdictCache(ResultCache[Verdict]):
    """A cache of verdicts. An unscored one is not kept, so that the judge is asked again."""

    def to_text(self, result: Verdict) -> str | None:
        """The verdict as JSON; None without a score."""
        if result.score is None:
            return None
        return json.dumps(asdict(result))

    def from_text(self, text: str) -> Verdict:
        """The verdict that `to_text` wrote."""
        return Verdict(**json.loads(text))
