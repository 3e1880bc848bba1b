"""All that can be named: evaluations, attacks, judges and guards, installed ones included, each with a summary."""

from collections.abc import Mapping


def listing() -> dict[str, list[dict[str, str]]]:
    """The name and summary of each eval, attack, judge and guard, by kind."""
    from safereason import attacks, evals, judges
    from safereason.guard.others import GUARDS

    evaluations = dict(evals.EVALS.listed())
    for other in evals.OTHER_EVALS.values():
        evaluations[other.name] = other.summary
    return {
        "evals": _entries(evaluations),
        "attacks": _entries(dict(attacks.ATTACKS.listed())),
        "judges": _entries(dict(judges.JUDGES.listed())),
        "guards": _entries(dict(GUARDS.listed())),
    }


def _entries(summaries: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "summary": summary} for name, summary in summaries.items()]
