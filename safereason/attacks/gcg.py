"""GCG, greedy coordinate gradient: a suffix whose tokens are exchanged by the gradient of a target's loss.

Zou et al., arXiv 2307.15043; probe sampling, arXiv 2403.01251; edits put together, arXiv 2405.21018. Each step
takes the gradient at the one-hot tokens of the suffix, draws candidates that differ from it in a place or a few, and
goes on from the one after which the target is likeliest.

Deviations:

1. A candidate counts only where the whole prompt, written out and encoded anew, is the ids that were searched; the
   authors' code encodes the suffix alone. What is found is what is deployed, and its loss is measured again on that.
2. The token that stands in a place is not drawn for it again, and equal candidates are scored once.
3. A suffix for several behaviors is sought for all of them from the first step; the paper adds one after another.
4. The buffer fills with what the steps find; nanoGCG fills it with random suffixes first.
5. Mellowmax is taken of the tokens' cross entropies; nanoGCG takes it of their logits.
6. A draft whose tokenizer is another one scores texts, and candidates of the probe set are not scored a second time.
"""

from collections.abc import Iterator, Sequence

from pydantic import Field, PositiveFloat, PositiveInt

from safereason.attacks.base import Attack, Need, Settings, Setup, Step, each_alone
from safereason.attacks.placing import Place, check_targets
from safereason.data.example import Example


class GCG(Settings):
    """The figures of GCG; the defaults are HarmBench's, which are the paper's where that gives one."""

    steps: int = Field(500, ge=0)
    """Steps of the search (paper)."""
    width: PositiveInt = 512
    """Candidates drawn at each step (paper)."""
    top_k: PositiveInt = 256
    """Tokens to draw from at each place (paper)."""
    start: str = Field(" ".join(["!"] * 20), min_length=1)
    """The suffix to begin with; its tokens are as many as are searched (paper: twenty `!`)."""
    replaced: PositiveInt = 1
    """Places in which a candidate differs from the current suffix (paper: one; nanoGCG's `n_replace`)."""
    merge: int = Field(0, ge=0)
    """Further candidates a step, put together from the edits of its best ones (arXiv 2405.21018); 0 makes none."""
    buffer: int = Field(0, ge=0)
    """Suffixes that are kept, to go on from the best; 0 goes on from the last step's best, better or not (paper)."""
    ascii_only: bool = True
    """Whether the suffix is of printable ASCII alone (paper)."""
    mellowmax: PositiveFloat | None = None
    """Parameter of the mellowmax of the target's token losses; null takes their mean (paper)."""
    place: Place = "reasoning"
    """Where the target stands: right after the generation prefix such as `<think>` (TARS), or first in the answer."""
    stop_at_match: bool = False
    """Whether the search ends once greedy decoding writes the target (paper and HarmBench: it does not)."""
    stop_at_loss: PositiveFloat | None = None
    """Loss in nats a token at which the search ends; null for never."""
    universal: bool = False
    """Whether all behaviors share one suffix (paper §2.3) or each has its own."""
    draft: str | None = None
    """A small model that says which candidates the target scores (arXiv 2403.01251); null has it score all."""
    probe_share: PositiveInt = 16
    """One candidate in so many is scored by both models, to see whether they agree (arXiv 2403.01251)."""
    probe_reduction: PositiveInt = 8
    """Where they do not agree at all, the target scores one in so many of the rest (arXiv 2403.01251)."""


def search(behaviors: Sequence[Example], settings: GCG, setup: Setup) -> Iterator[Step]:
    """The best suffix so far after each step; the value is its loss in nats a token."""
    from safereason.attacks.whitebox.descent import Descent

    yield from Descent(behaviors, settings, setup).steps()


def groups(behaviors: Sequence[Example], settings: GCG) -> list[list[Example]]:
    """All together, or a search for each."""
    return [list(behaviors)] if settings.universal else each_alone(behaviors, settings)


def check(behaviors: Sequence[Example], settings: GCG, at_hand: frozenset[Need]) -> None:
    """Refuses behaviors without a target."""
    check_targets("gcg", behaviors)


ATTACK = Attack(
    "gcg",
    "A suffix found by the gradient of a target's loss",
    search,
    frozenset({"weights"}),
    GCG,
    groups,
    check=check,
)
