"""What is read from outside, each with a way to damage it and the commands that read it."""

import csv
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign import damage
from campaign.samples import (
    ARTIFACT,
    CASES,
    CONVERSATIONS,
    EXAMPLES,
    HARMBENCH,
    POLICY,
    PREDICTIONS,
    RUBRIC,
    SOURCE,
)

Argv = tuple[str, ...]


@dataclass(frozen=True)
class Input:
    """One damaged input, and a command that reads it."""

    argv: Argv
    files: tuple[Path, ...] = ()
    """Kept where the command does what it may not."""
    out: Path | None = None
    """What the command writes; not to be there where it refused."""


@dataclass(frozen=True)
class Surface:
    """A kind of input."""

    name: str
    make: Callable[[random.Random, Path, Path], Input]
    """Draws one, in a folder of its own; the last path is the bench."""
    share: int
    """Of 12 500 inputs."""
    batch: int = 250
    """Inputs that one process reads."""


HEAVY = 0.05
"""Part of the inputs that a command of a second and more reads."""


def _saved(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _recipe(draw: random.Random, folder: Path, bench: Path) -> Input:
    shipped = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    own = sorted(bench.glob("*.yaml"))
    content = damage.as_yaml(draw.choice([*shipped, *own]).read_text(), draw)
    file = _saved(folder, "mine.yaml", content)
    words = draw.choice(
        (
            ("recipe", "validate", file),
            ("recipe", "show", file),
            ("recipe", "diff", file, "tars-smoke"),
            ("data", "build", "--recipe", file, "--dry-run"),
            ("run", "--recipe", file, "--dry-run"),
            ("sft", "--recipe", file, "--dry-run"),
            ("rl", "--recipe", file, "--dry-run"),
            ("guard", "train", "--recipe", file, "--dry-run"),
            ("sweep", "--recipe", file, "seed=1,2", "--print"),
            ("eval", "harmbench", "--recipe", file, "--model", bench / "model", "--dry-run"),
        )
    )
    return Input(tuple(map(str, words)), (file,))


def _policy(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _saved(folder, "policy.yaml", damage.as_yaml(POLICY, draw))
    return Input(("guard", "policy", draw.choice(("validate", "show")), str(file)), (file,))


def _rubric(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _saved(folder, "rubric.yaml", damage.as_yaml(RUBRIC, draw))
    answers = _saved(
        folder, "answers.jsonl", b'{"prompt": "p", "completion": "c", "final_label": "1_full_compliance"}\n'
    )
    judge = f"rubric:{file}@{bench / 'model'}"
    return Input(("eval", "agree", str(answers), "--judge", judge), (file,))


def _table(draw: random.Random, rows: Sequence[dict[str, Any]], folder: Path, name: str) -> Path:
    """Rows in one of the formats that are read, damaged or packed."""
    act = draw.randrange(6)
    if act == 0:
        text = io.StringIO()
        plain = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        writer = csv.DictWriter(text, list({key: None for row in plain for key in row}))
        writer.writeheader()
        writer.writerows(plain)
        return _saved(folder, f"{name}.csv", damage.content(text.getvalue().encode(), draw))
    if act == 1:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return _saved(folder, path.name, damage.content(path.read_bytes(), draw))
    content = damage.rows(list(rows), draw)
    if act == 2:
        packed = gzip.compress(content)
        return _saved(folder, f"{name}.jsonl.gz", packed if draw.random() < 0.5 else damage.content(packed, draw))
    if act == 3:
        return _saved(folder, f"{name}.json", damage.as_json(list(rows), draw))
    return _saved(folder, f"{name}.jsonl", content)


def _harmful(file: Path) -> str:
    """A recipe's pool that is a file."""
    return f"data.harmful=[{{source: {json.dumps(str(file))}, prompts: 1}}]"


def _rows(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _table(draw, EXAMPLES, folder, "rows")
    out = folder / "out"
    light = (
        ("data", "verify", file),
        ("data", "verify", file, "--json"),
        ("data", "show", file, "--limit", 2),
        ("data", "show", file, "--json", "--limit", 2),
        ("data", "show", file, "--traces"),
        ("data", "overlap", file, "--against", bench / "labelled.jsonl", "--near", 0),
    )
    build = (
        "data",
        "build",
        "--recipe",
        bench / "tiny.yaml",
        _harmful(file),
        "data.prompts=1",
        "data.harmful_ratio=1",
        "data.hygiene.near_duplicate=null",
        "--out",
        out,
    )
    words = build if draw.random() < HEAVY else draw.choice(light)
    return Input(tuple(map(str, words)), (file,), out if "--out" in words else None)


def _source(draw: random.Random, folder: Path, bench: Path) -> Input:
    table = b"question,topic,verdict\nWhat is it?,a,fine\nHow so?,b,bad\n"
    rows = _saved(folder, "rows.csv", table if draw.random() < 0.7 else damage.content(table, draw))
    content = SOURCE.encode() if draw.random() < 0.2 else damage.as_yaml(SOURCE, draw)
    file = _saved(folder, "mine.yaml", content)
    words = draw.choice((("verify", file), ("show", file), ("show", file, "--split", "test", "--json")))
    return Input(("data", *map(str, words)), (file, rows))


def _convert(draw: random.Random, folder: Path, bench: Path) -> Input:
    kind = draw.randrange(4)
    if kind == 0:
        file = _saved(folder, "cases.jsonl", damage.rows(CASES, draw))
    elif kind == 1:
        file = _saved(folder, "artifact.json", damage.as_json(ARTIFACT, draw))
    else:
        file = _saved(folder, "harmbench.json", damage.as_json(draw.choice(HARMBENCH), draw))
    out = folder / "out"
    to = draw.choice(("harmbench", "jailbreakbench", "jsonl"))
    return Input(("attack", "convert", str(file), "--to", to, "--out", str(out)), (file,), out)


def _predictions(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _saved(folder, "predictions.jsonl", damage.rows(draw.choice(PREDICTIONS), draw))
    words = ("eval", "guard", "--predictions", file, "--prompts", bench / "labelled.jsonl", "--root", folder / "runs")
    more = draw.choice(((), ("--task", "response"), ("--json",)))
    return Input((*map(str, words), *more), (file,))


def _cases(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _saved(folder, "cases.jsonl", damage.rows(CASES, draw))
    words = (
        "eval",
        "harmbench",
        "--model",
        bench / "guard",
        "--cases",
        file,
        "--root",
        folder / "runs",
        "--limit",
        1,
        "eval.sampling.max_new_tokens=1",
        f"eval.behaviors={bench / 'behaviors.jsonl'}",
    )
    return Input(tuple(map(str, words)), (file,))


def _classify(draw: random.Random, folder: Path, bench: Path) -> Input:
    file = _table(draw, CONVERSATIONS, folder, "rows")
    words = ("guard", "classify", file, "--model", bench / "guard", "--policy", bench / "rules.yaml", "--limit", 2)
    more = draw.choice(((), ("--field", "prompt=id"), ("--format", draw.choice(("csv", "jsonl")))))
    return Input((*map(str, words), *more), (file,))


def _run_directory(draw: random.Random, folder: Path, bench: Path) -> Input:
    whole = bench.parent / "runs"
    original = draw.choice(sorted(path.parent for path in whole.rglob("manifest.json")))
    run = folder / original.relative_to(whole)
    shutil.copytree(original, run, ignore=shutil.ignore_patterns("*.safetensors"))
    files = sorted(path for path in run.iterdir() if path.is_file() and path.name not in (".lock", "log.txt"))
    for file in draw.sample(files, draw.choice((1, 1, 2))):
        act = draw.randrange(5)
        if act == 0:
            file.unlink()
        elif file.suffix == ".json" and act < 4:
            file.write_bytes(damage.as_json(json.loads(file.read_text()), draw))
        elif file.suffix == ".jsonl" and act < 4:
            records = [json.loads(line) for line in file.read_text().splitlines()] or [{}]
            file.write_bytes(damage.rows(records[:8], draw))
        else:
            file.write_bytes(damage.content(file.read_bytes(), draw))
    report = ("report", run, "--out", folder / "page")
    light = (
        ("data", "show", run, "--limit", 2),
        ("data", "show", run, "--json"),
        ("eval", "compare", run, run, "--resamples", 100),
        ("eval", "score", run, "--judge", "refusal", "--root", folder),
        ("guard", "classify", bench / "asked.jsonl", "--model", run, "--limit", 1),
        ("sft", "--recipe", bench / "tiny.yaml", "--root", folder, "--dry-run"),
    )
    resume = ("data", "build", "--recipe", bench / "tiny.yaml", "--root", folder, "--resume")
    words = draw.choice((report, resume)) if draw.random() < 2 * HEAVY else draw.choice(light)
    return Input(tuple(map(str, words)), tuple(file for file in files if file.exists()))


def _command_line(draw: random.Random, folder: Path, bench: Path) -> Input:
    """Words and options of real commands, mixed and with odd values; `--dry-run` holds what would work long."""
    odd = (
        "",
        "-",
        "--",
        "0",
        "-1",
        "nan",
        "1e9",
        "x" * 5000,
        "\n",
        "é",
        "\udcff",
        "a=b",
        "rl=null",
        "eval.limit=0",
        "seed=" + "9" * 5000,
        "data.prompts=[",
        "..=1",
        "model={}",
        "rl.reward.name=zzz",
        "/dev/null",
        "/proc/self/mem",
        str(folder),
        str(bench / "model"),
        "y" * 300,
        "openai/",
        "embedded/x",
        "vllm/",
        "guard:",
        "rubric:",
    )
    heads = (
        ("sft",),
        ("rl",),
        ("guard", "train"),
        ("data", "build"),
        ("data", "traces"),
        ("attack", "gcg"),
        ("attack", "pair"),
        ("attack", "rainbow"),
        ("eval", "harmbench"),
        ("eval", "xstest"),
        ("eval", "guard"),
        ("eval", "separation"),
        ("run",),
    )
    options = (
        "--recipe",
        "--model",
        "--limit",
        "--seed",
        "--shard",
        "--root",
        "--out",
        "--judge",
        "--attacks",
        "--source",
        "--cases",
        "--behaviors",
        "--attacker",
        "--price",
        "--prompts",
        "--policy",
        "--fail-under",
        "--junit",
        "--mutator",
        "--iterations",
        "--launch",
        "--backend",
        "--samples",
        "--base-url",
    )
    words = [*draw.choice(heads), "--dry-run"]
    if draw.random() < 0.8:
        words += ["--recipe", draw.choice(("tars-smoke", "rsafe-smoke", str(bench / "tiny.yaml")))]
    for _ in range(draw.randrange(0, 4)):
        act = draw.random()
        if act < 0.5:
            words += [draw.choice(options), draw.choice((*odd, "refusal", "1/2", "direct", "sample"))]
        elif act < 0.7:
            words.append(draw.choice(options))
        else:
            words.append(draw.choice(odd))
    if "--root" not in words:
        words += ["--root", str(folder / "runs")]
    return Input(tuple(words))


SURFACES = (
    Surface("recipes", _recipe, 2500),
    Surface("policies", _policy, 900),
    Surface("rubrics", _rubric, 250),
    Surface("rows", _rows, 2600),
    Surface("described sources", _source, 1200),
    Surface("test cases converted", _convert, 1800),
    Surface("predictions", _predictions, 900),
    Surface("test cases measured", _cases, 150, 50),
    Surface("conversations classified", _classify, 300, 50),
    Surface("run directories", _run_directory, 900),
    Surface("command lines", _command_line, 1000),
)
