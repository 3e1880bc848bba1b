"""The papers' own mixes, drawn from files of the columns that the sources have; nothing of them is needed here."""

import csv
import json
import random
import re
from dataclasses import replace

import openai_server
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safereason.data import sources
from safereason.data.example import read_examples
from safereason.data.sampling import fold
from safereason.data.sources import tars_released
from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json
from safereason.stages import data, traces
from safereason.stages.base import Options

LAMBDAS = {
    0.1: (200, 900, 900),
    0.3: (600, 700, 700),
    0.5: (1000, 500, 500),
    0.7: (1400, 300, 300),
    0.9: (1800, 100, 100),
}
"""Harmful, harmless and ambiguous prompts of the paper's 2000."""
OURS = ["model=org/none", "sft=null", "rl=null", "eval.behaviors=sample", "eval.benign=sample"]
"""What these files say nothing about: the model, and test sets that are to be downloaded."""


def text(name, number):
    """A sentence of twelve words that nobody wrote before."""
    rng = random.Random(f"{name} {number}")
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(12))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data home with every source of `tars-1.5b`, a little more of each than it takes."""
    folder = tmp_path_factory.mktemp("home")
    write_wildjailbreak(folder / "wildjailbreak" / "train" / "train.tsv")
    aegis = [aegis_row(i, "unsafe" if i % 2 else "safe") for i in range(1500)]
    write(folder / "aegis2" / "train.json", json.dumps(aegis))
    attacks = [
        {"unsafety category": "Mental Harm", "unsafe question": "", "adversarial prompt": text("edit", i)}
        for i in range(350)
    ]
    write(folder / "safeedit" / "SafeEdit_train.json", json.dumps(attacks))
    archive = [{"prompt": text("rainbow", i), "risk": "fraud and scams", "style": "slang"} for i in range(850)]
    write(folder / "rainbow" / "archive.jsonl", "".join(json.dumps(row) + "\n" for row in archive))
    preferred = folder / "ultrafeedback" / "data" / "train_prefs-00000-of-00001.parquet"
    preferred.parent.mkdir(parents=True)
    columns = {"prompt": [text("ultra", i) for i in range(2300)], "score_chosen": [1.0] * 2300}
    pq.write_table(pa.table(columns), preferred)
    for name, count in (("80k", 2600), ("hard-1k", 300)):
        rows = "".join(f"{text('orb', i)},privacy\n" for i in range(count))
        write(folder / "or-bench" / f"or-bench-{name}.csv", f"prompt,category\n{rows}")
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_wildjailbreak(path):
    """Harmful and benign rows, with an adversarial text or without; one is a test prompt of the sample in capitals."""
    path.parent.mkdir(parents=True)
    tested = next(e.prompt for e in sources.get("sample").load("test") if e.kind == "harmful")
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["vanilla", "adversarial", "completion", "data_type"], delimiter="\t")
        table.writeheader()
        for i in range(2800):
            attacked, label = i % 2, "harmful" if i % 4 < 2 else "benign"
            vanilla = tested.upper() if i == 0 else text("wild", i)
            table.writerow(
                {
                    "vanilla": vanilla,
                    "adversarial": text("attack", i) if attacked else "",
                    "completion": "c",
                    "data_type": f"{'adversarial' if attacked else 'vanilla'}_{label}",
                }
            )


def aegis_row(number, label):
    return {
        "id": f"{number:032x}",
        "reconstruction_id_if_redacted": None,
        "prompt": text("aegis", number),
        "response": None,
        "prompt_label": label,
        "response_label": None,
        "violated_categories": "Violence",
        "prompt_label_source": "human",
        "response_label_source": None,
    }


@pytest.fixture(scope="module")
def taught(home, tmp_path_factory):
    """A folder of runs in which a teacher, a real server, answered every prompt of SFT's slices."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, openai_server.serve(None) as server:
        patch.setenv("SAFEREASON_DATA_HOME", str(home))
        patch.setenv("NO_PROXY", "127.0.0.1")
        usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
        message = {"role": "assistant", "reasoning_content": "Is it harmful? Yes.", "content": "No."}
        server.choice = lambda body: {"message": message, "finish_reason": "stop", "usage": usage}
        recipe = load("tars-1.5b", [*OURS, "data.teacher.samples=1", "data.teacher.model=openai/r1"])
        done = traces.write_traces(recipe, Options(root=root, base_url=server.url))
    assert (done.metrics["prompts"], done.metrics["kept"]) == (1000, 1000)
    assert done.metrics["tokens"] == {"read": 20_000, "written": 9_000, "replies_without": 0}
    return root


@pytest.mark.parametrize("ratio", LAMBDAS)
def test_the_counts_of_tars_are_exact_at_each_lambda(home, taught, monkeypatch, ratio):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(home))
    result = data.build_data(load("tars-1.5b", [*OURS, f"data.harmful_ratio={ratio}"]), Options(root=taught))
    harmful, harmless, ambiguous = LAMBDAS[ratio]
    assert result.metrics["by_kind"] == {"harmful": harmful, "harmless": harmless, "ambiguous": ambiguous}
    prompts, taught_rows = (read_examples(result.run / name) for name in (data.TRAIN, data.TRACES))
    assert len({fold(e.prompt) for e in prompts}) == 2000
    by_source = {name: sum(e.source == name for e in taught_rows) for name in ("wildjailbreak", "aegis2", "safeedit")}
    assert by_source == {"wildjailbreak": 400, "aegis2": 300, "safeedit": 300}
    assert not {fold(e.prompt) for e in prompts} & {fold(e.prompt) for e in taught_rows}
    assert {e.kind for e in taught_rows} == {"harmful"}
    hard = {fold(e.prompt) for e in sources.get("or-bench-hard").load("train")}
    assert not hard & {fold(e.prompt) for e in prompts}
    card = read_json(result.run / "card.json")
    assert card["overlap"]["rows"] == 0
    assert card["drops"].get("prompts: in the test set sample", 0) <= 1


def test_the_prompt_that_a_test_set_holds_is_left_out_at_full_pool(home, taught, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(home))
    pool = "data.harmful=[{source: wildjailbreak, prompts: 2000, skip: 400}, {source: rainbow, prompts: 2000}]"
    recipe = load("tars-1.5b", [*OURS, pool, "data.harmful_ratio=0.9"])
    with pytest.raises(InputError, match="2100 prompts are needed and the pool has 1849 "):
        data.build_data(
            load("tars-1.5b", [*OURS, pool, "data.prompts=2100", "data.harmful_ratio=1"]), Options(root=taught)
        )
    result = data.build_data(recipe, Options(root=taught))
    tested = {fold(e.prompt) for e in sources.get("sample").load("test")}
    assert not tested & {fold(e.prompt) for e in read_examples(result.run / data.TRAIN)}


def test_the_released_prompts_are_taken_as_they_are(tmp_path, monkeypatch):
    """Repeated ones, one of the paper's longest, and one that a test set holds are among them, as in the files."""
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    monkeypatch.setitem(tars_released.FILES, "0.7", replace(tars_released.FILES["0.7"], sha256=None))
    tested = next(e.prompt for e in sources.get("sample").load("test") if e.kind == "harmful")
    harmful = [tested, text("long", 0) * 30, *(text("released", i % 1395) for i in range(1398))]
    others = [text("other", i) for i in range(600)]
    rows = [published.released_row(prompt, "aegis", i) for i, prompt in enumerate(harmful)]
    rows += [published.released_row(prompt, "refusal", i) for i, prompt in enumerate(others)]
    published.write(tmp_path / "tars-released" / "train_lambda_0.7.parquet", rows)
    pool = "[{source: tars-released-0.7, prompts: 2000}]"
    overrides = ["model=org/none", "rl=null", "eval.behaviors=sample", "eval.benign=sample", "data.harmful_ratio=0.7"]
    recipe = load("tars-1.5b-released", [*overrides, f"data.harmful={pool}", f"data.harmless={pool}"])
    result = data.build_data(recipe, Options(root=tmp_path / "runs"))
    drawn = read_examples(result.run / data.TRAIN)
    assert sorted(e.prompt for e in drawn if e.kind == "harmful") == sorted(harmful)
    assert sorted(e.prompt for e in drawn if e.kind == "harmless") == sorted(others)
    assert len(drawn) == 2000
    card = read_json(result.run / "card.json")
    assert (card["overlap"]["rows"], card["sources"][0]["licence"]) == (1, "none stated")
    # The file of another λ is another file.
    with pytest.raises(InputError, match=r"tars-released/train_lambda_0\.5\.parquet: not there"):
        sources.get("tars-released-0.5").load("train")
    with pytest.raises(InputError, match="1800 prompts are needed and the pool has 1400 "):
        data.build_data(
            load(
                "tars-1.5b-released",
                [*overrides, "data.harmful_ratio=0.9", f"data.harmful={pool}", f"data.harmless={pool}"],
            ),
            Options(root=tmp_path / "runs"),
        )


def test_each_missing_source_is_named_with_what_gets_it(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"7 of 7 sources cannot be had \(wildjailbreak; rainbow; aegis2; "):
        data.build_data(load("tars-1.5b", OURS), Options(root=tmp_path / "runs"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    pages = (
        "allenai/wildjailbreak",
        "nvidia/Aegis-AI",
        "HuggingFaceH4/ultrafeedback_binarized",
        "zjunlp/SafeEdit",
        "bench-llm/or-bench",
        "data.without_sources=[rainbow]",
        "data traces --recipe tars-1.5b",
    )
    assert all(any(page in line for line in lines) for page in pages)
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_can_be_gone_on_without_and_is_in_the_card(home, taught, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    for name in ("wildjailbreak", "aegis2", "ultrafeedback", "or-bench", "safeedit"):
        (tmp_path / name).symlink_to(home / name)
    result = data.build_data(load("tars-1.5b", OURS), Options(root=taught, out=tmp_path / "out"), allow_missing=True)
    assert result.metrics["by_kind"] == {"harmful": 1000, "harmless": 500, "ambiguous": 500}
    card = read_json(result.run / "card.json")
    assert [note.split(": ")[0] for note in card["notes"]] == ["went on without rainbow, which cannot be had"]
    assert "rainbow" not in {source["name"] for source in card["sources"]}
    assert card["notes"][0] in (result.run / "card.md").read_text()
    untaught = data.build_data(load("tars-1.5b", OURS), Options(root=tmp_path / "none"), allow_missing=True)
    assert (untaught.metrics["prompts"], untaught.metrics["traces"]) == (2000, 0)
    assert "no finished data/traces run" in read_json(untaught.run / "card.json")["notes"][1]


def test_an_archive_of_this_recipe_is_taken_before_one_of_the_data_home(home, taught, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(home))
    archive_run = tmp_path / "runs" / "attack" / "rainbow" / "tars-1.5b--sft--0"
    rows = [
        {"id": f"rainbow/{i}", "prompt": text("ours", i), "kind": "harmful", "source": "rainbow"} for i in range(900)
    ]
    write(archive_run / "archive.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(archive_run / "manifest.json", json.dumps({"stage": "attack/rainbow", "status": "finished", "identity": {}}))
    (tmp_path / "runs" / "data").symlink_to(taught / "data")
    options = Options(root=tmp_path / "runs", out=tmp_path / "out")
    result = data.build_data(load("tars-1.5b", OURS), options)
    ours = {row["prompt"] for row in rows}
    prompts = [e.prompt for e in read_examples(result.run / data.TRAIN) if e.source == "rainbow"]
    assert prompts
    assert set(prompts) <= ours
    before, archive = read_json(result.run / "manifest.json"), archive_run / "archive.jsonl"
    assert before["inputs"][str(archive)] == sha256(archive)
    assert data.build_data(load("tars-1.5b", OURS), options).is_earlier
    write(archive, "".join(json.dumps(row) + "\n" for row in rows[1:]))
    message = re.escape(f"finished before, with other contents of {archive}; pass --resume to build it again")
    with pytest.raises(InputError, match=message):
        data.build_data(load("tars-1.5b", OURS), options)
    assert read_json(result.run / "manifest.json") == before
    assert not data.build_data(load("tars-1.5b", OURS), replace(options, on_existing="resume")).is_earlier
    after = read_json(result.run / "manifest.json")
    assert after["inputs"][str(archive)] == sha256(archive) != before["inputs"][str(archive)]
