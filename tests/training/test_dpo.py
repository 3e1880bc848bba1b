"""DPO with RPO's term through TRL, against the same loss worked out a response at a time in float64."""

from pathlib import Path

import pytest
import torch
from grpo_parts import exact, perturb
from torch.nn.functional import logsigmoid
from training_parts import one_step, training_run

from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import DPO
from safereason.runs.records import RecordLog
from safereason.text.chat import prompt_ids, user
from safereason.training import dpo

BETA, ALPHA = 0.5, 3.0
PAIRS = [
    ("Why?", "Because.", "No."),
    ("How many eggs do I need?", "Two.", "I do not know, but perhaps as many as six."),
    ("Who?", "<think>\nhm\n</think>\n\nA painter.", "A"),
    ("When?", "Later today.", "Never, never."),
]


def section(**changes) -> DPO:
    return DPO(
        **{
            "algorithm": "dpo",
            "epochs": 1,
            "learning_rate": 1e-3,
            "rollouts_per_prompt": 2,
            "batch_size": 4,
            "micro_batch_size": 4,
            "beta": BETA,
            "rpo_alpha": ALPHA,
            "max_prompt_tokens": 64,
            "sampling": {},
            "reward": {"name": "tars", "safety": "refusal", "task": "compliance"},
            "precision": "fp32",
            **changes,
        }
    )


def rows_of(tokenizer) -> list[dict[str, list[int]]]:
    def written(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    return [
        {"prompt_ids": prompt_ids(tokenizer, user(prompt)), "chosen_ids": written(chosen), "rejected_ids": written(bad)}
        for prompt, chosen, bad in PAIRS
    ]


def start(model: Path, folder: Path, chosen: DPO, rows: list[dict[str, list[int]]]) -> dpo.PairsTrainer:
    with RecordLog(folder / "metrics.jsonl") as log:
        return dpo.make_trainer(training_run(chosen, model, folder, log), rows)


def trainer_of(model: Path, folder: Path, **changes) -> dpo.PairsTrainer:
    trainer = start(model, folder, section(**changes), rows_of(load_tokenizer(ModelSpec.parse(str(model)))))
    perturb(trainer.model)
    return trainer


def log_probability(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Of each token of a response, [R]."""
    scores = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0].log_softmax(-1)
    return scores[len(prompt) - 1 : -1][torch.arange(len(response)), torch.tensor(response)]


def expected_loss(policy, reference, rows, alpha: float) -> torch.Tensor:
    """DPO (arXiv 2305.18290, eq. 7) and the mean of -log p over the chosen tokens of the rows."""
    margins, chosen = [], []
    for row in rows:
        logps = {
            (name, side): log_probability(model, row["prompt_ids"], row[f"{side}_ids"])
            for name, model in (("policy", policy), ("reference", reference))
            for side in ("chosen", "rejected")
        }
        ratio = {side: logps["policy", side].sum() - logps["reference", side].sum() for side in ("chosen", "rejected")}
        margins.append(ratio["chosen"] - ratio["rejected"])
        chosen.append(logps["policy", "chosen"])
    return -logsigmoid(BETA * torch.stack(margins)).mean() - alpha * torch.cat(chosen).mean()


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
def test_loss_and_gradients_are_those_of_the_papers(micro_model: Path, tmp_path: Path, alpha: float):
    trainer = trainer_of(micro_model, tmp_path, rpo_alpha=alpha)
    policy, reference = exact(trainer.model), exact(trainer.ref_model)
    rows = rows_of(trainer.processing_class)
    loss = expected_loss(policy, reference, rows, alpha)
    loss.backward()
    trained_loss, gradients = one_step(trainer)
    assert trained_loss == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad.float() for name, p in policy.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    norm = torch.cat([g.flatten() for g in expected.values()]).norm()
    clipped = min(1.0, 1.0 / norm.item())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name] * clipped, rtol=1e-3, atol=1e-6)


def test_with_accumulation_the_loss_is_the_mean_over_the_forward_passes(micro_model: Path, tmp_path: Path):
    trainer = trainer_of(micro_model, tmp_path, micro_batch_size=2)
    policy, reference = exact(trainer.model), exact(trainer.ref_model)
    batches = [[int(i) for i in batch] for batch in _batches(trainer)]
    rows = rows_of(trainer.processing_class)
    parts = [expected_loss(policy, reference, [rows[i] for i in batch], ALPHA).item() for batch in batches]
    assert one_step(trainer)[0] == pytest.approx(sum(parts) / 2, rel=1e-5)


def _batches(trainer) -> list[list[int]]:
    """Which rows each forward pass holds, by their chosen completions."""
    chosen = [row["chosen_ids"] for row in rows_of(trainer.processing_class)]
    batches = []
    for batch in trainer.get_train_dataloader():
        half = len(batch["input_ids"]) // 2
        masked = zip(batch["input_ids"][:half], batch["completion_mask"][:half], strict=True)
        batches.append([chosen.index(ids[mask.bool()].tolist()) for ids, mask in masked])
    return batches


def test_with_adapters_the_reference_is_the_model_without_them(micro_model: Path, tmp_path: Path):
    tokenizer = load_tokenizer(ModelSpec.parse(str(micro_model)))
    rows = rows_of(tokenizer)
    before = exact(dpo.load_trainable(str(micro_model), tokenizer))
    trainer = start(micro_model, tmp_path, section(lora={"rank": 2}), rows)
    assert trainer.ref_model is None
    loss, _ = one_step(trainer)  # fresh adapters change nothing: policy and reference agree
    assert loss == pytest.approx(expected_loss(before, before, rows, ALPHA).item(), rel=1e-5)


def test_the_tokens_that_were_drawn_are_the_ones_trained_on(micro_model: Path, tmp_path: Path):
    trainer = trainer_of(micro_model, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    ended = batch["input_ids"][batch["completion_mask"].bool()]
    assert (ended == trainer.processing_class.eos_token_id).sum() == 2 * len(PAIRS)
    assert sorted(_batches(trainer)[0]) == list(range(len(PAIRS)))
