"""Start-up: help, the recipe commands and dry runs, which compute nothing, beside `trl --help`.

    python benchmarks/startup.py [--rounds 7] [--json FILE]

The commands take turns, so that a busy machine slows all of them; the first turn, which fills the disk's cache, is not
counted. Time is that of the processor, user and system together: other processes of the machine do not count in it.
Memory is the largest that was resident.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from safereason.cli.output import print_table

PEER = "trl --help"
COMMANDS = (
    PEER,
    "safereason --help",
    "safereason attack --help",
    "safereason attack gcg --help",
    "safereason eval harmbench --help",
    "safereason guard classify --help",
    "safereason recipe ls",
    "safereason recipe show tars-1.5b",
    "safereason rl --recipe tars-1.5b --dry-run",
    "safereason run --recipe tars-1.5b --dry-run",
)


def measured(command: str, folder: Path) -> tuple[float, float]:
    """Seconds of the processor and MiB of a command that ends well."""
    program, *arguments = command.split()
    words = [Path(sys.executable).with_name(program), *arguments]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        turns = [{command: measured(command, Path(folder)) for command in COMMANDS} for _ in range(options.rounds + 1)]
    rows = []
    document = {}
    for command in COMMANDS:
        seconds = [turn[command][0] for turn in turns[1:]]
        # A ratio of each turn, so that both sides had the same machine.
        ratios = sorted(turn[PEER][0] / turn[command][0] for turn in turns[1:])
        memory = statistics.median(turn[command][1] for turn in turns[1:])
        low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
        document[command] = {"seconds": seconds, "ratios": ratios, "mib": memory}
        rows.append(
            (command, f"{statistics.median(seconds):.2f}", f"{low:.2f} / {middle:.2f} / {high:.2f}", f"{memory:.0f}")
        )
    print_table(("command", "seconds", f"{PEER} / ours: least, median, most", "MiB"), rows)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
