"""Figures from the harness's results, and the harness run for real with our engine on tasks of local files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import families
import pytest

from safereason.engines.base import Completion, GenerateOptions, Likelihood
from safereason.errors import InputError, StageFailed
from safereason.evals import capability
from safereason.recipe.schema import Evaluation, Sampling
from safereason.runs.records import RecordLog, read_records

SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Q:"], do_sample: true, temperature: 1.0, max_gen_toks: {tokens}}}
filter_list:
  - name: last-number
    filter: [{{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 2.0}}
"""


def write_tasks(folder: Path, tokens: int = 8) -> Path:
    sums = [{"question": f"What is {a} plus {a + 1}?", "answer": str(2 * a + 1)} for a in range(6)]
    choice = [{"question": f"Which is {n}?", "choices": ["zero", "one", "two"], "answer": n} for n in range(3)]
    for name, rows, yaml in (("sums", sums, SUMS), ("choice", choice, CHOICE)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(yaml.format(folder=folder, tokens=tokens))
    return folder


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    return write_tasks(folder)


class Scripted:
    """Writes what `complete` makes of the prompt; thinks the right word likeliest."""

    name = "scripted"
    tokenizer: Any = None

    def __init__(self, complete: Any) -> None:
        self.complete = complete
        self.calls: list[dict[str, Any]] = []

    def generate(self, conversations: Sequence[Any], sampling: Sampling, options: GenerateOptions) -> None:
        prompts = [c[-1]["content"] for c in conversations]
        self.calls.append({"prompts": prompts, "sampling": sampling, **vars(options)})
        for i, conversation in enumerate(conversations):
            if i not in options.done:
                options.on_finish(i, 0, self.complete(conversation[-1]["content"], options.prefix))

    def loglikelihood(
        self, conversations: Sequence[Any], continuations: Sequence[str], *, prefix: str
    ) -> list[Likelihood]:
        self.calls.append({"prefix": prefix, "continuations": list(continuations)})
        right = {"Which is 0?": "zero", "Which is 1?": "one", "Which is 2?": "zero"}
        return [
            Likelihood((-1.0 if right[c[-1]["content"]] == text else -5.0,), False)
            for c, text in zip(conversations, continuations, strict=True)
        ]


def add(prompt: str) -> int:
    first = int(prompt.split()[2])
    return 2 * first + 1


def measured(complete: Any, folder: Path, names: Sequence[str], prefix: str = "<think>\n", tokens: int = 4):
    pytest.importorskip("lm_eval", reason="the extra `capability` is not installed")
    from safereason.evals import harness

    engine = Scripted(complete)
    section = Evaluation(sampling=Sampling(temperature=0.0, max_new_tokens=tokens), prefix=prefix)
    with RecordLog(folder / "replies.jsonl") as records:
        model = harness.EngineModel(engine, section, 5, records)
        results = harness.measure(model, harness.load(names, folder, None), None)
    return {(f.name, f.group): f for f in capability.figures(results)}, engine, results


def test_reasoning_is_left_out_and_a_stop_text_cuts_the_answer_alone(tasks: Path):
    def complete(prompt: str, prefix: str) -> Completion:
        # A thought with a stop text and a wrong number, the right answer, then what the stop text is to cut.
        text = f"Q: is it 777?\n</think>\n\nIt is {add(prompt)}.\nQ: what is 888?"
        return Completion(text, (1, 2), "stop", prefix)

    figures, engine, results = measured(complete, tasks, ["sums"])
    figure = figures["exact_match:last-number", "sums"]
    assert (figure.value, figure.n) == (1.0, 6)
    assert results["results"]["sums"]["exact_match,last-number"] == 1.0
    [call] = engine.calls
    assert (call["stop"], call["prefix"], call["seed"]) == ((), "<think>\n", 5)
    assert (call["sampling"].temperature, call["sampling"].max_new_tokens) == (0.0, 8)
    replies = list(read_records(tasks / "replies.jsonl"))
    assert replies[0]["reasoning"] == "Q: is it 777?"
    assert replies[0]["answer"] == "It is 1.\nQ: what is 888?"


def test_a_model_that_begins_by_itself_is_stopped_where_the_task_says(tasks: Path):
    figures, engine, _ = measured(
        lambda p, prefix: Completion(f"{add(p)}", (1,), "stop"), tasks, ["sums"], "", tokens=32
    )
    assert figures["exact_match:last-number", "sums"].value == 1.0
    assert (engine.calls[0]["stop"], engine.calls[0]["sampling"].max_new_tokens) == (("Q:",), 32)


def test_a_template_that_opens_the_reasoning_is_treated_as_its_prefix(tasks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Scripted, "tokenizer", families.tokenizer("r1"))

    def complete(prompt: str, prefix: str) -> Completion:
        return Completion(f"Q: 777?\n</think>\n\nIt is {add(prompt)}.", (1,), "stop", prefix)

    figures, engine, _ = measured(complete, tasks, ["sums"], "")
    assert figures["exact_match:last-number", "sums"].value == 1.0
    assert (engine.calls[0]["stop"], engine.calls[0]["prefix"]) == ((), "<think>\n")
    _, engine, _ = measured(complete, tasks, ["choice"], "")
    assert engine.calls[0]["prefix"] == "<think>\n\n</think>\n\n", "a choice is an answer"


def test_a_choice_is_made_by_likelihood_after_an_empty_thought(tasks: Path):
    figures, engine, results = measured(None, tasks, ["choice"])
    figure = figures["acc", "choice"]
    assert figure.value == pytest.approx(2 / 3)
    assert figure.value == pytest.approx(results["results"]["choice"]["acc,none"])
    assert figure.low < figure.value < figure.high
    assert {call["prefix"] for call in engine.calls} == {"<think>\n\n</think>\n\n"}
    assert engine.calls[0]["continuations"][:3] == ["zero", "one", "two"]


def test_replies_that_are_recorded_are_not_asked_for_again(tasks: Path):
    def complete(prompt: str, prefix: str) -> Completion:
        return Completion(f"x</think>{add(prompt)}", (1,), "stop", prefix)

    first, _, _ = measured(complete, tasks, ["sums", "choice"])
    log = tasks / "replies.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4] + lines[6:-1]))
    again, engine, _ = measured(complete, tasks, ["sums", "choice"])
    assert again == first
    assert engine.calls[0]["done"] == {0, 1, 2, 3}
    assert engine.calls[1]["continuations"] == ["two"]
    assert sorted(log.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_completion_that_could_not_be_had_is_no_wrong_answer(tasks: Path):
    def complete(prompt: str, prefix: str) -> Completion:
        if prompt == "What is 2 plus 3?":
            return Completion("", (), "error", prefix, "busy")
        return Completion(f"{add(prompt)}", (1,), "stop", prefix)

    with pytest.raises(StageFailed, match=r"1 of 6 completions failed \(busy\); --resume asks again"):
        measured(complete, tasks, ["sums"])


def test_a_task_that_there_is_not_or_whose_data_is_not_there_is_refused(tasks: Path):
    with pytest.raises(InputError, match="--tasks nosuch: lm-eval has no such task"):
        measured(None, tasks, ["nosuch"])
    (tasks / "sums.jsonl").unlink()
    with pytest.raises(InputError, match="--tasks sums: cannot be had"):
        measured(None, tasks, ["sums"])


def row(**values: Any) -> dict[str, Any]:
    return {"alias": "t", "sample_len": 4, **values}


def test_a_share_a_mean_and_a_pooled_figure_have_their_own_intervals():
    results = {
        "results": {
            "t": row(
                **{
                    "acc,none": 0.75,
                    "acc_stderr,none": 0.2,
                    "f1,none": 0.5,
                    "f1_stderr,none": 0.1,
                    "bleu,none": 31.0,
                    "bleu_stderr,none": "N/A",
                }
            ),
            "group": row(**{"acc,none": 0.6, "acc_stderr,none": 0.1}),
        },
        "samples": {
            "t": [
                {"filter": "none", "acc": a, "f1": f, "bleu": ("a", "b")}
                for a, f in ((1, 0.2), (1, 0.4), (0, 0.6), (1, 0.8))
            ]
        },
    }
    figures = {(f.name, f.group): f for f in capability.figures(results)}
    acc, f1, bleu, group = (figures[key] for key in (("acc", "t"), ("f1", "t"), ("bleu", "t"), ("acc", "group")))
    assert (acc.value, acc.n, round(acc.low, 3), round(acc.high, 3)) == (0.75, 4, 0.301, 0.954)  # Wilson
    assert f1.value - f1.low == pytest.approx(3.182 * math.sqrt(0.2 / 3) / 2, abs=1e-3)  # Student, 3 degrees
    assert (bleu.value, bleu.low, bleu.high, bleu.n) == (31.0, None, None, 4)
    assert (group.low, group.high) == pytest.approx((0.404, 0.796), abs=1e-3)


def test_a_figure_that_is_no_number_is_unscored():
    [figure] = capability.figures({"results": {"t": row(**{"acc,none": math.nan})}})
    assert (figure.value, figure.n, figure.unscored) == (None, 0, 4)


def test_without_the_harness_the_command_that_gets_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capability, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'safereason\[capability\]'"):
        capability.check_installed()
