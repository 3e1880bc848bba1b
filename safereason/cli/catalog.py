"""The names that `eval` and `attack` take, each with what it is; the registries say which of them are there."""

from collections.abc import Iterable
from typing import Any

EVALS = {
    "harmbench": "Defence success rate on harmful behaviors under attacks",
    "xstest": "Compliance with XSTest's safe prompts, and refusal of its unsafe ones",
    "strongreject": "Harm of the answers to StrongREJECT's forbidden prompts",
    "wildchat": "Compliance with users' requests drawn from WildChat",
    "orbench": "Refusal of OR-Bench's seemingly and truly toxic prompts",
    "guard": "F1 of a guard's verdicts on its benchmarks",
    "adaptivity": "Length of the reasoning by kind of request",
    "separation": "How far apart harmful and harmless prompts lie inside the model",
    "capability": "Accuracy on mathematics and knowledge, before and after training",
}
JUDGES = {
    "refusal": "Refusal by how an answer opens; local and weak, for smoke runs",
    "compliance": "1 - refusal, and 0 for a degenerate answer; local and weak",
    "moderation": "Largest category score of a Moderation API; moderation:MODEL names the model",
    "reward-model": "A sequence classifier's score: reward-model:ORG/NAME",
    "guard": "A guard's verdict: guard:RUN, guard:MODEL, guard:RECIPE (its newest guard), guard:llama-guard:MODEL, ...",
    "harmbench": "HarmBench's Llama-2-13B classifier",
    "strongreject": "StrongREJECT's evaluator",
    "chat": "A rubric put to a chat model",
}


def listing() -> dict[str, list[dict[str, Any]]]:
    """All evals, attacks and judges, with whether this version has them."""
    from safereason import attacks, evals, judges

    about = {name: attack.summary for name, attack in attacks.ATTACKS.items()}
    known: dict[str, tuple[dict[str, str], Iterable[str], Iterable[str]]] = {
        "evals": (EVALS, evals.NAMES, evals.NOT_YET),
        "attacks": (about, attacks.ATTACKS, ()),
        "judges": (JUDGES, judges.JUDGES, judges.NOT_YET),
    }
    return {
        kind: [
            {"name": name, "there": is_there, "summary": about.get(name, "")}
            for names, is_there in ((there, True), (not_yet, False))
            for name in names
        ]
        for kind, (about, there, not_yet) in known.items()
    }
