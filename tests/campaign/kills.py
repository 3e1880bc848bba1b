"""Commands that are killed, interrupted, and out of memory or disk at any moment, and then go on.

What a command leaves in the end is compared with what it leaves when nothing happens to it.
"""

import itertools
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign import commands, records
from campaign.bench import new_folder, prepare
from campaign.commands import Command, Place
from campaign.faults import Fault, Kind
from campaign.tally import Tally
from campaign.worker import Done, Job, Pool, cold, joined

CODES: dict[str, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL,),
    "terminate": (143, -signal.SIGTERM),
    "interrupt": (130,),
    "memory": (1,),
    "disk": (1, 2),
    "size": (1, 2),
}
"""How a command ends that meets a fault; 0 where it was through before. A place that takes no file at all is a 2."""
OTHERS: tuple[Kind, ...] = ("terminate", "interrupt", "memory", "disk", "size")
LATE = 1.05
"""Part of a command's time in which it is killed."""


@dataclass
class Whole:
    """A command's uninterrupted run."""

    root: Path
    """Where it ran: beside the runs that it takes, and no others, as in each trial."""
    names: set[str]
    """Files it made."""
    writes: list[str]
    """What it wrote, renamed and removed, in order."""
    seconds: float
    done: Done
    largest: int
    """Bytes of the largest file."""


@dataclass
class Trial:
    """One command, and what happens to it before it goes on to its end."""

    command: Command
    kind: Kind
    number: int
    times: int = 1
    """How often it happens: again while the command goes on."""
    is_cold: bool = False
    is_last: bool = False
    """At the last rename."""
    seed: int = 0


@dataclass
class Kills:
    """The part of the campaign: a bench, workers, and the time it has."""

    folder: Path
    pool: Pool
    tally: Tally
    deadline: float
    seed: int
    wholes: dict[str, Whole] = field(default_factory=dict)
    by_signal: dict[str, int] = field(default_factory=dict)
    """How often each fault met a command at work."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: Iterator[int] = field(default_factory=itertools.count)

    @property
    def place(self) -> Place:
        """Where uninterrupted runs are."""
        return Place(self.folder / "bench", self.folder / "whole", self.folder / "whole")

    def run(self, chosen: Sequence[Command], share: float = 1.0, most_others: int = len(OTHERS)) -> None:
        """Tries the commands; `share` scales the kills of each.

        Args:
            chosen: In an order in which each finds the runs that it takes.
            share: Of the kills of each, at least one.
            most_others: How many of the other faults each command meets.
        """
        prepare(self.place.home)
        self.place.whole.mkdir(exist_ok=True)
        for command in commands.with_earlier(chosen):
            self.run_whole(command)
        trials = self._planned([c for c in chosen if c.name in self.wholes], share, most_others)
        self.pool.each(self._try, trials)

    def run_whole(self, command: Command) -> None:
        """Runs it without a fault and keeps what it made."""
        scratch = new_folder(self.folder, f"whole-{time.monotonic_ns()}")
        root, log = new_folder(scratch, "root"), scratch / "writes"
        place, before = self.beside_taken(command, root)
        job = Job(command.argv(place), str(scratch), Fault("none", str(root), log=str(log)))
        done = cold(job, self.folder / "cold") if command.is_cold else self.pool.run(job)
        if done.code != 0:
            about = {"command": command.name, "typed": joined(job.argv), "code": done.code, "err": done.err[-2000:]}
            self.tally.fault("wrong_codes", f"{command.name}: fails where nothing happens to it", about)
            return
        names = records.files_under(root) - before
        writes = log.read_text().splitlines() if log.exists() else []
        largest = max(((root / name).stat().st_size for name in names), default=0)
        self.wholes[command.name] = Whole(root, names, writes, done.seconds, done, largest)
        shutil.copytree(root, self.place.whole, dirs_exist_ok=True)  # for those that take it

    def _planned(self, chosen: Sequence[Command], share: float, most_others: int) -> list[Trial]:
        """Trials in rounds, so that each command had some when the time is up."""
        draw = random.Random(self.seed)
        lists: list[list[Trial]] = []
        for command in chosen:
            count = max(1, round(command.kills * share))
            mine = [
                Trial(
                    command,
                    "kill",
                    i,
                    times=1 + (i % 3 == 2),
                    is_cold=command.is_cold or i % 9 == 4,
                    is_last=i % 6 == 0,
                    seed=draw.getrandbits(48),
                )
                for i in range(count)
            ]
            # Each kind as often as any other, whichever commands it falls to.
            others = [OTHERS[(len(lists) * most_others + i) % len(OTHERS)] for i in range(most_others)]
            mine += [
                Trial(command, kind, i, is_cold=command.is_cold, seed=draw.getrandbits(48))
                for i, kind in enumerate(others)
                if self.wholes[command.name].writes
            ]
            lists.append(mine)
        rounds = itertools.zip_longest(*lists)
        return [trial for step in rounds for trial in step if trial is not None]

    def _try(self, trial: Trial) -> None:
        if time.monotonic() > self.deadline:
            with self._lock:
                self.tally.put_off()
            return
        number = next(self._seen)
        folder = new_folder(self.folder, f"t{number}")  # short, for the sockets of Ray
        try:
            self._carry_out(trial, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _carry_out(self, trial: Trial, folder: Path) -> None:
        command, whole = trial.command, self.wholes[trial.command.name]
        root = new_folder(folder, "root")
        place, inputs = self.beside_taken(command, root)
        draw = random.Random(trial.seed)
        argv, again = command.argv(place), command.again
        environment = {"SAFEREASON_CACHE": str(folder / "cache")}
        watched_folder = str(root) if not command.is_cold else str(folder)
        steps: list[dict[str, Any]] = []
        about: dict[str, Any] = {"command": command.name, "typed": joined(argv), "steps": steps, "seed": trial.seed}

        for time_number in range(trial.times):
            words = argv if time_number == 0 else (*argv, *again)
            fault, after = self._moment(trial, whole, watched_folder, draw, time_number)
            job = Job(words, str(folder), fault, after, environment=environment)
            done = cold(job, folder) if trial.is_cold else self.pool.run(job)
            steps.append({"fault": str(fault), "after": after, "code": done.code, "err": done.err[-3000:]})
            with self._lock:
                self._check_end(trial, done, root, about, after is not None)
        job = Job((*argv, *again), str(folder), environment=environment)
        done = cold(job, folder) if trial.is_cold else self.pool.run(job)
        steps.append({"code": done.code, "err": done.err[-3000:]})
        with self._lock:
            self._check_result(command, done, place, whole, about, inputs)

    def beside_taken(self, command: Command, root: Path) -> tuple[Place, set[str]]:
        """A place for the command in `root`, with copies of the earlier runs that it looks for, and their files."""
        for pattern in command.takes:
            directory = self.place.run(pattern)
            shutil.copytree(directory, root / directory.relative_to(self.place.whole))
        return Place(self.place.home, self.place.whole, root), records.files_under(root)

    def _moment(
        self, trial: Trial, whole: Whole, watched_folder: str, draw: random.Random, time_number: int
    ) -> tuple[Fault | None, float | None]:
        """When the fault comes: at one of the writes, or at any moment."""
        count = len(whole.writes)
        if trial.kind == "size":
            return Fault("size", watched_folder, draw.randrange(1, max(2, whole.largest))), None
        if trial.kind != "kill":
            return Fault(trial.kind, watched_folder, draw.randrange(count)), None
        renames = [i for i, line in enumerate(whole.writes) if line.startswith("os.rename")]
        if trial.is_last and renames and time_number == 0:
            return Fault("kill", watched_folder, renames[-1] + draw.randrange(2)), None
        if count and not trial.is_cold and (trial.number + time_number) % 2 == 0:
            return Fault("kill", watched_folder, draw.randrange(count)), None
        start = 12.0 if trial.is_cold and not trial.command.is_cold else 0.0
        return None, draw.uniform(0.0, LATE) * (whole.seconds + start)

    def _check_end(self, trial: Trial, done: Done, root: Path, about: dict[str, Any], at_any_moment: bool) -> None:
        """How the fault left the command: its code, what it said, and its files."""
        self.tally.tried()
        if done.code != 0:  # else it was through before
            self.by_signal[trial.kind] = self.by_signal.get(trial.kind, 0) + 1
        command = trial.command.name
        if not done.ended:
            self.tally.fault("wrong_codes", f"{command}: {trial.kind}: does not end", about)
        elif done.code not in (0, *CODES[trial.kind]):
            self.tally.fault("wrong_codes", f"{command}: {trial.kind}: ends with {done.code}", about)
        self._check_said(f"{command}: {trial.kind}", done, about)
        for problem in records.damaged(root):
            self.tally.fault("partial_files", f"{command}: {trial.kind}: damaged: {records.shape(problem)}", about)
        if done.code in (130, 143, -signal.SIGTERM):
            for manifest in root.rglob("manifest.json"):
                status = json.loads(manifest.read_text()).get("status")
                if status not in ("interrupted", "finished"):
                    kind = f"{command}: {trial.kind}: the run's status is {status}"
                    self.tally.fault("wrong_codes", kind, {**about, "manifest": str(manifest)})

    def _check_result(
        self, command: Command, done: Done, place: Place, whole: Whole, about: dict[str, Any], inputs: set[str]
    ) -> None:
        if done.code != 0:
            self.tally.fault("wrong_codes", f"{command.name}: goes on with {done.code}: {_last(done.err)}", about)
            return
        self._check_said(f"{command.name}: going on", done, about)
        if command.is_printed and done.out != whole.done.out:
            self.tally.fault("different", f"{command.name}: prints something else", about)
        records.compare(self.tally, place.root, whole.root, whole.names | inputs, about)

    def _check_said(self, what: str, done: Done, about: dict[str, Any]) -> None:
        for sign in ("Traceback (most recent call last)", "error: unexpected"):
            if sign in done.err or sign in done.out:
                line = next((line for line in done.err.splitlines() if sign in line), sign)
                self.tally.fault("tracebacks", f"{what}: {line[:120]}", about)


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:160]
