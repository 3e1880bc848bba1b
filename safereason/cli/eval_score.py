"""`safereason eval score`: another judge's verdicts on the saved completions of a run."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage

EXAMPLES = opt.examples(
    "safereason eval score runs/eval/harmbench/RUN --judge refusal-learned",
    "safereason eval score runs/eval/harmbench/RUN --judge guard:runs/guard/rl/GUARD --fail-under dsr=0.9 --json",
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of an evaluation.")]


def score(
    run: RunArgument,
    judge: opt.JudgeName,
    precision: opt.PrecisionOption = None,
    gpus: opt.WorkGpus = None,
    fail_under: opt.FailUnder = None,
    fail_over: opt.FailOver = None,
    junit: opt.JUnit = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Judge a run's saved completions by another judge, into a run of its own; no model answers again."""
    from safereason.evals import judging
    from safereason.judges import JudgeSpec
    from safereason.stages import eval_score

    # Which figures there are depends on the evaluation of the run, so the run is looked at before the bars.
    evaluation = eval_score.check_score(run)
    bars = opt.parse_bars(evaluation.name, evaluation.reports, fail_under, fail_over)
    options = opt.stage_options(
        root, out, None, resume, overwrite, precision=precision, gpus=opt.parse_work_gpus(gpus, dry_run=False)
    )
    spec = JudgeSpec.parse(judge)
    result = stage.run_and_print(lambda: eval_score.score_eval(run, options, spec), as_json)
    stage.check_bars(result, bars, junit)
    judging.check_eval_scored(result.run, result.metrics)
