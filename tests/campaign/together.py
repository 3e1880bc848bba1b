"""Two processes at the same time on everything that writes: one does the work, the other waits or says why not."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

from campaign import commands, records
from campaign.bench import new_folder, prepare
from campaign.commands import COMMANDS, Command
from campaign.kills import Kills
from campaign.outages import PATIENCE, RUBRIC, Flaky, served
from campaign.tally import Tally
from campaign.worker import Done, Job, Pool, joined, strings

CODES = (0, 1, 2)
"""How the second may end: it waited, it was told that another one writes, or that something is there already."""


def run(folder: Path, pool: Pool, tally: Tally, deadline: float, chosen: list[Command]) -> None:
    """Starts each command twice at once."""
    bench = Kills(folder, pool, tally, deadline, 0)
    prepare(bench.place.home)
    bench.place.whole.mkdir(exist_ok=True)
    _paid_once(folder, tally, pool)
    for command in commands.with_earlier(chosen):
        if time.monotonic() > deadline:
            tally.put_off()
            continue
        bench.run_whole(command)
        if command in chosen and command.name in bench.wholes:
            for more in dict.fromkeys(((), command.again)):
                _both(command, more, bench, folder, tally, pool)


def everything() -> list[Command]:
    """The commands that leave something behind, and whose processes a worker may fork."""
    return [command for command in COMMANDS if not command.is_cold and not command.is_printed]


def _both(command: Command, more: tuple[str, ...], bench: Kills, folder: Path, tally: Tally, pool: Pool) -> None:
    tally.tried()
    scratch = new_folder(folder, f"both-{time.monotonic_ns()}")
    root = new_folder(scratch, "root")
    place, inputs = bench.beside_taken(command, root)
    argv = (*command.argv(place), *more)
    about: dict[str, Any] = {"command": command.name, "typed": joined(argv)}
    ended = _at_once(pool, [argv, argv], scratch)
    about |= {"codes": [done.code for done in ended], "stderr": [done.err[-1500:] for done in ended]}
    _check_codes(command.name, ended, tally, about)
    if all(done.code for done in ended):
        tally.fault("lost", f"{command.name}: neither does the work", about)
    else:
        whole = bench.wholes[command.name]
        records.compare(tally, root, whole.root, whole.names | inputs, about)
    shutil.rmtree(scratch, ignore_errors=True)


def _at_once(
    pool: Pool, commands_: list[tuple[str, ...]], scratch: Path, environment: dict[str, str] | None = None
) -> list[Done]:
    ended: dict[int, Done] = {}

    def start(number: int) -> None:
        own = new_folder(scratch, f"process-{number}")
        job = Job(
            commands_[number], str(own), environment={"SAFEREASON_CACHE": str(scratch / "cache"), **(environment or {})}
        )
        ended[number] = pool.run(job)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [ended[number] for number in sorted(ended)]


def _check_codes(name: str, ended: list[Done], tally: Tally, about: dict[str, Any]) -> None:
    for done in ended:
        if not done.ended or done.code not in CODES:
            tally.fault("wrong_codes", f"{name}: one of two ends with {done.code}", about)
        if "Traceback" in done.err or "error: unexpected" in done.err:
            tally.fault("tracebacks", f"{name}: one of two prints a traceback", about)
        if done.code in (1, 2):
            errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
            if len(errors) != 1:
                tally.fault("wrong_codes", f"{name}: one of two says {len(errors)} lines", about)


def _paid_once(folder: Path, tally: Tally, pool: Pool) -> None:
    """Two evaluations that ask one judge about the same answers share its verdicts: each is paid for once."""
    tally.tried()
    bench, scratch = folder / "bench", new_folder(folder, f"paid-{time.monotonic_ns()}")
    (bench / "rubric.yaml").write_text(RUBRIC)
    arguments = strings(
        "eval",
        "xstest",
        "--recipe",
        bench / "tiny.yaml",
        "--model",
        bench / "model",
        "--limit",
        14,
        "--root",
        scratch / "answers",
    )
    done = pool.run(Job(arguments, str(scratch)))
    if done.code:
        raise RuntimeError(done.err)
    (answers,) = (scratch / "answers" / "eval" / "xstest").iterdir()
    server = Flaky()
    with served(server) as url:
        words = [
            strings(
                "eval",
                "score",
                answers,
                "--judge",
                f"rubric:{bench}/rubric.yaml@openai/m",
                "--root",
                scratch / f"root-{number}",
            )
            for number in range(2)
        ]
        ended = _at_once(pool, words, scratch, {**PATIENCE, "OPENAI_BASE_URL": url})
    about = {"typed": joined(words[0]), "codes": [d.code for d in ended], "stderr": [d.err[-1500:] for d in ended]}
    _check_codes("a judge's verdicts", ended, tally, about)
    twice = sum(number - 1 for number in server.answered.values() if number > 1)
    if twice:
        tally.fault("doubled", "a judge's verdicts are paid for twice", {**about, "twice": twice}, number=twice)
