"""Transcripts as JSON inside the page, where the browser's own script reads them."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from safereason.report.tables import evaluation_title, judge_title
from safereason.report.transcripts import Transcript
from safereason.text.visible import visible_on_page

FOLDER = Path(__file__).parent / "templates"
SCRIPTS = ("elements", "selection", "words", "list", "reader", "filters", "theme", "start")
"""Files of the page's script, in the order in which the page holds them."""
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
"""Characters that could end the script element that holds the JSON, or a line of a script, as JSON escapes."""


def script() -> Markup:
    """The page's script. It is our own, and so it is not escaped."""
    sources = [(FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return Markup("\n".join(sources))


def script_digest(text: str) -> str:
    """The source of a Content-Security-Policy that lets this very script run and no other."""
    # The browser hashes the script as it is on the page, so the template must not change a character of it.
    sha256 = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(sha256).decode()}"


def as_json(transcripts: Sequence[Transcript]) -> Markup:
    """The transcripts as JSON that can be put inside a script element, without empty values.

    All text is made visible first. `<`, `>` and `&` are escaped.
    """
    # Several models answer the same prompt. Each prompt is written once, and rows refer to it by its number.
    prompt_numbers: dict[str, int] = {}
    rows = []
    for transcript in transcripts:
        number = prompt_numbers.setdefault(transcript.prompt, len(prompt_numbers))
        rows.append(_transcript_row(transcript, number))
    document = {"prompts": [visible_on_page(prompt) for prompt in prompt_numbers], "transcripts": rows}
    # Without spaces: a page may hold tens of thousands of rows.
    return Markup(json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED))


def _transcript_row(transcript: Transcript, prompt_number: int) -> dict[str, object]:
    """One transcript under the keys that `reader.js` and `filters.js` read."""
    verdict = transcript.label or "scored"
    if transcript.is_unscored:
        verdict = "unscored"
    finish = transcript.finish_reason
    if finish == "stop":
        # The ordinary end. The page names only the others.
        finish = ""
    parts = {}
    for name, value in transcript.parts.items():
        parts[visible_on_page(name)] = value
    row: dict[str, object] = {
        "model": transcript.model,
        "evaluation": evaluation_title(transcript.evaluation),
        "key": transcript.key,
        "test": transcript.test,
        "kind": transcript.kind,
        "prompt": prompt_number,
        "tags": [visible_on_page(tag) for tag in transcript.tags],
        "reasoning": transcript.reasoning,
        "answer": transcript.answer,
        "unclosed": not transcript.closed,
        # A guard's text has a format of its own, which this check does not know.
        "malformed": not transcript.well_formed and transcript.expected is None,
        "finish": finish,
        "tokens": transcript.tokens,
        "judge": judge_title(transcript.judge),
        "verdict": verdict,
        "score": transcript.score,
        "reason": transcript.reason,
        "parts": parts,
        "expected": transcript.expected,
        "hidden": transcript.is_folded,
    }
    return _without_empty_values(row)


def _without_empty_values(row: dict[str, object]) -> dict[str, object]:
    """The row without empty texts, false flags and None, its texts made visible."""
    kept = {}
    for key, value in row.items():
        # A count or a score of 0 is a value. `type` keeps out `False`, which is an `int`.
        if value or type(value) in (int, float):
            kept[key] = value
        # The script shows texts as they are, without Jinja's `finalize`.
        if value and isinstance(value, str):
            kept[key] = visible_on_page(value)
    return kept
