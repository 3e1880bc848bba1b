"""Conversations to token ids, through two families of chat templates."""

import micro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from safereason.errors import InputError
from safereason.text import chat, reasoning
from safereason.text.chat import user

DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
TEMPLATES = {"plain": micro.TEMPLATE, "default-system": DEFAULT_SYSTEM + micro.TEMPLATE}
SYSTEM = {"plain": "", "default-system": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"}
# The special tokens of the template would be read as such wherever they stand.
TEXTS = st.text(max_size=30).filter(lambda text: "<|" not in text)


def tokenizer(family: str) -> PreTrainedTokenizerBase:
    chat_tokenizer = micro.tokenizer()
    chat_tokenizer.chat_template = TEMPLATES[family]
    return chat_tokenizer


@pytest.fixture(params=list(TEMPLATES), scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@given(prompt=TEXTS, prefix=TEXTS)
def test_the_model_writes_after_the_generation_prompt_and_the_prefix(family: str, prompt: str, prefix: str):
    tokens = tokenizer(family)
    text = tokens.decode(chat.prompt_ids(tokens, user(prompt), prefix))
    assert text == f"{SYSTEM[family]}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{prefix}"


def test_the_turns_of_a_conversation_keep_their_roles(family: str):
    tokens = tokenizer(family)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert tokens.decode(chat.prompt_ids(tokens, turns)) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_markers_of_a_turn_are_single_tokens(family: str):
    tokens = tokenizer(family)
    ids = chat.prompt_ids(tokens, user("Hi"))
    start = tokens.convert_tokens_to_ids("<|im_start|>")
    assert ids[0] == start
    assert ids.count(start) == (2 if family == "plain" else 3)


@given(prompt=TEXTS, thoughts=TEXTS, answer=TEXTS)
def test_a_trace_is_its_prompt_and_a_completion_that_ends_the_turn(
    family: str, prompt: str, thoughts: str, answer: str
):
    tokens = tokenizer(family)
    prompt_ids, completion_ids = chat.trace_ids(tokens, chat.user(prompt), thoughts, answer)
    assert prompt_ids == chat.prompt_ids(tokens, user(prompt))
    assert completion_ids[-1] == tokens.eos_token_id
    assert tokens.eos_token_id not in completion_ids[:-1]
    assert tokens.decode(completion_ids[:-1]) == reasoning.join(thoughts, answer)


PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_takes_parts_is_given_parts():
    tokens = micro.tokenizer()
    tokens.chat_template = PARTS
    turns = [{"role": "system", "content": "Be kind."}, *user("Hi")]
    text = tokens.decode(chat.prompt_ids(tokens, turns))
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat.end_of_turn(tokens) == tokens.convert_tokens_to_ids("<|im_end|>")


def test_a_template_that_shows_no_message_is_refused():
    tokens = micro.tokenizer()
    tokens.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_end|>{% endfor %}"
    with pytest.raises(InputError, match="does not show a user's message; name another model"):
        chat.prompt_ids(tokens, user("Hi"))


def test_a_tokenizer_without_a_template_is_named_with_what_to_do():
    tokens = micro.tokenizer()
    tokens.chat_template = None
    with pytest.raises(InputError, match=r"this model: its tokenizer has no chat template; use an instruction-tuned"):
        chat.prompt_ids(tokens, user("Hi"))
    tokens.name_or_path = "org/base"
    with pytest.raises(InputError, match="org/base: "):
        chat.trace_ids(tokens, chat.user("Hi"), "because", "Hello")
