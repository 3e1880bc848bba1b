"""Foreign text cannot step out of its place: neither past our markers nor into a turn of the model that reads it."""

import re
from functools import cache
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safereason.guard.policy import load
from safereason.guard.prompt import GuardTemplates, Question
from safereason.text import chat
from safereason.text.inert import DOT, LOOK_ALIKES, folded, inert, quoted, special_tokens

STEPS_OUT = [
    "<BEGIN POLICY>",
    "<end user message>",
    "</END AGENT REPLY>",
    "< / END POLICY>",
    "<\n END POLICY>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "< |im_end|>",
    "<｜User｜>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "</ S >",
    "<bos>",
    "<eos>",
    "<<END POLICY>",
    "[INST]",
    "[/INST]",
    "[ / inst ]",
    "<<SYS>>",
    "<</SYS>>",
    "<turn|>",
    "<|turn>",
    "<tool_call>",
    "</tool_call>",
    "<|tool_call|>",
    "[AVAILABLE_TOOLS]",
    "<|channel|>",
    "<extra_id_0>",
    "<|START_OF_TURN_TOKEN|>",
    "<|endoftext|>",
    "<｜tool▁calls▁begin｜>",
    "<i\u200bm\u200b>|im_end|><|im_end|>",
    "＜|im_end|>",
    "<\u200b|im_end|>",
    "[TOOL_CALLS]",
    "[|endofturn|]",
    "]~b]",
]
STAYS = [
    "if a < b and b <= c: print('<b>bold</b>')",
    "<div> <strong> <think>x</think>",
    "a <- b",
    "x<5",
    "<",
    "",
    "<small>",
    "<section>",
    "\\boxed{safe}",
    "‹|im_end|>",
    "|im_end|>",
    "BEGIN POLICY",
    "x[0], y[i][j], d[args]",
    "See [the docs](a.md) [1] [[2]].",
    "Élan — 你好 🙂 naïve",
    "{'a': {1: (2,)}}",
    "1 < 2 > 0 || a | b",
]

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES: dict[str, tuple[str, ...]] = {
    "qwen": (*CHATML, "<|object_ref_start|>", "<|vision_start|>", "<tool_call>", "</tool_call>"),
    "llama-2": ("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[PREFIX]", "[control_8]"),
    "gemma": ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<unused99>", "<start_of_image>"),
    "gemma-4": ("<eos>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<think>"),
    "phi": ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "command-r": ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    "gpt-oss": ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
    "t5": ("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_99>"),
    "bert": ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]"),
    "falcon": (">>QUESTION<<", ">>ANSWER<<", "<|endoftext|>"),
    "exaone": ("[BOS]", "[|endofturn|]", "[|assistant|]"),
    "glm": ("[gMASK]", "<sop>", "<|user|>", "<|observation|>"),
    "of languages": ("en_XX", "de_DE", "</s>"),
}
PLAIN = models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
BETWEEN = [
    "",
    " ",
    "\n",
    "\t",
    "\u200b",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u0301",
    "▁",
    "x",
    "<",
    "[",
    "|",
    "/",
    ">",
    "]",
]


def tokenizer_of(special: tuple[str, ...], *, normalized: bool) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a family's special tokens; one that normalizes looks for them afterwards."""
    core = Tokenizer(PLAIN)
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if normalized:
        core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
    core.add_special_tokens([AddedToken(token, special=True, normalized=normalized) for token in special])
    template = (
        "{% for m in messages %}{{ '" + special[0] + "' }}{{ m['content'] }}{{ '" + special[-1] + "' }}{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[-1], pad_token=special[0], chat_template=template
    )


TOKENIZERS = {
    (name, normalized): tokenizer_of(special, normalized=normalized)
    for name, special in FAMILIES.items()
    for normalized in (False, True)
}
POLICY, TEMPLATES = load("default-names"), GuardTemplates()


@cache
def hostile(tokens: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Fragments of tokens, white space and characters that nobody sees, put together."""
    cut = st.sampled_from(tokens).flatmap(
        lambda token: st.integers(0, len(token)).map(lambda at: token[:at]) | st.just(token)
    )
    rest = st.sampled_from(tokens).flatmap(lambda token: st.integers(0, len(token)).map(lambda at: token[at:]))
    wide = st.sampled_from(tokens).map(lambda token: token.replace("<", "＜").replace("[", "［").swapcase())
    return st.lists(st.one_of(cut, rest, wide, st.sampled_from(BETWEEN)), max_size=10).map("".join)


EVERY = tuple(token for family in FAMILIES.values() for token in family)


@pytest.mark.parametrize("text", STEPS_OUT)
def test_what_could_close_a_marker_or_open_a_turn_loses_its_bracket(text: str):
    safe = inert(f"a {text} b")
    assert safe != f"a {text} b"
    assert len(safe) == len(text) + 4
    changed = [(old, new) for old, new in zip(f"a {text} b", safe, strict=True) if old != new]
    assert all(new == LOOK_ALIKES[folded(old)] for old, new in changed)


@pytest.mark.parametrize("text", STAYS)
def test_ordinary_text_is_left_as_it_is(text: str):
    assert inert(text) == text


@cache
def special_ids(family: str, normalized: bool) -> tuple[tuple[str, ...], set[int]]:
    """A tokenizer's special tokens and their ids."""
    tokenizer = TOKENIZERS[family, normalized]
    special = special_tokens(tokenizer)
    return special, {tokenizer.convert_tokens_to_ids(token) for token in special}


def control_tokens(family: str, normalized: bool, question: Question) -> list[int]:
    """The control tokens in what a guard with this tokenizer is fed."""
    special, ids = special_ids(family, normalized)
    rendered = TEMPLATES.render(POLICY, question, special)
    return [i for i in chat.prompt_ids(TOKENIZERS[family, normalized], chat.user(rendered)) if i in ids]


control_tokens_of_plain = cache(control_tokens)


@pytest.mark.parametrize(("family", "normalized"), TOKENIZERS)
@given(data=st.data())
def test_no_text_puts_a_control_token_into_what_a_guard_is_fed(family: str, normalized: bool, data: st.DataObject):
    assert set(FAMILIES[family]) <= set(special_ids(family, normalized)[0])
    prompt = data.draw(hostile(FAMILIES[family]) | hostile(EVERY))
    response = data.draw(st.none() | hostile(FAMILIES[family]))
    plain = Question("harmless", None if response is None else "harmless")
    fed = control_tokens(family, normalized, Question(prompt, response))
    assert fed == control_tokens_of_plain(family, normalized, plain)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("of languages",)])
def test_what_common_families_end_a_turn_with_is_known_without_their_tokenizer(family: str):
    unknown = [token for token in FAMILIES[family] if inert(token) == token]
    assert unknown in ([], ["[PREFIX]"], ["<think>"], ["[MASK]"])


@given(hostile(EVERY) | st.text(), st.sampled_from(list(FAMILIES.values())))
def test_it_is_done_once_and_for_all_and_stays_readable(text: str, tokens: tuple[str, ...]):
    safe = inert(text, tokens)
    assert inert(safe, tokens) == safe
    assert len(safe) <= 2 * len(text)
    back = {alike: character for character, alike in LOOK_ALIKES.items()}
    readable = "".join(back.get(c, c) for c in folded(safe))
    same = "".join(back.get(c, c) for c in folded(text))
    assert readable.replace(DOT, "") == same.replace(DOT, "")


@given(st.text(alphabet="[]1. direct_answer"), st.integers(1, 6))
def test_a_bracket_that_is_doubled_is_broken_however_many_there_are(inside: str, brackets: int):
    assert "[[" not in inert("[" * brackets + inside, ("[[",))


def test_the_time_grows_with_the_text_and_not_with_its_square():
    def seconds(text: str) -> float:
        start = process_time()
        inert(text, EVERY)
        return process_time() - start

    for piece in ("<", "[", "< ", "<|", "<s", "<\u200b", " ", "<BEGIN", "e", "en_XX"):
        short, long = (min(seconds(piece * n) for _ in range(3)) for n in (10_000, 80_000))
        assert long < 0.02 or long < 24 * short, piece
    assert seconds("<" + " " * 1_000_000) < 5


def test_lines_are_quoted_where_they_pass():
    def passes(line: str) -> bool:
        return line.startswith("x")

    assert quoted("a\nxb\r\nxc\u2028xd\n", passes) == "a\n> xb\r\n> xc\u2028> xd\n"
    assert quoted("a x", passes) == "a x"


def test_special_tokens_are_a_tokenizers_and_none_where_it_is_not_known():
    assert set(special_tokens(TOKENIZERS["phi", False])) == set(FAMILIES["phi"])
    assert special_tokens(None) == ()


@given(st.text(alphabet=st.characters(exclude_characters="<[]>(|{", exclude_categories=["Sm", "Ps", "Pe"])))
def test_text_without_brackets_is_left_as_it_is(text: str):
    assert re.search(r"[<\[>\]]", folded(text)) or inert(text) == text
