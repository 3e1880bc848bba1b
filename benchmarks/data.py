"""A TARS mix drawn from a file of a million rows: `safereason data build` beside a plain script on `datasets`.

Both read the same JSONL, leave out long prompts and repeats, draw the same number of each kind with a seed, and write
parquet; ours also leaves out near-duplicates, compares what it drew with a test set, and writes a card. Time and peak
memory (resident, of the whole process) of each.

    python benchmarks/data.py [--rows 1000000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate, product
from pathlib import Path

KINDS = ("harmful", "harmless", "ambiguous")
SYLLABLES = list(map("".join, product("bcdfghklmnprstvw", ("a", "en", "il", "o", "ur"))))
WORDS = list(map("".join, product(SYLLABLES[::2], SYLLABLES[::3], ("", "ly", "s"))))
FREQUENCIES = [1 / rank for rank in range(1, len(WORDS) + 1)]
"""As in a language: a few words are everywhere, most are rare."""

RECIPE = """
model: org/none
data:
  mix: tars
  prompts: 2000
  harmful_ratio: 0.5
  harmful: [{source: ROWS, prompts: 2000}]
  harmless: [{source: ROWS, prompts: 2000}]
  ambiguous: [{source: ROWS, prompts: 2000}]
  traces: [{source: sample-brief, prompts: 100}]
eval: {sampling: {}, behaviors: sample, benign: sample}
"""

PLAIN = """
import sys
from datasets import concatenate_datasets, disable_progress_bars, load_dataset

disable_progress_bars()
rows = load_dataset("json", data_files=sys.argv[1], split="train")
rows = rows.filter(lambda row: len(row["prompt"]) <= 1000)
seen = set()

def is_new(row):
    text = " ".join(row["prompt"].casefold().split())
    if text in seen:
        return False
    seen.add(text)
    return True

rows = rows.filter(is_new)
parts = []
for kind, count in (("harmful", 1000), ("harmless", 500), ("ambiguous", 500)):
    of_kind = rows.filter(lambda row: row["kind"] == kind)
    parts.append(of_kind.shuffle(seed=0).select(range(count)))
concatenate_datasets(parts).shuffle(seed=0).to_parquet(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        size = write_rows(home / "rows.jsonl", count)
        (home / "mix.yaml").write_text(RECIPE.replace("ROWS", str(home / "rows.jsonl")))
        (home / "plain.py").write_text(PLAIN)
        command = Path(sys.executable).with_name("safereason")
        ours = measured([command, "data", "build", "--recipe", home / "mix.yaml", "--root", home / "runs"], home)
        plain = measured([sys.executable, home / "plain.py", home / "rows.jsonl", home / "plain.parquet"], home)
    print(f"{count:,} rows, {size / 1e6:.0f} MB of JSONL\n")
    print("| | seconds | rows/s | peak memory, MB |\n|---|---|---|---|")
    for name, (seconds, peak) in (("safereason data build", ours), ("a plain script on datasets", plain)):
        print(f"| {name} | {seconds:.1f} | {count / seconds:,.0f} | {peak:.0f} |")
    print(f"| ratio, plain / ours | {plain[0] / ours[0]:.2f} | {ours[0] / plain[0]:.2f} | {plain[1] / ours[1]:.2f} |")


def write_rows(path: Path, count: int) -> int:
    """Writes prompts of 5 to 60 words, a few of them repeats and a few too long; returns the file's bytes."""
    rng = random.Random(0)
    cumulated = list(accumulate(FREQUENCIES))
    with path.open("w") as file:
        for i in range(count):
            if i % 500 == 7:
                words = 400
            else:
                words = rng.randint(5, 60)
            prompt = "the same question again"
            if i % 100:
                prompt = " ".join(rng.choices(WORDS, cum_weights=cumulated, k=words))
            row = {"id": f"rows/{i}", "prompt": prompt, "kind": KINDS[i % 3], "source": "rows"}
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def measured(command: list[object], home: Path) -> tuple[float, float]:
    """Seconds and peak resident memory, in MB, of a program that ends well."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(home / "cache")}
    start = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    return seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
