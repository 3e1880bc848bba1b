"""The command: parts in turn, each within its share of the time, then one table."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from campaign import commands, flood, fuzz, kills, outages, together
from campaign.tally import Tally, table
from campaign.worker import Pool

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"
MINUTES = 30.0
QUICK = ("data build (tiny)", "guard classify", "eval xstest", "attack convert")
"""Commands of the short form; it has to end within two minutes."""


@dataclass(frozen=True)
class Scope:
    """How much is tried."""

    kills: float
    """Share of each command's kills."""
    others: int
    """Other faults that each command meets."""
    inputs: int
    requests: int
    outages: int
    commands: tuple[str, ...]
    """Names of those that are tried; none names all."""

    def chosen(self, among: list[commands.Command]) -> list[commands.Command]:
        """The commands that are tried."""
        return [c for c in among if not self.commands or c.name in self.commands]


FULL = Scope(1.0, 3, 10_500, 20_200, len(outages.OUTAGES) * len(outages.ASKERS), ())
SHORT = Scope(0.2, 1, 110, 300, 4, QUICK)

Part = Callable[[Path, Pool, Tally, float, int, Scope], str]


def _kills(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, scope: Scope) -> str:
    missing = commands.unavailable()
    for name, why in missing.items():
        print(f"kills: {name} is not tried: {why}")
    part = kills.Kills(folder, pool, tally, deadline, seed)
    part.run([c for c in scope.chosen([*commands.COMMANDS]) if c.name not in missing], scope.kills, scope.others)
    met = ", ".join(f"{kind} {number}" for kind, number in sorted(part.by_signal.items()))
    return f"{len(part.wholes)} commands; met at work: {met}"


def _fuzz(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, scope: Scope) -> str:
    fuzz.run(folder, pool, tally, deadline, seed, scope.inputs)
    return f"{len(fuzz.SURFACES)} surfaces"


def _http(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, scope: Scope) -> str:
    statuses = flood.run(folder, tally, deadline, seed, scope.requests)
    hung_up = statuses.pop(0, 0)
    return ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items())) + f", {hung_up} hung up on"


def _outages(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, scope: Scope) -> str:
    outages.run(folder, pool, tally, deadline, scope.outages)
    return f"{len(outages.OUTAGES)} kinds of outage, {len(outages.ASKERS)} commands"


def _together(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, scope: Scope) -> str:
    among = together.everything()
    chosen = [c for c in among if c.name == "guard classify"] if scope.commands else among
    together.run(folder, pool, tally, deadline, chosen)
    return "two processes at once"


PARTS: dict[str, tuple[Part, float]] = {
    "http": (_http, 0.2),
    "fuzz": (_fuzz, 0.36),
    "together": (_together, 0.2),
    "outages": (_outages, 0.3),
    "kills": (_kills, 1.0),
}
"""Each with the most it takes of the time that is left."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"By default all: {', '.join(PARTS)}.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="In all; what is not done by then is left out.")
    parser.add_argument("--seed", type=int, default=1, help="The same seed tries the same.")
    parser.add_argument("--short", action="store_true", help="A few of each kind, as CI does.")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="Only commands, or surfaces, with this in their name."
    )
    parser.add_argument("--inputs", type=int, help="Damaged inputs, in place of the full or the short number.")
    parser.add_argument("--requests", type=int, help="Requests to the server, likewise.")
    parser.add_argument("--keep", type=Path, default=Path("campaign-faults"), help="Folder for failing inputs.")
    parser.add_argument("--write", action="store_true", help=f"Write the table into {PAGE.relative_to(ROOT)}.")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}; there are {', '.join(PARTS)}")
    return arguments


def _scope(arguments: argparse.Namespace) -> Scope:
    scope = SHORT if arguments.short else FULL
    named = tuple(c.name for c in commands.COMMANDS if arguments.only and arguments.only in c.name)
    return Scope(
        scope.kills,
        scope.others,
        arguments.inputs or scope.inputs,
        arguments.requests or scope.requests,
        scope.outages,
        named or scope.commands,
    )


def main() -> int:
    """Runs the parts; the exit code is 1 where anything went wrong."""
    # `nohup` and a shell's background let it ignore these, and its commands would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    arguments = _arguments()
    scope, started = _scope(arguments), time.monotonic()
    end = started + arguments.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    print(
        f"seed {arguments.seed}, {os.cpu_count()} cores, {arguments.minutes:g} minutes at most, in {folder}", flush=True
    )
    tallies: list[Tally] = []
    pool = Pool(folder)
    try:
        for name in arguments.parts or PARTS:
            part, share = PARTS[name]
            begun = time.monotonic()
            tally = Tally(name, arguments.keep)
            tallies.append(tally)
            note = part(folder / name, pool, tally, begun + (end - begun) * share, arguments.seed, scope)
            tally.notes.append(f"{note}; {time.monotonic() - begun:.0f} s")
            print(f"{name}: {tally.counts.tried} tried: {tally.notes[-1]}", flush=True)
    finally:
        pool.close()
        shutil.rmtree(folder, ignore_errors=True)
    summary = table(tallies)
    print(f"\n{summary}")
    for tally in tallies:
        if tally.not_done:
            print(f"{tally.part}: {tally.not_done} more were planned; the time was up")
    if arguments.write:
        _write(summary, tallies, arguments.seed, time.monotonic() - started)
    faults = sum(tally.counts.faults() for tally in tallies)
    if faults:
        print(f"{faults} faults; failing inputs are in {arguments.keep}")
    return 1 if faults else 0


def _write(summary: str, tallies: list[Tally], seed: int, seconds: float) -> None:
    """The table and what each part did, between the marks of the page."""
    lines = [
        f"- {t.part}: {'; '.join(t.notes)}{f'; {t.not_done} planned and not done' if t.not_done else ''}"
        for t in tallies
    ]
    about = f"`make campaign` with seed {seed} on {os.cpu_count()} cores, {seconds / 60:.0f} minutes:"
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    page = f"{head}{BEGIN}\n{about}\n\n{summary}\n\n" + "\n".join(lines) + f"\n{END}{tail}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
