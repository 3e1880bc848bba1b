"""The sources of TARS, and the benchmarks beside them, read from tiny files of the columns that are published."""

import ast
import inspect
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import published
import pytest
from published import (
    aegis_row,
    pku_row,
    released_archive,
    released_row,
    safeedit_row,
    sorry_bench_row,
    toxicchat_row,
    ultrafeedback_row,
    wildchat_row,
    wildguard_row,
    wildjailbreak_row,
)

from safereason.attacks.rainbow_templates import load_templates
from safereason.data import sources
from safereason.data.fetch import HubFile
from safereason.data.sources import (
    advbench,
    jailbreakbench,
    json_list,
    rainbow_released,
    sorry_bench,
    strongreject,
    tars_released,
    wildchat,
)
from safereason.data.sources.base import published_rows, read_rows
from safereason.errors import InputError
from safereason.recipe.named import find

TAKEN_BY_TARS = (
    "wildjailbreak",
    "aegis2",
    "safeedit",
    "rainbow",
    "ultrafeedback",
    "or-bench",
    "or-bench-hard",
    "tars-released-0.5",
    "rainbow-released",
    "harmbench",
    "xstest",
    "wildchat",
    "strongreject",
    "sorry-bench",
)
LONGEST_MODULE = 45
"""Lines of code of a module that is one source, or a few of one publisher."""
LONGER = {"harmbench", "rainbow_released", "sorry_bench", "wildguard", "xstest_response"}
"""Those with more to say: two files and two sources, 22 names and seven files, 44 names, seven sources, five files."""
MACHINERY = {"base", "described", "description", "files", "halves", "json_list"}


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Writes rows to a file of the data home, in the format its name says."""
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    return lambda name, records: published.write(tmp_path / name, records)


def load(name, split):
    """What a source serves, its invariants checked."""
    examples = sources.get(name).load(split)
    assert len({e.id for e in examples}) == len(examples)
    assert all(e.source == name and e.id.startswith(f"{name}/") for e in examples)
    return examples


def brief(examples):
    return [(e.prompt, e.kind, e.category) for e in examples]


def test_wildjailbreak_takes_the_adversarial_text_where_there_is_one(publish):
    publish(
        "wildjailbreak/train/train.tsv",
        [
            wildjailbreak_row("vanilla_harmful", "bad thing"),
            wildjailbreak_row("vanilla_benign", "harmless kill"),
            wildjailbreak_row("adversarial_harmful", "bad thing", 'Play "a\tpart":\nbad thing'),
            wildjailbreak_row("adversarial_benign", "harmless thing", "Play a part: harmless"),
            wildjailbreak_row("adversarial_harmful", "a jailbreak that was lost", " "),
            wildjailbreak_row("vanilla_harmful"),
        ],
    )
    examples = load("wildjailbreak", "train")
    assert brief(examples) == [
        ("bad thing", "harmful", "vanilla_harmful"),
        ('Play "a\tpart":\nbad thing', "harmful", "adversarial_harmful"),
        ("a jailbreak that was lost", "harmful", "adversarial_harmful"),
    ]
    assert [e.id for e in examples] == ["wildjailbreak/1", "wildjailbreak/3", "wildjailbreak/5"]
    assert brief(load("wildjailbreak-benign", "train")) == [
        ("harmless kill", "harmless", "vanilla_benign"),
        ("Play a part: harmless", "harmless", "adversarial_benign"),
    ]
    assert {e.label for e in examples} == {"unsafe"}


def test_wildjailbreak_tests_on_its_own_jailbreaks(publish):
    publish(
        "wildjailbreak/eval/eval.tsv",
        [
            {"adversarial": "jailbreak", "label": "1", "data_type": "adversarial_harmful"},
            {"adversarial": "look-alike", "label": "0", "data_type": "adversarial_benign"},
            {"adversarial": "", "label": "1", "data_type": "adversarial_harmful"},
        ],
    )
    examples = load("wildjailbreak-eval", "test")
    assert [(e.prompt, e.kind, e.label) for e in examples] == [
        ("jailbreak", "harmful", "unsafe"),
        ("look-alike", "harmless", "safe"),
    ]
    with pytest.raises(InputError, match="wildjailbreak: has no test split"):
        sources.get("wildjailbreak").load("test")


def test_safeedits_prompt_is_the_whole_attack(publish):
    publish(
        "safeedit/SafeEdit_train.json",
        [safeedit_row(0, "a template around it"), safeedit_row(0, "another one"), safeedit_row(1, None)],
    )
    publish("safeedit/SafeEdit_test.json", [safeedit_row(0, "a third", "Mental Harm")])
    train, test = load("safeedit", "train"), load("safeedit", "test")
    assert brief(train) == [
        ("a template around it", "harmful", "Offensiveness"),
        ("another one", "harmful", "Offensiveness"),
    ]
    assert brief(test) == [("a third", "harmful", "Mental Harm")]
    assert not {e.id for e in train} & {e.id for e in test}


def test_ultrafeedback_reads_the_prompts_and_nothing_else(publish, monkeypatch):
    for split in ("train", "test"):
        publish(
            f"ultrafeedback/data/{split}_prefs-00000-of-00001.parquet",
            [ultrafeedback_row("What is π?"), ultrafeedback_row(None), ultrafeedback_row("  ")],
        )
    read, requested = sources.base.parquet_rows, []

    def recording(path, columns):
        requested.append(columns)
        return read(path, columns)

    monkeypatch.setattr(sources.base, "parquet_rows", recording)
    assert (
        brief(load("ultrafeedback", "train"))
        == brief(load("ultrafeedback", "test"))
        == [("What is π?", "harmless", None)]
    )
    assert requested == [["prompt"], ["prompt"]]


def test_wildchat_is_the_first_english_request_of_clean_conversations(publish):
    publish(
        "wildchat/data/train-00000-of-00006.parquet",
        [
            wildchat_row("Hello?", "Hi.", "And then?", "Then this."),
            wildchat_row("Bonjour ?", "Salut.", language="French"),
            wildchat_row("toxic", "no", toxic=True),
            wildchat_row("My name is NAME_1", "Hi.", redacted=True),
            wildchat_row("  ", "You said nothing."),
        ],
    )
    for shard in range(1, 6):
        publish(f"wildchat/data/train-{shard:05}-of-00006.parquet", [wildchat_row(f"shard {shard}", "so?")])
    examples = load("wildchat", "test")
    assert [e.prompt for e in examples] == ["Hello?", *(f"shard {n}" for n in range(1, 6))]
    assert {(e.kind, e.category, e.response) for e in examples} == {("harmless", None, None)}


def test_wildchats_shards_are_read_one_after_the_other(publish):
    publish("wildchat/data/train-00000-of-00006.parquet", [wildchat_row("first", "a"), wildchat_row("second", "b")])
    examples = sources.get("wildchat").stream("test")
    assert [next(examples).prompt, next(examples).prompt] == ["first", "second"]
    with pytest.raises(InputError, match=r"train-00001-of-00006\.parquet: not there"):
        next(examples)


def test_a_conversation_of_other_fields_is_named(publish):
    row = wildchat_row("a", "b")
    row["conversation"] = [{"text": "a", "from": "human"}]
    path = publish("wildchat/data/train-00000-of-00006.parquet", [row])
    with pytest.raises(InputError) as error:
        sources.get("wildchat").load("test")
    assert str(error.value).startswith(f"{path}: row 1: `conversation` holds no turns of role, language and content; ")


def test_sorry_benchs_kinds_have_names_and_domains(publish):
    publish(
        "sorry-bench/question.jsonl",
        [
            sorry_bench_row(1),
            sorry_bench_row(231, category="24"),
            sorry_bench_row(440, category="44"),
            sorry_bench_row(441, category="45"),
            sorry_bench_row(2, ("-.-.",), style="morse"),
        ],
    )
    examples = load("sorry-bench", "test")
    assert [e.categories for e in examples] == [
        ("Hate Speech Generation", "Personal Insulting Words"),
        ("Assistance with Crimes or Torts", "Human Elimination & World Domination"),
        ("Potentially Unqualified Advice", "Dangerous Machinery Operation Advice"),
        ("45",),
    ]
    assert {e.kind for e in examples} == {"harmful"}
    assert len(set(sorry_bench.CATEGORIES.values())) == len(sorry_bench.CATEGORIES) == 44
    publish("sorry-bench/question.jsonl", [sorry_bench_row(1, (None,))])
    with pytest.raises(InputError, match=r"row 1: `turns` is no list of one text"):
        sources.get("sorry-bench").load("test")


def test_rainbows_category_is_risk_and_style(publish):
    publish(
        "rainbow/archive.jsonl",
        [{"prompt": "p", "risk": "terrorism", "style": "slang"}, {"prompt": "q", "risk": "terrorism", "style": "code"}],
    )
    assert brief(load("rainbow", "train")) == [("p", "harmful", "terrorism/slang"), ("q", "harmful", "terrorism/code")]
    path = publish("rainbow/archive.jsonl", [{"prompt": "p", "risk": "terrorism"}])
    with pytest.raises(InputError) as error:
        sources.get("rainbow").load("train")
    assert str(error.value) == f"{path}: row 1: no column `style`, only prompt, risk; mend the file"


@pytest.mark.parametrize("home", [True, False])
def test_a_missing_rainbow_archive_says_that_a_person_makes_it(tmp_path, monkeypatch, home):
    monkeypatch.delenv("SAFEREASON_DATA_HOME", raising=False)
    monkeypatch.setenv("SAFEREASON_DATA_HOME" if home else "SAFEREASON_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        sources.get("rainbow").load("train")
    message = str(error.value)
    assert message.startswith(str((tmp_path if home else tmp_path / "data") / "rainbow" / "archive.jsonl"))
    assert "make one against your SFT model" in message
    assert "name rainbow-released, the authors' own, in its place" in message
    assert "data.without_sources=[rainbow]" in message
    assert "\n" not in message


RELEASED = [
    released_row("p", "wildjailbreak"),
    released_row("q, r", "rainbow", 1),
    released_row("s", "aegis", 2),
    released_row("t?", "refusal", 0),
    released_row("p", "wildjailbreak", 3),
]


@pytest.mark.parametrize("ratio", tars_released.FILES)
def test_the_released_prompts_of_a_lambda_are_harmful_or_have_the_task_reward(publish, monkeypatch, ratio):
    publish(f"tars-released/train_lambda_{ratio}.parquet", RELEASED)
    without_hash = replace(tars_released.FILES[ratio], sha256=None)
    monkeypatch.setitem(tars_released.FILES, ratio, without_hash)
    assert brief(load(f"tars-released-{ratio}", "train")) == [
        ("p", "harmful", "wildjailbreak"),
        ("q, r", "harmful", "rainbow"),
        ("s", "harmful", "aegis"),
        ("t?", "harmless", "refusal"),
        ("p", "harmful", "wildjailbreak"),
    ]
    path = publish(f"tars-released/train_lambda_{ratio}.parquet", [{**RELEASED[0], "prompt": []}])
    with pytest.raises(InputError) as error:
        sources.get(f"tars-released-{ratio}").load("train")
    assert str(error.value) == (
        f"{path}: row 1: `prompt` is no list of one message of a user; get the file as it is published"
    )


def test_the_released_archives_have_their_cells_named(publish, monkeypatch):
    for number in range(1, 8):
        publish(f"rainbow-released/archive_{number}.json", released_archive(f"archive {number},"))
    without_hashes = [replace(file, sha256=None) for file in rainbow_released.FILES]
    monkeypatch.setattr(rainbow_released, "FILES", without_hashes)
    examples = load("rainbow-released", "train")
    assert len(examples) == sources.get("rainbow-released").rows == 840
    assert brief(examples)[:2] == [
        ("archive 1, 0/0", "harmful", "violence and hate/slang"),
        ("archive 1, 0/1", "harmful", "violence and hate/technical terms"),
    ]
    assert brief(examples)[-1] == ("archive 7, 9/11", "harmful", "terrorism/code")


def test_the_cells_of_the_released_archives_have_the_names_of_our_own():
    templates = load_templates(None)
    assert tuple(templates.risks) == rainbow_released.RISKS
    assert tuple(templates.styles) == rainbow_released.STYLES


def test_what_the_authors_released_is_pinned_to_a_commit_and_refused_with_other_contents(publish):
    files = [*tars_released.FILES.values(), *rainbow_released.FILES]
    assert len({file.sha256 for file in files}) == len(files) == 12
    for file in files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert re.match("https://raw.githubusercontent.com/danielkty/tars/[0-9a-f]{40}/", file.url)
        assert file.url.endswith(f"/{file.name}")
    for name, file, records in (
        ("tars-released-0.5", "tars-released/train_lambda_0.5.parquet", RELEASED),
        ("rainbow-released", "rainbow-released/archive_1.json", released_archive()),
    ):
        publish(file, records)
        with pytest.raises(InputError, match=f"^{re.escape(file)}: its SHA-256 is "):
            sources.get(name).load("train")


@pytest.mark.parametrize(
    ("name", "module", "file", "records", "expected"),
    [
        (
            "strongreject",
            strongreject,
            "strongreject/strongreject_dataset.csv",
            [{"category": "Violence", "source": "custom", "forbidden_prompt": "p"}],
            [("p", "harmful", "Violence")],
        ),
        (
            "jailbreakbench-benign",
            jailbreakbench,
            "jailbreakbench/benign-behaviors.csv",
            [
                {
                    "Index": "0",
                    "Goal": "p",
                    "Target": "Sure",
                    "Behavior": "b",
                    "Category": "Fraud/Deception",
                    "Source": "s",
                }
            ],
            [("p", "harmless", "Fraud/Deception")],
        ),
        (
            "advbench-full",
            advbench,
            "advbench/harmful_behaviors.csv",
            [{"goal": "p", "target": "Sure, here"}],
            [("p", "harmful", None)],
        ),
    ],
)
def test_a_published_table_is_read_if_its_hash_is_the_recorded_one(
    publish, monkeypatch, name, module, file, records, expected
):
    publish(file, records)
    with pytest.raises(InputError, match=f"{file}: its SHA-256 is "):
        sources.get(name).load("test")
    monkeypatch.setattr(module, "published_rows", lambda file: published_rows(replace(file, sha256=None)))
    assert brief(load(name, "test")) == expected


def test_strongrejects_small_edition(publish):
    publish(
        "strongreject/strongreject_small_dataset.csv",
        [
            {"category": "Violence", "source": "custom", "forbidden_prompt": "p"},
            {"category": "Sexual content", "source": "DAN", "forbidden_prompt": "q, r"},
        ],
    )
    assert brief(load("strongreject-small", "test")) == [
        ("p", "harmful", "Violence"),
        ("q, r", "harmful", "Sexual content"),
    ]


def test_every_source_of_tars_is_there():
    assert set(TAKEN_BY_TARS) <= set(sources.SOURCES)
    assert {name for name in TAKEN_BY_TARS if sources.get(name).gated} == {"wildjailbreak", "safeedit", "sorry-bench"}
    assert [name for name, source in sources.SOURCES.items() if source.rows is None] == [
        "rainbow",
        "wildguardtrain-vanilla",
        "wildguardtest-adversarial",
        "wildguardtest-vanilla",
    ]


@pytest.mark.parametrize(
    ("name", "file", "record", "column"),
    [
        ("wildjailbreak", "wildjailbreak/train/train.tsv", wildjailbreak_row("vanilla_harmful", "p"), "vanilla"),
        ("safeedit", "safeedit/SafeEdit_train.json", safeedit_row(0, "p"), "unsafety category"),
        ("sorry-bench", "sorry-bench/question.jsonl", sorry_bench_row(1), "prompt_style"),
        (
            "strongreject-small",
            "strongreject/strongreject_small_dataset.csv",
            {"category": "Violence", "source": "custom", "forbidden_prompt": "p"},
            "category",
        ),
        ("ultrafeedback", "ultrafeedback/data/train_prefs-00000-of-00001.parquet", ultrafeedback_row("p"), "prompt"),
        ("wildchat", "wildchat/data/train-00000-of-00006.parquet", wildchat_row("p", "a"), "toxic"),
    ],
)
def test_a_column_that_is_missing_is_named(publish, name, file, record, column):
    path = publish(file, [{k: v for k, v in record.items() if k != column}])
    with pytest.raises(InputError, match=f"no column `{column}`, only ") as error:
        sources.get(name).load(sources.get(name).serves[0])
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "good", "bad"),
    [
        (
            "wildjailbreak",
            "wildjailbreak/train/train.tsv",
            wildjailbreak_row("vanilla_harmful", "p"),
            wildjailbreak_row("vanilla", "p"),
        ),
        ("safeedit", "safeedit/SafeEdit_train.json", safeedit_row(0, "p"), safeedit_row(0, 7)),
        ("aegis2", "aegis2/train.json", aegis_row(1), aegis_row(2, label="odd")),
        (
            "toxicchat",
            "toxicchat/data/0124/toxic-chat_annotation_train.csv",
            toxicchat_row(),
            toxicchat_row("p", "odd"),
        ),
        (
            "wildguardtrain",
            "wildguardmix/train/wildguard_train.parquet",
            wildguard_row(),
            wildguard_row(prompt_label="odd"),
        ),
        ("pku-saferlhf", "pku-saferlhf/data/Alpaca-7B/train.jsonl", pku_row(), pku_row(7)),
        ("rainbow", "rainbow/archive.jsonl", {"prompt": "p", "risk": "r", "style": "s"}, {"prompt": "p", "risk": "r"}),
    ],
)
def test_a_reader_gives_a_row_before_it_reads_on(publish, name, file, good, bad):
    path = publish(file, [good, good, bad])
    examples = sources.get(name).stream("train")
    assert next(examples).source == name
    with pytest.raises(InputError) as error:
        list(examples)
    assert str(error.value).startswith(f"{path}: row 3: ")


def test_a_json_list_is_read_item_by_item(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "BLOCK", 7)
    records = [{"a": "ä" * n, "b": [n, {"c": ']"},'}]} for n in range(20)]
    path = published.write(tmp_path / "own.json", records)
    assert [row.values for row in read_rows(path)] == records
    path.write_text(json.dumps(records, indent=3) + "\n\t ")
    assert [row.values for row in read_rows(path)] == records
    for text, after in (
        ('[{"a": 1}, {"a": 2} {"a": 3}]', 2),
        ('[{"a": 1}, {"a"', 1),
        ('[{"a": 1}] x', 1),
        ("[1]", 0),
        ('{"a": 1}', 0),
        ("", 0),
        ("[", 0),
        ('[{"a": 1},', 1),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"own\.json: cannot be read after row {after} \("):
            list(read_rows(path))
    path.write_text(" [ ] ")
    with pytest.raises(InputError, match="holds no row"):
        list(read_rows(path))


def _modules():
    return sorted(module.name for module in iter_modules(sources.__path__) if module.name not in MACHINERY)


@pytest.mark.parametrize("name", _modules())
def test_a_source_takes_one_short_module(name):
    text = inspect.getsource(import_module(f"safereason.data.sources.{name}"))
    docstring_lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstring_lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = []
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = line.strip().startswith("#")
        if line.strip() and not is_comment and number not in docstring_lines:
            code.append(line)
    assert (len(code) > LONGEST_MODULE) == (name in LONGER)


@pytest.mark.parametrize("name", _modules())
def test_what_is_read_of_the_hub_is_pinned_to_a_commit(name):
    module = import_module(f"safereason.data.sources.{name}")
    named = [value for value in vars(module).values() if isinstance(value, HubFile)]
    revisions = {file.revision for file in named} | {getattr(module, "REVISION", "0" * 40)}
    assert all(len(revision) == 40 and int(revision, 16) >= 0 for revision in revisions)
    assert len(wildchat.SHARDS) == 6


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-data-source.md").read_text(encoding="utf-8")
DOCUMENTED = dict(re.findall(r"^\| `([\w.-]+)` \| (?:TARS|RSafe)[^|]*\| (`[^|]*) \|", PAGE, re.MULTILINE))


def test_the_docs_list_what_the_papers_recipes_need():
    recipes = ("tars-1.5b", "tars-1.5b-released", "tars-7b", "rsafe", "rsafe-ood-jailbreak", "rsafe-ood-category")
    used: set[str] = set()
    for recipe in recipes:
        used.update(re.findall(r"source: ([\w.-]+)", find(recipe).read_text(encoding="utf-8")))
    assert {re.sub("-(vanilla|adversarial|responses)$", "", name) for name in used} | {*TAKEN_BY_TARS} <= {
        *DOCUMENTED,
        "strongreject",
    }
    assert {name for name in DOCUMENTED if re.search(rf"^\| `{name}` \|.*, gated \|$", PAGE, re.MULTILINE)} == {
        name for name in DOCUMENTED if sources.get(name).gated
    }


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_the_docs_say_where_a_file_is_looked_for(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        sources.get(name).load(sources.get(name).serves[0])
    place = Path(str(error.value).partition(": ")[0]).relative_to(tmp_path)
    assert f"`{place}`" in DOCUMENTED[name]


@pytest.mark.parametrize("text", [t for t in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "columns:" in t])
def test_the_descriptions_in_the_docs_are_right(tmp_path, text):
    (tmp_path / "my-users.yaml").write_text(text)
    published.write(tmp_path / "may.csv", [{"question": "How do I leave?", "topic": "travel", "verdict": "fine"}])
    (example,) = sources.get(str(tmp_path / "my-users.yaml")).load("train")
    assert (example.id, example.kind, example.category) == ("my-users/1", "harmless", "travel")
