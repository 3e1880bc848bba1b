"""Defence success on SimpleSafetyTests' plain requests (arXiv 2311.08370), by its five harm areas."""

from safereason.evals.defence import of_source

SIMPLESAFETYTESTS = of_source(
    "simplesafetytests",
    "Defence success rate on SimpleSafetyTests' requests",
    "simplesafetytests",
    title="SimpleSafetyTests",
)
