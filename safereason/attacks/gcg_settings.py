"""The settings of GCG. They need no torch, so that a recipe is checked without loading it."""

from pydantic import Field, PositiveFloat, PositiveInt

from safereason.attacks.base import AttackSettings
from safereason.attacks.target_position import TargetPosition
from safereason.engines.spec import ModelSpec


class GCGSettings(AttackSettings):
    """The figures of GCG; the defaults are HarmBench's, which are the paper's where that gives one."""

    steps: int = Field(500, ge=0)
    """Steps of the search (paper)."""
    width: PositiveInt = 512
    """Candidates drawn at each step (paper)."""
    top_k: PositiveInt = 256
    """Tokens to draw from at each position (paper)."""
    start: str = Field(" ".join(["!"] * 20), min_length=1)
    """Initial suffix; its number of tokens is that of all suffixes (paper: twenty `!`)."""
    replaced: PositiveInt = 1
    """Positions at which a candidate differs from the current suffix (paper: one; nanoGCG's `n_replace`)."""
    merge: int = Field(0, ge=0)
    """Further candidates a step, which combine the edits of its best ones (arXiv 2405.21018); 0 makes none."""
    buffer: int = Field(0, ge=0)
    """Size of the buffer of best suffixes; 0 continues from the last step's best, better or not (paper)."""
    ascii_only: bool = True
    """Whether the suffix is limited to printable ASCII (paper)."""
    mellowmax: PositiveFloat | None = None
    """Parameter of the mellowmax of the target text's token losses; null takes their mean (paper)."""
    place: TargetPosition = "reasoning"
    """Position of the target text: after the generation prefix such as `<think>` (TARS), or first in the answer."""
    stop_at_match: bool = False
    """Whether the search ends once greedy decoding writes the target text (paper and HarmBench: it does not)."""
    stop_at_loss: PositiveFloat | None = None
    """Loss in nats a token at which the search ends; null for never."""
    universal: bool = False
    """Whether all behaviors share one suffix (paper §2.3) or each has its own."""
    draft: str | None = None
    """A small model that selects candidates for the target model (arXiv 2403.01251); null has all of them scored."""
    probe_share: PositiveInt = 16
    """Both models score one candidate in this many, to measure their agreement (arXiv 2403.01251)."""
    probe_reduction: PositiveInt = 8
    """With no agreement at all, the target model scores one in this many of the rest (arXiv 2403.01251)."""

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The draft model, where there is one."""
        if self.draft is None:
            return ()
        return (ModelSpec.parse(self.draft),)
