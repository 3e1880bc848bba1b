"""Supervised fine-tuning: what is trained on, that it trains, and what it leaves behind."""

import json

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from training_parts import one_step, training_run
from trl import SFTConfig, SFTTrainer

from safereason.data.example import Example
from safereason.engines.base import Sampling
from safereason.engines.open import load_model, load_tokenizer, open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine
from safereason.recipe.schema import SFT
from safereason.runs.records import RecordLog, read_records
from safereason.text.chat import user
from safereason.training import model as training_model
from safereason.training import sft, shared_prefix
from safereason.training.arguments import sft_arguments
from safereason.training.model import lora_config
from safereason.training.resume import last_checkpoint


def trace(number: int, reasoning: str | None = "It is harmless.", answer: str | None = "Boil it.") -> Example:
    prompt = f"How do I cook egg {number}?"
    return Example(f"own/{number}", prompt, "harmless", "own", reasoning=reasoning, answer=answer)


@pytest.fixture(scope="module")
def tokenizer(micro_model):
    return load_tokenizer(ModelSpec.parse(str(micro_model)))


def section(**changes) -> SFT:
    values = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 4, "micro_batch_size": 2, "precision": "fp32"}
    return SFT(**{**values, **changes})


def train(chosen: SFT, model, tokenizer, folder, traces=tuple(map(trace, range(8)))):
    rows = sft.tokenize(tokenizer, traces, chosen.max_tokens).rows
    with RecordLog(folder / "metrics.jsonl") as log:
        return sft.train(training_run(chosen, model, folder, log, key="sft"), rows)


def test_the_trained_part_is_the_trace_the_answer_and_the_end_of_turn(tokenizer):
    (row,) = sft.tokenize(tokenizer, [trace(1)], 512).rows
    split = row["completion_mask"].index(1)
    assert row["completion_mask"] == [0] * split + [1] * (len(row["input_ids"]) - split)
    assert tokenizer.decode(row["input_ids"][:split]) == (
        "<|im_start|>user\nHow do I cook egg 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(row["input_ids"][split:]) == ("<think>\nIt is harmless.\n</think>\n\nBoil it.<|im_end|>")


UNEVEN = [trace(i, answer="Boil it. " * (3 * i + 1)) for i in range(4)]


def test_the_loss_covers_the_trained_part_and_nothing_else(micro_model, tokenizer, tmp_path):
    model = load_model(str(micro_model))
    with torch.no_grad():
        losses = [_token_losses(model, row) for row in sft.tokenize(tokenizer, UNEVEN, 512).rows]
    train(section(micro_batch_size=4), micro_model, tokenizer, tmp_path, UNEVEN)
    (record,) = read_records(tmp_path / "metrics.jsonl")
    assert record["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def _token_losses(model, row):
    ids, first = torch.tensor(row["input_ids"]), row["completion_mask"].index(1)
    scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return -scores[first - 1 : -1].gather(1, ids[first:, None])[:, 0]


def test_accumulation_does_not_change_the_loss(micro_model, tokenizer, tmp_path):
    figures = []
    for size in (1, 4):
        train(section(micro_batch_size=size), micro_model, tokenizer, tmp_path / str(size), UNEVEN)
        figures += [(r["loss"], r["grad_norm"]) for r in read_records(tmp_path / str(size) / "metrics.jsonl")]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


def test_rows_without_reasoning_or_answer_are_dropped_and_counted(tokenizer):
    traces = [trace(0), trace(1, reasoning=None), trace(2, reasoning=" \n"), trace(3, answer=""), trace(4)]
    rows = sft.tokenize(tokenizer, traces, 512)
    assert (len(rows.rows), rows.empty_reasoning, rows.too_long) == (2, 3, 0)


def test_a_verdict_alone_is_trained_on_where_no_reasoning_is_wanted(tokenizer):
    verdicts = [
        trace(0, reasoning=None, answer=r"\boxed{safe}"),
        trace(1, answer=r"\boxed{unsafe}"),
        trace(2, answer=""),
    ]
    rows = sft.tokenize(tokenizer, verdicts, 512, reasoned=False)
    assert (len(rows.rows), rows.empty_reasoning, rows.too_long) == (2, 1, 0)
    trained = [
        tokenizer.decode([i for i, kept in zip(row["input_ids"], row["completion_mask"], strict=True) if kept])
        for row in rows.rows
    ]
    assert trained == [r"\boxed{safe}<|im_end|>", r"\boxed{unsafe}<|im_end|>"]


def test_a_row_is_put_as_it_is_asked(tokenizer):
    (row,) = sft.tokenize(tokenizer, [trace(1)], 512, prompt_builder=lambda e: user(f"Is <{e.prompt}> safe?")).rows
    split = row["completion_mask"].index(1)
    assert tokenizer.decode(row["input_ids"][:split]) == (
        "<|im_start|>user\nIs <How do I cook egg 1?> safe?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_rows_that_are_too_long_are_dropped_whole_and_counted(tokenizer):
    traces = [trace(0), trace(1, answer="word " * 50)]
    (short,) = sft.tokenize(tokenizer, traces[:1], 512).rows
    rows = sft.tokenize(tokenizer, traces, len(short["input_ids"]))
    assert (rows.rows, rows.too_long, rows.empty_reasoning) == ([short], 1, 0)
    assert sft.tokenize(tokenizer, traces, len(short["input_ids"]) - 1).too_long == 2


def test_training_lowers_the_loss_and_the_saved_model_loads(micro_model, tokenizer, tmp_path):
    summary = train(section(epochs=15), micro_model, tokenizer, tmp_path)
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, 31))
    assert records[-1]["loss"] < records[0]["loss"] / 2
    assert summary == {"steps": 30, "mean_loss": pytest.approx(sum(r["loss"] for r in records) / 30)}
    assert list(tmp_path.glob("model/*.safetensors"))
    assert not list(tmp_path.glob("model/*.bin"))
    saved = open_engine(ModelSpec.parse(str(tmp_path / "model")))
    before = open_engine(ModelSpec.parse(str(micro_model)))
    loss = [-engine.loglikelihood([user(trace(0).prompt)], ["Boil it."])[0].total for engine in (saved, before)]
    assert loss[0] < loss[1]


def test_the_checkpoints_are_marked_whole(micro_model, tokenizer, tmp_path):
    train(section(save_steps=1), micro_model, tokenizer, tmp_path)
    assert last_checkpoint(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "checkpoint-2", 2)
    (tmp_path / "checkpoints" / "checkpoint-2" / "complete").unlink()
    assert last_checkpoint(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "checkpoint-1", 1)
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_is_saved_in_the_recipes_precision(micro_model, tokenizer, tmp_path, precision):
    train(section(precision=precision), micro_model, tokenizer, tmp_path)
    assert (
        json.loads((tmp_path / "model" / "config.json").read_text())["dtype"]
        == {"fp32": "float32", "bf16": "bfloat16"}[precision]
    )


def test_adapters_are_merged_into_the_saved_model(micro_model, tokenizer, tmp_path, monkeypatch):
    kept = {}
    save = training_model.save_whole

    def saving(model, *arguments):
        kept["answers"] = _greedy(model, tokenizer)
        kept["adapters"] = [name for name, _ in model.named_parameters() if "lora_" in name]
        save(model, *arguments)

    monkeypatch.setattr(training_model, "save_whole", saving)
    train(section(lora={"rank": 4}, epochs=15, learning_rate=2e-2), micro_model, tokenizer, tmp_path)
    assert len(kept["adapters"]) == 28
    assert not list(tmp_path.glob("model/adapter*"))
    merged = load_model(str(tmp_path / "model"))
    assert _greedy(merged, tokenizer) == kept["answers"]
    assert _greedy(load_model(str(micro_model)), tokenizer) != kept["answers"]


def _greedy(model, tokenizer) -> list[str]:
    engine = TransformersEngine(model, tokenizer, name="model")
    drawn = engine.generate([user(trace(i).prompt) for i in range(2)], Sampling(temperature=0.0, max_new_tokens=24))
    return [group[0].text for group in drawn]


PREFIX = "A policy that every row begins with, long enough to be computed once for all of them. " * 3


def trainer_of(kind, rows, model, tokenizer, folder, chosen: SFT, **arguments):
    """Ours or TRL's own, on the same rows in the same order."""
    settings = sft_arguments(chosen, rows=len(rows), seed=0, output_dir=str(folder))
    return kind(
        model=load_model(str(model)),
        args=SFTConfig(**{**settings, **arguments}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(chosen.lora),
    )


@pytest.fixture
def packed(monkeypatch) -> list[int]:
    """How many rows each packed pass was given."""
    passes: list[int] = []
    whole = shared_prefix.completion_logps

    def counted(model, ids, mask, width, temperature):
        passes.append(len(ids))
        return whole(model, ids, mask, width, temperature)

    monkeypatch.setattr(shared_prefix, "completion_logps", counted)
    return passes


@pytest.mark.parametrize("micro_batch_size", [4, 2], ids=["one pass", "accumulated"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "adapters"])
def test_what_rows_share_is_computed_once_and_the_step_is_trls(
    micro_model, tokenizer, tmp_path, packed, micro_batch_size, lora
):
    chosen = section(micro_batch_size=micro_batch_size, lora=lora, max_grad_norm=1e9)
    rows = sft.tokenize(tokenizer, UNEVEN, 1024, prompt_builder=lambda e: user(PREFIX + e.prompt)).rows
    ours = trainer_of(sft.TracesTrainer, rows, micro_model, tokenizer, tmp_path / "ours", chosen)
    loss, gradients = one_step(ours)
    assert packed == [micro_batch_size] * (4 // micro_batch_size)
    trls = trainer_of(SFTTrainer, rows, micro_model, tokenizer, tmp_path / "trls", chosen)
    expected, their = one_step(trls)
    assert sum(packed) == 4
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == their.keys()
    for name, gradient in their.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)
    assert any(bool(gradient.any()) for gradient in their.values())
    counted = [t.state.log_history[0]["num_tokens"] for t in (ours, trls)]
    assert counted == [sum(len(row["input_ids"]) for row in rows)] * 2


def test_rows_that_share_little_are_run_row_by_row(micro_model, tokenizer, tmp_path, packed):
    rows = sft.tokenize(tokenizer, UNEVEN, 1024).rows
    one_step(trainer_of(sft.TracesTrainer, rows, micro_model, tokenizer, tmp_path, section(micro_batch_size=4)))
    assert packed == []


def test_a_packed_pass_is_in_bf16_where_the_training_is(micro_model, tokenizer, tmp_path, packed):
    chosen = section(micro_batch_size=4, max_grad_norm=1e9)
    rows = sft.tokenize(tokenizer, UNEVEN, 1024, prompt_builder=lambda e: user(PREFIX + e.prompt)).rows
    exact, _ = one_step(trainer_of(sft.TracesTrainer, rows, micro_model, tokenizer, tmp_path / "exact", chosen))
    trainer = trainer_of(sft.TracesTrainer, rows, micro_model, tokenizer, tmp_path / "half", chosen, bf16=True)
    dtypes = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    loss, gradients = one_step(trainer)
    assert packed == [4, 4]
    assert dtypes == {torch.bfloat16}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert loss == pytest.approx(exact, rel=2e-2)


LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=5)


@given(LENGTHS)
def test_rows_are_split_where_training_begins(lengths):
    total = max(prompt + completion for prompt, completion in lengths)
    ids, attention = (
        torch.zeros(len(lengths), total, dtype=torch.long),
        torch.zeros(len(lengths), total, dtype=torch.long),
    )
    labels = torch.full((len(lengths), total), -100)
    for i, (prompt, completion) in enumerate(lengths):
        end = prompt + completion
        ids[i, :end] = torch.arange(1, end + 1) + 100 * i
        attention[i, :end] = 1
        labels[i, prompt:end] = ids[i, prompt:end]
    moved, mask, width = sft.split_rows(ids, attention, labels)
    before = moved.shape[1] - width
    assert (before, width) == (max(p for p, _ in lengths), max(c for _, c in lengths))
    for i, (prompt, completion) in enumerate(lengths):
        kept = mask[i].bool()
        assert moved[i][kept].tolist() == ids[i, : prompt + completion].tolist()
        assert kept.nonzero().flatten().tolist() == list(range(before - prompt, before + completion))
        assert moved[i, before : before + completion].tolist() == labels[i, prompt : prompt + completion].tolist()
