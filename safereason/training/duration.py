"""The hours of a training on a set of GPUs: an estimate by arithmetic, for a plan.

    hours = floating-point operations / (GPUs · peak of a GPU · utilisation)

A weight takes two operations a token in a forward pass, and twice as many in a backward pass (Kaplan et al., arXiv
2001.08361, §2.1); attention takes 2 · q · T a token and layer, with q the width of the queries and T the row's length.
Layers that are computed again, the reference model and the reward model are a forward pass more each.

Deviations:
    1. Every row is as long as it may be, so that the result is an upper bound but for its two utilisations.
    2. The utilisations are assumed and not measured. Drawing reads all weights for each token of a batch, so that
       little of a GPU's arithmetic is used.
    3. Loading, saving, validation and judges behind a server are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safereason.recipe.schema import DPO, GRPO, SFT
from safereason.training import memory
from safereason.training.fit import GIB, SIZES, Gpus, Section, TrainingOnGpus
from safereason.training.memory import Shape

PEAKS = {
    "T4": 65,
    "V100": 125,
    "A10": 125,
    "L4": 121,
    "A40": 150,
    "A6000": 155,
    "L40": 181,
    "L40S": 362,
    "A100": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
}
"""Peaks of 16-bit matrix products of well-known GPUs by their data sheets, in TFLOPS, without sparsity."""
TRAINING = 0.4
"""Share of the peak that training is assumed to use."""
DRAWING = {"vllm-colocate": 0.1, "vllm-server": 0.1, "engine": 0.01}
"""Share of the peak that drawing is assumed to use, by who draws."""
BACKWARD = 2
"""Forward passes that a backward pass is worth."""


@dataclass(frozen=True)
class Rate:
    """How fast the GPUs are taken to compute."""

    peak: int
    """TFLOPS of each."""
    drawing: float | None
    """Share of it that drawing uses; None where nothing is drawn."""

    def __str__(self) -> str:
        """The words of a plan."""
        used = f"{self.peak} TFLOPS a GPU, {TRAINING:.0%} of them used in training"
        if self.drawing is not None:
            used += f" and {self.drawing:.0%} in drawing"
        return f"{used}, every row at its longest: an estimate"


def rate_of(section: Section, gpus: Gpus) -> Rate | None:
    """The rate of a training on GPUs that are known by name, or by the size of their memory; None for others.

    Of several GPUs of a size the slowest counts.
    """
    drawing: float | None = DRAWING["engine"]
    if isinstance(section, SFT):
        drawing = None
    elif isinstance(section, GRPO):
        drawing = DRAWING[section.rollouts]
    if gpus.name in PEAKS:
        return Rate(PEAKS[gpus.name], drawing)
    # A card of 48 GB reports about 47.5 GiB.
    peaks = [peak for name, peak in PEAKS.items() if 0.9 * SIZES[name] <= gpus.size / GIB <= SIZES[name]]
    if not peaks:
        return None
    return Rate(min(peaks), drawing)


def hours(training: TrainingOnGpus, counts: Mapping[str, object]) -> float | None:
    """The hours of a training at most; None on GPUs whose rate is not known.

    Args:
        training: The training, on the GPUs.
        counts: The counts of its plan (`stages.plan_counts`).
    """
    section = training.section
    rate = rate_of(section, training.gpus)
    if rate is None:
        return None
    per_second = training.gpus.count * rate.peak * 1e12
    trained, drawn = _operations(training, counts)
    seconds = trained / (per_second * TRAINING)
    if rate.drawing is not None:
        seconds += drawn / (per_second * rate.drawing)
    return seconds / 3600


def _operations(training: TrainingOnGpus, counts: Mapping[str, object]) -> tuple[float, float]:
    """The operations of training and scoring, and those of drawing."""
    section = training.section
    if isinstance(section, SFT):
        return _count(counts, "sequences") * _row(training.shape, section.max_tokens) * _passes(section), 0
    length = section.max_prompt_tokens + section.sampling.max_new_tokens
    row = _row(training.shape, length)
    if isinstance(section, GRPO):
        rollouts = _count(counts, "sequences")
        rows = rollouts
    else:
        rollouts = _count(counts, "rollouts")
        rows = 2 * _count(counts, "steps at most") * section.batch_size
    # The reward model's own attention is little beside its weights.
    scored = rollouts * length * 2 * training.reward_model / memory.BF16
    return rows * row * _passes(section) + scored, rollouts * row


def _count(counts: Mapping[str, object], name: str) -> int:
    count = counts.get(name, 0)
    assert isinstance(count, int)
    return count


def _row(shape: Shape, length: int) -> float:
    """Operations of a forward pass on a row of so many tokens."""
    weights = shape.layers * shape.layer + shape.vocab * shape.hidden
    return length * (2 * weights + 2 * shape.layers * shape.query * length)


def _passes(section: Section) -> int:
    """Forward passes that a row is worth in the loss."""
    passes = 1 + BACKWARD
    if section.activation_checkpointing:
        passes += 1
    has_reference = isinstance(section, DPO) or (isinstance(section, GRPO) and section.kl_coef > 0)
    if has_reference:
        passes += 1
    return passes
