"""Stage `eval/NAME` once more: judges the saved completions of a finished run by another judge, asking no model.

The new run holds the same completions, and its manifest says of which run they are, so that reports and comparisons
read it as any other. Killed, it goes on with the verdicts that it has.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safereason import evals
from safereason.errors import InputError
from safereason.evals import Eval
from safereason.files import read_text
from safereason.runs.directory import RunDirectory, digest, is_finished, read_manifest, read_metrics, run_path
from safereason.runs.manifest import sha256
from safereason.runs.records import read_records, write_bytes
from safereason.stages import eval_judge
from safereason.stages.base import Options, Result, finished_result, judge_identity, resolved_judge

NEEDED = frozenset({"id", "behavior", "request", "context", "category", "prompt", "answer", "finish_reason"})
"""What a record of a completion has to hold to be judged."""


def score(run: Path, options: Options, judge: str) -> Result:
    """Judges the completions of `run` again, into a run of its own.

    Args:
        run: A finished run of an evaluation that has a judge.
        options: Where to write; its model is not asked.
        judge: The judge, by its name.

    Raises:
        InputError: `run` is none of these, or the judge cannot be had or measures something else.
        StageFailed: Verdicts could not be had, and `--resume` asks for those again.
    """
    evaluation, manifest = _read(run)
    spec = resolved_judge(judge, options)
    identity = _identity(run, manifest, spec)
    stage, recipe = str(manifest["stage"]), str(manifest["recipe"])
    measured = str(manifest["identity"].get("model", ""))
    label = f"{measured.rstrip('/').rpartition('/')[2]}.by-{spec}"
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
    scorer = evals.judge_for(evaluation, spec)
    ids = [str(record["id"]) for record in read_records(run / eval_judge.VERDICTS)]  # in the order of the cases
    _check_whole(run / eval_judge.COMPLETIONS, ids)
    with directory as this:
        _share(run / eval_judge.COMPLETIONS, this.path / eval_judge.COMPLETIONS)
        this.inputs[str(run / eval_judge.COMPLETIONS)] = identity["completions"]
        eval_judge.drop_failed(this.path / eval_judge.VERDICTS)
        with this.records("verdicts") as log:
            eval_judge.judge_all(ids, scorer, spec, log)
        metrics = {
            **read_metrics(run),
            "judge": spec,
            "rejudges": identity["rejudges"],
            **eval_judge.counts(ids, this.path, evaluation),
            "figures": eval_judge.figures(ids, this.path, evaluation, scorer.measures),
        }
        eval_judge.finish(this, ids, evaluation, metrics)
    return Result(directory.path, metrics)


def check(run: Path) -> Eval:
    """The evaluation that a run is of, whose completions can be judged again.

    Raises:
        InputError: `run` is no finished run of an evaluation with a judge.
    """
    return _read(run)[0]


def _read(run: Path) -> tuple[Eval, dict[str, Any]]:
    manifest = read_manifest(run)
    if manifest is None:
        raise InputError(f"{run}: holds no run; name the directory of a finished eval run")
    kind, _, name = str(manifest.get("stage")).partition("/")
    evaluation = evals.EVALS.get(name) if kind == "eval" else None
    if evaluation is None or evaluation.judge is None:
        raise InputError(
            f"{run}: a run of {manifest.get('stage')}, which has no judged answers; name one of "
            f"{', '.join(f'eval/{e.name}' for e in evals.EVALS.values() if e.judge)}"
        )
    if not is_finished(run):
        raise InputError(f"{run}: this {manifest['stage']} run is not finished; resume it first")
    first: Mapping[str, Any] = next(read_records(run / eval_judge.COMPLETIONS), {})
    if missing := sorted(NEEDED - first.keys()):
        raise InputError(f"{run}: its completions, of an earlier version, have no `{missing[0]}`; make the run anew")
    return evaluation, manifest


def _check_whole(file: Path, ids: Sequence[str]) -> None:
    """Refuses a file that lost completions after its run had finished."""
    held = eval_judge.by_id(file)
    if missing := [name for name in ids if name not in held]:
        raise InputError(
            f"{file}: {len(missing)} of {len(ids)} completions are missing, such as {missing[0]}; "
            "make the run again with --overwrite"
        )


def _identity(run: Path, manifest: dict[str, Any], judge: str) -> dict[str, Any]:
    """As the run's own, by the other judge, and on these very completions."""
    before = manifest["identity"]
    return {
        **before,
        "judge": judge_identity(judge),
        "rejudges": f"{manifest['stage']}/{manifest['recipe']}/{digest(before)}",
        "completions": sha256(run / eval_judge.COMPLETIONS),
    }


def _share(file: Path, place: Path) -> None:
    """The same file in another place; a copy where the two cannot be one."""
    if place.exists():
        return
    with suppress(OSError):
        os.link(file, place)
    if not place.exists():
        write_bytes(place, file.read_bytes())
