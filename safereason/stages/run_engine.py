"""The engine of a run's model: how it was named, what the run records of it, and that a resumed run keeps it.

Engine and precision are the machine's choice where nobody names them, and then they are no part of a run's identity. So
that no run mixes completions of two engines, the first completion notes them in the run's directory.
"""

from dataclasses import dataclass
from pathlib import Path

from safereason.console import say
from safereason.engines.engine_spec import ENGINE_TITLES, EngineSpec, choose_engine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import EngineChoice, Recipe
from safereason.runs.directory import RunDirectory, read_manifest, run_path
from safereason.runs.records import Record, read_json, write_json
from safereason.stages.base import Identity, Options, open_run

ENGINE = "engine.json"
"""File of a run that names the engine and the precision of its model."""


WITHOUT_BF16 = ("T4", "V100")
"""Well-known GPUs that have no bf16 arithmetic."""


def engine_of(
    model: ModelSpec, options: Options, choice: EngineChoice = "auto", *, by_transformers: bool = False
) -> EngineSpec:
    """The engine of a model on this machine, or on the GPUs that are planned for; arguments as of `RunEngine.choose`.

    Raises:
        InputError: The GPU does not have the precision.
    """
    has_bf16 = None
    if options.planned_gpus is not None:
        has_bf16 = options.planned_gpus.name not in WITHOUT_BF16
    return choose_engine(
        model,
        engine=choice,
        precision=options.precision,
        base_url=options.base_url,
        by_transformers=by_transformers,
        has_bf16=has_bf16,
    )


@dataclass(frozen=True)
class RunEngine:
    """The engine that draws a run's completions, and how it came to be chosen."""

    spec: EngineSpec
    named: Identity
    """Engine and precision, as far as a person named them; vLLM before a model's name counts with the name."""
    option: str
    """Words that name an engine on the command line, with `{}` in its place."""

    @classmethod
    def choose(
        cls,
        model: ModelSpec,
        options: Options,
        choice: EngineChoice = "auto",
        *,
        option: str = "--model {}/NAME",
        by_transformers: bool = False,
    ) -> "RunEngine":
        """The engine of a model on this machine.

        Args:
            model: The model.
            options: Options with the precision.
            choice: The engine that the recipe's section names.
            option: See `option`.
            by_transformers: As of `choose_engine`.

        Raises:
            InputError: The GPU does not have the precision.
        """
        spec = engine_of(model, options, choice, by_transformers=by_transformers)
        named: Identity = {}
        if options.precision is not None and not model.is_remote:
            named["precision"] = options.precision
        engine = model.engine or choice
        # Where the weights are read there is no choice.
        if engine in ("hf", "vllm") and model.engine != "vllm" and not by_transformers:
            named["engine"] = engine
        return cls(spec, named, option)

    @property
    def settings(self) -> Record:
        """The contents of a run's note; empty for a server, which decides for itself."""
        if self.spec.model.is_remote:
            return {}
        return {"engine": self.spec.model.engine, "precision": self.spec.precision}

    def identity(self, identity: Identity, run: Path) -> Identity:
        """An identity with what was named, unless the run without it has that very engine by itself.

        Args:
            identity: The identity without it.
            run: The directory of the run with that identity.
        """
        begun_without = (read_manifest(run) or {}).get("identity") == identity
        if begun_without and noted_engine(run) == self.settings:
            return identity
        return {**identity, **self.named}

    def open_run(self, stage: str, recipe: Recipe, options: Options, label: str, identity: Identity) -> RunDirectory:
        """The run directory of a stage, not yet entered; arguments as of `stages.base.open_run`.

        Raises:
            Unfinished: Only a finished run was to be read, and this one is not finished.
        """
        run = options.out or run_path(options.root, stage, recipe.name, label, identity)
        return open_run(stage, recipe, options, label, self.identity(identity, run))

    def begin(self, run: Path) -> None:
        """Compares the engine with the one that the run was begun by, and says which one it is.

        Raises:
            InputError: They differ; the message says how the run goes on.
        """
        before = noted_engine(run)
        if before and before != self.settings:
            raise InputError(f"{run}: {self._difference(before)}")
        if self.spec.model.engine == "vllm" and not self.named:
            say(f"engine: {_words(self.settings)}; {self.option.format('hf')} takes transformers")

    def note(self, run: Path) -> None:
        """Notes the engine in the run's directory, once. A run that fails before its first completion holds no note."""
        file = run / ENGINE
        if self.settings and not file.is_file():
            write_json(file, self.settings)

    def _difference(self, before: Record) -> str:
        options: list[str] = []
        if before.get("engine") != self.settings.get("engine"):
            options.append(self.option.format(before["engine"]))
        if before.get("precision") != self.settings.get("precision"):
            options.append(f"--precision {before['precision']}")
        return (
            f"was begun by {_words(before)}, and {_words(self.settings)} would go on here; "
            f"pass {' and '.join(options)}, or --overwrite"
        )


def noted_engine(run: Path) -> Record:
    """Engine and precision of a run's model, for its metrics; empty where no model of this machine has drawn."""
    file = run / ENGINE
    if not file.is_file():
        return {}
    document = read_json(file)
    assert isinstance(document, dict)
    return document


def _words(settings: Record) -> str:
    if not settings:
        return ENGINE_TITLES["openai"]
    return f"{ENGINE_TITLES[settings['engine']]} in {settings['precision']}"
