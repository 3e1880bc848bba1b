"""Our engine as a model of lm-evaluation-harness. Imports the harness: imported only where that is asked for."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from safereason import console
from safereason.console import Advance
from safereason.engines.base import Completion, Engine, Likelihood, Message, Sampling, generation_prefix
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Evaluation
from safereason.runs.records import Record, RecordLog, read_records
from safereason.text import chat, reasoning

FEW_SHOT_SEED = 1234
"""The harness's own: which examples a prompt shows."""
_RESAMPLES = 1000
"""Of the harness's bootstrap, for metrics that are no mean."""
_CHUNK = 64
"""Likelihoods worked out, and then recorded, at a time."""


@dataclass(frozen=True)
class _Asked:
    """What the harness wants, as our engine is asked for it."""

    id: str
    task: str
    turns: tuple[Message, ...]
    prefix: str | None
    """What the task puts into the model's mouth."""
    argument: Any
    """Settings of a generation, or a continuation."""


class EngineModel(LM):
    """Answers the harness's requests with an engine, and records each reply, so that none is asked for twice.

    Args:
        engine: Who answers.
        section: How completions are drawn, and what they begin with.
        seed: Seed of the drawing.
        log: Where replies are recorded, and found again.
    """

    def __init__(self, engine: Engine, section: Evaluation, seed: int, log: RecordLog) -> None:
        super().__init__()
        self.engine, self.section, self.seed, self.log = engine, section, seed, log
        self._prefix = generation_prefix(engine, section.prefix)
        self._held: dict[str, Record] = {record["id"]: record for record in read_records(log.path)}

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls prompts rendered for this model."""
        return self.engine.name

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: the engine applies the template, and the harness only hands this back."""
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, without reasoning, each cut at its task's first stop text.

        Raises:
            StageFailed: Completions could not be had.
        """
        asked = _asked(requests)
        alike: dict[tuple[str, tuple[str, ...], int], list[_Asked]] = {}
        for one in asked:
            alike.setdefault(self._manner(one), []).append(one)
        done = sum(one.id in self._held for one in asked)
        with console.progress("replies", len(asked), done) as advance:
            for (prefix, stop, tokens), members in alike.items():
                self._generate(members, prefix, stop, tokens, advance)
        failed = [record["error"] for one in asked if "error" in (record := self._held[one.id])]
        if failed:
            raise StageFailed(f"{len(failed)} of {len(asked)} completions failed ({failed[0]}); --resume asks again")
        return [_cut(self._held[one.id]["answer"], _stops(one)) for one in asked]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation as the answer, and whether it was the likeliest."""
        asked = _asked(requests)
        empty_thought = reasoning.join("", "") if self._prefix else ""
        left = [one for one in asked if one.id not in self._held]
        with console.progress("likelihoods", len(asked), len(asked) - len(left)) as advance:
            for prefix in dict.fromkeys(one.prefix for one in left):
                members = [one for one in left if one.prefix == prefix]
                before = empty_thought if prefix is None else self._in_the_answer(prefix)
                for start in range(0, len(members), _CHUNK):
                    chunk = members[start : start + _CHUNK]
                    found = self.engine.loglikelihood(
                        [one.turns for one in chunk], [str(one.argument) for one in chunk], prefix=before
                    )
                    for one, likelihood in zip(chunk, found, strict=True):
                        self._keep(_likelihood_record(one, before, likelihood))
                        advance("")
        return [(self._held[one.id]["logprob"], self._held[one.id]["greedy"]) for one in asked]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not for a chat model.

        Raises:
            InputError: Always; the task is about plain text.
        """
        raise InputError(f"--tasks {requests[0].task_name}: measures plain text, not answers; leave it out")

    def _manner(self, one: _Asked) -> tuple[str, tuple[str, ...], int]:
        """Prefix, stop texts and tokens; a stop text that a thought may hold cuts the answer afterwards."""
        prefix = self._prefix if one.prefix is None else self._in_the_answer(one.prefix)
        tokens = max(self.section.sampling.max_new_tokens, int(one.argument.get("max_gen_toks", 0)))
        return prefix, () if reasoning.OPEN in prefix else _stops(one), tokens

    def _in_the_answer(self, prefix: str) -> str:
        """A task's own prefix, after reasoning that the chat template opens and that is closed at once."""
        opens = generation_prefix(self.engine, "")
        return f"{reasoning.join('', '')}{prefix}" if opens else prefix

    def _generate(
        self, members: Sequence[_Asked], prefix: str, stop: tuple[str, ...], tokens: int, advance: Advance
    ) -> None:
        def finished(index: int, number: int, completion: Completion) -> None:
            self._keep(_reply_record(members[index], completion))
            advance("")

        sampling: Sampling = self.section.sampling.model_copy(update={"max_new_tokens": tokens})
        held = {i for i, one in enumerate(members) if one.id in self._held}
        if len(held) < len(members):
            self.engine.generate(
                [one.turns for one in members],
                sampling,
                seed=self.seed,
                stop=stop,
                prefix=prefix,
                done=held,
                on_finish=finished,
            )

    def _keep(self, record: Record) -> None:
        self.log.append(record)
        self._held[record["id"]] = record


def load(tasks: Sequence[str], include: Path | None, shots: int | None) -> Any:
    """The harness's tasks of these names, with their data.

    Args:
        tasks: By the harness's names.
        include: Folder of further tasks.
        shots: Examples a prompt shows, in place of a task's own number; a task that wants none keeps to that.

    Raises:
        InputError: There is no such task, or its data cannot be had.
    """
    manager = _manager(tasks, include)
    for name in tasks:
        if name not in manager.all_tasks:
            raise InputError(f"--tasks {name}: lm-eval has no such task; `lm_eval ls tasks` lists them")
    try:
        loaded = manager.load(list(tasks))
    except Exception as error:  # of the data's library, the network, or a task's own code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = ",".join(tasks)
        raise InputError(f"--tasks {named}: cannot be had ({reason[:200]}); check network and HF_TOKEN") from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=(own or 0) if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    return loaded


def _manager(tasks: Sequence[str], include: Path | None) -> TaskManager:
    """Knows these tasks; the harness's own thousands of files are read only where one of them is meant."""
    if include is not None:
        own = TaskManager(include_path=str(include), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=str(include) if include else None)


def measure(model: EngineModel, loaded: Any, limit: int | None) -> dict[str, Any]:
    """Runs the tasks, on the first `limit` items of each; the harness's own results, with each item's."""
    results = evaluate(
        model, loaded, limit=limit, bootstrap_iters=_RESAMPLES, apply_chat_template=True, fewshot_as_multiturn=True
    )
    found: dict[str, Any] = results
    return found


def _asked(requests: Sequence[Instance]) -> list[_Asked]:
    times = Counter[str]()
    return [_one(request, times) for request in requests]


def _one(request: Instance, times: Counter[str]) -> _Asked:
    name = f"{request.task_name}/{request.doc_id}/{request.request_type}-{request.idx}"
    times[name] += 1
    turns, prefix = _conversation(request)
    return _Asked(
        name if times[name] == 1 else f"{name}#{times[name]}", str(request.task_name), turns, prefix, request.args[1]
    )


def _conversation(request: Instance) -> tuple[tuple[Message, ...], str | None]:
    """What is said before the answer, and what the answer is made to begin with."""
    try:
        turns = json.loads(request.args[0]) if request.args[0] else chat.user("")
    except json.JSONDecodeError as error:
        raise InputError(f"--tasks {request.task_name}: its prompts are no conversation; leave it out") from error
    if turns[-1]["role"] == "assistant":
        return tuple(turns[:-1]), str(turns[-1]["content"])
    return tuple(turns), None


def _stops(one: _Asked) -> tuple[str, ...]:
    until = one.argument.get("until", ())
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def _cut(answer: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(places)] if places else answer


def _reply_record(one: _Asked, completion: Completion) -> Record:
    parts = completion.parts
    return {
        "id": one.id,
        "task": one.task,
        "prompt": one.turns[-1]["content"],
        "prefix": completion.prefix,
        "text": completion.text,
        "reasoning": parts.reasoning,
        "answer": parts.answer if parts.closed else completion.text,
        "closed": parts.closed,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids) or None,
        **({"error": completion.error} if completion.missing else {}),
    }


def _likelihood_record(one: _Asked, prefix: str, likelihood: Likelihood) -> Record:
    return {
        "id": one.id,
        "task": one.task,
        "prompt": one.turns[-1]["content"],
        "prefix": prefix,
        "continuation": one.argument,
        "logprob": likelihood.total,
        "greedy": likelihood.is_greedy,
    }
