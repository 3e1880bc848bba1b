"""What the chat templates of several families do around a reply."""

import families
import pytest
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.text import chat, reasoning
from safereason.text.chat import user

ALL = pytest.mark.parametrize("name", FAMILIES)
WORDS = st.text("abc XYZ.\n", min_size=1, max_size=20).map(str.strip).filter(bool)


def text_of(tokens, ids) -> str:
    return tokens.decode(ids, skip_special_tokens=False)


@ALL
@given(thoughts=WORDS, answer=WORDS)
def test_a_training_text_opens_the_reasoning_once_and_ends_as_the_template_does(name: str, thoughts: str, answer: str):
    tokens = families.tokenizer(name)
    prompt, completion = chat.trace_ids(tokens, user("Why?"), thoughts, answer)
    whole = text_of(tokens, [*prompt, *completion])
    assert whole.endswith(f"<think>\n{thoughts}\n</think>\n\n{answer}{FAMILIES[name].end}")
    assert whole.count("<think>") == whole.count("</think>") == 1
    assert ("<think>" in text_of(tokens, prompt)) == bool(FAMILIES[name].opens), "what is given is not trained"


@ALL
def test_a_training_text_is_what_an_evaluation_goes_on_from(name: str):
    tokens = families.tokenizer(name)
    prompt, completion = chat.trace_ids(tokens, user("Why?"), "So.", "Thus.")
    prompt_text = chat.rendered(tokens, user("Why?"), reasoning.PREFIX)
    assert text_of(tokens, [*prompt, *completion]).startswith(prompt_text)


@ALL
def test_an_answer_without_reasoning_is_never_trained_as_reasoning(name: str):
    tokens = families.tokenizer(name)
    prompt, completion = chat.trace_ids(tokens, user("Why?"), None, "Thus.")
    family = FAMILIES[name]
    assert text_of(tokens, prompt) == chat.rendered(tokens, user("Why?"))
    written = text_of(tokens, completion).removesuffix(family.end)
    assert reasoning.split(family.opens + written).answer == "Thus."
    assert (written == "Thus.") == (not family.opens)


@ALL
def test_what_a_prompt_opens_is_known(name: str):
    tokens, family = families.tokenizer(name), FAMILIES[name]
    assert chat.render(tokens, user("Why?")).opening == family.opens
    assert chat.opening(tokens) == family.opens
    assert chat.opening(tokens, "Sure") == f"{family.opens}Sure"
    assert chat.opening(tokens, reasoning.PREFIX) == reasoning.PREFIX
    closed = f"{reasoning.PREFIX}Hm.{reasoning.DELIMITER}"
    text = chat.rendered(tokens, user("Why?"), closed)
    assert text.endswith(closed)
    assert text.count("<think>") == 1


@ALL
@given(prefix=st.sampled_from(["", "Sure", "<think>\n", "<think>\nHm.\n</think>\n\nSure", "\n"]))
def test_what_is_gone_on_from_renders_the_same_prompt_as_the_prefix(name: str, prefix: str):
    tokens = families.tokenizer(name)
    going_on = chat.opening(tokens, prefix)
    assert chat.rendered(tokens, user("Why?"), going_on) == chat.rendered(tokens, user("Why?"), prefix)
    assert chat.opening(tokens, going_on) == going_on


def test_a_user_who_writes_a_tag_opens_nothing():
    tokens = families.tokenizer("chatml")
    assert chat.render(tokens, user("What is <think>")).opening == ""


@ALL
@pytest.mark.parametrize("tags", ["text", "special"])
def test_a_turn_ends_with_the_templates_token(name: str, tags: str):
    tokens = families.tokenizer(name, tags)
    assert tokens.convert_ids_to_tokens(chat.end_of_turn(tokens)) == FAMILIES[name].end


def test_the_end_of_a_turn_follows_the_template_that_is_set():
    tokens = families.tokenizer("gemma")
    assert tokens.convert_ids_to_tokens(chat.end_of_turn(tokens)) == "<end_of_turn>"
    tokens.chat_template = "{{ messages[0]['content'] }}"  # shows no reply
    assert tokens.convert_ids_to_tokens(chat.end_of_turn(tokens)) == "<eos>"


@ALL
def test_a_system_text_is_read_before_the_users(name: str, capsys: pytest.CaptureFixture[str]):
    tokens, family = families.tokenizer(name), FAMILIES[name]
    tokens.name_or_path = f"a {name} of its own"
    conversation = [{"role": "system", "content": "Be brief."}, *user("Why?")]
    text = chat.rendered(tokens, conversation)
    assert 0 <= text.index("Be brief.") < text.index("Why?")
    if not family.system:
        assert text == chat.rendered(tokens, user("Be brief.\n\nWhy?"))
    chat.rendered(tokens, conversation)
    stderr = capsys.readouterr().err
    assert stderr == (
        ""
        if family.system
        else f"a {name} of its own: its chat template has no system role; the system text goes in front of the user's\n"
    )


def test_system_texts_go_to_the_user_who_speaks_next():
    tokens = families.tokenizer("gemma")
    system = [{"role": "system", "content": text} for text in ("One.", "Two.", "Three.")]
    reply = {"role": "assistant", "content": "Yes?"}
    result = chat.rendered(tokens, [*system[:2], *user("Why?"), reply, system[2], *user("And?")])
    assert result == chat.rendered(tokens, [*user("One.\n\nTwo.\n\nWhy?"), reply, *user("Three.\n\nAnd?")])
    assert chat.rendered(tokens, system[:1]) == chat.rendered(tokens, user("One."))


@ALL
def test_turns_that_a_template_refuses_are_one_clear_line(name: str):
    tokens = families.tokenizer(name)
    twice = [*user("Why?"), *user("And?")]
    if not FAMILIES[name].alternates:
        assert "And?" in chat.rendered(tokens, twice)
        return
    with pytest.raises(InputError, match=r"refuses a conversation of turns user, user \(roles must alternate\)"):
        chat.rendered(tokens, twice)


def test_a_transcript_ends_with_the_reply():
    tokens = families.tokenizer("gemma")
    text = chat.transcript(tokens, [*user("Why?"), {"role": "assistant", "content": "So."}])
    assert text.endswith("<start_of_turn>model\nSo.<end_of_turn>\n")


@ALL
@pytest.mark.parametrize("tags", ["text", "tokens", "special"])
def test_decoding_keeps_the_tags_and_leaves_other_special_tokens_out(name: str, tags: str):
    tokens = families.tokenizer(name, tags)
    written = "<think>\nHm, ünd.\n</think>\n\nNo."
    end = FAMILIES[name].end
    assert chat.decoded(tokens, families.ids(tokens, f"{written}{end}{FAMILIES[name].special[0]}")) == written
    assert chat.decoded(tokens, families.ids(tokens, f"So.{end}")) == "So."
    assert chat.decoded(tokens, []) == ""
    assert chat.special_tags(tokens) == (tags == "special")
