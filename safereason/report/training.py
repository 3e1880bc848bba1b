"""The page's section on training: the curves that SFT, RL and a guard's training logged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from safereason.report import plots
from safereason.report.plots import Plot
from safereason.report.read import Line, RolloutSummary, Run, metric_lines, of_stage, summarize_rollouts

REWARD_METRICS = {"reward": "total", "format": "format", "safety": "safety", "task": "task", "accuracy": "accuracy"}
"""Means of the reward and of its parts, as RL logs them, with their labels."""
TROUBLE = {
    "completions/clipped_ratio": "cut off",
    "frac_reward_zero_std": "groups without spread",
    "unscored": "unscored",
}
"""Shares of rollouts or groups that gave no gradient, with their labels."""
VERDICT_METRICS = {"unparsed": "no verdict", "says_unsafe": "called unsafe"}
"""Metrics that show when a guard's verdicts collapse, with their labels."""


@dataclass(frozen=True)
class TrainingCurves:
    """One training run and its curves."""

    run: Run
    heading: str
    plots: list[Plot]
    notes: list[str]


@dataclass(frozen=True)
class Panel:
    """One plot of logged metrics."""

    name: str
    title: str
    metrics: dict[str, str]
    """Metrics by the key in the log, each with its label."""
    share: bool = False
    """Whether they are shares, so that the axis goes from 0 to 1."""


def read_trainings(runs: Sequence[Run]) -> list[TrainingCurves]:
    """Every training among the runs, stage by stage."""
    trainings = []
    for stage, read_training in READERS.items():
        for run in of_stage(runs, stage):
            trainings.append(read_training(run))
    return trainings


def _sft_training(run: Run) -> TrainingCurves:
    panels = [
        Panel("loss", "Loss", {"loss": "loss"}),
        Panel("accuracy", "Token accuracy", {"mean_token_accuracy": "share of tokens predicted"}, share=True),
        Panel("gradient", "Gradient norm", {"grad_norm": "gradient norm, before clipping"}),
    ]
    return TrainingCurves(run, "Supervised fine-tuning", _draw_panels(run, panels), [])


def _rl_training(run: Run) -> TrainingCurves:
    rollouts = summarize_rollouts(run)
    reward_panels = [Panel("reward", "Reward and its parts", REWARD_METRICS, share=True)]
    other_panels = [
        Panel("kl", "KL to the reference model", {"kl": "KL"}),
        Panel("length", "Length of a completion, tokens", {"completions/mean_length": "mean tokens"}),
        Panel("closed", "Share that closed its reasoning", {"closed": "closed"}, share=True),
        Panel("entropy", "Entropy of the model's draws, nats", {"entropy": "entropy"}),
        Panel("shares", "Signs of trouble", TROUBLE, share=True),
    ]
    # The reward by kind of prompt comes second: a mean that rises can hide a kind of prompt that falls.
    drawn = _draw_panels(run, reward_panels)
    drawn += _draw_rollouts(run, rollouts)
    drawn += _draw_panels(run, other_panels)
    return TrainingCurves(run, "Reinforcement learning", drawn, _rollout_notes(rollouts))


def _guard_sft_training(run: Run) -> TrainingCurves:
    return replace(_sft_training(run), heading="A guard’s supervised fine-tuning")


def _guard_rl_training(run: Run) -> TrainingCurves:
    validation_lines = metric_lines(run, {"f1": "F1 of unsafe", **VERDICT_METRICS}, "validation")
    # The curves on rows without a part in training come first: they alone say whether the guard gets better.
    drawn = []
    if validation_lines:
        drawn.append(_draw_shares(run, "validation", "On rows held out", validation_lines))
    drawn += _draw_panels(run, [Panel("verdicts", "Verdicts of the rollouts", VERDICT_METRICS, share=True)])
    training = _rl_training(run)
    return replace(training, heading="A guard’s reinforcement learning", plots=[*drawn, *training.plots])


def _draw_panels(run: Run, panels: Sequence[Panel]) -> list[Plot]:
    """The panels that the run logged a metric of."""
    drawn = []
    for panel in panels:
        lines = metric_lines(run, panel.metrics)
        if lines:
            drawn.append(plots.curves(_plot_name(run, panel.name), panel.title, lines, share=panel.share))
    return drawn


def _draw_rollouts(run: Run, rollouts: RolloutSummary) -> list[Plot]:
    """Reward and format by kind of prompt, where the run recorded rollouts."""
    drawn = []
    if rollouts.reward:
        drawn.append(_draw_shares(run, "kinds", "Reward by kind of prompt", rollouts.reward))
    if rollouts.well_formed:
        drawn.append(_draw_shares(run, "format", "Share well-formed, by kind", rollouts.well_formed))
    return drawn


def _draw_shares(run: Run, name: str, title: str, lines: Sequence[Line]) -> Plot:
    return plots.curves(_plot_name(run, name), title, lines, share=True)


def _plot_name(run: Run, name: str) -> str:
    """A file name: stage, hash of the run, and the panel."""
    # A page may show several runs of one stage and recipe. Only the hash tells them apart.
    run_hash = run.name.rpartition("/")[2]
    return f"{_plot_beginning(run.stage)}{run_hash}-{name}"


def _plot_beginning(stage: str) -> str:
    return f"{stage.replace('/', '-')}-"


def _rollout_notes(rollouts: RolloutSummary) -> list[str]:
    if not rollouts.count:
        return ["This run holds no rollouts, so nothing is split by kind of prompt."]
    if rollouts.unscored:
        percent = 100 * rollouts.unscored / rollouts.count
        share = f"{rollouts.unscored} of {rollouts.count} rollouts ({percent:.1f} %)"
        return [f"{share} were unscored: they count in no mean and moved no weight."]
    return [f"All {rollouts.count} rollouts were scored."]


READERS: dict[str, Callable[[Run], TrainingCurves]] = {
    "sft": _sft_training,
    "rl": _rl_training,
    "guard/sft": _guard_sft_training,
    "guard/rl": _guard_rl_training,
}
"""The function that draws the runs of a stage, by stage, in the order of the page."""
PLOTS = tuple(map(_plot_beginning, READERS))
"""Beginnings of the plots' names."""
