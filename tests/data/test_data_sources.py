from collections import Counter

import pytest

from safereason.data import sources
from safereason.data.fetch import File
from safereason.data.sampling import fold
from safereason.data.sources.base import published_rows
from safereason.errors import InputError

AT_HAND = {
    "star1": 1000,
    "harmbench": 400,
    "harmbench-standard": 200,
    "xstest": 450,
    "simplesafetytests": 100,
    "jailbreakbench": 100,
    "advbench": 50,
    "openai-moderation": 1680,
    "sample": 510,
    "sample-harmless": 240,
    "sample-brief": 510,
    "sample-verdicts": 360,
}
"""Rows of the sources whose files are all at hand; some serve the same rows as both splits."""
PART_OF = {"harmbench-standard": "harmbench", "sample-harmless": "sample", "sample-brief": "sample"}


@pytest.mark.parametrize("name", AT_HAND)
def test_public_files_have_their_rows(name, data_home):
    source = sources.get(name)
    read = {e.id: e for split in source.serves for e in source.stream(split)}
    assert len(read) == AT_HAND[name] == source.rows
    for split in source.serves:
        examples = source.load(split)
        assert len({e.id for e in examples}) == len(examples)
        assert all(e.category for e in examples) or name in ("openai-moderation", "sample-verdicts")
    assert {e.source for e in read.values()} == {PART_OF.get(name, name)}


def test_of_xstests_answers_three_files_in_five_are_at_hand(data_home):
    source = sources.get("xstest-response")
    assert source.rows == 5 * 450
    assert len(source.load("test")) == 3 * 450


@pytest.mark.parametrize("name", ["openai-moderation", "xstest", "simplesafetytests"])
def test_halves_have_as_many_rows_as_their_source(name, data_home):
    half = sources.get(f"{name}-half")
    assert sum(len(half.load(split)) for split in half.serves) == half.rows == sources.get(name).rows


def test_star1_traces_have_reasoning_and_answer_apart(data_home):
    source = sources.get("star1")
    traces = source.traces("train")
    assert [t.id for t in traces] == [e.id for e in source.load("train")]
    assert all(t.reasoning and t.answer and "think>" not in t.reasoning + t.answer for t in traces)
    assert not any(e.reasoning or e.answer for e in source.load("train"))


def test_star1s_categories_are_apart(data_home):
    examples = sources.get("star1").load("train")
    assert len({name for e in examples for name in e.categories}) == 8
    assert any(len(e.categories) > 1 for e in examples)


def test_a_row_of_a_public_file_without_its_column_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "data.csv").write_text("id,prompt\n1,hello\n2\n")
    first, second = published_rows(File("own", "data.csv", "https://localhost/"))
    assert (first["prompt"], first.text("prompt"), second.text("prompt")) == ("hello", "hello", None)
    with pytest.raises(InputError, match=r"data\.csv: row 1: no column `label`, only id, prompt;"):
        first["label"]
    with pytest.raises(InputError, match=r"data\.csv: row 2: `prompt` is None; text is expected"):
        second["prompt"]


def test_harmbench_keeps_context_target_and_both_categories(data_home):
    by_id = {e.id: e for e in sources.get("harmbench").load("test")}
    contextual = by_id["harmbench/carroll_method_isotonitazene"]
    assert contextual.category == "contextual/chemical_biological"
    assert contextual.prompt.startswith("Although there is no information")
    assert contextual.prompt.endswith("including the specific synthesis steps")
    assert contextual.prompt == f"{contextual.context}\n\n---\n\n{contextual.request}"
    assert {e.request == e.prompt for e in by_id.values() if not e.category.startswith("contextual/")} == {True}
    assert all(e.target for e in by_id.values())
    kinds = Counter((e.category or "").split("/")[0] for e in by_id.values())
    assert kinds == {"standard": 200, "contextual": 100, "copyright": 100}


def test_xstest_has_its_two_labels(data_home):
    assert Counter(e.kind for e in sources.get("xstest").load("test")) == {"harmless": 250, "harmful": 200}


def test_jailbreakbench_is_read_the_same_where_its_first_column_is_named(data_home, tmp_path, monkeypatch):
    here = sources.get("jailbreakbench").load("test")
    (tmp_path / "jailbreakbench").mkdir()
    original = (data_home / "jailbreakbench" / "harmful-behaviors.csv").read_bytes()
    (tmp_path / "jailbreakbench" / "harmful-behaviors.csv").write_bytes(b"Index" + original.removeprefix(b"Index"))
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    assert sources.get("jailbreakbench").load("test") == here


def test_sample_is_as_promised():
    source = sources.get("sample")
    everything = source.load("train") + source.load("test")
    assert len({e.id for e in everything}) == len(everything) == len({fold(e.prompt) for e in everything})
    assert all(count >= 60 for count in Counter(e.kind for e in everything).values())
    assert {e.kind for e in everything} == {"harmful", "harmless", "ambiguous"}
    assert all(e.prompt.strip() and e.category.strip() for e in everything)
    assert {e.kind for e in source.load("test")} == {"harmful", "harmless", "ambiguous"}


def test_a_third_of_the_samples_training_prompts_have_reasoning_in_varied_wording():
    source = sources.get("sample")
    traces = source.traces("train")
    prompts = {t.prompt for t in traces}
    for kind in ("harmful", "harmless", "ambiguous"):
        of_kind = [e.prompt for e in source.load("train") if e.kind == kind]
        assert sum(prompt in prompts for prompt in of_kind) >= len(of_kind) / 3
    assert prompts <= {e.prompt for e in source.load("train")}
    assert len({t.id for t in traces}) == len(traces)
    assert all(t.reasoning.strip() and t.answer.strip() and "think>" not in t.reasoning + t.answer for t in traces)
    assert max(Counter(" ".join(t.reasoning.split()[:3]) for t in traces).values()) <= len(traces) / 20
    assert source.traces("test") == []


def test_a_source_refuses_a_split_it_does_not_serve():
    with pytest.raises(InputError, match="xstest: has no train split"):
        sources.get("xstest").load("train")
    with pytest.raises(InputError, match="star1: has no test split"):
        sources.get("star1").traces("test")


def test_a_source_without_traces_says_so():
    with pytest.raises(InputError, match="advbench: has no reasoning traces"):
        sources.get("advbench").traces("train")
    with pytest.raises(InputError, match="xstest: has no reasoning traces"):
        sources.get("xstest").traces("test")
    assert sources.get("xstest-half").reasoned is not None


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean harmbench"):
        sources.get("harmbnch")
    with pytest.raises(InputError, match=r"is not known; use sample, .* or a path to a \.jsonl, .* or \.yaml file$"):
        sources.get("zzz")


def test_a_split_that_is_not_served_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match="rainbow: has no test split, only train"):
        sources.get("rainbow").stream("test")
