"""Transcripts inside the page: nothing in them can end the element they stand in, and nothing is lost."""

import dataclasses
import json

import report_runs
from hypothesis import given
from hypothesis import strategies as st

from safereason.report.embedded import as_json
from safereason.report.read import measured_models, read_runs
from safereason.report.transcripts import Transcript, collect
from safereason.text.visible import visible_on_page

TEXT = st.text(st.characters()) | st.sampled_from(
    ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "\ud800", "\\"]
)


def transcript(**more):
    plain = dict.fromkeys((field.name for field in dataclasses.fields(Transcript)), "")
    known = {"tags": (), "closed": True, "well_formed": True, "finish_reason": "stop", "tokens": 0, "score": 0.0}
    return Transcript(**{**plain, **known, "label": None, "reason": None, "parts": {}, "expected": None, **more})


@given(TEXT, TEXT, TEXT)
def test_any_text_comes_back_and_none_is_markup(prompt, answer, tag):
    written = as_json([transcript(prompt=prompt, answer=answer, tags=(tag,)), transcript(prompt=prompt)])
    assert not set("<>&\u2028\u2029") & set(written)
    assert written.encode()
    payload = json.loads(written)
    assert payload["prompts"] == [visible_on_page(prompt)]
    assert payload["transcripts"][0].get("answer", "") == visible_on_page(answer)
    assert payload["transcripts"][0]["tags"] == [visible_on_page(tag)]


def test_a_score_of_zero_is_there_and_no_score_is_not():
    zero, none = json.loads(as_json([transcript(), transcript(score=None, tokens=None)]))["transcripts"]
    assert (zero["score"], zero["tokens"], zero["verdict"]) == (0.0, 0, "scored")
    assert not {"score", "tokens"} & none.keys()
    assert none["verdict"] == "unscored"


def collected(paths, room):
    runs = read_runs(paths)
    return collect(runs, measured_models(runs), room, 0)


def test_what_there_is_no_room_for_is_left_out_by_prompt_and_counted(tmp_path):
    paths = report_runs.everything(tmp_path)
    all_of_them = collected(paths, 10**6)
    assert (len(all_of_them.transcripts), all_of_them.left_out) == (240, 0)
    some = collected(paths, 20_000)
    assert len(some.transcripts) + some.left_out == 240
    assert 20 < len(some.transcripts) < 120
    assert some == collected(paths[::-1], 20_000)
    keys = [{t.key for t in some.transcripts if t.model.startswith(role)} for role in ("Base", "SFT", "RL")]
    assert len(set.union(*keys)) - len(set.intersection(*keys)) <= 1
