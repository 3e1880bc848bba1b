"""Defence success on StrongREJECT's forbidden prompts (arXiv 2402.10260), by its six categories."""

from safereason.evals.defence import of_source

STRONGREJECT = of_source(
    "strongreject", "Defence success rate on StrongREJECT's forbidden prompts", "strongreject", title="StrongREJECT"
)
