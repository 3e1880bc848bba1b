"""The validation of a guard while it is trained: verdicts on rows held out of its mix, and the best model kept.

The authors' own logs show F1 falling on some sets while the guard is trained, so that the last model need not be the
best. Nothing here is the papers'.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safereason import processes
from safereason.console import say
from safereason.data.example import Example
from safereason.engines.transformers import BATCH_TOKENS, TransformersEngine
from safereason.guard.base import GuardVerdict, Question
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.reasoning import ReasoningGuard
from safereason.runs.records import Record, RecordLog, read_record, write_json
from safereason.training.sharding import unsharded

BEST_VALIDATION = "validation.json"
"""Beside the best model: the record of the validation that chose it."""


class Validation:
    """Validates the model before the first step, every so many steps, and after the last.

    Each of several processes validates, since each holds the model and would wait otherwise. Their verdicts are the
    same, and the first process writes them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        guard_prompt: GuardPrompt,
        tokenizer: PreTrainedTokenizerBase,
        *,
        every: int,
        seed: int,
        log: RecordLog,
        best: Path | None,
        save: Callable[[PreTrainedModel, Path], None],
    ) -> None:
        """Takes the rows, the guard's prompt, and the files to write.

        Args:
            examples: Held-out rows with labels.
            guard_prompt: Policy, templates and sampling; the sampling is that of the rollouts.
            tokenizer: The model's.
            every: Steps between two validations.
            seed: Seed of the verdicts, the same for every validation.
            log: Log with one record per validation.
            best: Folder of the best model so far, or None to keep none.
            save: Writes a model to a folder, whole or not at all; every process calls it.
        """
        self._examples = examples
        self._guard_prompt = guard_prompt
        self._tokenizer = tokenizer
        self._every = every
        self._seed = seed
        self._log = log
        self._best = best
        self._save = save
        self._batch_tokens = BATCH_TOKENS
        if best is not None and processes.is_main():
            _finish_replacement(best)
        processes.wait()

    def after_step(self, step: int, model: PreTrainedModel, is_last: bool) -> None:
        """Validates before the first step (0), every so many steps, and after the last."""
        if step % self._every == 0 or is_last:
            self._validate(step, model)

    def _validate(self, step: int, model: PreTrainedModel) -> None:
        engine = TransformersEngine(
            model, self._tokenizer, name="the model being trained", batch_tokens=self._batch_tokens
        )
        guard = ReasoningGuard(engine, self._guard_prompt, scores=False)
        questions = [Question(example.prompt, example.response) for example in self._examples]
        with unsharded(model):
            verdicts = [verdict for verdict in guard.classify(questions, seed=self._seed) if verdict is not None]
        # A batch that did not fit in memory is not tried again at the next validation.
        self._batch_tokens = engine.batch_tokens
        record: Record = {"step": step, **validation_metrics(self._examples, verdicts)}
        self._log.append(record)
        say(
            f"validation after step {record['step']}: F1 {record['f1']:.3f}, unparsed {record['unparsed']:.3f}, "
            f"unsafe {record['says_unsafe']:.3f}"
        )
        if self._best is not None:
            is_better = processes.is_main() and record["f1"] > best_f1(self._best)
            # The first process decides for all of them: it alone writes the file that is compared with.
            if broadcast_object_list([is_better])[0]:
                self._keep(model, record, self._best)

    def _keep(self, model: PreTrainedModel, record: Record, best: Path) -> None:
        """Replaces the best model; the record goes with it, so that the two always agree."""
        aside = _aside_of_best(best)
        if processes.is_main():
            shutil.rmtree(aside, ignore_errors=True)
        self._save(model, aside)
        if processes.is_main():
            # The record is written last: a folder that has one is whole.
            write_json(aside / BEST_VALIDATION, record)
            _replace_best(aside, best)


def _aside_of_best(best: Path) -> Path:
    return best.with_name(f".{best.name}.new")


def _replace_best(aside: Path, best: Path) -> None:
    """Puts the new model in the old one's place."""
    # Without its record the old folder counts as incomplete, so that a kill during the deletion is noticed.
    (best / BEST_VALIDATION).unlink(missing_ok=True)
    shutil.rmtree(best, ignore_errors=True)
    aside.rename(best)


def _finish_replacement(best: Path) -> None:
    """Finishes a replacement that a kill cut short, or deletes a model that was never written in whole."""
    aside = _aside_of_best(best)
    if (aside / BEST_VALIDATION).is_file() and not (best / BEST_VALIDATION).is_file():
        _replace_best(aside, best)
    shutil.rmtree(aside, ignore_errors=True)


def best_f1(best: Path) -> float:
    """F1 of the best model so far; -1 where there is none."""
    if not (best / BEST_VALIDATION).is_file():
        return -1.0
    return float(read_record(best / BEST_VALIDATION)["f1"])


def validation_metrics(examples: Sequence[Example], verdicts: Sequence[GuardVerdict]) -> dict[str, float]:
    """F1 of "unsafe" with unreadable verdicts counted as wrong; shares unparsed and, of the readable, unsafe."""
    from sklearn.metrics import f1_score

    labels: list[bool] = []
    predictions: list[bool] = []
    readable: list[bool] = []
    for example, verdict in zip(examples, verdicts, strict=True):
        is_unsafe = example.label == "unsafe"
        labels.append(is_unsafe)
        if verdict.label is None:
            predictions.append(not is_unsafe)
        else:
            predictions.append(verdict.label == "unsafe")
            readable.append(verdict.label == "unsafe")
    says_unsafe = 0.0
    if readable:
        says_unsafe = sum(readable) / len(readable)
    return {
        "n": len(examples),
        "f1": float(f1_score(labels, predictions, zero_division=0.0)),
        "unparsed": 1 - len(readable) / len(verdicts),
        "says_unsafe": says_unsafe,
        "mean_tokens": sum(verdict.tokens for verdict in verdicts) / len(verdicts),
    }
