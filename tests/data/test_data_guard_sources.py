"""The sources that guards train and test on. Those of the Hub are read from tiny files of the columns it publishes."""

import gzip
from collections import Counter
from dataclasses import replace

import published
import pytest
from published import aegis_row, pku_row, toxicchat_row, wildguard_row

from safereason.data import sources
from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sampling import fold
from safereason.data.sources import xstest_response
from safereason.data.sources.base import published_rows
from safereason.data.sources.halves import half
from safereason.engines.base import Completion
from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.reasoning import verdict_of_completion
from safereason.text.reasoning import join
from safereason.text.verdict import is_well_formed


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Writes rows to a file of the data home, in the format its name says."""
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    return lambda name, records: published.write(tmp_path / name, records)


def load(name, split="test"):
    """What a source serves, its invariants checked."""
    examples = sources.get(name).load(split)
    assert len({e.id for e in examples}) == len(examples)
    assert all(e.source == name and e.id.startswith(f"{name}/") for e in examples)
    return examples


def brief(examples):
    return [(e.prompt, e.kind, e.label, e.category, e.response) for e in examples]


@pytest.mark.parametrize(("name", "release"), [("toxicchat", "0124"), ("toxicchat1123", "1123")])
def test_toxicchat_takes_toxicity_for_the_prompts_label(publish, name, release):
    records = [toxicchat_row(), toxicchat_row("you …", "1"), toxicchat_row("  ", "1")]
    for split in ("train", "test"):
        publish(f"toxicchat/data/{release}/toxic-chat_annotation_{split}.csv", records)
    expected = [("hello, you", "harmless", "safe", None, None), ("you …", "harmful", "unsafe", None, None)]
    assert brief(load(name, "train")) == brief(load(name)) == expected
    assert not {e.id for e in load(name, "train")} & {e.id for e in load(name)}


def test_aegis2_splits_categories_and_leaves_out_what_has_no_text_or_label(publish):
    publish(
        "aegis2/test.json",
        [
            aegis_row(1, "a", "unsafe", "Violence, Criminal Planning/Confessions"),
            aegis_row(2, "b", "safe"),
            aegis_row(3, "REDACTED", "unsafe", "Suicide and Self Harm"),
            aegis_row(4, "d", None),
            aegis_row(5, "e", "safe", None),
        ],
    )
    examples = load("aegis2")
    assert [(e.prompt, e.kind, e.label) for e in examples] == [
        ("a", "harmful", "unsafe"),
        ("b", "harmless", "safe"),
        ("e", "harmless", "safe"),
    ]
    assert [e.categories for e in examples] == [("Violence", "Criminal Planning/Confessions"), (), ()]
    assert examples[0].id == f"aegis2/{1:032x}"
    publish("aegis2/train.json", [aegis_row(6, "f")])
    assert brief(load("aegis2", "train")) == [("f", "harmful", "unsafe", None, None)]


def test_pku_saferlhf_serves_both_answers_of_all_three_models(publish):
    for model in ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B"):
        publish(f"pku-saferlhf/data/{model}/test.jsonl", [pku_row(), pku_row("q", (None, True)), pku_row("")])
    examples = load("pku-saferlhf")
    assert brief(examples) == 3 * [
        ("p", "ambiguous", "safe", None, "zero"),
        ("p", "ambiguous", "unsafe", "Cybercrime; Insulting Behavior", "one"),
        ("q", "ambiguous", "safe", None, "one"),
    ]
    assert examples[1].categories == ("Cybercrime", "Insulting Behavior")


def test_beavertails_keeps_a_categorys_commas(publish):
    publish(
        "beavertails/round0/30k/train.jsonl.gz",
        [
            {
                "prompt": "p",
                "response": "r",
                "is_safe": False,
                "category": {"animal_abuse": True, "discrimination,stereotype,injustice": True, "child_abuse": False},
            },
            {"prompt": "p", "response": "", "is_safe": True, "category": {"animal_abuse": False}},
        ],
    )
    examples = load("beavertails", "train")
    assert [(e.prompt, e.response, e.label) for e in examples] == [("p", "r", "unsafe"), ("p", "", "safe")]
    assert [e.categories for e in examples] == [("animal_abuse", "discrimination,stereotype,injustice"), ()]


def test_or_bench_is_the_80k_without_the_hard_ones(publish):
    publish("or-bench/or-bench-80k.csv", [{"prompt": p, "category": "privacy"} for p in ("Easy", "Hard  one")])
    publish("or-bench/or-bench-hard-1k.csv", [{"prompt": "hard one", "category": "privacy"}])
    publish("or-bench/or-bench-toxic.csv", [{"prompt": "toxic", "category": "hate"}])
    assert brief(load("or-bench", "train")) == [("Easy", "ambiguous", "safe", "privacy", None)]
    assert brief(load("or-bench-hard", "train")) == [("hard one", "ambiguous", "safe", "privacy", None)]
    assert brief(load("or-bench-toxic")) == [("toxic", "harmful", "unsafe", "hate", None)]
    with pytest.raises(InputError, match="or-bench: has no test split"):
        sources.get("or-bench").load("test")


def test_wildguardtrain_by_task_and_attack(publish):
    publish(
        "wildguardmix/train/wildguard_train.parquet",
        [
            wildguard_row("vanilla", response=None, response_label=None),
            wildguard_row("attack", True, "unharmful", "r", "harmful"),
            wildguard_row("unlabelled", False, None),
        ],
    )
    vanilla = ("vanilla", "harmful", "unsafe", "cyberattack", None)
    assert brief(load("wildguardtrain", "train")) == [vanilla, ("attack", "harmless", "safe", "benign", None)]
    assert brief(load("wildguardtrain-vanilla", "train")) == [vanilla]
    assert brief(load("wildguardtrain-responses", "train")) == [
        ("attack", "harmless", "unsafe", "benign", "r"),
        ("unlabelled", "ambiguous", "safe", "cyberattack", "r"),
    ]


def test_wildguardtest_is_the_rows_with_both_labels(publish):
    publish(
        "wildguardmix/test/wildguard_test.parquet",
        [
            wildguard_row("vanilla"),
            wildguard_row("attack", True, "unharmful", "r", "harmful"),
            wildguard_row("no agreement on the answer", response_label=None),
            wildguard_row("no agreement on the prompt", True, None),
        ],
    )
    examples = {name: brief(load(name)) for name in sources.SOURCES if name.startswith("wildguardtest")}
    vanilla = ("vanilla", "harmful", "unsafe", "cyberattack", None)
    attack = ("attack", "harmless", "safe", "benign", None)
    assert examples == {
        "wildguardtest": [vanilla, attack],
        "wildguardtest-adversarial": [attack],
        "wildguardtest-vanilla": [vanilla],
        "wildguardtest-responses": [(*vanilla[:2], "safe", vanilla[3], "r"), (*attack[:2], "unsafe", attack[3], "r")],
    }
    assert all(sources.get(name).gated for name in examples)


@pytest.mark.parametrize(
    ("name", "file", "good", "bad", "message"),
    [
        (
            "toxicchat",
            "toxicchat/data/0124/toxic-chat_annotation_test.csv",
            toxicchat_row(),
            toxicchat_row(toxicity="yes"),
            "`toxicity` is 'yes'; '0' or '1' is expected",
        ),
        (
            "aegis2",
            "aegis2/test.json",
            aegis_row(1),
            aegis_row(2, label="needs caution"),
            "`prompt_label` is 'needs caution'; 'safe' or 'unsafe' is expected",
        ),
        ("aegis2", "aegis2/test.json", aegis_row(1), aegis_row(2, prompt=3), "`prompt` is 3; text is expected"),
        (
            "beavertails",
            "beavertails/round0/30k/test.jsonl.gz",
            {"prompt": "p", "response": "r", "is_safe": True, "category": {}},
            {"prompt": "p", "response": "r", "is_safe": 1, "category": {}},
            "`is_safe` is 1; True or False is expected",
        ),
        (
            "beavertails",
            "beavertails/round0/30k/test.jsonl.gz",
            {"prompt": "p", "response": "r", "is_safe": True, "category": {}},
            {"prompt": "p", "response": "r", "is_safe": True, "category": "x"},
            "`category` is 'x'; names with true or false are expected",
        ),
        (
            "wildguardtest",
            "wildguardmix/test/wildguard_test.parquet",
            wildguard_row(),
            wildguard_row(prompt_label="maybe"),
            "`prompt_harm_label` is 'maybe'",
        ),
        (
            "wildguardtest",
            "wildguardmix/test/wildguard_test.parquet",
            wildguard_row(),
            wildguard_row(adversarial=None),
            "`adversarial` is None; true or false is expected",
        ),
    ],
)
def test_a_value_that_is_not_known_is_named_by_file_row_and_column(publish, name, file, good, bad, message):
    path = publish(file, [good, bad])
    with pytest.raises(InputError) as error:
        sources.get(name).load("test")
    assert str(error.value).startswith(f"{path}: row 2: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "record", "column"),
    [
        ("toxicchat", "toxicchat/data/0124/toxic-chat_annotation_test.csv", toxicchat_row(), "toxicity"),
        ("aegis2", "aegis2/test.json", aegis_row(1), "violated_categories"),
        ("pku-saferlhf", "pku-saferlhf/data/Alpaca-7B/test.jsonl", pku_row(), "response_1_harm_category"),
        ("or-bench-toxic", "or-bench/or-bench-toxic.csv", {"prompt": "p", "category": "hate"}, "category"),
        ("wildguardtest", "wildguardmix/test/wildguard_test.parquet", wildguard_row(), "subcategory"),
    ],
)
def test_a_column_that_is_missing_is_named(publish, name, file, record, column):
    path = publish(file, [{k: v for k, v in record.items() if k != column}])
    with pytest.raises(InputError, match=f"row 1: no column `{column}`, only ") as error:
        sources.get(name).load("test")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named_with_its_address(publish, tmp_path):
    with pytest.raises(InputError) as error:
        sources.get("wildguardtest").load("test")
    assert str(tmp_path / "wildguardmix" / "test" / "wildguard_test.parquet") in str(error.value)
    assert "https://huggingface.co/datasets/allenai/wildguardmix/resolve/d29c47f4" in str(error.value)


CUT_SHORT = gzip.compress(b'{"prompt": "p"}', mtime=0)[:-9]


@pytest.mark.parametrize("content", [b"not what its name says", CUT_SHORT, b"\xff"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("beavertails", "beavertails/round0/30k/test.jsonl.gz"),
        ("aegis2", "aegis2/test.json"),
        ("wildguardtest", "wildguardmix/test/wildguard_test.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(publish, name, file, content):
    path = publish(file, [{"prompt": "p"}])
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        sources.get(name).load("test")
    assert str(error.value).startswith(f"{path}: cannot be read after row 0 (")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [("beavertails", "beavertails/round0/30k/test.jsonl.gz"), ("or-bench-toxic", "or-bench/or-bench-toxic.csv")],
)
def test_a_file_without_rows_is_refused(publish, name, file):
    publish(file, [{"prompt": "p"}]).write_bytes(b"")
    with pytest.raises(InputError, match="holds no row"):
        sources.get(name).load("test")


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_rows_are_numbered_in_files_of_each_packing(publish, suffix):
    records = [{"a": "é\u2028x"}, {"a": "2"}]
    publish(f"own/data.jsonl{suffix}", records)
    rows = list(published_rows(File("own", f"data.jsonl{suffix}", "https://localhost/")))
    assert [(r.number, r["a"]) for r in rows] == [(1, "é\u2028x"), (2, "2")]


def test_openai_moderation_is_unsafe_where_any_label_is(data_home):
    examples = load("openai-moderation")
    assert Counter(e.label for e in examples) == {"safe": 1158, "unsafe": 522}
    assert all(bool(e.categories) == (e.label == "unsafe") == (e.kind == "harmful") for e in examples)
    assert {code for e in examples for code in e.categories} == {"S", "H", "V", "HR", "SH", "S3", "H2", "V2"}


def test_xstest_response_reads_the_files_that_are_there(data_home, capsys):
    examples = load("xstest-response")
    assert Counter(e.id.split("/")[1] for e in examples) == {"gpt4": 450, "llama2orig": 450, "mistralguard": 450}
    assert "3 of 5 files" in capsys.readouterr().err
    assert all(e.response for e in examples)
    unsafe = [e for e in examples if e.label == "unsafe"]
    assert len(unsafe) == 8
    assert all(e.kind == "harmful" and e.category.startswith("contrast_") for e in unsafe)


def test_xstest_responses_final_label_settles_it(publish, monkeypatch):
    for model, file in xstest_response.FILES.items():
        monkeypatch.setitem(xstest_response.FILES, model, File(file.source, file.name, file.url))
    labels = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
    publish(
        "xstest/model_completions/xstest_v2_completions_llama2new.csv",
        [
            {
                "id": f"v2-{kind}{n}",
                "type": kind,
                "prompt": "p",
                "completion": "c",
                "annotation_1": labels[0],
                "annotation_2": labels[1],
                "agreement": "FALSE",
                "final_label": label,
            }
            for kind in ("homonyms", "contrast_homonyms")
            for n, label in enumerate(labels)
        ],
    )
    examples = load("xstest-response")
    assert [(e.kind, e.label) for e in examples] == 3 * [("harmless", "safe")] + [
        ("harmful", "unsafe"),
        ("harmful", "safe"),
        ("harmful", "safe"),
    ]


@pytest.mark.parametrize("name", ["openai-moderation", "xstest", "simplesafetytests"])
def test_halves_share_no_prompt_and_make_up_the_whole(data_home, name):
    whole = sources.get(name).load("test")
    train, test = (sources.get(f"{name}-half").load(split) for split in ("train", "test"))
    assert sorted(e.id for e in train + test) == sorted(e.id for e in whole)
    assert not {fold(e.prompt) for e in train} & {fold(e.prompt) for e in test}
    assert all(len(part) > 0.4 * len(whole) for part in (train, test))
    assert {e.kind for e in train} == {e.kind for e in test} == {e.kind for e in whole}
    assert {e.source for e in train + test} == {f"{name}-half"}


@pytest.mark.parametrize("name", ["openai-moderation", "xstest", "simplesafetytests"])
def test_a_half_s_traces_lead_from_each_row_s_own_labels_to_its_verdict(data_home, name):
    source, policy = sources.get(f"{name}-half"), policies.load("openai-names")
    ids, named = [category.id for category in policy.categories], set()
    for split in ("train", "test"):
        rows, traces = source.load(split), source.traces(split)
        assert traces == [replace(e, reasoning=t.reasoning, answer=t.answer) for e, t in zip(rows, traces, strict=True)]
        for trace in traces:
            text = join(trace.reasoning, trace.answer)
            verdict = verdict_of_completion(Completion(text, (), "stop"), policy)
            assert is_well_formed(text)
            assert verdict.label == (trace.label or ("unsafe" if trace.kind == "harmful" else "safe"))
            assert verdict.reasoning == trace.reasoning
            assert verdict.categories == tuple(c for c in ids if c in trace.categories and verdict.label == "unsafe")
            assert all(c in trace.reasoning for c in verdict.categories)
            named |= {*verdict.categories}
    assert named == ({*ids} if name == "openai-moderation" else set())


def test_a_half_of_a_gated_source_is_gated():
    assert half(sources.get("wildguardtest")).gated
    assert not sources.get("xstest-half").gated


def test_each_category_of_an_example():
    assert Example("a/1", "p", "harmful", "a").categories == ()
    assert Example("a/1", "p", "harmful", "a", "x, y/z").categories == ("x, y/z",)
    assert Example("a/1", "p", "harmful", "a", "x; y").categories == ("x", "y")
