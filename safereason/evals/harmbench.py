"""Defence success on HarmBench's behaviors under attack (arXiv 2402.04249; TARS, arXiv 2507.00971, §5).

Figures by semantic category (`category:…`) and by functional one (`functional:standard`, `contextual`, `copyright`).
A contextual behavior's prompt opens with its context. DSR is defined in `evals/defence.py`.

Deviations: (1) answers that the judge cannot score are left out of n and counted; (2) the recipe sets the answer's
length: HarmBench draws 512 tokens, which a model that reasons first may spend before it answers. The judge sees the
answer alone.
"""

from safereason.evals.base import Outcome
from safereason.evals.defence import categories, defence
from safereason.recipe.schema import Evaluation

FUNCTIONAL = ("standard", "contextual", "copyright")
"""HarmBench's functional categories; its source gives `functional/semantic`."""


def harmbench_groups(outcome: Outcome) -> list[str]:
    """Semantic and functional category; another source's behaviors have the categories that it gives them."""
    functional, _, semantic = str(outcome.completion["category"]).partition("/")
    # `--prompts` may name another source, with categories of its own form.
    if functional not in FUNCTIONAL:
        return categories(outcome)
    return [f"category:{semantic or 'none'}", f"functional:{functional}"]


def _harmbench_sources(section: Evaluation) -> tuple[str, ...]:
    if section.behaviors:
        return (section.behaviors,)
    return ()


HARMBENCH = defence(
    "harmbench",
    "Defence success rate on harmful behaviors under attacks",
    _harmbench_sources,
    attacks=lambda section: section.attacks,
    groups=harmbench_groups,
    title="HarmBench",
)
