"""Stage `eval/separation`: what a model holds at the end of harmful and of harmless prompts, and how far apart it lies.

`embeddings/` holds one tensor a prompt, in a file a batch, so that a resumed run goes on where it was; `points.jsonl`
says where each prompt lies in the plane; `plots/` is the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safereason import console, evals
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.data import sources
from safereason.data.draw import limited
from safereason.data.example import Example
from safereason.engines.open import OPAQUE, check_name, open_engine
from safereason.errors import InputError
from safereason.evals import Case, separation
from safereason.evals.separation import Projection
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import line_of, write_bytes
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
)
from safereason.stages.contents import contents
from safereason.stages.trained import model_of, precision_of
from safereason.text import chat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


BATCH = 32
"""Prompts a file of embeddings."""


@dataclass(frozen=True)
class Plan:
    """What is looked at."""

    section: Evaluation
    harmful: str
    """Source of the harmful prompts."""
    harmless: str
    projection: Projection
    limit: int | None
    """Most prompts of each kind."""
    cases: tuple[Path, ...]
    """Files of test cases, in place of the harmful prompts' own words."""


def run(
    recipe: Recipe,
    options: Options,
    *,
    cases: Sequence[Path] = (),
    projection: Projection = "pca",
    limit: int | None = None,
) -> Result:
    """Looks into `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Its `eval` section names the prompts, and what stands after the generation prompt.
        options: Where to write, and the model.
        cases: Files of test cases that attacks found; the harmful prompts are theirs.
        projection: From embeddings to the plane.
        limit: In place of the recipe's: most prompts of each kind, drawn by the seed.

    Raises:
        InputError: The model's weights, the prompts or UMAP cannot be had.
    """
    plan = make_plan(recipe, cases, projection, limit)
    model = model_of(recipe, options)
    if model.startswith(OPAQUE):
        raise InputError(f"{model}: its engine does not show what is inside a model; name a folder, a run or a hub id")
    check_name(model)
    asked = [*_harmful(plan, recipe.seed), *_harmless(plan, recipe.seed)]
    directory = open_run("eval/separation", recipe, options, model_label(model), _identity(recipe, plan, model))
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        embeddings = _embeddings(asked, plan, recipe, model, this.path / "embeddings")
        metrics = {
            "eval": "separation",
            "model": model_identity(model),
            "recipe": recipe.name,
            "projection": projection,
            **_counts(plan, asked),
            **_measure(this, asked, embeddings, plan, recipe.seed),
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def make_plan(recipe: Recipe, cases: Sequence[Path], projection: Projection, limit: int | None) -> Plan:
    """Puts the recipe and the command line together, as `run` does; arguments as there.

    Raises:
        InputError: The recipe names no prompts, or UMAP is not installed.
    """
    separation.check_projection(projection)
    section = recipe.eval
    if section is None:
        raise InputError(f"recipe {recipe.name}: it has no eval section; add one")
    if section.behaviors is None or section.benign is None:
        missing = "eval.behaviors" if section.behaviors is None else "eval.benign"
        raise InputError(f"recipe {recipe.name}: {missing} is null, and both kinds are needed; name a source")
    return Plan(section, section.behaviors, section.benign, projection, limit or section.limit, tuple(cases))


def _harmful(plan: Plan, seed: int) -> list[Case]:
    """The harmful prompts: the source's own words, or what attacks made of them."""
    examples = [e for e in sources.get(plan.harmful).load("test") if e.kind == "harmful"]
    if not plan.cases:
        return _checked(_direct(limited(examples, plan.limit, seed)), f"source {plan.harmful}", "harmful")
    own = {e.id for e in examples}
    # A completion comes with a case where the prompt alone is not what the model read.
    tests = [
        test
        for path in plan.cases
        for test in formats.read_cases(path)
        if test.behavior_id in own and test.completion is None
    ]
    attacked = {test.behavior_id for test in tests}
    chosen = limited([e for e in examples if e.id in attacked], plan.limit, seed)
    where = f"--cases {plan.cases[0]}: of the behaviors of {plan.harmful}"
    return _checked(evals.cases(chosen, tests), where, "attacked")


def _harmless(plan: Plan, seed: int) -> list[Case]:
    examples = [e for e in sources.get(plan.harmless).load("test") if e.kind != "harmful"]
    return _checked(_direct(limited(examples, plan.limit, seed)), f"source {plan.harmless}", "harmless")


def _direct(examples: Sequence[Example]) -> list[Case]:
    return evals.cases(examples, [TestCase(e.id, "direct", e.prompt) for e in examples])


def _checked(cases: list[Case], where: str, kind: str) -> list[Case]:
    if len(cases) < separation.LEAST:
        raise InputError(f"{where}: {len(cases)} {kind} prompts, and at least {separation.LEAST} are needed; name more")
    return cases


def _identity(recipe: Recipe, plan: Plan, model: str) -> dict[str, Any]:
    return identity(
        recipe,
        model=model_identity(model),
        eval="separation",
        behaviors=plan.harmful,
        benign=plan.harmless,
        prefix=plan.section.prefix,
        projection=plan.projection,
        limit=plan.limit,
        cases={str(path): sha256(path) for path in plan.cases},
        **contents(models=[model], sources=[plan.harmful, plan.harmless]),
    )


def _embeddings(asked: Sequence[Case], plan: Plan, recipe: Recipe, model: str, folder: Path) -> "NDArray[np.float32]":
    """[N, H]; what a file is there for is read from it, and a file is whole or absent."""
    import numpy as np
    from safetensors.numpy import load_file, save

    folder.mkdir(exist_ok=True)
    batches = [(folder / f"{n:04d}.safetensors", batch) for n, batch in enumerate(_batches(asked))]
    left = [(path, batch) for path, batch in batches if not path.exists()]
    engine: Any = open_engine(model, precision=precision_of(recipe)) if left else None
    with console.progress("embeddings", len(batches), len(batches) - len(left)) as advance:
        for path, batch in left:
            conversations = [[*case.turns, *chat.user(case.prompt)] for case in batch]
            states = engine.last_states(conversations, prefix=plan.section.prefix).numpy()
            write_bytes(path, save({case.id: state for case, state in zip(batch, states, strict=True)}))
            advance("")
    return np.stack([held[case.id] for path, batch in batches for held in [load_file(path)] for case in batch])


def _batches(asked: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(asked), BATCH):
        yield asked[start : start + BATCH]


def _measure(
    this: RunDirectory, asked: Sequence[Case], embeddings: "NDArray[np.float32]", plan: Plan, seed: int
) -> dict[str, Any]:
    """The figures and the line they are of; writes the points and the picture."""
    import numpy as np

    from safereason.report.separation import picture

    points = separation.project(embeddings, plan.projection, seed)
    harmful = np.array([case.kind == "harmful" for case in asked])
    line = separation.separate(points, harmful, 1.0)
    rows = [
        {
            "id": case.id,
            "kind": case.kind,
            "attack": case.attack,
            "source": case.source,
            "category": case.category,
            "prompt": case.prompt,
            "x": float(x),
            "y": float(y),
        }
        for case, (x, y) in zip(asked, points, strict=True)
    ]
    write_bytes(this.path / "points.jsonl", b"".join(map(line_of, rows)))
    title = "Harmful and harmless prompts inside the model"
    plot = picture("separation", title, points, harmful, line, plan.projection)
    write_bytes(this.path / "plots" / f"{plot.name}.svg", plot.svg)
    write_bytes(this.path / "plots" / f"{plot.name}.png", plot.png)
    return {"figures": [asdict(figure) for figure in separation.figures(points, harmful, seed)]}


def _counts(plan: Plan, asked: Sequence[Case]) -> dict[str, Any]:
    harmful = [case for case in asked if case.kind == "harmful"]
    return {
        "harmful": {
            "source": plan.harmful,
            "prompts": len(harmful),
            "attacks": list(dict.fromkeys(case.attack for case in harmful)),
        },
        "harmless": {"source": plan.harmless, "prompts": len(asked) - len(harmful)},
        "prefix": plan.section.prefix,
        "limit": plan.limit,
    }
