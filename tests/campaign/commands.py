"""The commands that write, each on models so small that it takes a second or two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.worker import strings

EMBEDDED = "embedded/smollm2-135m"


@dataclass(frozen=True)
class Place:
    """Where a trial works."""

    home: Path
    """What `prepare` wrote."""
    whole: Path
    """The runs of each command, never interrupted."""
    root: Path
    """The trial's own runs."""

    def run(self, pattern: str) -> Path:
        """The one run of an earlier command, such as `eval/xstest/tiny--model--*`."""
        (directory,) = (path for path in self.whole.glob(pattern) if ".by-" not in path.name)
        return directory


@dataclass(frozen=True)
class Command:
    """A command under attack."""

    name: str
    argv: Callable[[Place], tuple[str, ...]]
    takes: tuple[str, ...] = ()
    """Patterns of earlier runs that are copied to the trial's root, for the command finds them by itself."""
    after: tuple[str, ...] = ()
    """Commands that have to have run before."""
    again: tuple[str, ...] = ("--resume",)
    """What it goes on with."""
    is_printed: bool = False
    """Whether its result is what it prints."""
    kills: int = 7
    """Of `make campaign`."""
    is_cold: bool = False
    """Whether it is always started anew: it does more than a forked child can."""


def _stage(name: str, recipe: str, *words: str, takes: tuple[str, ...] = (), **more: object) -> Command:
    def argv(place: Place) -> tuple[str, ...]:
        return strings(*name.split(), "--recipe", place.home / f"{recipe}.yaml", "--root", place.root, *words)

    label = f"{name} {' '.join(word for word in words if not word.startswith('-'))}".strip()
    return Command(f"{label} ({recipe})", argv, takes, **more)  # type: ignore[arg-type]


def _attack(name: str, *words: str, **more: object) -> Command:
    def argv(place: Place) -> tuple[str, ...]:
        return strings(
            "attack",
            name,
            "--recipe",
            place.home / "tiny.yaml",
            "--model",
            place.home / "model",
            "--prompts",
            place.home / "behaviors.jsonl",
            "--root",
            place.root,
            *(word.format(home=place.home) for word in words),
        )

    return Command(f"attack {name}", argv, **more)  # type: ignore[arg-type]


def _eval(name: str, *words: str, **more: object) -> Command:
    def argv(place: Place) -> tuple[str, ...]:
        return strings(
            "eval",
            name,
            "--recipe",
            place.home / "tiny.yaml",
            "--model",
            place.home / "model",
            "--root",
            place.root,
            *(word.format(home=place.home) for word in words),
        )

    return Command(f"eval {name}", argv, **more)  # type: ignore[arg-type]


def _classify(place: Place) -> tuple[str, ...]:
    return strings(
        "guard",
        "classify",
        place.home / "asked.jsonl",
        "--model",
        place.home / "guard",
        "--policy",
        place.home / "rules.yaml",
        "--out",
        place.root / "verdicts.jsonl",
    )


def _on_ray(place: Place) -> tuple[str, ...]:
    return strings(
        "guard",
        "classify",
        place.home / "parquet",
        "--model",
        place.home / "guard",
        "--policy",
        place.home / "rules.yaml",
        "--ray",
        "--workers",
        1,
        "--batch-rows",
        64,
        "--out",
        place.root / "verdicts",
    )


def _rainbow(place: Place) -> tuple[str, ...]:
    return strings(
        "attack",
        "rainbow",
        "--recipe",
        place.home / "tiny.yaml",
        "--model",
        place.home / "model",
        "--mutator",
        place.home / "guard",
        "--judge",
        "refusal",
        "--iterations",
        4,
        "--root",
        place.root,
        "rainbow.near_copy=1.0",
    )


def _score(place: Place) -> tuple[str, ...]:
    return strings(
        "eval", "score", place.run("eval/harmbench/tiny--model--*"), "--judge", "refusal-learned", "--root", place.root
    )


def _guard_eval(place: Place) -> tuple[str, ...]:
    return strings(
        "eval",
        "guard",
        "--recipe",
        place.home / "tiny-guard.yaml",
        "--model",
        place.home / "guard",
        "--root",
        place.root,
    )


def _sweep(place: Place) -> tuple[str, ...]:
    return strings("sweep", "--recipe", place.home / "small.yaml", "seed=1,2", "--root", place.root)


def _report(place: Place) -> tuple[str, ...]:
    runs = [place.run(f"{stage}/tiny--*") for stage in ("sft", "rl")]
    runs += [place.run(f"eval/{name}/tiny--model--*") for name in ("harmbench", "xstest")]
    return strings("report", *runs, "--title", "campaign", "--out", place.root / "page")


def _convert(place: Place) -> tuple[str, ...]:
    return strings(
        "attack", "convert", place.home / "cases.jsonl", "--to", "harmbench", "--out", place.root / "test_cases.json"
    )


def _compare(place: Place) -> tuple[str, ...]:
    runs = [place.run(f"eval/{name}/tiny--model--*") for name in ("harmbench",)]
    return strings("eval", "compare", *runs, *runs, "--csv", place.root / "table.csv", "--resamples", 100)


def _overlap(place: Place) -> tuple[str, ...]:
    return strings("data", "overlap", place.home / "rows.jsonl", "--against", "sample", "--list")


def _embedded(place: Place) -> tuple[str, ...]:
    return strings(
        "eval",
        "xstest",
        "--recipe",
        place.home / "tiny.yaml",
        "--model",
        EMBEDDED,
        "--limit",
        2,
        "--root",
        place.root,
        "eval.sampling.max_new_tokens=16",
    )


DATA, SFT = ("data/tiny--*",), ("data/tiny--*", "sft/tiny--*")
AFTER_DATA, AFTER_SFT = ("data build (tiny)",), ("data build (tiny)", "sft (tiny)")
MEASURED = (*AFTER_SFT, "rl (tiny)", "eval harmbench", "eval xstest")
COMMANDS = (
    _stage("data build", "tiny"),
    _stage("sft", "tiny", takes=DATA, after=AFTER_DATA, kills=9),
    _stage("rl", "tiny", takes=SFT, after=AFTER_SFT, kills=9),
    _stage("data build", "tiny-dpo"),
    Command(
        "rl (dpo)",
        lambda place: strings(
            "rl", "--recipe", place.home / "tiny-dpo.yaml", "--model", place.home / "model", "--root", place.root
        ),
        ("data/tiny-dpo--*",),
        ("data build (tiny-dpo)",),
        kills=9,
    ),
    _stage("data traces", "tiny-traces", kills=9),
    _stage("data build", "tiny-guard"),
    _stage("guard train", "tiny-guard", takes=("data/tiny-guard--*",), after=("data build (tiny-guard)",), kills=8),
    Command("guard classify", _classify, kills=10),
    Command("guard classify --ray", _on_ray, kills=4, is_cold=True),
    _attack("gcg", "--limit", "2", "gcg.steps=4", "gcg.width=8", "gcg.top_k=4"),
    _attack("best-of-n", "--limit", "4", "best-of-n.n=3", "best-of-n.batch=1"),
    _attack("pair", "--limit", "2", "--attacker", "{home}/guard", "pair.streams=2", "pair.iterations=2", kills=5),
    _attack(
        "random-search",
        "--limit",
        "2",
        "random-search.candidates=6",
        "random-search.batch=2",
        "random-search.restarts=1",
        kills=8,
    ),
    _attack("autodan", "--limit", "2", "autodan.steps=2", "autodan.population=4", kills=8),
    Command("attack rainbow", _rainbow, kills=9),
    _eval("harmbench", kills=9),
    _eval("xstest", kills=9),
    _eval("separation", "--limit", "12", kills=5),
    Command("eval guard", _guard_eval, kills=9),
    Command("eval score", _score, after=("eval harmbench",)),
    _stage("run", "small", again=(), kills=5),
    Command("sweep", _sweep, again=(), kills=3),
    Command("report", _report, after=MEASURED, again=(), kills=5),
    Command("attack convert", _convert, again=("--overwrite",), kills=6),
    Command("eval compare --csv", _compare, after=("eval harmbench",), again=(), kills=5),
    Command("data overlap --list", _overlap, again=(), is_printed=True, kills=3),
    Command("the embedded model's conversion", _embedded, kills=2, is_cold=True),
)


def with_earlier(chosen: Sequence[Command]) -> list[Command]:
    """The chosen commands, and those that have to have run before them."""
    names = {command.name for command in chosen} | {name for command in chosen for name in command.after}
    return [command for command in COMMANDS if command.name in names]


def unavailable() -> dict[str, str]:
    """Commands that cannot be tried here, and why."""
    from importlib.util import find_spec

    from safereason.engines.embedded import gguf_file

    missing = {}
    if find_spec("ray") is None:
        missing["guard classify --ray"] = "Ray is not installed"
    if gguf_file() is None:
        missing["the embedded model's conversion"] = "the embedded model is not installed"
    return missing
