"""TARS's reward: format × (safety on a harmful prompt | task on the others) (arXiv 2507.00971, §4).

Deviations:
1. A deciding part that its judge could not score makes the total None, so that the rollout gets no advantage.
2. Where the format is 0 the total is 0 for any score of a judge, so the deciding judge is not called.
3. The safety judge may be another one than OpenAI's moderation. One that measures refusal counts as harm = 1 − refusal;
   the score of one that measures quality is the reward as it is, as where one judge is the only reward.
4. The reasoning's own harm is logged, never rewarded, as in the paper; but only where the reasoning was closed and the
   judge measures harm.
"""

from collections.abc import Sequence

from safereason.errors import InputError
from safereason.judges.base import Exchange, Judge, Verdict, as_harm
from safereason.rewards.base import Parkable, RewardParts, RewardRow
from safereason.text import reasoning

__all__ = ["RewardParts", "RewardRow", "TarsReward", "format_reward", "safety_reward"]

SAFE_BELOW = 0.1


def format_reward(text: str) -> float:
    """1.0 where the trained model's own text holds one `<think>` and then one `</think>`, and no more; else 0.0."""
    return float(reasoning.is_well_formed(text))


def safety_reward(max_category_score: float) -> float:
    """1 where the largest category score s is under 0.1, else 1 − s, as in the paper.

    The released code raises 1 − s to 1 where it is ≥ 0.9; the two differ only at exactly s = 0.1.
    """
    if max_category_score < SAFE_BELOW:
        return 1.0
    return 1.0 - max_category_score


class TarsReward:
    """A reward from a judge of safety and one of quality; both see the answer, never the reasoning."""

    def __init__(self, safety: Judge, task: Judge, require_format: bool = True) -> None:
        """Checks what the judges measure.

        Raises:
            InputError: `safety` measures neither harm nor refusal nor quality, or `task` does not measure quality.
        """
        # A judge of the wrong kind would train without an error: one of harm as `task` would reward harm.
        if safety.measure not in ("harm", "refusal", "quality"):
            raise InputError(
                f"reward.safety: judge {safety.name!r} measures {safety.measure}; "
                "one of harm, refusal or quality is needed"
            )
        if task.measure != "quality":
            raise InputError(f"reward.task: judge {task.name!r} measures {task.measure}; one of quality is needed")
        self._safety = safety
        self._task = task
        self._require_format = require_format
        self._park()

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """Parts `format`, `safety` or `task` and, for the log alone, `reasoning_harm`."""
        formats = [format_reward(row.text) for row in rows]
        harmful_rows: list[int] = []
        other_rows: list[int] = []
        for index, row in enumerate(rows):
            # A total that the format already set to 0 needs no judge. Judges are the slow and the paid part.
            if self._require_format and not formats[index]:
                continue
            if row.kind == "harmful":
                harmful_rows.append(index)
            else:
                other_rows.append(index)
        # One call a judge for the whole batch, so that a judge can send its requests together.
        safety_verdicts = self._judge_answers(self._safety, rows, harmful_rows)
        task_verdicts = self._judge_answers(self._task, rows, other_rows)
        reasoning_harm = self._judge_reasoning(rows, harmful_rows)
        self._park()

        results = []
        for index, row in enumerate(rows):
            safety = safety_verdicts.get(index)
            task = task_verdicts.get(index)
            parts: dict[str, float | None] = {"format": formats[index], "safety": self._safety_part(safety)}
            parts["task"] = None
            if task is not None:
                parts["task"] = task.score
            # Every row has this key or none has it, so that the columns of the log stay the same.
            if self._safety.measure == "harm":
                parts["reasoning_harm"] = reasoning_harm.get(index)
            results.append(_combine(parts, row.kind, safety or task))
        return results

    def _park(self) -> None:
        """Leaves the GPU to the training, where a judge's model takes much of it."""
        for judge in (self._safety, self._task):
            if isinstance(judge, Parkable):
                judge.park()

    def _safety_part(self, verdict: Verdict | None) -> float | None:
        """The safety reward of a verdict, by what the judge measures."""
        if verdict is None or verdict.score is None:
            return None
        if self._safety.measure == "quality":
            return verdict.score
        return safety_reward(as_harm(verdict.score, self._safety.measure))

    def _judge_reasoning(self, rows: Sequence[RewardRow], indices: Sequence[int]) -> dict[int, float | None]:
        """The harm of each closed, non-empty reasoning, by row; empty where the judge does not measure harm."""
        if self._safety.measure != "harm":
            return {}
        exchanges: dict[int, Exchange] = {}
        for index in indices:
            # `strict` takes text that never closes its reasoning for an answer, so that here it counts as none.
            reasoning_text = reasoning.split(rows[index].text, strict=True).reasoning
            if reasoning_text.strip():
                exchanges[index] = Exchange(rows[index].prompt, reasoning_text)
        if not exchanges:
            return {}
        verdicts = self._safety.judge(list(exchanges.values()))
        return {index: verdict.score for index, verdict in zip(exchanges, verdicts, strict=True)}

    @staticmethod
    def _judge_answers(judge: Judge, rows: Sequence[RewardRow], indices: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on the answers of these rows, by row."""
        if not indices:
            return {}
        answers = []
        for index in indices:
            answer = reasoning.split(rows[index].text, strict=True).answer
            answers.append(Exchange(rows[index].prompt, answer))
        return dict(zip(indices, judge.judge(answers), strict=True))


def _combine(parts: dict[str, float | None], kind: str, verdict: Verdict | None) -> RewardParts:
    """The total of one rollout; `verdict` is None where the format alone decided."""
    if verdict is None:
        return RewardParts(0.0, parts)
    deciding = parts["task"]
    if kind == "harmful":
        deciding = parts["safety"]
    if deciding is None:
        # None, not 0: a judge that fails must not teach the model that its answer was bad.
        return RewardParts(None, parts, verdict.reason, failed=verdict.failed)
    return RewardParts(deciding, parts, judged=True)
