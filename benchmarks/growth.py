"""How time and memory grow with a file: near-duplicates of one template, and the records of runs, at three sizes.

    python benchmarks/growth.py [--scale 1.0] [--json FILE]

Each size is twice the one before. Work that is linear takes twice as long, and four times where every pair is looked
at. Beside each stands what does the same in the plain way: datasketch's MinHashLSH with an exact comparison of what it
proposes, and a list that holds every record. Time is that of the processor; memory is what Python and NumPy allocated
at most, beside the size of the file.
"""

import argparse
import json
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasketch import MinHash, MinHashLSH

from safereason.cli.output import print_table
from safereason.data.text_index import Index
from safereason.evals.guard_predictions import Prediction
from safereason.evals.guard_suite import figures
from safereason.report.read import Run, metric_lines, read_run, summarize_rollouts
from safereason.runs.directory import RunDirectory
from safereason.runs.records import keep_records, line_of, read_records, write_bytes, write_records
from safereason.stages.compare import runs_to_compare

TEXTS = (1000, 2000, 4000)
RECORDS = (2000, 4000, 8000)
THRESHOLD = 0.8
TEMPLATE = "Write a report for the committee of the harbour about the following, and name the year it was first seen: "
LETTERS = "abcdefghijklmnopqrst"
Work = Callable[[], object]


def seconds_of(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def mib_of(work: Work) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def templated(count: int) -> list[str]:
    """Texts of one template: every two have a similarity of 0.72, under the threshold of 0.8."""
    chance = random.Random(0)
    return [TEMPLATE + " ".join("".join(chance.choices(LETTERS, k=6)) for _ in range(3)) for _ in range(count)]


def unlike_ours(texts: list[str]) -> int:
    index = Index(THRESHOLD, None)
    for number, text in enumerate(texts):
        if index.find(text) is None:
            index.add(str(number), text)
    return len(index)


def unlike_theirs(texts: list[str]) -> int:
    """The number of texts that are like none before, as a script on datasketch finds it."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    sets: list[set[str]] = []
    for text in texts:
        grams = {text[place : place + 5] for place in range(len(text) - 4)}
        signature = MinHash(num_perm=128)
        signature.update_batch([gram.encode() for gram in grams])
        proposed = (sets[number] for number in index.query(signature))
        if any(len(grams & other) >= THRESHOLD * len(grams | other) for other in proposed):
            continue
        index.insert(len(sets), signature)
        sets.append(grams)
    return len(sets)


def logged(count: int) -> list[dict[str, Any]]:
    """Records as RL writes them, with a text of 2 kB each."""
    text = "The tides follow the moon, and so there are two of them a day. " * 32
    return [
        {"step": 1 + n // 16, "id": f"r{n}", "kind": "harmful", "text": text, "total": 0.5, "parts": {"format": 1.0}}
        for n in range(count)
    ]


def hold(path: Path) -> None:
    """What `keep_records` did before: all records at once."""
    kept = [record for record in read_records(path) if is_after_the_first_step(record)]
    write_bytes(path, b"".join(map(line_of, kept)))


def finished(root: Path, stage: str, results: dict[str, Any], **logs: list[dict[str, Any]]) -> Run:
    root.mkdir(parents=True)
    with RunDirectory(root, stage, "growth", "model: org/none\n", {"model": root.name}, "resume") as run:
        for name, rows in logs.items():
            write_records(root / f"{name}.jsonl", rows)
        run.finish(results)
    return read_run(root)


def guard_run(root: Path, count: int) -> Run:
    text = "It asks for nothing that the policy lists, so that it is safe. " * 16
    predictions = [
        Prediction(f"p{n}", "own", "unsafe" if n % 2 else "safe", "unsafe" if n % 3 else "safe", text=text, prompt=text)
        for n in range(count)
    ]
    results = {"eval": "guard", "figures": [asdict(figure) for figure in figures([p.row for p in predictions], 20, 0)]}
    return finished(root, "eval/guard", results, predictions=[prediction.record() for prediction in predictions])


def text_rows(scale: float) -> list[dict[str, Any]]:
    rows = []
    for size in TEXTS:
        texts = templated(int(size * scale))
        for by, unlike in (("safereason", unlike_ours), ("datasketch", unlike_theirs)):
            assert unlike(texts[:50]) == 50
            measures = {"seconds": seconds_of(partial(unlike, texts)), "mib": mib_of(partial(unlike, texts))}
            rows.append({"work": "near-duplicates", "by": by, "size": len(texts), **measures})
    return rows


def is_after_the_first_step(record: dict[str, Any]) -> bool:
    return bool(record["step"] > 1)


def record_works(folder: Path, count: int) -> list[tuple[str, str, Path, Work]]:
    """What is done, by whom, the file that is read, and the call."""
    log = folder / "log.jsonl"
    rl = finished(folder / "rl", "rl", {}, rollouts=logged(count), metrics=logged(count))
    guards = [guard_run(folder / name, count).path for name in ("first", "second")]
    return [
        ("keep_records", "safereason", log, partial(keep_records, log, is_after_the_first_step)),
        ("keep_records", "a list", log, partial(hold, log)),
        ("curves", "safereason", rl.path / "metrics.jsonl", partial(metric_lines, rl, {"total": "reward"})),
        ("rollouts", "safereason", rl.path / "rollouts.jsonl", partial(summarize_rollouts, rl)),
        ("compare", "safereason", guards[0] / "predictions.jsonl", partial(runs_to_compare, guards, 200)),
    ]


def record_rows(scale: float, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for size in RECORDS:
        count = int(size * scale)
        for work, by, file, call in record_works(folder / str(count), count):
            measures = {}
            for name, measure in (("seconds", seconds_of), ("mib", mib_of)):
                # `keep_records` changes its file.
                write_records(folder / str(count) / "log.jsonl", logged(count))
                measures[name] = measure(call)
            rows.append({"work": work, "by": by, "size": count, "file_mib": file.stat().st_size / 2**20, **measures})
    return rows


def with_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows by work, each with its ratio to the row of half the size."""
    rows = sorted(rows, key=lambda row: (row["work"], row["by"], row["size"]))
    before: dict[str, Any] = {}
    for row in rows:
        if (row["work"], row["by"]) == (before.get("work"), before.get("by")):
            row["growth"] = row["seconds"] / before["seconds"]
            row["memory_growth"] = row["mib"] / before["mib"]
        before = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = with_growth([*text_rows(options.scale), *record_rows(options.scale, Path(folder))])
    columns = ("work", "by", "size", "file_mib", "seconds", "growth", "mib", "memory_growth")
    cells = [[f"{v:.2f}" if isinstance(v := row.get(c, ""), float) else v for c in columns] for row in rows]
    print_table(("work", "by", "rows", "file, MiB", "seconds", "× half", "MiB", "× half"), cells)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
