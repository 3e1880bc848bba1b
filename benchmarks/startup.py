"""Seconds that a command takes to print its help: `safereason --help` beside `trl --help`.

    python benchmarks/startup.py

The two take turns, so that a busy machine slows both; the first turn, which fills the disk's cache, is not counted.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from safereason.cli.output import print_table

ROUNDS = 5
COMMANDS = ("safereason", "trl")


def seconds(command: str) -> float:
    start = time.perf_counter()
    program = Path(sys.executable).with_name(command)
    subprocess.run([program, "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    turns = [{command: seconds(command) for command in COMMANDS} for _ in range(ROUNDS + 1)][1:]
    ours, theirs = (statistics.median(turn[command] for turn in turns) for command in COMMANDS)
    rows = [("safereason --help", f"{ours:.2f}", "1.00"), ("trl --help", f"{theirs:.2f}", f"{theirs / ours:.2f}")]
    print_table(("command", f"seconds (median of {ROUNDS})", "ratio to ours"), rows)


if __name__ == "__main__":
    main()
