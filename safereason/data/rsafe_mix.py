"""The labelled rows that a guard trains on: RSafe's mix (arXiv 2506.07736, §4), as many safe as unsafe rows a source.

Where this differs from the released scripts:
1. Draws come from hashes of the seed, not from a library's sampler.
2. A row that is drawn again gets an id of its own, and the card says how many there are.
3. `without_categories` leaves categories out; the script reads its flag for that and ignores it.
4. The token limits are applied where the template is filled, in the guard's training, and not here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from safereason.data.draw import Mixture, Read, digest, interleave, ordered
from safereason.data.example import Example, Label
from safereason.errors import InputError
from safereason.recipe.schema import RSafeMix, SourceShare


def build(mix: RSafeMix, seed: int, prompts: Read) -> Mixture:
    """Draws the mix; `prompts` reads a source's training examples.

    Raises:
        InputError: A source has no row of a label that is asked of it.
    """
    drops: Counter[str] = Counter()
    notes: list[str] = []
    groups = []
    for name in mix.sources:
        rows = _labelled(prompts(name), mix, drops)
        groups += [_drawn(rows, label, mix.rows_per_label, seed, name, notes) for label in ("safe", "unsafe")]
    groups += [_first(_labelled(prompts(s.source), mix, drops), "safe", s, seed) for s in mix.safe_only]
    groups += [_first(_labelled(prompts(s.source), mix, drops), "unsafe", s, seed) for s in mix.unsafe_only]
    return Mixture(tuple(interleave(groups)), drops=drops, notes=tuple(notes))


def _labelled(examples: Sequence[Example], mix: RSafeMix, drops: Counter[str]) -> list[Example]:
    """Rows with a label: the source's, or else a prompt's by its kind; only a source can label a response."""
    rows = []
    for example in examples:
        if example.category in mix.without_categories:
            drops["prompts: of a category left out"] += 1
        elif example.label is None and example.response is not None:
            drops["prompts: a response without a label"] += 1
        else:
            rows.append(replace(example, label=example.label or ("unsafe" if example.kind == "harmful" else "safe")))
    return rows


def _drawn(rows: list[Example], label: Label, wanted: int, seed: int, name: str, notes: list[str]) -> list[Example]:
    """`wanted` rows of this label, with replacement where there are fewer."""
    pool = ordered((r for r in rows if r.label == label), seed, "source")
    if not pool:
        other = "unsafe_only" if label == "safe" else "safe_only"
        raise InputError(f"data.sources: {name} has no {label} row; name it under data.{other} instead")
    if len(pool) >= wanted:
        return pool[:wanted]
    picks = [pool[int(digest(seed, "draw", label, i), 16) % len(pool)] for i in range(wanted)]
    times: Counter[str] = Counter()
    drawn = []
    for pick in picks:
        times[pick.id] += 1
        drawn.append(pick if times[pick.id] == 1 else replace(pick, id=f"{pick.id}#{times[pick.id]}"))
    notes.append(f"{name}: {wanted - len(times)} of its {wanted} {label} rows are repeats, since it has {len(pool)}")
    return drawn


def _first(rows: list[Example], label: Label, share: SourceShare, seed: int) -> list[Example]:
    of_label = ordered((r for r in rows if r.label == label), seed, "source")[share.skip : share.skip + share.prompts]
    if not of_label:
        raise InputError(f"data.{label}_only: {share.source} has no {label} row after the first {share.skip}; "
                         "name another source")  # fmt: skip
    return of_label
