"""The names that `eval` and `attack` accept, each with a summary."""

from safereason import evals

# The registered evaluations judge completions. The last three measure something else and have stages of their own.
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


def listing() -> dict[str, list[dict[str, str]]]:
    """The name and summary of each eval, attack and judge, by kind."""
    from safereason import attacks, judges

    # The registries decide what is listed: a judge of somebody else's has no summary here.
    return {
        "evals": [_entry_of(name, EVALS.get(name, "")) for name in evals.NAMES],
        "attacks": [_entry_of(name, attack.summary) for name, attack in attacks.ATTACKS.items()],
        "judges": [_entry_of(name, JUDGES.get(name, "")) for name in judges.JUDGES],
    }


def _entry_of(name: str, summary: str) -> dict[str, str]:
    return {"name": name, "summary": summary}
