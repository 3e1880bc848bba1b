"""The labelled rows that a guard trains on: RSafe's mix (arXiv 2506.07736, §4), as many safe as unsafe rows a source.

A source is read into memory: of each label it may be asked for all.

Where this differs from the released scripts:
1. Draws come from hashes of the seed, not from a library's sampler.
2. A row that is drawn again gets an id of its own, and the card says how many there are.
3. `without_categories` leaves categories out; the script reads its flag for that and ignores it.
4. Rows to watch the training by are held out of the mix before it is drawn, where the recipe asks for them.
5. Rows that one of the recipe's own test sets holds are left out of training, where `hygiene` drops those.
6. A row that says the same as an earlier one of its label, of whichever source, is left out (to the letter, or nearly
   where `hygiene` says so): the same question, or the same response to it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from typing import get_args

from safereason.data.draw import Mixture, Read, digest, fold, interleave, is_of, ordered, shares
from safereason.data.example import Example, Label
from safereason.data.screen import Refuse, Unlike, first_of, fit
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, RSafeMix, SourceShare

LABELS: tuple[Label, ...] = get_args(Label)


def build(
    mix: RSafeMix,
    seed: int,
    prompts: Read,
    traces: Read,
    *,
    taught: Collection[str] = (),
    refuse: Refuse = lambda example: None,
) -> Mixture:
    """Draws the mix.

    Args:
        mix: What is drawn.
        seed: Seed of every draw.
        prompts: Reads a source's training examples.
        traces: Reads a source's training examples with reasoning.
        taught: Sources that have no reasoning of their own: what `traces` reads of them was written by a teacher, for
            the rows of `to_trace`.
        refuse: Refuses rows that are too long, or that are tested on.

    Raises:
        InputError: A source has no row of a label that is asked of it.
    """
    return _Drawing(mix, seed, prompts, traces, taught, refuse).mixture()


def to_trace(
    mix: RSafeMix, seed: int, prompts: Read, taught: Collection[str], refuse: Refuse = lambda example: None
) -> list[Example]:
    """The labelled rows whose reasoning a teacher is to write: the traces' shares of the sources in `taught`."""
    drawing = _Drawing(mix, seed, prompts, lambda name: (), taught, refuse)
    held = {fold(row.prompt) for row in drawing.hold_out()}
    slices = [drawing.slice_of(s, held) for s in shares(mix, mix.traces) if s.source in taught]
    return list({row.id: row for part in slices for row in part}.values())


def labelled(examples: Iterable[Example]) -> list[Example]:
    """The rows with a label: the source's, or else a prompt's by its kind; only a source can label a response."""
    return [
        replace(example, label=example.label or ("unsafe" if example.kind == "harmful" else "safe"))
        for example in examples
        if example.label is not None or example.response is None
    ]


def of_label(rows: Iterable[Example], label: Label, seed: int, share: SourceShare | None = None) -> list[Example]:
    """The rows of a label in the seed's order: all, or those that a share may take."""
    return ordered((r for r in rows if r.label == label and (share is None or is_of(r, share))), seed, "source")


def set_rows(wanted: GuardSet, seed: int, examples: Iterable[Example]) -> list[Example]:
    """The rows of a source that a test set takes, each label in the seed's order."""
    rows = labelled(examples)
    named = SourceShare(source=wanted.source, prompts=1, categories=wanted.categories)
    safe = of_label(rows, "safe", seed)[wanted.skip :][: wanted.safe]
    unsafe = of_label(rows, "unsafe", seed, named)[wanted.skip :][: wanted.unsafe]
    return interleave([group for group in (safe, unsafe) if group])


class _Drawing:
    """One draw of a mix, and what all its parts share."""

    def __init__(
        self, mix: RSafeMix, seed: int, prompts: Read, traces: Read, taught: Collection[str], refuse: Refuse
    ) -> None:
        self.mix = mix
        self.seed = seed
        self.traces = traces
        self.taught = taught
        self.refuse = refuse
        self.drops: Counter[str] = Counter()
        self.notes: list[str] = []
        self.two_label = [name for name in mix.sources if name not in mix.without_sources]
        self.of_one: dict[Label, list[SourceShare]] = {
            "safe": shares(mix, mix.safe_only),
            "unsafe": shares(mix, mix.unsafe_only),
        }
        named = [share.source for share in chain(*self.of_one.values())]
        named += [share.source for share in shares(mix, mix.traces) if share.source in taught]
        self.pools = {name: self._labelled(prompts(name), name) for name in dict.fromkeys((*self.two_label, *named))}

    def mixture(self) -> Mixture:
        """The whole of it."""
        validation = self.hold_out()
        unlike = {label: Unlike(self.mix.hygiene.repeats) for label in LABELS}
        held = {fold(row.prompt) for row in validation}
        for row in validation:
            unlike[row.label or "safe"](row)
        groups = [self._drawn(name, label, held, unlike[label]) for name in self.two_label for label in LABELS]
        groups += [self._share(share, label, held, unlike[label]) for label in LABELS for share in self.of_one[label]]
        reasoned = [self._traces(share, held) for share in shares(self.mix, self.mix.traces)]
        return Mixture(
            tuple(interleave(groups)), tuple(interleave(reasoned)), tuple(validation), self.drops, tuple(self.notes)
        )

    def hold_out(self) -> list[Example]:
        """Rows of both labels, taken in turn from what can be drawn.

        They come from the end of the order, so that what the mix draws is the same with and without them.
        """
        held: list[Example] = []
        for label in LABELS:
            drawable = [*((name, None) for name in self.two_label), *((s.source, s) for s in self.of_one[label])]
            queues = [
                fit(of_label(self.pools[name], label, self.seed, share)[::-1], self.refuse, Counter(), name)
                for name, share in drawable
            ]
            held += _in_turn(queues, self.mix.validation_rows_per_label)
        return held

    def slice_of(self, share: SourceShare, held: Collection[str]) -> list[Example]:
        """The rows that a share of the traces takes, half of each label where it has as many."""
        name = share.source
        rows = self.pools[name] if name in self.taught else self._labelled(self.traces(name), f"{name}, with reasoning")
        both = [
            islice(
                self._fit(of_label(rows, label, self.seed, share), held, f"{name}, with reasoning"), share.skip, None
            )
            for label in LABELS
        ]
        return _in_turn(both, share.prompts)

    def _labelled(self, examples: Iterable[Example], of: str) -> list[Example]:
        """A source's rows with a label, without those of a category that is left out."""
        examples = list(examples)
        rows = labelled(examples)
        without = set(self.mix.without_categories)
        kept = [row for row in rows if without.isdisjoint(row.categories)]
        self.drops[f"{of}: a response without a label"] += len(examples) - len(rows)
        self.drops[f"{of}: of a category left out"] += len(rows) - len(kept)
        return kept

    def _fit(self, rows: Iterable[Example], held: Collection[str], of: str, *more: Refuse) -> Iterator[Example]:
        """Rows that may be trained on; those of a prompt that is held out are none, and no loss."""
        free = (row for row in rows if fold(row.prompt) not in held)
        return fit(free, first_of(self.refuse, *more), self.drops, of)

    def _drawn(self, name: str, label: Label, held: Collection[str], unlike: Refuse) -> list[Example]:
        """`rows_per_label` rows of this label, with replacement where there are fewer."""
        wanted = self.mix.rows_per_label
        pool = list(islice(self._fit(of_label(self.pools[name], label, self.seed), held, name, unlike), wanted))
        if not pool:
            other = "unsafe_only" if label == "safe" else "safe_only"
            raise InputError(f"data.sources: {name} has no {label} row; name it under data.{other} instead")
        if len(pool) == wanted:
            return pool
        picks = [pool[int(digest(self.seed, "draw", label, i), 16) % len(pool)] for i in range(wanted)]
        times: Counter[str] = Counter()
        drawn = []
        for pick in picks:
            times[pick.id] += 1
            drawn.append(pick if times[pick.id] == 1 else replace(pick, id=f"{pick.id}#{times[pick.id]}"))
        self.notes.append(
            f"{name}: {wanted - len(times)} of its {wanted} {label} rows are repeats, since it has {len(pool)}"
        )
        return drawn

    def _share(self, share: SourceShare, label: Label, held: Collection[str], unlike: Refuse) -> list[Example]:
        rows = of_label(self.pools[share.source], label, self.seed, share)
        usable = self._fit(rows, held, share.source, unlike)
        chosen = list(islice(usable, share.skip, share.skip + share.prompts))
        if not chosen:
            raise InputError(
                f"data.{label}_only: {share.source} has no {label} row after the first {share.skip}"
                f"{' of ' + ', '.join(share.categories) if share.categories else ''}; "
                "name another source"
            )
        return chosen

    def _traces(self, share: SourceShare, held: Collection[str]) -> list[Example]:
        """The rows of a share's slice with their reasoning."""
        chosen = self.slice_of(share, held)
        if share.source in self.taught:
            written = {_key(row): row for row in self.traces(share.source)}
            found = [written[_key(row)] for row in chosen if _key(row) in written]
            self.drops[f"{share.source}, with reasoning: none was written"] += len(chosen) - len(found)
            chosen = found
        if not chosen:
            raise InputError(
                f"data.traces: {share.source} has no labelled row with reasoning after the first {share.skip}"
            )
        return chosen


def _key(row: Example) -> tuple[str, str]:
    return fold(row.prompt), fold(row.response or "")


def _in_turn(queues: Sequence[Iterable[Example]], wanted: int) -> list[Example]:
    """`wanted` rows, taken from the queues in turn, each once; no more are asked for."""
    taken: dict[str, Example] = {}
    if wanted:
        for row in chain.from_iterable(zip_longest(*queues)):
            if row is not None:
                taken.setdefault(row.id, row)
                if len(taken) == wanted:
                    break
    return list(taken.values())
