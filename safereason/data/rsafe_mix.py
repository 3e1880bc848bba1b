"""Mix of labelled rows for a guard: RSafe's (arXiv 2506.07736, §4), with as many safe as unsafe rows of each source.

A source is read into memory, since all of its rows of a label may be needed.

Differences from the released scripts:
1. Draws come from hashes of the seed, not from a library's sampler.
2. A row that is drawn again gets an id of its own, and the card says how many there are.
3. `without_categories` leaves categories out; the script reads its flag for that and ignores it.
4. Rows for validation are held out of the mix before it is drawn, where the recipe asks for them.
5. Rows that one of the recipe's own test sets contains are left out of training, where `hygiene` drops those.
6. A row that repeats an earlier one of its label, from any source, is left out (an exact copy, or a near one where
   `hygiene` says so). Two rows are the same if both prompt and response are.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest

from safereason.data.example import LABELS, Example
from safereason.data.filters import Refuse, drop_refused, refuse_any, refuse_repeats
from safereason.data.sampling import (
    Mixture,
    SourceReader,
    digest,
    fold,
    interleave,
    seeded_order,
    share_accepts,
    used_shares,
)
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, RSafeMix, SourceShare
from safereason.text.verdict import Label


def build(
    mix: RSafeMix,
    seed: int,
    prompts: SourceReader,
    traces: SourceReader,
    *,
    taught: Collection[str] = (),
    refuse: Refuse = lambda example: None,
) -> Mixture:
    """The rows that the mix draws.

    Args:
        mix: The recipe's settings.
        seed: Seed of every draw.
        prompts: Reads the training examples of a source.
        traces: Reads the training examples of a source with reasoning.
        taught: Sources without reasoning of their own. For these `traces` reads a teacher's traces of the rows of
            `to_trace`.
        refuse: Refuses rows that are too long, or that are tested on.

    Raises:
        InputError: A source has no row of a label that the mix needs.
    """
    return _RSafeDraw(mix, seed, prompts, traces, taught, refuse).mixture()


def to_trace(
    mix: RSafeMix, seed: int, prompts: SourceReader, taught: Collection[str], refuse: Refuse = lambda example: None
) -> list[Example]:
    """The labelled rows for which a teacher writes reasoning: the traces' shares of the sources in `taught`."""
    # No traces are read here: the teacher has yet to write them.
    draw = _RSafeDraw(mix, seed, prompts, lambda name: (), taught, refuse)
    held_out_prompts = {fold(row.prompt) for row in draw.hold_out()}
    # Two shares of a source may overlap, and a row is traced once.
    rows_by_id = {}
    for share in used_shares(mix, mix.traces):
        if share.source in taught:
            for row in draw.trace_slice(share, held_out_prompts):
                rows_by_id[row.id] = row
    return list(rows_by_id.values())


def labelled(examples: Iterable[Example]) -> list[Example]:
    """The examples with a label, which is the source's own or follows from the kind of the prompt.

    A response without a label is left out, since the kind says nothing about it.
    """
    rows = []
    for example in examples:
        if example.label is not None:
            rows.append(example)
        elif example.response is None:
            rows.append(replace(example, label="unsafe" if example.kind == "harmful" else "safe"))
    return rows


def rows_with_label(
    rows: Iterable[Example], label: Label, seed: int, share: SourceShare | None = None
) -> list[Example]:
    """The rows of a label in the seed's order: all of them, or those that a share accepts."""
    accepted = []
    for row in rows:
        if row.label == label and (share is None or share_accepts(row, share)):
            accepted.append(row)
    return seeded_order(accepted, seed, "source")


def set_rows(test_set: GuardSet, seed: int, examples: Iterable[Example]) -> list[Example]:
    """The rows of a source that a test set takes, each label in the seed's order."""
    rows = labelled(examples)
    # Categories are categories of harm, so only unsafe rows are chosen by them.
    unsafe_share = SourceShare(source=test_set.source, prompts=1, categories=test_set.categories)
    safe = rows_with_label(rows, "safe", seed)[test_set.skip :][: test_set.safe]
    unsafe = rows_with_label(rows, "unsafe", seed, unsafe_share)[test_set.skip :][: test_set.unsafe]
    return interleave([group for group in (safe, unsafe) if group])


class _RSafeDraw:
    """One draw of a mix, with the state that its parts share."""

    def __init__(
        self,
        mix: RSafeMix,
        seed: int,
        prompts: SourceReader,
        traces: SourceReader,
        taught: Collection[str],
        refuse: Refuse,
    ) -> None:
        self.mix = mix
        self.seed = seed
        self.traces = traces
        self.taught = taught
        self.refuse = refuse
        self.drops: Counter[str] = Counter()
        self.notes: list[str] = []
        self.two_label_sources = [name for name in mix.sources if name not in mix.without_sources]
        self.one_label_shares: dict[Label, list[SourceShare]] = {
            "safe": used_shares(mix, mix.safe_only),
            "unsafe": used_shares(mix, mix.unsafe_only),
        }
        names = list(self.two_label_sources)
        names += [share.source for share in chain(*self.one_label_shares.values())]
        names += [share.source for share in used_shares(mix, mix.traces) if share.source in taught]
        self.pools: dict[str, list[Example]] = {}
        # A source with several roles is read once.
        for name in dict.fromkeys(names):
            self.pools[name] = self._labelled_pool(prompts(name), name)

    def mixture(self) -> Mixture:
        """The rows that the mix draws: for training, with traces, and held out for validation."""
        validation = self.hold_out()
        held_out_prompts = {fold(row.prompt) for row in validation}
        # The same text with the other label is another row, so each label is deduplicated by itself.
        refuse_duplicates = {label: refuse_repeats(self.mix.hygiene) for label in LABELS}
        for row in validation:
            refuse_duplicates[row.label or "safe"](row)
        groups = []
        for name in self.two_label_sources:
            for label in LABELS:
                groups.append(self._draw_source(name, label, held_out_prompts, refuse_duplicates[label]))
        for label in LABELS:
            for share in self.one_label_shares[label]:
                groups.append(self._draw_share(share, label, held_out_prompts, refuse_duplicates[label]))
        traces = [self._draw_traces(share, held_out_prompts) for share in used_shares(self.mix, self.mix.traces)]
        return Mixture(
            prompts=tuple(interleave(groups)),
            traces=tuple(interleave(traces)),
            validation=tuple(validation),
            drops=self.drops,
            notes=tuple(self.notes),
        )

    def hold_out(self) -> list[Example]:
        """Rows of both labels for validation, taken from the sources in turn.

        They come from the end of the order, so that what the mix draws is the same with and without them.
        """
        held_out: list[Example] = []
        for label in LABELS:
            sources: list[tuple[str, SourceShare | None]] = [(name, None) for name in self.two_label_sources]
            sources += [(share.source, share) for share in self.one_label_shares[label]]
            queues = []
            for name, share in sources:
                last_first = rows_with_label(self.pools[name], label, self.seed, share)[::-1]
                # Refusals are not counted here: the mix reads the same rows again and counts them.
                queues.append(drop_refused(last_first, self.refuse, Counter(), name))
            held_out += _take_in_turn(queues, self.mix.validation_rows_per_label)
        return held_out

    def trace_slice(self, share: SourceShare, held_out_prompts: Collection[str]) -> list[Example]:
        """The rows that a share of the traces takes, half of each label as far as there are enough."""
        name = share.source
        if name in self.taught:
            rows = self.pools[name]
        else:
            rows = self._labelled_pool(self.traces(name), f"{name}, with reasoning")
        queues = []
        for label in LABELS:
            of_label = rows_with_label(rows, label, self.seed, share)
            usable = self._trainable(of_label, held_out_prompts, f"{name}, with reasoning")
            queues.append(islice(usable, share.skip, None))
        return _take_in_turn(queues, share.prompts)

    def _labelled_pool(self, examples: Iterable[Example], drop_label: str) -> list[Example]:
        """The labelled rows of a source without those of an excluded category."""
        examples = list(examples)
        rows = labelled(examples)
        excluded = set(self.mix.without_categories)
        kept = [row for row in rows if excluded.isdisjoint(row.categories)]
        self.drops[f"{drop_label}: a response without a label"] += len(examples) - len(rows)
        self.drops[f"{drop_label}: of a category left out"] += len(rows) - len(kept)
        return kept

    def _trainable(
        self, rows: Iterable[Example], held_out_prompts: Collection[str], drop_label: str, *checks: Refuse
    ) -> Iterator[Example]:
        """The rows that may be trained on.

        Rows of a held-out prompt are skipped without being counted: validation uses them.
        """
        others = (row for row in rows if fold(row.prompt) not in held_out_prompts)
        return drop_refused(others, refuse_any(self.refuse, *checks), self.drops, drop_label)

    def _draw_source(
        self, name: str, label: Label, held_out_prompts: Collection[str], refuse_duplicates: Refuse
    ) -> list[Example]:
        """`rows_per_label` rows of this label, with replacement where there are fewer."""
        count = self.mix.rows_per_label
        ordered = rows_with_label(self.pools[name], label, self.seed)
        pool = list(islice(self._trainable(ordered, held_out_prompts, name, refuse_duplicates), count))
        if not pool:
            other_key = "unsafe_only" if label == "safe" else "safe_only"
            raise InputError(f"data.sources: {name} has no {label} row; name it under data.{other_key} instead")
        if len(pool) == count:
            return pool
        # Rows are drawn again, as the released script does, so that every source and label has the same weight.
        times_drawn: Counter[str] = Counter()
        drawn = []
        for number in range(count):
            # The digest takes the place of a random number (difference 1).
            row = pool[int(digest(self.seed, "draw", label, number), 16) % len(pool)]
            times_drawn[row.id] += 1
            if times_drawn[row.id] > 1:
                drawn.append(replace(row, id=f"{row.id}#{times_drawn[row.id]}"))
            else:
                drawn.append(row)
        self.notes.append(
            f"{name}: {count - len(times_drawn)} of its {count} {label} rows are repeats, since it has {len(pool)}"
        )
        return drawn

    def _draw_share(
        self, share: SourceShare, label: Label, held_out_prompts: Collection[str], refuse_duplicates: Refuse
    ) -> list[Example]:
        """The rows of a source that has one label only."""
        ordered = rows_with_label(self.pools[share.source], label, self.seed, share)
        usable = self._trainable(ordered, held_out_prompts, share.source, refuse_duplicates)
        rows = list(islice(usable, share.skip, share.skip + share.prompts))
        if not rows:
            of_categories = ""
            if share.categories:
                of_categories = f" of {', '.join(share.categories)}"
            raise InputError(
                f"data.{label}_only: {share.source} has no {label} row after the first {share.skip}{of_categories}; "
                "name another source"
            )
        return rows

    def _draw_traces(self, share: SourceShare, held_out_prompts: Collection[str]) -> list[Example]:
        """The rows of a share's slice with their reasoning."""
        rows = self.trace_slice(share, held_out_prompts)
        if share.source in self.taught:
            rows = self._with_teacher_traces(rows, share.source)
        if not rows:
            raise InputError(
                f"data.traces: {share.source} has no labelled row with reasoning after the first {share.skip}"
            )
        return rows

    def _with_teacher_traces(self, rows: Sequence[Example], source: str) -> list[Example]:
        """The teacher's traces of these rows; rows without one are counted as dropped."""
        traces_by_row = {_row_key(trace): trace for trace in self.traces(source)}
        traces = []
        for row in rows:
            trace = traces_by_row.get(_row_key(row))
            if trace is not None:
                traces.append(trace)
        self.drops[f"{source}, with reasoning: none was written"] += len(rows) - len(traces)
        return traces


def _row_key(row: Example) -> tuple[str, str]:
    return fold(row.prompt), fold(row.response or "")


def _take_in_turn(queues: Sequence[Iterable[Example]], count: int) -> list[Example]:
    """`count` different rows, one from each queue in turn; no more are read from the queues."""
    rows_by_id: dict[str, Example] = {}
    if count == 0:
        return []
    for row in chain.from_iterable(zip_longest(*queues)):
        # An exhausted queue gives None for the rest of the rounds.
        if row is None:
            continue
        rows_by_id.setdefault(row.id, row)
        if len(rows_by_id) == count:
            break
    return list(rows_by_id.values())
