"""GCG, greedy coordinate gradient: a search for a suffix that exchanges tokens by the gradient of a target text's loss.

Zou et al., arXiv 2307.15043; probe sampling, arXiv 2403.01251; merged edits, arXiv 2405.21018. Each step takes the
gradient at the one-hot tokens of the suffix, draws candidates that differ from it at one or a few positions, and
continues from the candidate that makes the target text, the beginning of the completion, likeliest.

Deviations:

1. A candidate counts only where the whole prompt, written out and encoded anew, is the ids that were searched; the
   authors' code encodes the suffix alone. What is found is what is deployed, and its loss is measured again on that.
2. A position's current token is not drawn for it again, and equal candidates are scored once.
3. A suffix for several behaviors is optimised for all of them from the first step; the paper adds one after another.
4. The buffer fills with the candidates of the steps; nanoGCG fills it with random suffixes first.
5. Mellowmax is taken of the tokens' cross entropies; nanoGCG takes it of their logits.
6. A draft whose tokenizer is another one scores texts, and candidates of the probe set are not scored a second time.
"""

from collections.abc import Iterator, Sequence

from safereason.attacks.base import Attack, Need, SearchStep, Setup, group_separately
from safereason.attacks.gcg_settings import GCGSettings
from safereason.attacks.target_position import check_target_texts
from safereason.data.example import Example


def search_gcg(behaviors: Sequence[Example], settings: GCGSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step for each step of the search with the best suffix so far; the value is its loss in nats a token."""
    # Imported here, because it loads torch, and every command imports the list of attacks.
    from safereason.attacks.whitebox.gcg_search import GCGSearch

    yield from GCGSearch(behaviors, settings, setup).steps()


def group_gcg(behaviors: Sequence[Example], settings: GCGSettings) -> list[list[Example]]:
    """All behaviors together for a universal suffix, else a search for each."""
    if settings.universal:
        return [list(behaviors)]
    return group_separately(behaviors, settings)


def check_gcg(behaviors: Sequence[Example], settings: GCGSettings, available: frozenset[Need]) -> None:
    """Refuses behaviors without a target text."""
    check_target_texts("gcg", behaviors)


ATTACK = Attack(
    "gcg",
    "A suffix found by the gradient of a target text's loss",
    search_gcg,
    frozenset({"weights"}),
    GCGSettings,
    group_gcg,
    check=check_gcg,
)
