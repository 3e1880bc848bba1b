"""TARS's reward: format × (safety on a harmful prompt | task on the others) (arXiv 2507.00971, §4).

Deviations:
1. A deciding part that its judge could not score makes the total None, so that the rollout gets no advantage.
2. Where the format is 0 the total is 0 whatever a judge would say, so the deciding judge is not called.
3. The safety judge may be another one than OpenAI's moderation. One that measures refusal counts as harm = 1 − refusal;
   the score of one that measures quality is the reward as it is, as where one judge is the only reward.
4. The reasoning's own harm is logged, never rewarded, as in the paper; but only where the reasoning was closed and the
   judge measures harm.
"""

from collections.abc import Sequence

from safereason.errors import InputError
from safereason.judges.base import Exchange, Judge, Verdict
from safereason.rewards.base import RewardParts, RewardRow
from safereason.text import reasoning

__all__ = ["RewardParts", "RewardRow", "TarsReward", "format_reward", "safety_reward"]

SAFE_BELOW = 0.1


def format_reward(text: str) -> float:
    """1.0 where the policy's own text holds exactly one `<think>` and one `</think>`, in this order, else 0.0."""
    return float(reasoning.is_well_formed(text))


def safety_reward(max_category_score: float) -> float:
    """1 where the largest category score s is under 0.1, else 1 − s, as the paper has it.

    The released code raises 1 − s to 1 where it is ≥ 0.9; the two differ only at exactly s = 0.1.
    """
    return 1.0 if max_category_score < SAFE_BELOW else 1.0 - max_category_score


class TarsReward:
    """Scores rollouts with a judge of safety and one of quality; both see the answer, never the reasoning."""

    def __init__(self, safety: Judge, task: Judge, require_format: bool = True) -> None:
        """Checks what the judges measure.

        Raises:
            InputError: `safety` measures neither harm nor refusal nor quality, or `task` does not measure quality.
        """
        if safety.measures not in ("harm", "refusal", "quality"):
            raise InputError(
                f"reward.safety: judge {safety.name!r} measures {safety.measures}; "
                "one of harm, refusal or quality is needed"
            )
        if task.measures != "quality":
            raise InputError(f"reward.task: judge {task.name!r} measures {task.measures}; one of quality is needed")
        self._safety = safety
        self._task = task
        self._require_format = require_format

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """Parts `format`, `safety` or `task` and, for the log alone, `reasoning_harm`."""
        formats = [format_reward(row.text) for row in rows]
        asked = [i for i, f in enumerate(formats) if f or not self._require_format]
        harmful = [i for i in asked if rows[i].kind == "harmful"]
        others = [i for i in asked if rows[i].kind != "harmful"]
        safety = self._judged(self._safety, rows, harmful)
        task = self._judged(self._task, rows, others)
        reasoning_harm = self._reasoning_harm(rows, harmful)
        results = []
        for i, form in enumerate(formats):
            verdict = safety.get(i) or task.get(i)
            parts: dict[str, float | None] = {"format": form}
            parts["safety"] = self._safety_part(safety.get(i))
            parts["task"] = task[i].score if i in task else None
            if self._safety.measures == "harm":
                parts["reasoning_harm"] = reasoning_harm.get(i)
            results.append(self._combined(parts, rows[i].kind, verdict))
        return results

    def _combined(self, parts: dict[str, float | None], kind: str, verdict: Verdict | None) -> RewardParts:
        if verdict is None:
            return RewardParts(0.0, parts)
        deciding = parts["safety" if kind == "harmful" else "task"]
        if deciding is None:
            return RewardParts(None, parts, verdict.reason, failed=verdict.failed)
        return RewardParts(deciding, parts, judged=True)

    def _safety_part(self, verdict: Verdict | None) -> float | None:
        if verdict is None or verdict.score is None:
            return None
        if self._safety.measures == "quality":
            return verdict.score
        return safety_reward(verdict.score if self._safety.measures == "harm" else 1.0 - verdict.score)

    def _reasoning_harm(self, rows: Sequence[RewardRow], indices: Sequence[int]) -> dict[int, float | None]:
        if self._safety.measures != "harm":
            return {}
        thoughts = {i: reasoning.split(rows[i].text, strict=True).reasoning for i in indices}
        asked = [i for i in indices if thoughts[i].strip()]
        verdicts = self._safety.judge([Exchange(rows[i].prompt, thoughts[i]) for i in asked]) if asked else []
        return {i: verdict.score for i, verdict in zip(asked, verdicts, strict=True)}

    @staticmethod
    def _judged(judge: Judge, rows: Sequence[RewardRow], indices: Sequence[int]) -> dict[int, Verdict]:
        if not indices:
            return {}
        answers = [Exchange(rows[i].prompt, reasoning.split(rows[i].text, strict=True).answer) for i in indices]
        return dict(zip(indices, judge.judge(answers), strict=True))
