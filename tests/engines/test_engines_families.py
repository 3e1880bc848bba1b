"""Engines on models of several families: what they go on from, where they stop, and what survives decoding."""

from pathlib import Path

import fake_vllm
import families
import pytest
from families import FAMILIES

from safereason.engines.base import GenerateOptions, generation_prefix
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges.reward_model import RewardModel
from safereason.recipe.schema import Sampling
from safereason.text import reasoning
from safereason.text.chat import user

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
THOUGHT = {"r1": "<think>\n", "gemma": "model\n", "chatml": "assistant\n"}


@pytest.fixture(params=["hf", "vllm"])
def engine_of(request: pytest.FixtureRequest):
    """Opens a folder with transformers, or with the stand-in for vLLM."""
    if request.param == "hf":
        yield lambda folder: open_engine(ModelSpec.parse(str(folder)))
        return
    if request.getfixturevalue("real_vllm"):
        pytest.skip("the stand-in is for where vLLM is not installed")
    with fake_vllm.installed():
        yield lambda folder: open_engine(ModelSpec.parse(f"vllm/{folder}"))


@pytest.fixture(scope="session")
def real_vllm() -> bool:
    from safereason.engines import vllm

    return vllm.is_installed()


def writes(folder: Path, name: str, tags: str, *written: str) -> Path:
    """A model that writes these tokens after its generation prompt, and then the end of its turn."""
    tokens = families.tokenizer(name, tags)
    chain = [families.ids(tokens, text)[0] for text in ("\n", *written, FAMILIES[name].end)]
    return families.save(folder, tokens, chain)


@pytest.mark.parametrize("tags", ["tokens", "special"])
@pytest.mark.parametrize("name", ["gemma", "chatml"])
def test_reasoning_is_read_as_such_whether_its_tags_are_special_or_not(tmp_path, engine_of, name: str, tags: str):
    engine = engine_of(writes(tmp_path, name, tags, "<think>", "R", "</think>", "A"))
    ((completion,),) = engine.generate([user("Why?")], GREEDY)
    assert (completion.text, completion.prefix, completion.finish_reason) == ("<think>R</think>A", "", "stop")
    assert completion.parts == reasoning.Reasoned("R", "A", closed=True)
    assert len(completion.token_ids) == 5, "the end of the turn is one of them, and nothing comes after it"


@pytest.mark.parametrize("tags", ["tokens", "special"])
@pytest.mark.parametrize("prefix", ["", "<think>\n"])
def test_reasoning_that_the_template_opened_is_opened_once(tmp_path, engine_of, tags: str, prefix: str):
    engine = engine_of(writes(tmp_path, "r1", tags, "R", "</think>", "A"))
    ((completion,),) = engine.generate([user("Why?")], GREEDY, GenerateOptions(prefix=prefix))
    assert (completion.text, completion.prefix) == ("R</think>A", "<think>\n")
    assert reasoning.is_well_formed(completion.full_text)
    assert completion.parts == reasoning.Reasoned("R", "A", closed=True)
    assert generation_prefix(engine, prefix) == "<think>\n"
    assert generation_prefix(engine, "Sure") == "<think>\nSure"


def test_a_prompt_that_has_no_room_says_what_it_goes_on_from(tmp_path, engine_of):
    engine = engine_of(writes(tmp_path, "r1", "text", "A"))
    ((completion,),) = engine.generate([user("x" * 3000)], GREEDY)
    assert (completion.finish_reason, completion.prefix) == ("error", "<think>\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_stops_where_its_template_ends_a_turn(tmp_path, engine_of, name: str):
    family = FAMILIES[name]
    tokens = families.tokenizer(name)
    prompt = families.ids(tokens, tokens.apply_chat_template(user("?"), tokenize=False, add_generation_prompt=True))
    chain = [prompt[-1], *families.ids(tokens, f"A{family.end}BC")]
    engine = engine_of(families.save(tmp_path, tokens, chain))
    ((completion,),) = engine.generate([user("?")], GREEDY)
    assert (completion.text, completion.finish_reason) == ("A", "stop")


@pytest.fixture
def unembedded(tmp_path: Path) -> Path:
    """The model of a tokenizer that two tokens were added to afterwards."""
    folder = families.save(tmp_path / "model", families.tokenizer("gemma"))
    tokens = families.tokenizer("gemma", "special")
    tokens.save_pretrained(folder)
    return folder


LINE = r"ids up to 261 and the model 260 embeddings, so that '<think>' has none"


def test_ids_without_embeddings_are_refused_when_a_model_is_opened(unembedded: Path, engine_of):
    with pytest.raises(InputError, match=LINE):
        engine_of(unembedded)


def test_ids_without_embeddings_are_refused_by_training(unembedded: Path):
    from safereason.engines.open import load_tokenizer
    from safereason.training.model import load_trainable

    with pytest.raises(InputError, match=LINE):
        load_trainable(str(unembedded), load_tokenizer(ModelSpec.parse(str(unembedded))))


def test_ids_without_embeddings_are_refused_by_a_reward_model(micro_classifier: Path, tmp_path: Path):
    import shutil

    from safereason.engines.open import load_tokenizer

    shutil.copytree(micro_classifier, tmp_path / "judge")
    tokens = load_tokenizer(ModelSpec.parse(str(micro_classifier)))
    tokens.add_tokens(["<new>"])
    tokens.save_pretrained(tmp_path / "judge")
    with pytest.raises(InputError, match=r"ids up to 259 and the model 259 embeddings, so that '<new>' has none"):
        RewardModel(ModelSpec(str(tmp_path / "judge")))


def test_a_pad_token_without_an_embedding_is_replaced(tmp_path: Path, engine_of):
    folder = families.save(tmp_path / "model", families.tokenizer("gemma"))
    tokens = families.tokenizer("gemma")
    tokens.add_special_tokens({"pad_token": "[PAD]"})
    tokens.save_pretrained(folder)
    engine = engine_of(folder)
    assert engine.tokenizer.pad_token == engine.tokenizer.eos_token
    completions = engine.generate([user("?"), user("a longer one?")], GREEDY)
    assert all(completion.finish_reason != "error" for (completion,) in completions)


def test_padded_embeddings_are_no_fault(tmp_path: Path, engine_of):
    tokens = families.tokenizer("gemma", "special")
    families.save(tmp_path, tokens)  # two embeddings more than the next tokenizer has ids
    families.tokenizer("gemma").save_pretrained(tmp_path)
    assert engine_of(tmp_path).generate([user("?")], Sampling(max_new_tokens=2))[0][0].token_ids
