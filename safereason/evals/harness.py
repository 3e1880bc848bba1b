"""Our engine as a model of lm-evaluation-harness. Imports the harness, so import it only where one is installed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from safereason import console
from safereason.console import Advance
from safereason.engines.base import (
    Completion,
    Engine,
    GenerateOptions,
    Likelihood,
    Message,
    Sampling,
    generation_prefix,
    text_before_stop,
)
from safereason.errors import InputError, StageFailed, first_line
from safereason.recipe.schema import Evaluation
from safereason.runs.records import Record, RecordLog, read_records
from safereason.text import chat, reasoning

LoadedTasks: TypeAlias = dict[str, dict[str, Any]]
"""Tasks as the harness loads them, by kind and name, in the form that it takes back."""
FEW_SHOT_SEED = 1234
"""The harness's own seed, which chooses the examples that a prompt shows."""
_RESAMPLES = 1000
"""Resamples of the harness's bootstrap, for metrics that are no mean."""
# So few that a killed run loses little.
_CHUNK = 64
"""Continuations whose likelihoods are computed, and then recorded, together."""


@dataclass(frozen=True)
class _TaskRequest:
    """A request of the harness in the form that our engine takes."""

    id: str
    task: str
    turns: tuple[Message, ...]
    prefix: str | None
    """Text of the task's own that the answer begins with."""
    argument: Any
    """Settings of a generation, or a continuation."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer; an empty one would end it at once, and is left out."""
        until = self.argument.get("until", ())
        if isinstance(until, str):
            until = [until]
        return tuple(text for text in until if text)


@dataclass(frozen=True)
class _Manner:
    """The settings that a call of the engine has for all its conversations."""

    prefix: str
    stop: tuple[str, ...]
    tokens: int


class EngineModel(LM):
    """A model of the harness that answers with our engine, and records each completion so that none is requested twice.

    Args:
        engine: The engine that generates.
        section: Sampling settings, and the text that completions begin with.
        seed: Seed of the sampling.
        log: The log of records. Those that it already holds are read, and not generated again.
    """

    # The harness calls these methods. Their names and parameters are its own.
    def __init__(self, engine: Engine, section: Evaluation, seed: int, log: RecordLog) -> None:
        super().__init__()
        self.engine, self.section, self.seed, self.log = engine, section, seed, log
        self._prefix = generation_prefix(engine, section.prefix)
        self._records: dict[str, Record] = {record["id"]: record for record in read_records(log.path)}

    @property
    def tokenizer_name(self) -> str:
        """The harness's name for prompts rendered for this model."""
        return self.engine.name

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: the engine applies the template, and the harness only hands this back."""
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, without reasoning, each cut at its task's first stop text.

        Raises:
            StageFailed: Completions failed.
        """
        generations = _read_requests(requests)
        # The engine takes one prefix, one list of stop texts and one limit of tokens a call.
        by_manner: dict[_Manner, list[_TaskRequest]] = {}
        done = 0
        for request in generations:
            by_manner.setdefault(self._manner(request), []).append(request)
            done += request.id in self._records
        with console.progress("completions", len(generations), done) as advance:
            for manner, members in by_manner.items():
                self._generate(members, manner, advance)

        # Only now, so that one failure does not keep the other completions from being recorded.
        errors = []
        answers = []
        for request in generations:
            record = self._records[request.id]
            if "error" in record:
                errors.append(record["error"])
            else:
                answers.append(text_before_stop(record["answer"], request.stop_texts))
        if errors:
            raise StageFailed(
                f"{len(errors)} of {len(generations)} completions failed ({errors[0]}); --resume asks again"
            )
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation as the answer, and whether it was the likeliest."""
        continuations = _read_requests(requests)
        missing = [request for request in continuations if request.id not in self._records]
        by_prefix: dict[str | None, list[_TaskRequest]] = {}
        for request in missing:
            by_prefix.setdefault(request.prefix, []).append(request)
        with console.progress("likelihoods", len(continuations), len(continuations) - len(missing)) as advance:
            for task_prefix, members in by_prefix.items():
                prefix = self._likelihood_prefix(task_prefix)
                for start in range(0, len(members), _CHUNK):
                    self._score(members[start : start + _CHUNK], prefix, advance)
        scores = []
        for request in continuations:
            record = self._records[request.id]
            scores.append((record["logprob"], record["greedy"]))
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refuses tasks on plain text, which a chat model has no likelihood of.

        Raises:
            InputError: Always.
        """
        raise InputError(f"--tasks {requests[0].task_name}: measures plain text, not answers; leave it out")

    def _manner(self, request: _TaskRequest) -> _Manner:
        """The engine's settings for a generation."""
        prefix = self._prefix
        if request.prefix is not None:
            prefix = self._after_empty_reasoning(request.prefix)
        stop = request.stop_texts
        # Reasoning may hold a stop text, and must not be ended by it. Then the answer is cut afterwards.
        if reasoning.OPEN in prefix:
            stop = ()
        # Reasoning needs room too, so that a task can raise the recipe's limit and not lower it.
        tokens = max(self.section.sampling.max_new_tokens, int(request.argument.get("max_gen_toks", 0)))
        return _Manner(prefix, stop, tokens)

    def _likelihood_prefix(self, task_prefix: str | None) -> str:
        """The text before a continuation: for a model that reasons, empty reasoning, since answers are compared."""
        if task_prefix is not None:
            return self._after_empty_reasoning(task_prefix)
        if self._prefix:
            return reasoning.join("", "")
        return ""

    def _after_empty_reasoning(self, prefix: str) -> str:
        """A task's own prefix; after empty reasoning where the chat template opens one."""
        if generation_prefix(self.engine, ""):
            return f"{reasoning.join('', '')}{prefix}"
        return prefix

    def _generate(self, members: Sequence[_TaskRequest], manner: _Manner, advance: Advance) -> None:
        """Generates and records the missing completions for requests of one manner."""

        def finished(index: int, number: int, completion: Completion) -> None:
            self._keep(_completion_record(members[index], completion))
            advance("")

        sampling: Sampling = self.section.sampling.model_copy(update={"max_new_tokens": manner.tokens})
        done = set()
        for index, request in enumerate(members):
            if request.id in self._records:
                done.add(index)
        if len(done) == len(members):
            return
        # The conversations that are done go along: batches are laid out as if they were not, so that a resumed run
        # draws the same completions.
        self.engine.generate(
            [request.turns for request in members],
            sampling,
            GenerateOptions(seed=self.seed, stop=manner.stop, prefix=manner.prefix, done=done, on_finish=finished),
        )

    def _score(self, chunk: Sequence[_TaskRequest], prefix: str, advance: Advance) -> None:
        """Computes and records the likelihoods of some continuations."""
        likelihoods = self.engine.loglikelihood(
            [request.turns for request in chunk], [str(request.argument) for request in chunk], prefix=prefix
        )
        for request, likelihood in zip(chunk, likelihoods, strict=True):
            self._keep(_likelihood_record(request, prefix, likelihood))
            advance("")

    def _keep(self, record: Record) -> None:
        """Records a completion or a likelihood."""
        self.log.append(record)
        self._records[record["id"]] = record


def load(tasks: Sequence[str], include: Path | None, shots: int | None) -> LoadedTasks:
    """The harness's tasks of these names, with their data.

    Args:
        tasks: The harness's names of the tasks.
        include: Folder of further tasks.
        shots: Number of examples in a prompt, in place of a task's own; a task without examples stays without.

    Raises:
        InputError: There is no such task, or its data cannot be loaded.
    """
    manager = _manager(tasks, include)
    for name in tasks:
        if name not in manager.all_tasks:
            raise InputError(f"--tasks {name}: lm-eval has no such task; `lm_eval ls tasks` lists them")
    try:
        loaded: LoadedTasks = manager.load(list(tasks))
    # Errors come from the library that loads the data, from the network, or from a task's own code.
    except Exception as error:
        named = ",".join(tasks)
        reason = first_line(error)[:200]
        raise InputError(f"--tasks {named}: cannot be had ({reason}); check network and HF_TOKEN") from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        count = own or 0
        # 0 is a choice of the task's authors; None leaves the number open.
        if shots is not None and own != 0:
            count = shots
        task.set_config(key="num_fewshot", value=count)
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    return loaded


def _manager(tasks: Sequence[str], include: Path | None) -> TaskManager:
    """The harness's index of tasks that holds these."""
    if include is None:
        return TaskManager(include_path=None)
    # Reading the thousands of files of the harness's own tasks takes a while. The folder alone may be enough.
    own = TaskManager(include_path=str(include), include_defaults=False)
    if set(tasks) <= set(own.all_tasks):
        return own
    return TaskManager(include_path=str(include))


def measure(model: EngineModel, loaded: LoadedTasks, limit: int | None) -> Record:
    """The harness's results of the tasks on the first `limit` items of each, with those of every item."""
    results: Record = evaluate(
        model, loaded, limit=limit, bootstrap_iters=_RESAMPLES, apply_chat_template=True, fewshot_as_multiturn=True
    )
    return results


def _read_requests(requests: Sequence[Instance]) -> list[_TaskRequest]:
    """The harness's requests in our form, each with an id that is the same in a resumed run."""
    times = Counter[str]()
    read = []
    for request in requests:
        request_id = f"{request.task_name}/{request.doc_id}/{request.request_type}-{request.idx}"
        times[request_id] += 1
        # A task may repeat a request to draw several answers.
        if times[request_id] > 1:
            request_id = f"{request_id}#{times[request_id]}"
        turns, prefix = _conversation_of(request)
        read.append(_TaskRequest(request_id, str(request.task_name), turns, prefix, request.args[1]))
    return read


def _conversation_of(request: Instance) -> tuple[tuple[Message, ...], str | None]:
    """The turns before the answer, and the text that the task begins the answer with."""
    turns = chat.user("")
    if request.args[0]:
        try:
            turns = json.loads(request.args[0])
        except json.JSONDecodeError as error:
            raise InputError(f"--tasks {request.task_name}: its prompts are no conversation; leave it out") from error
    last = turns[-1]
    # The harness puts such a text into a last turn of the assistant.
    if last["role"] == "assistant":
        return tuple(turns[:-1]), str(last["content"])
    return tuple(turns), None


def _completion_record(request: _TaskRequest, completion: Completion) -> Record:
    parts = completion.parts
    # Tasks parse the answer by its form, and unclosed reasoning may hold it: then all of the text is scored.
    answer = completion.text
    if parts.closed:
        answer = parts.answer
    record: Record = {
        "id": request.id,
        "task": request.task,
        "prompt": request.turns[-1]["content"],
        "prefix": completion.prefix,
        "text": completion.text,
        "reasoning": parts.reasoning,
        "answer": answer,
        "closed": parts.closed,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids) or None,
    }
    if completion.missing:
        record["error"] = completion.error
    return record


def _likelihood_record(request: _TaskRequest, prefix: str, likelihood: Likelihood) -> Record:
    return {
        "id": request.id,
        "task": request.task,
        "prompt": request.turns[-1]["content"],
        "prefix": prefix,
        "continuation": request.argument,
        "logprob": likelihood.total,
        "greedy": likelihood.is_greedy,
    }
