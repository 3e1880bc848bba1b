"""Stage `eval/separation`: hidden states of a model at the end of harmful and harmless prompts, and their distance.

`embeddings/` holds one tensor a prompt, in a file a batch, so that a resumed run goes on after the last whole file.
`points.jsonl` holds the position of each prompt in the plane, and `plots/` the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import console, evals
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.data import sources
from safereason.data.example import Example
from safereason.data.sampling import limited
from safereason.engines.base import require_local
from safereason.engines.engine_spec import EngineSpec
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.evals import Case, separation
from safereason.evals.base import eval_section
from safereason.evals.separation import Projection
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, line_of, write_bytes
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Result,
    finished_result,
    run_identity,
)
from safereason.stages.contents import contents
from safereason.stages.placement import place_alone
from safereason.stages.resolve_model import model_of
from safereason.stages.run_engine import RunEngine, noted_engine
from safereason.text import chat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from safereason.evals.separation import Points, Truths

BATCH = 32
"""Prompts a file of embeddings."""


@dataclass(frozen=True)
class SeparationRequest:
    """A measurement as it is requested: its harmful prompts, its projection, and how many prompts."""

    cases: Sequence[Path] = ()
    """Files of test cases, which replace the harmful prompts."""
    projection: Projection = "pca"
    """Method that projects embeddings into the plane."""
    limit: int | None = None
    """In place of the recipe's: most prompts of each kind, drawn by the seed."""


@dataclass(frozen=True)
class SeparationPlan:
    """Prompts of both kinds, and the projection of their hidden states."""

    section: Evaluation
    harmful: str
    """Source of the harmful prompts."""
    harmless: str
    projection: Projection
    limit: int | None
    """Most prompts of each kind."""
    cases: tuple[Path, ...]
    """Files of test cases that replace the harmful prompts."""


def run_separation(recipe: Recipe, options: Options, request: SeparationRequest = SeparationRequest()) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Recipe whose `eval` section has the prompts and the generation prefix.
        options: Where to write, and the model.
        request: The prompts and the projection.

    Raises:
        InputError: The model's weights, the prompts or UMAP cannot be had.
    """
    plan = plan_separation(recipe, request)
    model = model_of(recipe, options)
    # Servers and vLLM give text and probabilities, and no hidden states.
    if not model.has_weights:
        raise InputError(f"{model}: its engine does not show what is inside a model; name a folder, a run or a hub id")
    model.check()
    cases_of_both = [*_harmful_cases(plan, recipe.seed), *_harmless_cases(plan, recipe.seed)]
    engine = RunEngine.choose(model, options, by_transformers=True)
    identity = _separation_identity(recipe, plan, model)
    directory = engine.open_run("eval/separation", recipe, options, model.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        embeddings = _embeddings(cases_of_both, plan, engine, options, this.path)
        metrics = {
            "eval": "separation",
            "model": model.identity(),
            "recipe": recipe.name,
            "projection": plan.projection,
            **noted_engine(this.path),
            **_prompt_sets(plan, cases_of_both),
            **_measure_separation(this, cases_of_both, embeddings, plan, recipe.seed),
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def plan_separation(recipe: Recipe, request: SeparationRequest = SeparationRequest()) -> SeparationPlan:
    """Combines the recipe and the request.

    Raises:
        InputError: The recipe names no prompts, or UMAP is not installed.
    """
    separation.check_projection(request.projection)
    section = eval_section(recipe)
    # A line needs points on both sides.
    if section.behaviors is None or section.benign is None:
        missing = "eval.benign"
        if section.behaviors is None:
            missing = "eval.behaviors"
        raise InputError(f"recipe {recipe.name}: {missing} is null, and both kinds are needed; name a source")
    harmful = sources.SOURCES.own_name(section.behaviors)
    harmless = sources.SOURCES.own_name(section.benign)
    limit = request.limit or section.limit
    return SeparationPlan(section, harmful, harmless, request.projection, limit, tuple(request.cases))


def _harmful_cases(plan: SeparationPlan, seed: int) -> list[Case]:
    """The harmful prompts of the source, or the test cases of attacks on them."""
    examples = _test_examples(plan.harmful, is_harmful=True)
    if not plan.cases:
        direct = _direct_cases(limited(examples, plan.limit, seed))
        return _enough_cases(direct, f"source {plan.harmful}", "harmful")
    tests = _text_cases(plan.cases, examples)
    attacked_ids = {test.behavior_id for test in tests}
    # The limit is on behaviors, and only those with a test case should use it up.
    attacked = [example for example in examples if example.id in attacked_ids]
    chosen = limited(attacked, plan.limit, seed)
    where = f"--cases {plan.cases[0]}: of the behaviors of {plan.harmful}"
    return _enough_cases(evals.cases(chosen, tests), where, "attacked")


def _test_examples(source: str, *, is_harmful: bool) -> list[Example]:
    """The harmful, or all other test examples of a source; ambiguous ones count as harmless."""
    examples = []
    for example in sources.get(source).load("test"):
        if (example.kind == "harmful") == is_harmful:
            examples.append(example)
    return examples


def _text_cases(files: Sequence[Path], examples: Sequence[Example]) -> list[TestCase]:
    """The test cases of files, for these behaviors, whose text is all that the model reads."""
    behaviors = {example.id for example in examples}
    tests = []
    for file in files:
        for test in formats.read_cases(file):
            # A completion is saved with a case if the attack changed more than text, such as embeddings.
            if test.behavior_id in behaviors and test.completion is None:
                tests.append(test)
    return tests


def _harmless_cases(plan: SeparationPlan, seed: int) -> list[Case]:
    examples = _test_examples(plan.harmless, is_harmful=False)
    direct = _direct_cases(limited(examples, plan.limit, seed))
    return _enough_cases(direct, f"source {plan.harmless}", "harmless")


def _direct_cases(examples: Sequence[Example]) -> list[Case]:
    tests = []
    for example in examples:
        tests.append(TestCase(example.id, "direct", example.prompt))
    return evals.cases(examples, tests)


def _enough_cases(cases: list[Case], where: str, kind: str) -> list[Case]:
    """The cases themselves, if there are enough of them for a line between both kinds."""
    if len(cases) < separation.LEAST:
        raise InputError(f"{where}: {len(cases)} {kind} prompts, and at least {separation.LEAST} are needed; name more")
    return cases


def _separation_identity(recipe: Recipe, plan: SeparationPlan, model: ModelSpec) -> Identity:
    return run_identity(
        recipe,
        model=model.identity(),
        eval="separation",
        behaviors=plan.harmful,
        benign=plan.harmless,
        prefix=plan.section.prefix,
        projection=plan.projection,
        limit=plan.limit,
        cases={str(path): sha256(path) for path in plan.cases},
        **contents(models=[model], sources=[plan.harmful, plan.harmless]),
    )


def _embeddings(
    cases: Sequence[Case], plan: SeparationPlan, engine: RunEngine, options: Options, run: Path
) -> "NDArray[np.float32]":
    """The hidden states of all prompts, [N, H]. Files that are there are read; a file is whole or absent."""
    import numpy as np
    from safetensors.numpy import load_file

    folder = run / "embeddings"
    folder.mkdir(exist_ok=True)
    batches: dict[Path, Sequence[Case]] = {}
    for number, start in enumerate(range(0, len(cases), BATCH)):
        batches[folder / f"{number:04d}.safetensors"] = cases[start : start + BATCH]
    missing = [path for path in batches if not path.exists()]
    # A resumed run with all files needs no model.
    if missing:
        engine.begin(run)
        _write_embeddings(batches, missing, plan, place_alone(engine.spec, options, "eval separation"))
        engine.note(run)
    states = []
    for path, batch in batches.items():
        state_by_id = load_file(path)
        for case in batch:
            # By id, since a file does not keep the order of its tensors.
            states.append(state_by_id[case.id])
    return np.stack(states)


def _write_embeddings(
    batches: Mapping[Path, Sequence[Case]],
    missing: Sequence[Path],
    plan: SeparationPlan,
    spec: EngineSpec,
) -> None:
    """Computes and writes the missing files of hidden states, one a batch."""
    from safetensors.numpy import save

    # `run_separation` refused the names of all other engines, which do not show hidden states.
    engine = require_local(spec.open(), "eval separation")
    with console.progress("embeddings", len(batches), len(batches) - len(missing)) as advance:
        for path in missing:
            batch = batches[path]
            conversations = [[*case.test.turns, *chat.user(case.test.prompt)] for case in batch]
            states = engine.last_states(conversations, prefix=plan.section.prefix).numpy()
            # The bytes are written aside and renamed, which safetensors itself does not do.
            write_bytes(path, save({case.id: state for case, state in zip(batch, states, strict=True)}))
            advance("")


def _measure_separation(
    this: RunDirectory, cases: Sequence[Case], embeddings: "NDArray[np.float32]", plan: SeparationPlan, seed: int
) -> Metrics:
    """The figures; writes the points and the picture."""
    import numpy as np

    # Both kinds are projected together: two projections would have different axes.
    points = separation.project(embeddings, plan.projection, seed)
    harmful = np.array([case.example.kind == "harmful" for case in cases])
    lines = []
    for case, (x, y) in zip(cases, points, strict=True):
        lines.append(line_of(_point_record(case, float(x), float(y))))
    write_bytes(this.path / "points.jsonl", b"".join(lines))
    _write_picture(this.path / "plots", points, harmful, plan.projection)
    return {"figures": [asdict(figure) for figure in separation.figures(points, harmful, seed)]}


def _point_record(case: Case, x: float, y: float) -> Record:
    return {
        "id": case.id,
        "kind": case.example.kind,
        "attack": case.test.attack,
        "source": case.example.source,
        "category": case.example.category,
        "prompt": case.test.prompt,
        "x": x,
        "y": y,
    }


def _write_picture(folder: Path, points: "Points", harmful: "Truths", projection: Projection) -> None:
    """Writes the points and the line between both kinds, as SVG and PNG.

    Args:
        folder: Folder of the files.
        points: Positions in the plane, [N, 2].
        harmful: Whether each prompt is harmful, [N].
        projection: Method that made the points, for the axes.
    """
    from safereason.report.separation import picture

    # The figures are of two values of C, and the picture shows the line of the first.
    line = separation.separate(points, harmful, 1.0)
    title = "Harmful and harmless prompts inside the model"
    plot = picture("separation", title, points, harmful, line, projection)
    write_bytes(folder / f"{plot.name}.svg", plot.svg)
    write_bytes(folder / f"{plot.name}.png", plot.png)


def _prompt_sets(plan: SeparationPlan, cases: Sequence[Case]) -> Metrics:
    """The sources and numbers of both kinds of prompts, for the metrics."""
    harmful = [case for case in cases if case.example.kind == "harmful"]
    return {
        "harmful": {
            "source": plan.harmful,
            "prompts": len(harmful),
            "attacks": list(dict.fromkeys(case.test.attack for case in harmful)),
        },
        "harmless": {"source": plan.harmless, "prompts": len(cases) - len(harmful)},
        "prefix": plan.section.prefix,
        "limit": plan.limit,
    }
