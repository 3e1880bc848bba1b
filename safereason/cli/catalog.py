"""The names that `eval` and `attack` take, each with what it is."""

from collections.abc import Iterable
from typing import Any

from safereason import evals

EVALS = {
    **{name: evaluation.summary for name, evaluation in evals.EVALS.items()},
    "guard": "F1 of a guard's verdicts on its benchmarks",
    "separation": "How far apart harmful and harmless prompts lie inside the model",
    "capability": "Accuracy on mathematics and knowledge, before and after training",
}
JUDGES = {
    "refusal": "Refusal by how an answer opens; local, and weaker than refusal-learned",
    "refusal-learned": "Refusal by a small classifier learned from XSTest's human labels; the local default",
    "compliance": "1 - refusal, and 0 for a degenerate answer; local and weak",
    "moderation": "Largest category score of a Moderation API; moderation:MODEL names the model",
    "reward-model": "A sequence classifier's score: reward-model:ORG/NAME",
    "guard": "A guard's verdict: guard:RUN, guard:MODEL, guard:RECIPE (its newest guard), guard:llama-guard:MODEL, ...",
    "harmbench": "HarmBench's classifier, Llama-2-13B by default; harmbench:MODEL names another",
    "strongreject": "StrongREJECT's fine-tuned evaluator, of harm or refusal as the evaluation wants it",
    "strongreject-rubric": "StrongREJECT's rubric put to a chat model: strongreject-rubric:openai/NAME",
    "xstest-rubric": "XSTest's classes of refusal, told by a chat model: xstest-rubric:openai/NAME",
    "rubric": "A rubric of your own put to a chat model: rubric:FILE.yaml or rubric:FILE.yaml@openai/NAME",
}


def listing() -> dict[str, list[dict[str, Any]]]:
    """All evals, attacks and judges, with what each is."""
    from safereason import attacks, judges

    about = {name: attack.summary for name, attack in attacks.ATTACKS.items()}
    known: dict[str, tuple[dict[str, str], Iterable[str]]] = {
        "evals": (EVALS, evals.NAMES),
        "attacks": (about, attacks.ATTACKS),
        "judges": (JUDGES, judges.JUDGES),
    }
    return {
        kind: [{"name": name, "summary": about.get(name, "")} for name in names]
        for kind, (about, names) in known.items()
    }
