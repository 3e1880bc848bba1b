"""Stage `eval/NAME` with another judge: it judges the saved completions of a finished run, and queries no model.

The new run holds the same completions and names their run in its identity. Reports and comparisons read it as any
other run. A killed run goes on after its last verdict.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safereason import evals
from safereason.engines.engine_spec import Loading
from safereason.errors import InputError
from safereason.evals import Eval, judging
from safereason.files import read_text
from safereason.judges import JudgeSpec
from safereason.runs.directory import RunDirectory, digest, is_finished, read_manifest, read_metrics, run_path
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, read_records, write_bytes
from safereason.stages.base import Identity, Options, Result, finished_result, resolved_judge
from safereason.stages.placement import gpus_to_use, judge_roles, loading_of, place

NEEDED = frozenset({"id", "behavior", "request", "context", "category", "prompt", "answer", "finish_reason"})
"""Keys that a record of a completion needs to be judged."""


def score_eval(run: Path, options: Options, judge: JudgeSpec) -> Result:
    """Judges the completions of `run` again, into a run of its own.

    Args:
        run: A finished run of an evaluation that has a judge.
        options: Where to write; its model is not used.
        judge: The judge.

    Raises:
        InputError: `run` is none of these, or the judge cannot be had or measures something else.
        StageFailed: Verdicts failed; `--resume` tries those again.
    """
    evaluation, manifest = _read_judged_run(run)
    judge = resolved_judge(judge, options)
    identity = _rejudged_identity(run, manifest, judge)
    stage, recipe = str(manifest["stage"]), str(manifest["recipe"])
    measured = str(manifest["identity"].get("model", ""))
    # Two judges of one run need two directories, so the judge is in the name.
    label = f"{measured.rstrip('/').rpartition('/')[2]}.by-{judge.label()}"
    directory = RunDirectory(
        options.out or run_path(options.root, stage, recipe, label, identity),
        stage,
        recipe,
        read_text(run / "recipe.yaml"),
        identity,
        options.on_existing,
    )
    if (result := finished_result(directory)) is not None:
        return result
    measure = evals.judge_for(evaluation, judge, Loading(options.precision, is_deferred=True)).measure
    placement = place(judge_roles(judge, options), gpus_to_use(options), f"eval score of {evaluation.name}")
    # Verdicts are in the order of the cases, and completions in the order in which they ended.
    ids = [str(record["id"]) for record in read_records(run / judging.VERDICTS)]
    _check_all_completions(run / judging.COMPLETIONS, ids)
    with directory as this:
        _link_or_copy(run / judging.COMPLETIONS, this.path / judging.COMPLETIONS)
        this.inputs[str(run / judging.COMPLETIONS)] = str(identity["completions"])
        judging.drop_failed(this.path / judging.VERDICTS)
        rejudging = judging.Judging(judge, evaluation.measures, loading_of(placement, options))
        judging.judge_all(ids, rejudging, this, placement.environments)
        metrics = {
            **read_metrics(run),
            "judge": judge.label(),
            "measure": measure,
            "rejudges": identity["rejudges"],
            **judging.outcome_counts(ids, this.path, evaluation),
            "figures": judging.eval_figures(ids, this.path, evaluation, measure),
        }
        judging.finish_eval(this, ids, evaluation, metrics)
    return Result(directory.path, metrics)


def check_score(run: Path) -> Eval:
    """The evaluation of a run whose completions can be judged again.

    Raises:
        InputError: `run` is no finished run of an evaluation with a judge.
    """
    evaluation, _ = _read_judged_run(run)
    return evaluation


def _read_judged_run(run: Path) -> tuple[Eval, Record]:
    """The evaluation and the manifest of a finished run with judged completions."""
    manifest = read_manifest(run)
    if manifest is None:
        raise InputError(f"{run}: holds no run; name the directory of a finished eval run")
    kind, _, name = str(manifest.get("stage")).partition("/")
    evaluation = None
    if kind == "eval":
        evaluation = evals.EVALS.installed(name)
    if evaluation is None or evaluation.judge is None:
        judged = [f"eval/{known.name}" for known in evals.EVALS.values() if known.judge]
        raise InputError(
            f"{run}: a run of {manifest.get('stage')}, which has no judged answers; name one of {', '.join(judged)}"
        )
    if not is_finished(run):
        raise InputError(f"{run}: this {manifest['stage']} run is not finished; resume it first")
    # Records are of one version, so the first one shows the keys of all.
    first: Record = next(read_records(run / judging.COMPLETIONS), {})
    if missing := sorted(NEEDED - first.keys()):
        raise InputError(f"{run}: its completions, of an earlier version, have no `{missing[0]}`; make the run anew")
    return evaluation, manifest


def _check_all_completions(file: Path, ids: Sequence[str]) -> None:
    """Refuses a file that lost completions after its run had finished."""
    # The manifest has no hash of the completions, which are a result and not an input.
    completions = judging.records_by_id(file)
    missing = [name for name in ids if name not in completions]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(ids)} completions are missing, such as {missing[0]}; "
            "make the run again with --overwrite"
        )


def _rejudged_identity(run: Path, manifest: Record, judge: JudgeSpec) -> Identity:
    """The identity of the judged run, with the other judge and the hash of its completions."""
    judged = manifest["identity"]
    return {
        **judged,
        "judge": judge.identity(),
        "rejudges": f"{manifest['stage']}/{manifest['recipe']}/{digest(judged)}",
        "completions": sha256(run / judging.COMPLETIONS),
    }


def _link_or_copy(file: Path, link: Path) -> None:
    """Makes a hard link to a file, or a copy where the file system allows none, such as over two disks."""
    if link.exists():
        return
    with suppress(OSError):
        os.link(file, link)
    if not link.exists():
        write_bytes(link, file.read_bytes())
