"""The labelled rows that a guard trains on: RSafe's mix (arXiv 2506.07736, §4), as many safe as unsafe rows a source.

Where this differs from the released scripts:
1. Draws come from hashes of the seed, not from a library's sampler.
2. A row that is drawn again gets an id of its own, and the card says how many there are.
3. `without_categories` leaves categories out; the script reads its flag for that and ignores it.
4. Rows to watch the training by are held out of the mix before it is drawn, where the recipe asks for them.
5. Rows that one of the recipe's own test sets holds are left out of training, and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from safereason.data.draw import Mixture, Read, digest, fold, interleave, is_of, ordered
from safereason.data.example import Example, Label
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, RSafeMix, SourceShare

Refuse = Callable[[Example], str | None]
"""Why a row is not fit to be trained on, or None."""


def build(mix: RSafeMix, seed: int, prompts: Read, traces: Read, refuse: Refuse = lambda example: None) -> Mixture:
    """Draws the mix.

    Args:
        mix: What is drawn.
        seed: Seed of every draw.
        prompts: Reads a source's training examples.
        traces: Reads a source's training examples with reasoning.
        refuse: Refuses rows that are too long, or that are tested on.

    Raises:
        InputError: A source has no row of a label that is asked of it.
    """
    drops: Counter[str] = Counter()
    notes: list[str] = []
    pools = {
        name: _usable(prompts(name), mix, refuse, drops, name)
        for name in dict.fromkeys((*mix.sources, *(s.source for s in (*mix.safe_only, *mix.unsafe_only))))
    }
    validation = _hold_out(mix, pools, seed)
    groups = [
        _drawn(pools[name], label, mix.rows_per_label, seed, name, notes)
        for name in mix.sources
        for label in ("safe", "unsafe")
    ]
    groups += [_share(pools[s.source], "safe", s, seed) for s in mix.safe_only]
    groups += [_share(pools[s.source], "unsafe", s, seed) for s in mix.unsafe_only]
    held = {fold(example.prompt) for example in validation}
    reasoned = [
        _traces(_usable(traces(s.source), mix, refuse, drops, f"{s.source}, with reasoning"), s, seed, held)
        for s in mix.traces
    ]
    return Mixture(
        tuple(interleave(groups)), tuple(interleave(reasoned)), tuple(validation), drops=drops, notes=tuple(notes)
    )


def labelled(examples: Iterable[Example]) -> list[Example]:
    """The rows with a label: the source's, or else a prompt's by its kind; only a source can label a response."""
    return [
        replace(example, label=example.label or ("unsafe" if example.kind == "harmful" else "safe"))
        for example in examples
        if example.label is not None or example.response is None
    ]


def of_label(rows: Iterable[Example], label: Label, categories: Sequence[str], seed: int) -> list[Example]:
    """The rows of a label in the seed's order, and of some categories where they are named."""
    return ordered((r for r in rows if r.label == label and is_of(r, categories)), seed, "source")


def set_rows(wanted: GuardSet, seed: int, examples: Iterable[Example]) -> list[Example]:
    """The rows of a source that a test set takes, each label in the seed's order."""
    rows = labelled(examples)
    safe = of_label(rows, "safe", (), seed)[wanted.skip :][: wanted.safe]
    unsafe = of_label(rows, "unsafe", wanted.categories, seed)[wanted.skip :][: wanted.unsafe]
    return interleave([group for group in (safe, unsafe) if group])


def _usable(examples: Sequence[Example], mix: RSafeMix, refuse: Refuse, drops: Counter[str], of: str) -> list[Example]:
    without = set(mix.without_categories)
    rows, kept = labelled(examples), []
    drops[f"{of}: a response without a label"] += len(examples) - len(rows)
    for row in rows:
        if without.intersection(row.categories):
            drops[f"{of}: of a category left out"] += 1
        elif (why := refuse(row)) is not None:
            drops[f"{of}: {why}"] += 1
        else:
            kept.append(row)
    return kept


def _hold_out(mix: RSafeMix, pools: dict[str, list[Example]], seed: int) -> list[Example]:
    """Takes rows of both labels out of what can be drawn, in turn, with every other row of the same prompt."""
    held: list[Example] = []
    by_label: dict[Label, Sequence[SourceShare]] = {"safe": mix.safe_only, "unsafe": mix.unsafe_only}
    for label, shares in by_label.items():
        drawable = [*((name, ()) for name in mix.sources), *((share.source, share.categories) for share in shares)]
        # From the end of the order, so that what the mix draws is the same with and without them.
        queues = [of_label(pools[name], label, categories, seed)[::-1] for name, categories in drawable]
        held += _in_turn(queues, mix.validation_rows_per_label)
    taken = {fold(example.prompt) for example in held}
    for rows in pools.values():
        rows[:] = [row for row in rows if fold(row.prompt) not in taken]
    return held


def _in_turn(queues: Sequence[Sequence[Example]], wanted: int) -> list[Example]:
    """`wanted` rows, taken from the queues in turn, each once."""
    longest = max((len(q) for q in queues), default=0)
    taken = {q[i].id: q[i] for i in range(longest) for q in queues if i < len(q)}
    return list(taken.values())[:wanted]


def _drawn(rows: list[Example], label: Label, wanted: int, seed: int, name: str, notes: list[str]) -> list[Example]:
    """`wanted` rows of this label, with replacement where there are fewer."""
    pool = of_label(rows, label, (), seed)
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


def _share(rows: list[Example], label: Label, share: SourceShare, seed: int) -> list[Example]:
    chosen = of_label(rows, label, share.categories, seed)[share.skip : share.skip + share.prompts]
    if not chosen:
        raise InputError(f"data.{label}_only: {share.source} has no {label} row after the first {share.skip}"
                         f"{' of ' + ', '.join(share.categories) if share.categories else ''}; "
                         "name another source")  # fmt: skip
    return chosen


def _traces(rows: list[Example], share: SourceShare, seed: int, held: set[str]) -> list[Example]:
    """A source's rows with reasoning, half of each label where it has as many."""
    free = [row for row in rows if fold(row.prompt) not in held]
    both = [of_label(free, label, share.categories, seed)[share.skip :] for label in ("safe", "unsafe")]
    chosen = _in_turn(both, share.prompts)
    if not chosen:
        raise InputError(f"data.traces: {share.source} has no labelled row with reasoning after the first {share.skip}")
    return chosen
