"""Which evaluations may stand in one column, and how the others were made otherwise.

Runs of one evaluation by one judge on prompts of one source are held against each other. Those that differ from most of
them, in attacks, limit, sampling or test cases, are variants: each stands in a row of its own that says what differs,
and never takes another run's place. So are several runs on one model that differ in what may differ from model to
model, such as the seed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from safereason.recipe.merge import flatten
from safereason.report.read import Run, of_stage
from safereason.report.tables import source_of

ASIDE = ("model", "judge", "eval", "sources", "rejudges", "completions", "base_url", "resamples")
"""Parts of an identity that a column has by itself, or that change no figure."""
OWN = ("seed", "prefix", "asked")
"""Parts that may differ from model to model: how each is asked, and what is drawn."""
SHOWN = 60
"""Most characters of a value in a label; of a longer one, the key alone is given."""

Setting = dict[str, str]
"""Values by dotted key, as JSON has them."""


def told_apart(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs, each evaluation with its variant; and those left out, for a newer one that agrees in everything."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in of_stage(runs, "eval"):
        groups[kind_of(run)].append(run)
    named = {run.path: one for members in groups.values() for run, one in _named(members)}
    measured = [named.get(run.path, run) for run in runs]
    newest: dict[tuple[str, ...], Run] = {}
    for run in sorted(of_stage(measured, "eval"), key=lambda run: (str(run.manifest.get("finished")), run.order)):
        same = (*kind_of(run), *run.subject)
        newest[same] = run
    kept = {run.path for run in newest.values()}
    older = [run for run in of_stage(measured, "eval") if run.path not in kept]
    return [run for run in measured if run not in older], older


def kind_of(run: Run) -> tuple[str, str, str]:
    """Evaluation, judge and source of the prompts: runs that differ there are in other columns anyway."""
    return run.stage, str(run.metrics.get("judge") or ""), source_of(run)


def _named(runs: Sequence[Run]) -> Iterable[tuple[Run, Run]]:
    """Each run of one kind with the same, its variant set."""
    shared = {run.path: _setting(run, own=False) for run in runs}
    usual = _usual(shared.values(), [len(_attacks(run)) for run in runs])
    by_model: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_model[run.model, json.dumps(shared[run.path], sort_keys=True)].append(run)
    everywhere = [_setting(run, own=True) for run in runs]
    for members in by_model.values():
        own = {run.path: _setting(run, own=True) for run in members}
        usually = _usual([setting for setting in everywhere if setting in own.values()])
        for run in members:
            differing = [*_differing(shared[run.path], usual), *_differing(own[run.path], usually)]
            yield run, replace(run, variant=", ".join(differing))


def _setting(run: Run, *, own: bool) -> Setting:
    """What an identity says of how a run was made, without what is not there to be compared."""
    chosen = {k: v for k, v in run.identity.items() if k not in ASIDE and (k in OWN) == own}
    return {key: _shown(value) for key, value in flatten(chosen) if value is not None}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if _is_list_of_texts(value) else json.dumps(value, ensure_ascii=False)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _attacks(run: Run) -> Sequence[Any]:
    attacks = run.identity.get("attacks")
    return attacks if isinstance(attacks, list) else ()


def _usual(settings: Iterable[Setting], weights: Sequence[int] = ()) -> Setting:
    """The commonest; of those equally common one without a limit, then that with the most attacks, then by its text."""
    texts = [json.dumps(setting, sort_keys=True) for setting in settings]
    weight = dict(zip(texts, weights or [0] * len(texts), strict=True))
    counted = Counter(texts)
    best = min(counted, key=lambda text: (-counted[text], -_limit(json.loads(text)), -weight[text], text))
    setting: Setting = json.loads(best)
    return setting


def _limit(setting: Mapping[str, str]) -> float:
    return float(setting.get("limit", "inf"))


def _differing(setting: Setting, usual: Setting) -> list[str]:
    keys = sorted(setting.keys() | usual.keys())
    if setting.get("attacks") != usual.get("attacks"):  # which have settings of their own, and say enough
        keys = [key for key in keys if not key.startswith("attack.")]
    found = [_said(key, setting.get(key), usual.get(key)) for key in keys if setting.get(key) != usual.get(key)]
    return list(dict.fromkeys(found))


def _said(key: str, here: str | None, elsewhere: str | None) -> str:
    name = key.removeprefix("attack.settings.").removeprefix("sampling.")
    if key.startswith("cases."):  # files by their paths, and their hashes
        return "other test cases"
    if max(len(here or ""), len(elsewhere or "")) > SHOWN:
        return f"other {name}"
    return f"{name} {here or 'none'} in place of {elsewhere or 'none'}"
