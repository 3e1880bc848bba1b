"""Evaluations that belong in one column, and the settings by which the others differ.

Runs of one evaluation by one judge on prompts of one source are compared with each other. Some differ from most of the
others in attacks, limit, sampling or test cases. These are variants: each has a row of its own that names the differing
settings, and never takes another run's place. The same holds for several runs on one model that differ in settings
which may differ from model to model, such as the seed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from safereason.recipe.merge import flatten
from safereason.report.read import Run, of_stage
from safereason.report.tables import source_of
from safereason.runs.directory import CONTENTS
from safereason.runs.records import Record

ASIDE = ("model", "judge", "eval", "sources", "rejudges", "completions", "base_url", "resamples")
"""Parts of an identity that the column already has, or that change no figure."""
WEIGHTS_PART = "weights"
"""The part for the hash of a local model's own folder."""
OWN = ("seed", "prefix", "asked", WEIGHTS_PART)
"""Parts that may differ from model to model: the seed, how each model is prompted, and what it is."""
SHOWN_CHARS = 60
"""Most characters of a value in a label; of a longer one, the key alone is given."""

Setting = dict[str, str]
"""Values of an identity as JSON, by dotted key."""


def mark_variants(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs with each evaluation's variant set, and the superseded ones.

    A run is superseded by a newer one with the same column, model and settings.
    """
    runs_by_column: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in of_stage(runs, "eval"):
        runs_by_column[column_of(run)].append(run)
    # By path, since the runs come back column by column and the page keeps their first order.
    marked_by_path = {}
    for members in runs_by_column.values():
        for run in _with_variants(members):
            marked_by_path[run.path] = run
    marked = [marked_by_path.get(run.path, run) for run in runs]

    evaluations = of_stage(marked, "eval")
    newest = {}
    for run in sorted(evaluations, key=_finishing_order):
        newest[column_of(run), run.subject] = run
    superseded = []
    for run in evaluations:
        if newest[column_of(run), run.subject] is not run:
            superseded.append(run)
    return [run for run in marked if run not in superseded], superseded


def column_of(run: Run) -> tuple[str, str, str]:
    """Evaluation, judge and source of the prompts: runs that differ in these are in different columns."""
    return run.stage, str(run.metrics.get("judge") or ""), source_of(run)


def _finishing_order(run: Run) -> tuple[str, tuple[str, ...]]:
    return str(run.manifest.get("finished")), run.order


def _with_variants(runs: Sequence[Run]) -> Iterator[Run]:
    """The runs of one column, each with its variant set."""
    # First the settings that all models of a column should share, such as attacks and limit.
    shared_by_path = {}
    attack_counts = []
    for run in runs:
        shared_by_path[run.path] = _setting_of(run, own=False)
        attack_counts.append(_number_of_attacks(run))
    usual_shared = _most_common(list(shared_by_path.values()), attack_counts)

    # A model's runs with the same shared settings would be one row. What differs inside such a row must be named too.
    rows: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        rows[run.model, json.dumps(shared_by_path[run.path], sort_keys=True)].append(run)
    own_of_all = [_setting_of(run, own=True) for run in runs]
    for members in rows.values():
        own_by_path = {run.path: _setting_of(run, own=True) for run in members}
        own_in_row = list(own_by_path.values())
        # Of the row's settings, the one that most runs of the column have is no variant.
        usual_own = _most_common([setting for setting in own_of_all if setting in own_in_row])
        for run in members:
            differences = _differences(shared_by_path[run.path], usual_shared)
            differences += _differences(own_by_path[run.path], usual_own)
            yield replace(run, variant=", ".join(differences))


def _setting_of(run: Run, *, own: bool) -> Setting:
    """The settings of a run that decide on its variant, without those that are None.

    Args:
        run: A run of an evaluation.
        own: Whether to give the settings that may differ from model to model, or the others.
    """
    chosen = {}
    for key, value in _with_own_weights(run).items():
        if key not in ASIDE and (key in OWN) == own:
            chosen[key] = value
    setting = {}
    for key, value in flatten(chosen):
        if value is not None:
            setting[key] = _value_text(value)
    return setting


def _with_own_weights(run: Run) -> Record:
    """The identity with the hash of the model's own folder apart from those of judges and of files of rows."""
    hashes = run.identity.get(CONTENTS)
    if not isinstance(hashes, dict) or run.model not in hashes:
        return run.identity
    others = {name: value for name, value in hashes.items() if name != run.model}
    return {**run.identity, CONTENTS: others, WEIGHTS_PART: hashes[run.model]}


def _value_text(value: object) -> str:
    """A list of texts with commas between them; any other value as JSON."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _number_of_attacks(run: Run) -> int:
    attacks = run.identity.get("attacks")
    if not isinstance(attacks, list):
        return 0
    return len(attacks)


def _most_common(settings: Sequence[Setting], weights: Sequence[int] = ()) -> Setting:
    """The commonest setting.

    Of equally common ones, the one with the highest limit (no limit is the highest), then the one with the highest
    weight, then the first one by its text: the choice must not depend on the order of the runs.
    """
    # Texts, since dictionaries cannot be counted.
    texts = [json.dumps(setting, sort_keys=True) for setting in settings]
    weight_of = dict.fromkeys(texts, 0)
    if weights:
        weight_of = dict(zip(texts, weights, strict=True))
    times = Counter(texts)

    def order(text: str) -> tuple[int, float, int, str]:
        return -times[text], -_limit_of(json.loads(text)), -weight_of[text], text

    setting: Setting = json.loads(min(times, key=order))
    return setting


def _limit_of(setting: Mapping[str, str]) -> float:
    return float(setting.get("limit", "inf"))


def _differences(setting: Setting, usual: Setting) -> list[str]:
    """The differences of a setting from the usual one in words, each once."""
    keys = sorted(setting.keys() | usual.keys())
    # Other attacks have other settings. Their names say enough.
    if setting.get("attacks") != usual.get("attacks"):
        keys = [key for key in keys if not key.startswith("attack.")]
    differences: dict[str, None] = {}
    for key in keys:
        if setting.get(key) != usual.get(key):
            differences[_difference_text(key, setting.get(key), usual.get(key))] = None
    return list(differences)


def _difference_text(key: str, value: str | None, usual: str | None) -> str:
    """`limit 20 in place of none`, or `other test cases`."""
    name = key.removeprefix("attack.settings.").removeprefix("sampling.")
    # These are files by their paths, and their hashes: neither tells a reader anything.
    if key.startswith("cases."):
        return "other test cases"
    if max(len(value or ""), len(usual or "")) > SHOWN_CHARS:
        return f"other {name}"
    return f"{name} {value or 'none'} in place of {usual or 'none'}"
