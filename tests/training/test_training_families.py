"""Training on chat templates of several families: what is trained, rewarded and saved."""

import json
from pathlib import Path

import families
import pytest
from families import FAMILIES
from transformers import GenerationConfig

from safereason.data.example import Example
from safereason.engines.base import GenerateOptions
from safereason.engines.open import load_tokenizer, open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine, end_of_turn_ids
from safereason.recipe.schema import Sampling
from safereason.rewards.base import RewardParts
from safereason.rewards.tars import format_reward
from safereason.text.chat import user
from safereason.training import sft
from safereason.training.model import load_trainable, save_whole
from safereason.training.rollouts import Scorer

TRACE = Example("own/1", "Why?", "harmless", "own", reasoning="R", answer="A")


class Format:
    """TARS's format check, as the whole reward."""

    def score(self, rows):
        return [RewardParts(format_reward(row.text), {}) for row in rows]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_of_sft_trains_the_end_of_the_templates_turn(name: str):
    tokens = families.tokenizer(name, "special")
    (row,) = sft.tokenize(tokens, [TRACE], 512).rows
    start = row["completion_mask"].index(1)
    trained = tokens.decode(row["input_ids"][start:], skip_special_tokens=False)
    whole = f"<think>\nR\n</think>\n\nA{FAMILIES[name].end}"
    assert trained == whole.removeprefix(FAMILIES[name].opens)


@pytest.mark.parametrize("tags", ["text", "tokens", "special"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_rollout_of_good_form_is_rewarded_whatever_the_template_opens(name: str, tags: str):
    tokens, family = families.tokenizer(name, tags), FAMILIES[name]
    whole = "<think>\nR\n</think>\n\nA"
    written = [families.ids(tokens, f"{text.removeprefix(family.opens)}{family.end}") for text in (whole, "A")]
    recorded = []
    examples = [Example(number, "Why?", "harmless", "own") for number in "12"]
    scored = Scorer(Format(), tokens, {written[0][-1]}, recorded.append).score(
        examples, [user("Why?")] * 2, written, step=1
    )
    assert scored.rewards == [1.0, 0.0]
    assert [record["text"] for record in recorded] == [whole, f"{family.opens}A"]
    assert {record["finish_reason"] for record in recorded} == {"stop"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trained_model_says_where_it_stops(tmp_path: Path, name: str):
    tokens = families.tokenizer(name)
    folder = families.save(tmp_path / "start", tokens)
    model = load_trainable(str(folder), load_tokenizer(ModelSpec.parse(str(folder))))
    save_whole(model, tokens, tmp_path / "model", "fp32")
    stop_ids = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    listed = stop_ids if isinstance(stop_ids, list) else [stop_ids]
    assert tokens.convert_ids_to_tokens(listed)[0] == FAMILIES[name].end
    assert set(listed) == {tokens.eos_token_id, *families.ids(tokens, FAMILIES[name].end)}
    assert set(listed) == end_of_turn_ids(model, tokens)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


def test_what_a_start_model_stops_at_is_kept(tmp_path: Path):
    tokens = families.tokenizer("gemma")
    folder = families.save(tmp_path / "start", tokens)
    GenerationConfig(eos_token_id=[tokens.eos_token_id, 7]).save_pretrained(folder)
    save_whole(load_trainable(str(folder), tokens), tokens, tmp_path / "model", "fp32")
    end = tokens.convert_tokens_to_ids("<end_of_turn>")
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == [end, 7, tokens.eos_token_id]


def test_evaluation_opens_what_training_saw(tmp_path: Path):
    """The ids that a row trains on are those that an evaluation's prefix and the model's own text come to."""
    tokens = families.tokenizer("r1", "tokens")
    (row,) = sft.tokenize(tokens, [TRACE], 512).rows
    prompt = row["input_ids"][: row["completion_mask"].index(1)]
    engine = open_engine(ModelSpec.parse(str(families.save(tmp_path, tokens))))
    assert isinstance(engine, TransformersEngine)
    inputs = []
    engine.model.register_forward_pre_hook(
        lambda module, args, named: inputs.append(named["input_ids"][0].tolist()), with_kwargs=True
    )
    engine.generate([user("Why?")], Sampling(max_new_tokens=1), GenerateOptions(prefix="<think>\n"))
    assert inputs == [prompt]
