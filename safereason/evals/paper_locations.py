"""Every table, figure and experiment of the two papers: the commands and hardware for ours, and what was verified here.

Their values, as far as they are known, are in `paper.py`; docs/fidelity.md is written from both modules.
"""

from dataclasses import dataclass

from safereason.evals.paper import ADAPTIVE, BY_SET, JAILBREAKS, RSAFE, TARS

# One point for each λ of the paper's series.
SWEEP = "safereason sweep --recipe tars-1.5b data.harmful_ratio=0.1,0.3,0.5,0.7,0.9"
# The papers' own hardware, as far as they state it. The estimates are not ours: nothing of this size was run here.
FOUR_GPUS = "4 GPUs of 48 GB, 5 to 10 hours a model for SFT and RL (the paper's); the attacks' time was not measured"
ONE_GPU = "a GPU that holds the trained model, beside what trained it"
GUARD_GPUS = "4 GPUs of 80 GB (the paper's); how long is not stated"
NOT_RUN = "no model of this size was trained or measured"


@dataclass(frozen=True)
class PaperLocation:
    """A table, a figure or an experiment of a paper."""

    paper: str
    name: str
    about: str
    commands: tuple[str, ...]
    hardware: str
    verified: str
    """The parts that were verified in this checkout, and those that were not."""


# docs/fidelity.md is partly made of these texts, which is why they hold Markdown.
PAPER_LOCATIONS = (
    PaperLocation(
        TARS,
        "Figure 2b",
        "defence success against compliance with WildChat's requests",
        (SWEEP, "safereason run --recipe tars-7b", "safereason run --recipe baseline-deliberative"),
        FOUR_GPUS,
        f"{NOT_RUN}; WildChat could not be had, and its loader and figure are tested on rows of its columns",
    ),
    PaperLocation(
        TARS,
        "Figure 3",
        "defence success against compliance with XSTest's safe prompts, beside the baselines",
        (
            SWEEP,
            "safereason run --recipe tars-7b",
            "safereason run --recipe baseline-sft",
            "safereason run --recipe baseline-dpo",
            "safereason run --recipe baseline-rl-noreason",
        ),
        FOUR_GPUS,
        f"{NOT_RUN}; the same stages run on a 135 M model with local judges (`make demo`), HarmBench's and XSTest's "
        "prompts are read as published, and advantage and loss equal the papers' on fixed numbers",
    ),
    PaperLocation(
        TARS,
        "Table 3",
        "tokens of reasoning and answer by domain of SORRY-Bench",
        ("safereason eval adaptivity --recipe tars-1.5b",),
        ONE_GPU,
        f"{NOT_RUN}; SORRY-Bench is gated and could not be had: its loader and the lengths are tested on rows of its "
        "columns",
    ),
    PaperLocation(
        TARS,
        "Table 4",
        "does closing the reasoning go with safety?",
        ("safereason run --recipe tars-1.5b", "safereason run --recipe baseline-sft"),
        FOUR_GPUS,
        f"{NOT_RUN}; `closed`, `dsr_closed` and `dsr_open` by attack are tested on constructed answers",
    ),
    PaperLocation(
        TARS,
        "Internal separation",
        "margin between safe and attacked prompts inside the model",
        ("safereason eval separation --recipe tars-1.5b --projection umap",),
        ONE_GPU,
        f"{NOT_RUN}; embeddings and margin are tested on a micro model and on constructed points",
    ),
    PaperLocation(
        TARS,
        "Capability kept",
        "GSM8K, MATH-500, GPQA, MMLU-Pro, SQuAD before and after; the values are not at hand",
        ("safereason eval capability --model MODEL",),
        ONE_GPU,
        NOT_RUN,
    ),
    PaperLocation(
        TARS,
        "Ablations",
        "harmful prompts only, no ambiguous ones, heavy SFT, one reward; no values at hand",
        (
            "safereason run --recipe ablation-harmful-only",
            "safereason run --recipe ablation-no-ambiguous",
            "safereason run --recipe ablation-heavy-sft",
            "safereason run --recipe ablation-single-reward",
        ),
        FOUR_GPUS,
        f"{NOT_RUN}; what each recipe changes is tested",
    ),
    PaperLocation(
        RSAFE,
        BY_SET,
        "F1 of *unsafe* on the test sets; no table of the paper's could be had, these are of a development run",
        ("safereason guard train --recipe rsafe", "safereason eval guard --recipe rsafe"),
        GUARD_GPUS,
        f"{NOT_RUN}; a 135 M guard trained and measured here is in [guard evidence](guard-evidence.md)",
    ),
    PaperLocation(
        RSAFE,
        JAILBREAKS,
        "trained on plain prompts, tested on jailbreaks",
        ("safereason guard train --recipe rsafe-ood-jailbreak", "safereason eval guard --recipe rsafe-ood-jailbreak"),
        GUARD_GPUS,
        f"{NOT_RUN}; WildGuardMix is gated and could not be had",
    ),
    PaperLocation(
        RSAFE,
        "Robustness to emerging harm",
        "trained on three categories, tested on held-out ones; the values are not at hand",
        ("safereason guard train --recipe rsafe-ood-category", "safereason eval guard --recipe rsafe-ood-category"),
        GUARD_GPUS,
        f"{NOT_RUN}; WildGuardMix is gated and could not be had",
    ),
    PaperLocation(
        RSAFE,
        ADAPTIVE,
        "the target benchmark's own policy in the list's place; values that a third party quotes",
        ("safereason eval guard --model Nannanzi/RSafe --policy wildguard --prompts wildguardtest-adversarial",),
        "a GPU that holds a 7 B model",
        f"{NOT_RUN}; that a policy of one's own takes the list's place is tested",
    ),
)
"""In the papers' order, as far as that is known."""
