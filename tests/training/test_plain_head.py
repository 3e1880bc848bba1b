"""Training architectures that padding or TRL's head would change: GRPO, SFT and DPO take each row alone."""

from pathlib import Path

import architectures as tiny
import micro
import pytest
import torch
import training_parts
from grpo_parts import ROLLOUTS, one_step, open_training, section
from test_dpo import PAIRS, log_probability, rows_of, start
from test_dpo import section as dpo_section
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from safereason.engines import architectures
from safereason.engines.base import Sampling
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.text.chat import prompt_ids, user
from safereason.training import plain_head
from safereason.training.rollouts import EngineSampler, Share
from safereason.training.sft import TracesTrainer

STATES = ["qwen3_5_text", "lfm2", "falcon_h1", "recurrent_gemma", "rwkv"]
"""Layers with a recurrent or convolutional state."""
OTHERS = ["gpt2", "mpt", "gpt_neo"]
"""Positions counted from the padding, position biases, and windows that its configuration does not call so."""

ENDS = {"eos_token_id": 258, "pad_token_id": 256, "bos_token_id": 257}
DROPS_NOTHING = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Writes a tiny model of a type, once."""
    written: dict[str, Path] = {}

    def saved(name: str) -> Path:
        if name not in written:
            folder = tmp_path_factory.mktemp(name)
            tiny.tiny_model(name, **ENDS, **DROPS_NOTHING.get(name, {})).save_pretrained(folder)
            micro.tokenizer().save_pretrained(folder)
            written[name] = folder
        return written[name]

    return saved


def plain_logps(model, prompt: list[int], completion: list[int], temperature: float) -> Tensor:
    """Of each token of a completion, from one pass over its row alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].float()
    logps = (logits / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
    return logps[torch.arange(len(completion)), torch.tensor(completion)]


@pytest.mark.parametrize("name", [*STATES, *OTHERS, "gemma2"])
def test_grpo_s_log_probabilities_are_those_of_a_row_alone(saved, tmp_path, name):
    training = open_training(saved(name), tmp_path, section(kl_coef=0.1))
    rows = training.batch.rows
    alone = load_model(str(saved(name))).eval()
    expected = [plain_logps(alone, list(p), list(c), 0.7) for p, c in zip(rows.prompts, rows.completions, strict=True)]
    with torch.no_grad():
        logps = training.trained.module(rows=rows).logps
    for log_probs in (logps, training.trained.reference_logps(rows)):
        torch.testing.assert_close(log_probs, torch.cat(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", STATES)
def test_grpo_takes_a_step_on_several_rollouts_of_a_prompt(saved, tmp_path, name):
    training = open_training(saved(name), tmp_path, section(micro_batch_size=4))
    _, gradients = one_step(training)
    assert sum(float(part.square().sum()) for part in gradients.values()) > 0
    tokenizer = load_tokenizer(ModelSpec.parse(str(saved(name))))
    sampler = EngineSampler(training.trained.model, tokenizer, Sampling(max_new_tokens=4), 3)
    assert len(sampler.draw([user("Why?")] * 2, Share(0, 2, 2), 0)) == 2


@pytest.mark.parametrize("name", ["qwen3_5_text", "recurrent_gemma", "gpt2"])
def test_sft_s_loss_is_that_of_rows_alone(saved, tmp_path, name):
    from datasets import Dataset
    from trl import SFTConfig

    folder = saved(name)
    tokenizer = load_tokenizer(ModelSpec.parse(str(folder)))
    texts = [(prompt, text) for prompt, written in ROLLOUTS.items() for text in written if text][:4]
    rows = []
    for prompt, text in texts:
        ids, completion = prompt_ids(tokenizer, user(prompt)), tokenizer(text)["input_ids"]
        rows.append({"input_ids": ids + completion, "completion_mask": [0] * len(ids) + [1] * len(completion)})
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        learning_rate=1e-9,
        logging_steps=1,
        completion_only_loss=True,
    )
    model = load_model(str(folder))
    trainer = TracesTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    loss, _ = training_parts.one_step(trainer)
    alone = load_model(str(folder)).eval()
    expected = torch.cat(
        [
            plain_logps(
                alone,
                row["input_ids"][: row["completion_mask"].index(1)],
                row["input_ids"][row["completion_mask"].index(1) :],
                1.0,
            )
            for row in rows
        ]
    )
    assert loss == pytest.approx(-float(expected.mean()), abs=1e-3)


@pytest.mark.parametrize("name", ["lfm2", "recurrent_gemma"])
def test_dpo_starts_where_policy_and_reference_agree(saved, tmp_path, name):
    folder = saved(name)
    tokenizer = load_tokenizer(ModelSpec.parse(str(folder)))
    rows = rows_of(tokenizer)
    trainer = start(folder, tmp_path, dpo_section(rpo_alpha=1.0), rows)
    loss, _ = training_parts.one_step(trainer)
    alone = load_model(str(folder)).eval()
    with torch.no_grad():
        chosen = torch.cat([log_probability(alone, row["prompt_ids"], row["chosen_ids"]) for row in rows])
    assert len(rows) == len(PAIRS)
    assert loss == pytest.approx(0.6931 - float(chosen.mean()), abs=1e-3)


def outputs(model, install: bool, monkeypatch) -> FusedCausalLMOutput:
    """Of a batch padded on both sides, with one row that has nothing to score."""
    names = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    add_fused_lm_head(model, temperature=0.7, outputs=names)
    if install:
        monkeypatch.setattr(architectures, "TRAINED", frozenset())
        plain_head.install(model, 0.7)
    ids = torch.arange(1, 28).reshape(3, 9)
    mask = torch.tensor([[0, 0, *[1] * 7], [*[1] * 6, 0, 0, 0], [1] * 9])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    labels[2] = -100
    output: FusedCausalLMOutput = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return output


def test_each_figure_is_the_one_that_trl_s_own_head_gives(monkeypatch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**tiny.tiny_config("llama").to_dict())).eval()
    expected, result = outputs(model, False, monkeypatch), outputs(model, True, monkeypatch)
    for name in ("loss", "log_probs", "entropy", "log_sum_sq_probs", "mean_logits"):
        torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(result.is_top1, expected.is_top1)
    assert torch.equal(result.label_mask, expected.label_mask)
    assert float(result.log_probs[2].detach().abs().max()) == 0.0


def test_an_architecture_that_is_listed_keeps_trl_s_head():
    model = LlamaForCausalLM(tiny.tiny_config("llama"))
    add_fused_lm_head(model)
    kept = model.forward
    plain_head.install(model)
    assert model.forward is kept
