"""Defence success on SORRY-Bench's instructions (arXiv 2406.14598), by its four domains and by its 44 kinds.

Deviation: (1) SORRY-Bench reports fulfilment by its own fine-tuned judge; this is 1 − that, by the recipe's judge.
"""

from safereason.evals.defence import of_source

SORRYBENCH = of_source(
    "sorrybench", "Defence success rate on SORRY-Bench's instructions", "sorry-bench", title="SORRY-Bench"
)
