"""Stage `eval`: draws a model's completions, judges them, and works out figures.

Three files let `eval_score.py` judge again without generating: `completions.jsonl`, appended as completions end, and
put in the order of the cases when all are there; `verdicts.jsonl`, likewise; and `metrics.json`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from safereason import attacks, console, evals
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.console import Advance
from safereason.data import sources
from safereason.data.example import Example
from safereason.data.sampling import limited
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.engine_spec import EngineSpec, Loading
from safereason.engines.memory import release
from safereason.engines.open import load_tokenizer
from safereason.engines.shares import Call, draw
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.evals import Case, Eval, adaptivity, judging
from safereason.evals.base import eval_section
from safereason.judges import JudgeSpec, Measure
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, RecordLog, keep_records, read_records, sort_records
from safereason.stages import attack, searches
from safereason.stages.attack_plan import AttackRequest, check_at_hand, plan_attack
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Result,
    base_model,
    finished_result,
    given_inputs,
    resolved_judge,
    run_identity,
)
from safereason.stages.contents import contents
from safereason.stages.own_names import with_own_names
from safereason.stages.placement import Placement, Role, gpus_to_use, judge_roles, loading_of, place
from safereason.stages.resolve_model import model_of
from safereason.stages.run_engine import RunEngine, engine_of, noted_engine
from safereason.text import chat, reasoning
from safereason.training.fit import Gpus


@dataclass(frozen=True)
class EvalRequest:
    """An evaluation as it is requested: its name, and what is named in place of the recipe's."""

    name: str
    attacks: Sequence[str] | None = None
    """Attacks, for an evaluation under attacks."""
    judge: str | None = None
    limit: int | None = None
    """Most examples, drawn by the seed."""
    cases: Sequence[Path] = ()
    """Files of test cases, or the attacks' runs, in place of attacks."""
    source: str | None = None
    """The data source, in place of the recipe's or the evaluation's own."""


@dataclass(frozen=True)
class EvalPlan:
    """An evaluation with its settings from the recipe and the command line."""

    evaluation: Eval
    section: Evaluation
    attacks: tuple[str, ...]
    judge: JudgeSpec | None
    """Judge of the answers; None where nothing is judged."""
    limit: int | None
    sources: tuple[str, ...]
    cases: tuple[Path, ...] = ()
    """Files of test cases, in place of attacks."""


def run_eval(recipe: Recipe, options: Options, request: EvalRequest) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Recipe whose `eval` section has the sources, the limit and the judge.
        options: Where to write, and the model.
        request: The evaluation.

    Raises:
        InputError: A name is unknown, the judge measures something else, or there is no such model or data.
        StageFailed: Completions or verdicts failed; `--resume` tries those again.
    """
    plan = plan_eval(recipe, request)
    if plan.judge is not None:
        plan = replace(plan, judge=resolved_judge(plan.judge, options))
    model = model_of(recipe, options)
    # An unknown model is refused before a directory is made.
    model.check()
    engine = RunEngine.choose(model, options, plan.section.engine, option="eval.engine={}")
    identity = _eval_identity(recipe, plan, model, options.base_url)
    directory = engine.open_run(f"eval/{plan.evaluation.name}", recipe, options, model.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    # All that can be refused is refused before the searches and the completions, which can take hours.
    measure = _check_judge(plan, options)
    check_attacks(recipe, options, plan, model)
    drawn = _draw_examples(plan, recipe.seed)
    gpus = gpus_to_use(options)
    place_searches(recipe, plan, model, options, gpus)
    placements = place_eval(plan, engine.spec, options, gpus)
    # Searches write runs of their own, so they come before this run's directory is locked.
    eval_cases = _all_cases(recipe, options, plan, model, drawn)
    ids = [case.id for case in eval_cases]
    with directory as this:
        # A resumed run repeats failed completions and failed verdicts.
        keep_records(this.path / judging.COMPLETIONS, lambda record: not evals.has_failed(record))
        judging.drop_failed(this.path / judging.VERDICTS)
        _generate_completions(eval_cases, plan, recipe.seed, engine, placements.completions, this)
        # The judge's model may need the memory of the one that is measured.
        release()
        if plan.judge is not None:
            loading = loading_of(placements.verdicts, options)
            judge = judging.Judging(plan.judge, plan.evaluation.measures, loading)
            judging.judge_all(ids, judge, this, placements.verdicts.environments)
            release()
        metrics = {
            **_eval_description(recipe, plan, model, drawn, eval_cases),
            **noted_engine(this.path),
            "measure": measure,
            **judging.outcome_counts(ids, this.path, plan.evaluation),
            "figures": judging.eval_figures(ids, this.path, plan.evaluation, measure),
        }
        judging.finish_eval(this, ids, plan.evaluation, metrics)
    return Result(directory.path, metrics)


def _check_judge(plan: EvalPlan, options: Options) -> Measure | None:
    """The measure of the judge, if there is one. The judge is looked at, and no model of it loaded.

    Raises:
        InputError: It cannot be had, or measures something else.
    """
    if plan.judge is None:
        return None
    plan.judge.check()
    return evals.judge_for(plan.evaluation, plan.judge, Loading(options.precision, is_deferred=True)).measure


@dataclass(frozen=True)
class EvalPlacements:
    """Where the model lies that is measured, and where the judge's, once that one has made room."""

    completions: Placement
    verdicts: Placement

    def rows(self) -> list[dict[str, object]]:
        """Both placements as a plan shows them."""
        return [*self.completions.rows("completions"), *self.verdicts.rows("verdicts")]


def planned_placements(recipe: Recipe, plan: EvalPlan, options: Options) -> list[Record]:
    """The placements of an evaluation that is planned, a row a model; none without GPUs.

    A model that is not trained yet is as large as the one that it is trained from.

    Raises:
        InputError: A model does not fit the GPUs.
    """
    gpus = gpus_to_use(options)
    if gpus is None:
        return []
    model = options.model or base_model(recipe)
    rows: list[Record] = []
    for name, placement in place_searches(recipe, plan, model, options, gpus).items():
        rows += placement.rows(f"searches of {name}")
    return rows + place_eval(plan, engine_of(model, options, plan.section.engine), options, gpus).rows()


def place_searches(
    recipe: Recipe, plan: EvalPlan, model: ModelSpec, options: Options, gpus: Gpus | None
) -> dict[str, Placement]:
    """The placement of the searches of each of the evaluation's attacks that searches, by the attack's name.

    There is none without GPUs.

    Raises:
        InputError: The models of one of them do not fit the GPUs.
    """
    placements: dict[str, Placement] = {}
    # Without GPUs there is nothing to place, and planning an attack reads its behaviors.
    if gpus is None:
        return placements
    for name in plan.attacks:
        if attacks.get(name).needs:
            attack_plan = plan_attack(recipe, options, _search_request(name, plan))
            target = attack.target_engine(attack_plan, model, options)
            placements[name] = attack.place_attack(attack_plan, target.spec, options, gpus)
    return placements


def place_eval(plan: EvalPlan, engine: EngineSpec, options: Options, gpus: Gpus | None) -> EvalPlacements:
    """The placements of an evaluation on these GPUs; `engine` is that of the model.

    Raises:
        InputError: A model does not fit the GPUs.
    """
    what = f"eval {plan.evaluation.name}"
    completions = place([Role("model", engine)], gpus, what)
    verdicts = place(judge_roles(plan.judge, options), gpus, what)
    return EvalPlacements(completions, verdicts)


def _eval_description(
    recipe: Recipe, plan: EvalPlan, model: ModelSpec, drawn: "_DrawnExamples", eval_cases: Sequence[Case]
) -> Metrics:
    """The part of the metrics that says what was evaluated, and on how much."""
    judge = None
    if plan.judge is not None:
        judge = plan.judge.label()
    return {
        "eval": plan.evaluation.name,
        "model": model.identity(),
        "recipe": recipe.name,
        "judge": judge,
        "source": ", ".join(plan.sources),
        # The attacks that made cases: with files of test cases the plan names none.
        "attacks": list(dict.fromkeys(case.test.attack for case in eval_cases)),
        "examples": len(drawn.examples),
        "available": drawn.available,
        "limit": plan.limit,
    }


@dataclass(frozen=True)
class _DrawnExamples:
    """Examples of an evaluation, after its limit."""

    examples: list[Example]
    available: int
    """Number of examples that they were drawn from."""
    tests: list[TestCase]
    """The test cases of files; empty where attacks make them."""


def _draw_examples(plan: EvalPlan, seed: int) -> _DrawnExamples:
    """The examples of the evaluation, up to its limit; with files of test cases, only examples that they attack."""
    examples: Iterable[Example] = _suitable_examples(plan)
    tests: list[TestCase] = []
    if plan.cases:
        available = list(examples)
        tests = _read_test_cases(plan, available)
        # The limit is on behaviors, and only those with a test case should use it up.
        attacked = {test.behavior_id for test in tests}
        examples = [example for example in available if example.id in attacked]
    # The sources may be larger than memory, so examples are counted as they pass by.
    passed = count()
    drawn = limited((example for example, _ in zip(examples, passed, strict=False)), plan.limit, seed)
    if not drawn:
        raise InputError(
            f"source {', '.join(plan.sources)}: has no prompts that eval {plan.evaluation.name} is about; "
            "name another one"
        )
    return _DrawnExamples(drawn, next(passed), tests)


def _suitable_examples(plan: EvalPlan) -> Iterator[Example]:
    for name in plan.sources:
        yield from filter(plan.evaluation.keeps, sources.get(name).stream("test"))


def plan_eval(recipe: Recipe, request: EvalRequest) -> EvalPlan:
    """Combines the recipe and the request.

    Raises:
        InputError: The evaluation is unknown, left out of the recipe, or takes no attacks or no judge.
    """
    evaluation = evals.get(request.name)
    section = eval_section(recipe)
    name = evaluation.name
    chosen_sources = evaluation.sources(section)
    if request.source:
        chosen_sources = (request.source,)
    if not chosen_sources:
        raise InputError(f"recipe {recipe.name}: eval {name} is left out (its source is null); name a source")
    if evaluation.judge is None and request.judge is not None:
        raise InputError(f"eval {name}: asks no judge; leave --judge out")
    if evaluation.attacks is None and (request.attacks is not None or request.cases):
        raise InputError(f"eval {name}: is not made under attacks; leave --attacks and --cases out")
    if request.attacks is not None and request.cases:
        raise InputError("--attacks and --cases exclude each other; pass one of them")
    judge_name = request.judge
    if not judge_name and evaluation.judge is not None:
        # The section may name one judge for harm and another one for refusal.
        judge_name = evaluation.judge(section)
    judge = None
    if judge_name:
        judge = JudgeSpec.parse(judge_name)
    # The request goes before the recipe, and the recipe before the evaluation's own default.
    return EvalPlan(
        evaluation=evaluation,
        section=section,
        attacks=_chosen_attacks(evaluation, section, request),
        judge=judge,
        limit=request.limit or section.limit or evaluation.draws,
        sources=tuple(map(sources.SOURCES.own_name, chosen_sources)),
        cases=tuple(map(formats.file_of, request.cases)),
    )


def _chosen_attacks(evaluation: Eval, section: Evaluation, request: EvalRequest) -> tuple[str, ...]:
    """The attacks of an evaluation, each once: those requested, else the recipe's; none beside files of test cases."""
    if request.cases:
        return ()
    names = request.attacks
    if not names:
        if evaluation.attacks is None:
            return ("direct",)
        names = evaluation.attacks(section)
    # Records know an attack by its own name, by whatever path it was found.
    return tuple(dict.fromkeys(attacks.get(name).name for name in names))


def check_attacks(recipe: Recipe, options: Options, plan: EvalPlan, model: ModelSpec | None = None) -> None:
    """Checks every attack before the first of them searches, which can take hours.

    Args:
        recipe: Recipe with the attacks' models and settings.
        options: Options with the root of the runs, for a judge `guard:RECIPE`.
        plan: The attacks.
        model: The target, which is then checked with all models that the attacks load; None checks no model.

    Raises:
        InputError: As `plan_attack` and `check_at_hand`.
    """
    for name in plan.attacks:
        # The plain request has no settings and loads no model.
        if name == "direct":
            continue
        attack_plan = plan_attack(recipe, options, _search_request(name, plan))
        if model is not None:
            check_at_hand(attack_plan, model)


def _search_request(name: str, plan: EvalPlan) -> AttackRequest:
    """The search of one of the evaluation's attacks, over the same behaviors."""
    return AttackRequest(name, plan.sources[0], plan.limit)


def _all_cases(recipe: Recipe, options: Options, plan: EvalPlan, model: ModelSpec, drawn: _DrawnExamples) -> list[Case]:
    """The cases of the evaluation, from files or from attacks."""
    if plan.cases:
        return evals.cases(drawn.examples, drawn.tests)
    return evals.cases(drawn.examples, _attack_cases(recipe, options, plan, model, drawn.examples))


def _attack_cases(
    recipe: Recipe, options: Options, plan: EvalPlan, model: ModelSpec, examples: Sequence[Example]
) -> Iterator[TestCase]:
    """The test cases, attack by attack. An attack that searches is run first, unless its run is already there."""
    static = [name for name in plan.attacks if not attacks.get(name).needs]
    prefix = ""
    if static:
        # Only static attacks need the prefix here, and working it out may load a tokenizer.
        prefix = _model_prefix(model, plan)
    for name in plan.attacks:
        if name not in static:
            # `--out` is this run's place, and a search that was killed goes on.
            search_options = replace(options, model=model, out=None, on_existing="resume")
            run = searches.run_searches(recipe, search_options, _search_request(name, plan))
            yield from attack.cases_of(run)
        else:
            yield from attack.static_cases(recipe, name, examples, prefix)


def _model_prefix(model: ModelSpec, plan: EvalPlan) -> str:
    """The generation prefix, with the reasoning tag that the model's chat template opens; attacks may close it."""
    prefix = plan.section.prefix
    # A prefix that opens the reasoning itself needs no other tag.
    if prefix.lstrip().startswith(reasoning.OPEN):
        return prefix
    return _prefix_after_template(model, prefix)


def _prefix_after_template(model: ModelSpec, prefix: str) -> str:
    """A generation prefix after what the model's chat template opens; a server does not show its template."""
    if model.is_remote:
        return prefix
    return chat.opening(load_tokenizer(model), prefix)


def _read_test_cases(plan: EvalPlan, available: Sequence[Example]) -> list[TestCase]:
    """The test cases of files, for behaviors of the evaluation.

    Raises:
        InputError: A file has an unknown format, or holds none of these behaviors.
    """
    prompts = {example.id: example.prompt for example in available}
    tests = []
    for path in plan.cases:
        for row in formats.read(path):
            if row.behavior in prompts:
                # A behavior that its attack found nothing for is prompted in its own words.
                tests.append(row.case or TestCase(row.behavior, row.attack, prompts[row.behavior]))
    if not tests:
        raise InputError(
            f"--cases {plan.cases[0]}: holds no behavior of {', '.join(plan.sources)}; name their source with --prompts"
        )
    return tests


def _eval_identity(recipe: Recipe, plan: EvalPlan, model: ModelSpec, base_url: str | None) -> Identity:
    judge = None
    if plan.judge is not None:
        judge = plan.judge.identity()
    inputs: dict[str, object] = {}
    # The attack section counts only if a named attack has settings. Else changing it would change nothing.
    has_settings = any(attacks.get(name).settings.model_fields for name in plan.attacks)
    if recipe.attack is not None and has_settings:
        dumped = with_own_names(recipe, ("attack",)).model_dump(mode="json", exclude={"attack": {"engine"}})
        inputs["attack"] = dumped["attack"]
    return run_identity(
        recipe,
        model=model.identity(),
        eval=plan.evaluation.name,
        sources=list(plan.sources),
        attacks=list(plan.attacks),
        limit=plan.limit,
        judge=judge,
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.section.prefix,
        **inputs,
        **given_inputs(cases={str(path): sha256(path) for path in plan.cases}, base_url=base_url),
        **contents(models=[model], judges=[plan.judge], sources=plan.sources),
    )


def _generate_completions(
    cases: Sequence[Case], plan: EvalPlan, seed: int, engine: RunEngine, placement: Placement, this: RunDirectory
) -> None:
    """Draws and records the completions that are not recorded yet."""
    with this.records("completions") as log:
        recorded = {record["id"] for record in read_records(log.path)}
        remaining = {case.id for case in cases} - recorded
        # With all of them there, judging can go on on a machine that would have chosen another engine.
        if remaining:
            engine.begin(this.path)
            with console.progress("completions", len(cases), len(recorded)) as advance:
                record_completion = _completion_recorder(plan, engine, log, advance)
                _record_saved_completions(cases, remaining, plan, engine, record_completion)
                _draw_completions(cases, remaining, plan, seed, engine, placement, record_completion)
    position = {case.id: index for index, case in enumerate(cases)}
    sort_records(this.path / judging.COMPLETIONS, lambda record: position.get(record["id"], len(position)))


RecordCompletion = Callable[[Case, Completion], None]
"""Records the completion of a case."""


def _completion_recorder(plan: EvalPlan, engine: RunEngine, log: RecordLog, advance: Advance) -> RecordCompletion:
    count_tokens = None
    if plan.judge is None:
        # Evaluations without a judge measure lengths, so each completion is recorded with its tokens.
        count_tokens = _token_counter(engine.spec.model)

    def record_completion(case: Case, completion: Completion) -> None:
        lengths: Record = {}
        if count_tokens is not None:
            lengths = adaptivity.lengths(completion, count_tokens)
        engine.note(log.path.parent)
        log.append({**evals.case_record(case), **evals.completion_record(completion), **lengths})
        advance("")

    return record_completion


def _record_saved_completions(
    cases: Sequence[Case],
    remaining: Collection[str],
    plan: EvalPlan,
    engine: RunEngine,
    record_completion: RecordCompletion,
) -> None:
    """Records completions that attacks on embeddings saved: no prompt of text brings them about again."""
    for case in cases:
        if case.test.completion is not None and case.id in remaining:
            prefix = _prefix_after_template(engine.spec.model, _prefix_of(case, plan.section.prefix))
            record_completion(case, Completion(case.test.completion, (), "stop", prefix))


def _draw_completions(
    cases: Sequence[Case],
    remaining: Collection[str],
    plan: EvalPlan,
    seed: int,
    engine: RunEngine,
    placement: Placement,
    record_completion: RecordCompletion,
) -> None:
    """Draws the completions of cases, a call for each generation prefix.

    Recorded cases are sent too and marked as done: a conversation's position is part of its seed.
    """
    groups: list[list[Case]] = []
    calls: list[Call] = []
    for prefix, group in _cases_by_prefix(cases, plan.section.prefix).items():
        done = set()
        conversations = []
        for index, case in enumerate(group):
            conversations.append([*case.test.turns, *chat.user(case.test.prompt)])
            if case.id not in remaining:
                done.add(index)
        groups.append(group)
        calls.append(Call(conversations, plan.section.sampling, GenerateOptions(seed=seed, prefix=prefix, done=done)))

    def on_drawn(call: int, index: int, number: int, completion: Completion) -> None:
        record_completion(groups[call][index], completion)

    draw(placement.placed(engine.spec), calls, on_drawn, placement.environments)


def _token_counter(model: ModelSpec) -> Callable[[str], int] | None:
    """A function that counts a text's tokens; None for a model behind a server, whose tokenizer is unknown."""
    if model.is_remote:
        return None
    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _prefix_of(case: Case, default: str) -> str:
    """The generation prefix of a case: its own, which may be empty, else the evaluation's."""
    if case.test.prefix is None:
        return default
    return case.test.prefix


def _cases_by_prefix(cases: Sequence[Case], default: str) -> dict[str, list[Case]]:
    """The cases that need a completion, by generation prefix: an engine takes one prefix a call."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if case.test.completion is None:
            groups.setdefault(_prefix_of(case, default), []).append(case)
    return groups
