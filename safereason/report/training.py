"""The page's part on training: what SFT, RL and a guard's training logged, as curves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safereason.report import plots
from safereason.report.plots import Plot
from safereason.report.read import Rollouts, Run, metric_lines, of_stage, read_rollouts

PARTS = {"reward": "total", "format": "format", "safety": "safety", "task": "task", "accuracy": "accuracy"}
"""Means that RL logs of the reward and of what it is made of."""
TROUBLE = {
    "completions/clipped_ratio": "cut off",
    "frac_reward_zero_std": "groups without spread",
    "unscored": "unscored",
}
"""Shares of rollouts or groups that taught nothing."""
VERDICTS = {"unparsed": "no verdict", "says_unsafe": "called unsafe"}
"""What says that a guard's verdicts collapse."""


@dataclass(frozen=True)
class Training:
    """One SFT or RL run's curves."""

    run: Run
    heading: str
    plots: list[Plot]
    notes: list[str]


def trainings(runs: Sequence[Run]) -> list[Training]:
    """Every training among the runs, stage by stage."""
    return [
        training
        for stage, make in (("sft", _sft), ("rl", _rl), ("guard/sft", _guard_sft), ("guard/rl", _guard_rl))
        for training in map(make, of_stage(runs, stage))
    ]


def _sft(run: Run) -> Training:
    panels = [
        ("loss", "Loss", {"loss": "loss"}, False),
        ("accuracy", "Token accuracy", {"mean_token_accuracy": "share of tokens predicted"}, True),
        ("gradient", "Gradient norm", {"grad_norm": "gradient norm, before clipping"}, False),
    ]
    return Training(run, "Supervised fine-tuning", _panels(run, panels), [])


def _rl(run: Run) -> Training:
    rollouts = read_rollouts(run)
    first = [("reward", "Reward and its parts", PARTS, True)]
    rest = [
        ("kl", "KL to the reference model", {"kl": "KL"}, False),
        ("length", "Length of a completion, tokens", {"completions/mean_length": "mean tokens"}, False),
        ("closed", "Share that closed its reasoning", {"closed": "closed"}, True),
        ("entropy", "Entropy of the policy, nats", {"entropy": "entropy"}, False),
        ("shares", "Signs of trouble", TROUBLE, True),
    ]
    return Training(
        run,
        "Reinforcement learning",
        [*_panels(run, first), *_by_kind(run, rollouts), *_panels(run, rest)],
        _notes(rollouts),
    )


def _guard_sft(run: Run) -> Training:
    return replace(_sft(run), heading="A guard’s supervised fine-tuning")


def _guard_rl(run: Run) -> Training:
    held_out = {"f1": "F1 of unsafe", **VERDICTS}
    looks = metric_lines(run, held_out, "validation")
    drawn = [plots.curves(_plot_name(run, "validation"), "On rows held out", looks, share=True)] if looks else []
    rollouts = _panels(run, [("verdicts", "Verdicts of the rollouts", VERDICTS, True)])
    training = _rl(run)
    return replace(training, heading="A guard’s reinforcement learning", plots=[*drawn, *rollouts, *training.plots])


def _panels(run: Run, panels: Sequence[tuple[str, str, dict[str, str], bool]]) -> list[Plot]:
    drawn = [(name, title, metric_lines(run, keys), share) for name, title, keys, share in panels]
    return [
        plots.curves(_plot_name(run, name), title, lines, share=share) for name, title, lines, share in drawn if lines
    ]


def _by_kind(run: Run, rollouts: Rollouts) -> list[Plot]:
    drawn = [
        ("kinds", "Reward by kind of prompt", rollouts.reward),
        ("format", "Share well-formed, by kind", rollouts.well_formed),
    ]
    return [plots.curves(_plot_name(run, name), title, lines, share=True) for name, title, lines in drawn if lines]


def _plot_name(run: Run, name: str) -> str:
    return f"{run.stage.replace('/', '-')}-{run.name.rpartition('/')[2]}-{name}"


def _notes(rollouts: Rollouts) -> list[str]:
    if not rollouts.count:
        return ["This run holds no rollouts, so nothing is split by kind of prompt."]
    if rollouts.unscored:
        share = f"{rollouts.unscored} of {rollouts.count} rollouts ({100 * rollouts.unscored / rollouts.count:.1f} %)"
        return [f"{share} were unscored: they count in no mean and moved no weight."]
    return [f"All {rollouts.count} rollouts were scored."]
