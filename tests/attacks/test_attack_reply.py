"""What an attacker garbles is read back, and no text is too much."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.attacks.reply import AttackerReply, read_reply

SAMPLES = [
    "{x}",
    '{"prompt": "inner"}',
    "it's",
    'say "yes", "no"',
    "a\nb\r\n\tc",
    "C:\\new",
    "[1], {2}:",
    "```",
    "\\",
    "“so”",
]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.sampled_from(SAMPLES)
FULL = TEXT.map(str.strip).filter(bool)
AROUND = st.sampled_from(["", "Sure.\n", "My {idea} is this: ", "{not: json}\n", "Round [2]:\n\n"])
CLOSING = {'"': '"', "'": "'", "“": "”"}
HOSTILE = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            "“",
            "”",
            ":",
            ",",
            "\\",
            "\\u",
            "\\ud800",
            "00e9",
            "\n",
            " ",
            "prompt",
            '"prompt"',
            "'prompt':",
            "improvement",
            "```json",
            "```",
            "x",
            "null",
            "1",
        ]
    ),
    max_size=40,
).map("".join)


def quoted(text: str, quote: str, raw_lines: bool) -> str:
    """A text between quotes; of what JSON wants escaped, only what would end it need be."""
    escapes = {"\\": "\\\\", quote: f"\\{quote}", CLOSING[quote]: f"\\{CLOSING[quote]}"}
    if not raw_lines:
        escapes |= {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return quote + "".join(escapes.get(c, c) for c in text) + CLOSING[quote]


@st.composite
def garbled(draw: st.DrawFn) -> tuple[AttackerReply, str]:
    """A reply, and how a careless model writes it."""
    lines, improvement = draw(st.lists(FULL, min_size=1, max_size=3)), draw(TEXT)
    quote, raw = draw(st.sampled_from(list(CLOSING))), draw(st.booleans())
    as_list = len(lines) > 1 or draw(st.booleans())
    comma = draw(st.sampled_from(["", ",", " ,\n"]))
    values = [quoted(line, quote, raw) for line in lines]
    fields = {
        "improvement": quoted(improvement, quote, raw),
        "prompt": f"[{', '.join(values)}{comma}]" if as_list else values[0],
    }
    if draw(st.booleans()):
        fields = {"thought": quoted(draw(TEXT), quote, raw), **fields}
    between = draw(st.sampled_from([", ", ",\n  ", ","]))
    body = between.join(f"{quoted(k, quote, raw)}: {v}" for k, v in fields.items())
    expected = AttackerReply("\n".join(lines).strip(), improvement.strip())
    before = draw(AROUND) + draw(st.sampled_from(["{", '{"reply": {', "[{", "{\n  "]))
    cut = draw(st.sampled_from(["no", "brace", "quote"]))
    if cut == "no":
        fence = draw(st.booleans())
        return expected, ("```json\n" if fence else "") + before + body + comma + "}" + (
            "\n```" if fence else draw(AROUND)
        )
    if cut == "brace" or as_list:
        return expected, before + body
    return expected, before + body[:-1]


@given(garbled())
def test_what_is_garbled_in_usual_ways_is_read_back(case: tuple[AttackerReply, str]):
    expected, text = case
    assert read_reply(text) == expected


@given(FULL, TEXT, st.booleans(), st.sampled_from([None, 2]))
def test_json_is_read_as_json_is(prompt: str, improvement: str, is_ascii: bool, indent: int | None):
    text = json.dumps({"improvement": improvement, "prompt": prompt}, ensure_ascii=is_ascii, indent=indent)
    assert read_reply(text) == AttackerReply(prompt, improvement.strip())


@given(st.text() | HOSTILE)
def test_no_text_is_too_much_and_what_is_found_can_be_written(text: str):
    reply = read_reply(text)
    assert reply is None or (reply.prompt.strip() == reply.prompt != "" and reply.prompt.encode())


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ('{"improvement": "Said "go on", so", "prompt": "Say "hi" to "me", or "go"."}', 'Say "hi" to "me", or "go".'),
        ("{'prompt': 'don't stop, it's fine'}", "don't stop, it's fine"),
        ('{"improvement": "a"\n "prompt": "no comma"}', "no comma"),
        ('"improvement": "a", "prompt": "no brace"}', "no brace"),
        ('{prompt: "bare key"}', "bare key"),
        ('{"Prompt": "capital"}', "capital"),
        ('{"prompt": "half an escape \\u00', "half an escape"),
        ('{"prompt": "pair \\ud83d\\ude00, half \\ud83d"}', "pair \U0001f600, half \ufffd"),
        ('{"prompt": "", "n": 1} {"prompt": "second"}', "second"),
        ('{"n": 1, "flag": true, "prompt": "after others"}', "after others"),
        ('{"improvement": ["x", {"y": ["z"]}], "prompt": "after a tree"}', "after a tree"),
        ('{"prompt": "not a regex: \\d+"}', "not a regex: \\d+"),
    ],
)
def test_further_ways(text: str, prompt: str):
    reply = read_reply(text)
    assert reply is not None
    assert reply.prompt == prompt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot help with that.",
        "{}",
        '{"improvement": "x"}',
        '{"prompt": ""}',
        '{"prompt": null}',
        '{"prompt": 3}',
        '{"prompt": []}',
        '{"prompt": "  "}',
        '{"improvement": "cut off before the prom',
        "[" * 5000,
        '{"a":' * 3000,
    ],
)
def test_what_holds_no_prompt_is_none(text: str):
    assert read_reply(text) is None
