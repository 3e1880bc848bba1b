"""How the training of a guard is watched: verdicts on rows held out of its mix, and the best model kept.

The authors' own logs show F1 falling on some sets while it is trained, so that the last model need not be the best.
Nothing here is the papers'.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safereason import processes
from safereason.console import say
from safereason.data.example import Example
from safereason.engines.transformers import TransformersEngine
from safereason.guard.base import Finding, Question
from safereason.guard.guide import Guide
from safereason.guard.reasoning import ReasoningGuard
from safereason.runs.records import Record, RecordLog, read_json, write_json
from safereason.training.model import unsharded

STEP = "validation.json"
"""Beside the best model: the record of the look that chose it."""


class Validation(TrainerCallback):
    """Looks at the model before the first step, every so many steps, and after the last.

    Several processes all look, since each holds the model and would wait otherwise; what they see is the same, and the
    first one writes it.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        guide: Guide,
        tokenizer: Any,
        *,
        every: int,
        seed: int,
        log: RecordLog,
        best: Path | None,
        save: Callable[[Any, Path], None],
    ) -> None:
        """Takes what a look needs.

        Args:
            examples: Held-out rows with labels.
            guide: How the guard is asked; its sampling is that of the rollouts.
            tokenizer: The model's.
            every: Steps between two looks.
            seed: Seed of the verdicts: the same at every look.
            log: Where a record a look goes.
            best: Folder of the best model so far, or None to keep none.
            save: Writes a model to a folder, whole or not at all; every process calls it.
        """
        self._examples, self._guide, self._tokenizer = examples, guide, tokenizer
        self._every, self._seed, self._log = every, seed, log
        self._best, self._save = best, save
        if best is not None and processes.is_main():
            _recover(best)
        processes.wait()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """A look before any step; a resumed training has had it."""
        if state.global_step == 0:
            self._look(given["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """A look every so many steps."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._look(given["model"], state)

    def _look(self, model: Any, state: TrainerState) -> None:
        guard = ReasoningGuard(TransformersEngine(model, self._tokenizer, name="policy"), self._guide, scores=False)
        questions = [Question(e.prompt, e.response) for e in self._examples]
        with unsharded(model):
            findings = [f for f in guard.classify(questions, seed=self._seed) if f is not None]
        record = {"step": state.global_step, **figures(self._examples, findings)}
        self._log.append(record)
        say(
            f"validation after step {record['step']}: F1 {record['f1']:.3f}, unparsed {record['unparsed']:.3f}, "
            f"unsafe {record['says_unsafe']:.3f}"
        )
        if self._best is not None:
            is_better = processes.is_main() and record["f1"] > best_f1(self._best)
            if broadcast_object_list([is_better])[0]:
                self._keep(model, record, self._best)

    def _keep(self, model: Any, record: Record, best: Path) -> None:
        """Replaces the best model; the record goes with it, so that the two always agree."""
        aside = _aside(best)
        if processes.is_main():
            shutil.rmtree(aside, ignore_errors=True)
        self._save(model, aside)
        if processes.is_main():
            write_json(aside / STEP, record)
            _exchange(aside, best)


def _aside(best: Path) -> Path:
    return best.with_name(f".{best.name}.new")


def _exchange(aside: Path, best: Path) -> None:
    """Puts the new model in the old one's place; a folder without its record is not whole."""
    (best / STEP).unlink(missing_ok=True)
    shutil.rmtree(best, ignore_errors=True)
    aside.rename(best)


def _recover(best: Path) -> None:
    """Ends what a kill cut short."""
    aside = _aside(best)
    if (aside / STEP).is_file() and not (best / STEP).is_file():
        _exchange(aside, best)
    shutil.rmtree(aside, ignore_errors=True)


def best_f1(best: Path) -> float:
    """F1 of the best model so far; -1 where there is none."""
    return float(read_json(best / STEP)["f1"]) if (best / STEP).is_file() else -1.0


def figures(examples: Sequence[Example], findings: Sequence[Finding]) -> Record:
    """F1 of "unsafe" with what cannot be read counted as wrong; shares unparsed and, of the readable, unsafe."""
    from sklearn.metrics import f1_score

    truth = [example.label == "unsafe" for example in examples]
    said = [not t if f.label is None else f.label == "unsafe" for t, f in zip(truth, findings, strict=True)]
    readable = [f.label == "unsafe" for f in findings if f.label is not None]
    return {
        "n": len(examples),
        "f1": float(f1_score(truth, said, zero_division=0.0)),
        "unparsed": 1 - len(readable) / len(findings),
        "says_unsafe": sum(readable) / len(readable) if readable else 0.0,
        "mean_tokens": sum(f.tokens for f in findings) / len(findings),
    }
