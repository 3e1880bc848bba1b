"""Mix of the prompts and traces that TARS trains on (arXiv 2507.00971, §4), by λ, with exact counts.

Differences from the released script:
1. Order comes from hashes of the seed and the prompt, not from a library's shuffle: the same rows everywhere, other
   rows than the script's.
2. The length limit measures the prompt. The script's does so for most sources and measures the whole row of
   WildJailbreak, where it drops nothing.
3. A prompt is passed over before a share is sliced if it is too long, if it repeats an earlier one of the source (an
   exact copy, or a near one, as `hygiene` says) or if a test set contains it (where `hygiene` drops those). So `skip`
   and `prompts` count usable rows.
4. The kinds are spread evenly over the training order, so that every optimizer step sees about λ; the script shuffles.
5. A share is an upper limit. The mix fails where a pool is then too small, rather than change λ.
6. Traces without reasoning or without an answer are dropped; the script drops those without reasoning. Of one prompt's
   traces `traces_per_prompt` are kept.
7. RL never takes a prompt that the same source gives to SFT, for every value of `skip`. Two sources may contain the
   same prompt: the card counts those that both stages have.
8. A prompt that repeats one of another share stays in the first of them, where `hygiene` leaves repetitions out.
9. With `trace_prompts`, as for the SFT baseline, the traces are of the mix's own prompts. The shares of `traces` are
   then only kept out of the mix, so that it is the same as without `trace_prompts`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from itertools import chain, groupby, islice

from safereason.data.example import KINDS, Example, PromptKind
from safereason.data.filters import (
    Refuse,
    drop_refused,
    reason_for_length,
    refuse_any,
    refuse_longer_than,
    refuse_repeats,
)
from safereason.data.sampling import (
    Mixture,
    Selection,
    SourceReader,
    fold,
    interleave,
    seeded_order,
    seeded_selections,
    share_accepts,
    used_shares,
)
from safereason.errors import InputError
from safereason.recipe.schema import SourceShare, TarsMix

Slice = tuple[SourceShare, list[Example]]
"""A share of a source with the prompts that it takes."""
# A source that is not held in memory is read a second time if more rows are refused than this.
MARGIN = 64
"""Rows that are kept beyond those a share takes, in place of rows that are refused."""


def build(
    mix: TarsMix,
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
        prompts: Reads the training prompts of a source.
        traces: Reads the training traces of a source.
        taught: Sources without traces of their own. For these `traces` reads a teacher's traces of the prompts of
            `to_trace`.
        refuse: Refuses rows that must not be trained on.

    Raises:
        InputError: A pool is smaller than λ requires, or no trace is left.
    """
    return _TarsDraw(mix, seed, prompts, traces, taught, refuse).mixture()


def to_trace(
    mix: TarsMix,
    seed: int,
    prompts: SourceReader,
    traces: SourceReader,
    *,
    taught: Collection[str],
    refuse: Refuse = lambda example: None,
) -> list[Example]:
    """The prompts for which a teacher writes traces: those of `taught` sources for which `build` needs traces."""
    slices = _TarsDraw(mix, seed, prompts, traces, taught, refuse).slices_for_teacher()
    examples_by_prompt = {}
    for _, part in slices:
        for example in part:
            examples_by_prompt[fold(example.prompt)] = example
    return list(examples_by_prompt.values())


def counts(mix: TarsMix) -> dict[PromptKind, int]:
    """Number of prompts of each kind; halves are rounded up, first for harmful and then for ambiguous ones."""
    harmful = _rounded_share(mix.prompts, mix.harmful_ratio)
    ambiguous = _rounded_share(mix.prompts - harmful, mix.ambiguous_ratio)
    # Harmless prompts take what is left, so that the sum is exact.
    return {"harmful": harmful, "harmless": mix.prompts - harmful - ambiguous, "ambiguous": ambiguous}


def shares_of(mix: TarsMix, kind: PromptKind) -> tuple[SourceShare, ...]:
    """The sources of one kind of prompts."""
    pools = {"harmful": mix.harmful, "harmless": mix.harmless, "ambiguous": mix.ambiguous}
    return pools[kind]


def _rounded_share(total: int, ratio: float) -> int:
    # Decimal takes the ratio as it is written; as a float, 0.15 is a little less than 0.15.
    return int((total * Decimal(str(ratio))).to_integral_value(ROUND_HALF_UP))


class _TarsDraw:
    """One draw of a mix, with the state that its parts share."""

    def __init__(
        self,
        mix: TarsMix,
        seed: int,
        prompts: SourceReader,
        traces: SourceReader,
        taught: Collection[str],
        refuse: Refuse,
    ) -> None:
        self.mix = mix
        self.seed = seed
        self.prompts = prompts
        self.traces = traces
        self.taught = taught
        self.refuse = refuse_any(refuse_longer_than(mix.max_prompt_chars), refuse)
        self.drops: Counter[str] = Counter()
        self._selections_by_source: dict[str, dict[tuple[str, int], Iterator[Example]]] = {}
        self._source_by_prompt: dict[str, str] = {}

    def mixture(self) -> Mixture:
        """The rows that the mix draws: prompts for RL, and traces for SFT."""
        # The slices of SFT come first, because RL must not take their prompts (difference 7).
        slices = self._trace_slices()
        pools = self._draw_pools(slices)
        if self.mix.trace_prompts:
            slices = self._slices_by_source(pools)
        return Mixture(prompts=tuple(interleave(pools)), traces=tuple(self._draw_traces(slices)), drops=self.drops)

    def slices_for_teacher(self) -> list[Slice]:
        """The prompts of `taught` sources for which traces are needed."""
        if self.mix.trace_prompts:
            slices = self._slices_by_source(self._draw_pools(self._trace_slices()))
            return [(share, part) for share, part in slices if share.source in self.taught]
        slices = []
        for number, share in enumerate(used_shares(self.mix, self.mix.traces)):
            if share.source in self.taught:
                slices.append((share, self.trace_slice(number, share)))
        return slices

    def _trace_slices(self) -> list[Slice]:
        shares = used_shares(self.mix, self.mix.traces)
        return [(share, self.trace_slice(number, share)) for number, share in enumerate(shares)]

    def _draw_pools(self, slices: Sequence[Slice]) -> list[list[Example]]:
        """The prompts of each kind."""
        sft_prompts: dict[str, set[str]] = {}
        for share, part in slices:
            sft_prompts.setdefault(share.source, set()).update(fold(example.prompt) for example in part)
        # One filter over all pools, since the same prompt may be in the sources of two kinds (difference 8).
        refuse_duplicates = self._new_duplicate_check()
        pools = []
        for kind, count in counts(self.mix).items():
            pools.append(self._draw_pool(kind, count, sft_prompts, refuse_duplicates))
        return pools

    def _slices_by_source(self, pools: Sequence[Sequence[Example]]) -> list[Slice]:
        """The mix's own prompts as slices of the sources that they were drawn from."""
        parts: dict[str, list[Example]] = {}
        for example in chain.from_iterable(pools):
            # A prompt's `source` names the dataset, which may be read under another name, such as a file's.
            source = self._source_by_prompt[fold(example.prompt)]
            parts.setdefault(source, []).append(example)
        return [(SourceShare(source=source, prompts=len(part)), part) for source, part in parts.items()]

    def trace_slice(self, number: int, share: SourceShare) -> list[Example]:
        """The prompts that a share of the traces takes, one example for each prompt.

        The share is sliced before unusable traces are dropped, so that another share with a `skip` passes over exactly
        these prompts.
        """
        if share.source in self.taught:
            rows: Iterable[Example] = self._selections(share.source)["traces", number]
        else:
            accepted = (trace for trace in self.traces(share.source) if share_accepts(trace, share))
            rows = seeded_order(accepted, self.seed, "source")
        # The seeded order puts the traces of one prompt side by side.
        # All of this is lazy, so no more of a source is read than the share takes.
        first_traces = (next(traces) for _, traces in groupby(rows, key=lambda trace: fold(trace.prompt)))
        return list(islice(self._usable(first_traces, "traces"), share.skip, share.skip + share.prompts))

    def _draw_pool(
        self, kind: PromptKind, count: int, sft_prompts: Mapping[str, set[str]], refuse_duplicates: Refuse
    ) -> list[Example]:
        """`count` prompts of a kind; `refuse_duplicates` has already seen the pools drawn before."""
        if not count:
            return []
        pool: list[Example] = []
        before = self.drops.copy()
        shares = used_shares(self.mix, shares_of(self.mix, kind))
        for number, share in enumerate(shares):
            rows = self._selections(share.source)[kind, number]
            part = self._slice_of_share(share, rows, sft_prompts.get(share.source, set()))
            taken = list(drop_refused(part, refuse_duplicates, self.drops, "prompts, of another share"))
            for example in taken:
                self._source_by_prompt[fold(example.prompt)] = share.source
            pool += taken
        if len(pool) < count:
            names = ", ".join(share.source for share in shares) or "no source is left"
            too_long = (self.drops - before)[f"prompts: {reason_for_length(self.mix.max_prompt_chars)}"]
            remedy = "add a source or lower data.prompts"
            if too_long:
                remedy = f"{too_long} are longer than data.max_prompt_chars; raise that, {remedy}"
            raise InputError(
                f"data.{kind}: {count} prompts are needed and the pool has {len(pool)} ({names}); {remedy}"
            )
        # Ordered anew before it is cut, or the pool would consist of the first share alone.
        return seeded_order(pool, self.seed, "pool")[:count]

    def _slice_of_share(self, share: SourceShare, rows: Iterable[Example], sft_prompts: set[str]) -> Iterator[Example]:
        """The prompts that a share takes; those of SFT count as skipped and are never taken."""

        def refuse_sft_prompts(row: Example) -> str | None:
            if fold(row.prompt) in sft_prompts:
                return "SFT has it"
            return None

        after_skip = islice(self._usable(rows, "prompts"), share.skip, None)
        return islice(drop_refused(after_skip, refuse_sft_prompts, self.drops, "prompts"), share.prompts)

    def _selections(self, source: str) -> Mapping[tuple[str, int], Iterator[Example]]:
        """The prompts of a source that each share may take, by pool and number of the share.

        The source is read once for all shares, since a large one takes minutes.
        """
        if source not in self._selections_by_source:
            selections = {}
            for pool, number, share in self._numbered_shares():
                if share.source == source and (pool != "traces" or source in self.taught):
                    expected = share.skip + share.prompts + MARGIN
                    selections[pool, number] = Selection(partial(_pool_accepts, pool, share), expected)
            self._selections_by_source[source] = seeded_selections(
                lambda: self.prompts(source), self.seed, "source", selections
            )
        return self._selections_by_source[source]

    def _numbered_shares(self) -> Iterator[tuple[str, int, SourceShare]]:
        """Each share with its pool, a kind or `traces`, and its number in the pool."""
        pools: dict[str, tuple[SourceShare, ...]] = {}
        for kind, count in counts(self.mix).items():
            if count:
                pools[kind] = shares_of(self.mix, kind)
        pools["traces"] = self.mix.traces
        for name, shares in pools.items():
            for number, share in enumerate(used_shares(self.mix, shares)):
                yield name, number, share

    def _usable(self, rows: Iterable[Example], drop_label: str) -> Iterator[Example]:
        # Each share has a duplicate check of its own, so that `skip` passes over the same rows in all of them.
        checks = refuse_any(self.refuse, self._new_duplicate_check())
        return drop_refused(rows, checks, self.drops, drop_label)

    def _new_duplicate_check(self) -> Refuse:
        return refuse_repeats(self.mix.hygiene)

    def _draw_traces(self, slices: Sequence[Slice]) -> list[Example]:
        """The traces of each slice's prompts, at most `traces_per_prompt` a prompt, with the kinds spread evenly."""
        traces_by_prompt: dict[str, dict[tuple[str, str], Example]] = {}
        for share, part in slices:
            for prompt, traces in self._traces_of_slice(share, part).items():
                # Two slices may have a prompt in common, and its traces are then counted together.
                traces_by_prompt.setdefault(prompt, {}).update(self._complete_traces(traces))
        kept: list[Example] = []
        for complete in traces_by_prompt.values():
            kept += seeded_order(complete.values(), self.seed, "trace")[: self.mix.traces_per_prompt]
        self.drops["traces: more than traces_per_prompt"] += sum(map(len, traces_by_prompt.values())) - len(kept)
        if slices and not kept:
            raise InputError(
                "data.traces: no usable trace is left; lower `skip`, raise data.max_prompt_chars or add a source"
            )
        groups = []
        for kind in KINDS:
            of_kind = [trace for trace in kept if trace.kind == kind]
            groups.append(seeded_order(of_kind, self.seed, "order"))
        return interleave(groups)

    def _traces_of_slice(self, share: SourceShare, part: Sequence[Example]) -> dict[str, list[Example]]:
        """The source's traces of each prompt of a slice; prompts without any are counted as dropped."""
        traces_by_prompt: dict[str, list[Example]] = {fold(example.prompt): [] for example in part}
        accepted = [trace for trace in self.traces(share.source) if share_accepts(trace, share)]
        # By id, so that of two equal traces the same one is kept in any order of the file.
        for trace in sorted(accepted, key=lambda trace: trace.id):
            prompt = fold(trace.prompt)
            if prompt in traces_by_prompt:
                traces_by_prompt[prompt].append(trace)
        self.drops["traces: a prompt without any"] += sum(not traces for traces in traces_by_prompt.values())
        return traces_by_prompt

    def _complete_traces(self, traces: Sequence[Example]) -> dict[tuple[str, str], Example]:
        """The different traces of one prompt that have reasoning and an answer, by these two texts."""
        kept: dict[tuple[str, str], Example] = {}
        for trace in traces:
            reasoning = trace.reasoning or ""
            answer = trace.answer or ""
            if not reasoning.strip():
                self.drops["traces: no reasoning"] += 1
            elif not answer.strip():
                self.drops["traces: no answer"] += 1
            elif (reasoning, answer) in kept:
                self.drops["traces: a duplicate"] += 1
            else:
                kept[reasoning, answer] = trace
        return kept


def _pool_accepts(pool: str, share: SourceShare, example: Example) -> bool:
    """Whether a share of a pool may take an example; a pool of prompts takes those of its kind."""
    return share_accepts(example, share) and pool in ("traces", example.kind)
