"""Transcripts as JSON inside the page, where the browser's own script reads them."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safereason.report.tables import evaluation_title, judge_title
from safereason.report.transcripts import Transcript
from safereason.report.visible import visible

FOLDER = Path(__file__).parent / "templates"
SCRIPTS = ("elements", "selection", "words", "list", "reader", "filters", "theme", "start")
"""Files of the page's script, in the order in which they stand in it."""
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def script() -> Markup:
    """The page's script; ours, and so not escaped."""
    return Markup("\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS))


def digest(text: str) -> str:
    """The source of a Content-Security-Policy that lets this very script run and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(transcripts: Sequence[Transcript]) -> Markup:
    """The transcripts as JSON that no text in it can end: each prompt once, what is empty left out.

    `<`, `>` and `&` are written as escapes, and all text is made visible first.
    """
    prompts: dict[str, int] = {}
    rows = [_row(t, prompts.setdefault(t.prompt, len(prompts))) for t in transcripts]
    document = {"prompts": [visible(prompt) for prompt in prompts], "transcripts": rows}
    return Markup(json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED))


def _row(t: Transcript, prompt: int) -> dict[str, Any]:
    row = {
        "model": t.model,
        "evaluation": evaluation_title(t.evaluation),
        "key": t.key,
        "test": t.test,
        "kind": t.kind,
        "prompt": prompt,
        "tags": [visible(tag) for tag in t.tags],
        "reasoning": t.reasoning,
        "answer": t.answer,
        "unclosed": not t.closed,
        "malformed": not t.well_formed and t.expected is None,
        "finish": "" if t.finish_reason == "stop" else t.finish_reason,
        "tokens": t.tokens,
        "judge": judge_title(t.judge),
        "verdict": "unscored" if t.is_unscored else t.label or "scored",
        "score": t.score,
        "reason": t.reason,
        "parts": {visible(name): value for name, value in t.parts.items()},
        "expected": t.expected,
        "hidden": t.is_folded,
    }
    return {key: visible(value) for key, value in row.items() if value or type(value) in (int, float)}
