"""The scorers of attacks: judges, and chat models that rate."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec
from safereason.runs.directory import RunDirectory
from safereason.stages.base import Options
from safereason.stages.scorer import RatingSpec, open_harm, parse_scorer


@given(model=st.from_regex(r"((vllm|openai)/)?[a-z]{1,8}/[a-zA-Z0-9._-]{1,12}", fullmatch=True))
def test_a_chat_model_that_rates_is_written_as_it_is_read(model: str):
    spec = parse_scorer(f"rating:{model}", Options())
    assert spec == RatingSpec(ModelSpec.parse(model))
    assert str(spec) == spec.label() == spec.identity() == f"rating:{model}"


def test_any_other_name_is_a_judges(tmp_path: Path):
    options = Options(root=tmp_path)
    assert parse_scorer("refusal", options) == JudgeSpec("refusal")
    with pytest.raises(InputError, match="no judge is called 'ratings'"):
        parse_scorer("ratings:org/x", options)
    with pytest.raises(InputError, match=r"no trained guard of tiny under .*; run `safereason guard train"):
        parse_scorer("guard:tiny", options)
    with RunDirectory(tmp_path / "guard" / "rl" / "tiny--m--1", "guard/rl", "tiny", "", {}) as run:
        run.finish({})
    assert str(parse_scorer("guard:tiny", options)) == f"guard:{run.path}"


def test_a_model_that_cannot_be_had_and_a_judge_of_quality_are_refused():
    with pytest.raises(InputError, match=r"\./nowhere: no such model"):
        parse_scorer("rating:./nowhere", Options()).check()
    with pytest.raises(InputError, match="judge compliance: measures quality; one of harm or refusal is needed"):
        open_harm(JudgeSpec("compliance"))
