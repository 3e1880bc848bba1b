"""Defence success on JailbreakBench's harmful behaviors (arXiv 2404.01318), by its ten categories."""

from safereason.evals.defence import of_source

JAILBREAKBENCH = of_source(
    "jailbreakbench", "Defence success rate on JailbreakBench's behaviors", "jailbreakbench", title="JailbreakBench"
)
