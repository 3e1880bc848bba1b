"""What the commands under attack work on: models that answer in milliseconds, recipes and rows."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import micro
import micro_guard

TARS = """
model: {home}/model
seed: 5
data:
  mix: tars
  prompts: 16
  harmful_ratio: 0.5
  harmful: [{{source: sample, prompts: 40}}]
  harmless: [{{source: sample, prompts: 40}}]
  ambiguous: [{{source: sample, prompts: 40}}]
  traces: [{{source: sample, prompts: 24}}]
sft: {{epochs: 1, max_steps: 4, learning_rate: 1.0e-3, batch_size: 4, micro_batch_size: 2, precision: fp32,
  save_steps: 1}}
rl:
  epochs: 1
  max_steps: 3
  learning_rate: 1.0e-3
  prompts_per_step: 4
  rollouts_per_prompt: 2
  micro_batch_size: 8
  kl_coef: 0.01
  max_prompt_tokens: 256
  sampling: {{max_new_tokens: 24}}
  reward: {{name: tars, safety: refusal, task: compliance, require_format: false}}
  precision: fp32
  save_steps: 1
attack: {{sampling: {{max_new_tokens: 12}}, judge: refusal}}
eval:
  sampling: {{temperature: 1.0, max_new_tokens: 32}}
  behaviors: sample
  benign: sample
  attacks: [direct, prefill]
  harm_judge: refusal
  refusal_judge: refusal
  limit: 24
"""
SMALL = """
extends: {home}/tiny.yaml
model: {home}/model
sft: {{max_steps: 2}}
rl: null
eval: {{limit: 6, attacks: [direct]}}
"""
DPO = """
extends: {home}/tiny.yaml
model: {home}/model
seed: 5
rl: {{algorithm: dpo, epochs: 1, max_steps: 3, learning_rate: 1.0e-3, rollouts_per_prompt: 4, batch_size: 4,
  micro_batch_size: 2, beta: 0.1, rpo_alpha: 1.0, max_prompt_tokens: 256, sampling: {{max_new_tokens: 24}},
  precision: fp32, save_steps: 1,
  reward: {{name: tars, safety: "reward-model:{home}/classifier", task: "{home}/classifier", require_format: false}}}}
"""
TRACES = """
extends: {home}/tiny.yaml
model: {home}/model
seed: 5
data:
  traces: [{{source: {home}/rows.jsonl, prompts: 24}}]
  hygiene: {{near_duplicate: null}}
  teacher: {{model: {home}/guard, samples: 2, sampling: {{temperature: 1.0, max_new_tokens: 24}},
    prefix: "<think>\\nhm\\n</think>\\n\\n"}}
"""
GUARD = """
model: {home}/guard
seed: 5
data: {{mix: rsafe, rows_per_label: 8, sources: [sample-verdicts], validation_rows_per_label: 2}}
guard:
  policy: {home}/rules.yaml
  reasoning: false
  sft: {{epochs: 1, max_steps: 2, learning_rate: 1.0e-9, batch_size: 2, micro_batch_size: 2, precision: fp32,
    save_steps: 1}}
  train:
    epochs: 1
    max_steps: 3
    learning_rate: 1.0
    prompts_per_step: 4
    rollouts_per_prompt: 2
    micro_batch_size: 8
    kl_coef: 0.0
    max_prompt_tokens: 2048
    sampling: {{max_new_tokens: 20}}
    reward: {{name: rsafe}}
    precision: fp32
    save_steps: 1
  validation: {{every_steps: 1}}
  sampling: {{max_new_tokens: 20}}
  eval: {{sets: [{{source: "{home}/labelled.jsonl", safe: 12, unsafe: 12}}], resamples: 100}}
"""
RECIPES = {"tiny": TARS, "small": SMALL, "tiny-dpo": DPO, "tiny-traces": TRACES, "tiny-guard": GUARD}
WORDS = ("bread", "kettle", "river", "garden", "letter", "window", "market", "engine", "forest", "lesson", "bridge")


def prepare(home: Path) -> None:
    """Writes models, recipes and rows; what is there is left."""
    if (home / "prepared").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    micro.save_model(home / "model")
    micro.save_classifier(home / "classifier")
    micro_guard.save_guard(home / "guard")
    (home / "rules.yaml").write_text(micro_guard.POLICY)
    for name, text in RECIPES.items():
        (home / f"{name}.yaml").write_text(text.format(home=home))
    draw = random.Random(0)

    def prompt(number: int) -> str:
        return f"Tell me of the {' and the '.join(draw.sample(WORDS, 4))}, number {number}?"

    _write(
        home / "rows.jsonl",
        (
            {"id": f"r/{i}", "prompt": prompt(i), "kind": ("harmful", "harmless", "ambiguous")[i % 3], "source": "mine"}
            for i in range(90)
        ),
    )
    _write(home / "asked.jsonl", ({"id": f"q{i}", "prompt": prompt(i)} for i in range(66)))
    _write(
        home / "labelled.jsonl",
        (
            {
                "id": f"l/{i}",
                "prompt": prompt(i),
                "kind": "harmless",
                "source": "mine",
                "label": ("safe", "unsafe")[i % 2],
                "response": f"So it is: {i}.",
            }
            for i in range(40)
        ),
    )
    _write(
        home / "behaviors.jsonl",
        (
            {
                "id": f"b/{i}",
                "prompt": prompt(i),
                "kind": "harmful",
                "source": "mine",
                "category": "topic",
                "target": "Sure, here is",
            }
            for i in range(12)
        ),
    )
    _write(home / "cases.jsonl", ({"behavior": f"mine/{i}", "attack": "pair", "prompt": prompt(i)} for i in range(40)))
    _parquet(home)
    (home / "prepared").touch()


def _write(path: Path, rows: Iterator[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(home: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line) for line in (home / "asked.jsonl").read_text().splitlines()] * 4
    (home / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), home / "parquet" / "a.parquet", row_group_size=64)


def new_folder(folder: Path, name: str) -> Path:
    """A new folder."""
    path = folder / name
    os.makedirs(path)
    return path
