"""The prompts and traces that TARS trains on (arXiv 2507.00971, §4), by λ, with exact counts.

Where this differs from the released script:
1. Order comes from hashes of the seed and the prompt, not from a library's shuffle: the same rows everywhere, other
   rows than the script's.
2. The length limit measures the prompt. The script's does so for most sources and measures the whole row of
   WildJailbreak, where it drops nothing.
3. Prompts that are too long, that say the same as an earlier one of the source (to the letter, or nearly where
   `hygiene` says so) or that a test set holds (where `hygiene` drops those) are passed over before a share is sliced,
   so that `skip` and `prompts` count usable rows.
4. The kinds are spread evenly over the training order, so that every optimizer step sees about λ; the script shuffles.
5. A share is the most that is taken. The mix fails where a pool is then too small, rather than change λ.
6. Traces without reasoning or without an answer are dropped; the script drops those without reasoning. Of one prompt's
   traces `traces_per_prompt` are kept.
7. RL never takes a prompt that the same source gives to SFT, whatever `skip` says. Two sources may hold the same
   prompt: the card counts those that both stages have.
8. A prompt that says the same as one of another share stays in the first of them.
9. With `trace_prompts`, as for the SFT baseline, the traces are of the mix's own prompts; those of `traces` are only
   kept out of the mix, so that it is the same one as without.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from itertools import chain, groupby, islice
from typing import get_args

from safereason.data.draw import Mixture, Read, Want, fold, in_order, interleave, is_of, ordered, shares
from safereason.data.example import Example, Kind
from safereason.data.screen import Refuse, Unlike, first_of, fit, longer_than
from safereason.errors import InputError
from safereason.recipe.schema import SourceShare, TarsMix

Slice = tuple[SourceShare, list[Example]]
"""A share of a source, and the prompts that it takes."""
KINDS: tuple[Kind, ...] = get_args(Kind)
MARGIN = 64
"""Rows that are read beyond those expected to be taken, in place of rows that are refused."""


def build(
    mix: TarsMix,
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
        prompts: Reads a source's training prompts.
        traces: Reads a source's training traces.
        taught: Sources that have no traces of their own: what `traces` reads of them was written by a teacher, for the
            prompts of `to_trace`.
        refuse: Refuses rows that are not to be trained on.

    Raises:
        InputError: A pool is smaller than what λ asks of it, or no trace is left.
    """
    return _Drawing(mix, seed, prompts, traces, taught, refuse).mixture()


def to_trace(
    mix: TarsMix,
    seed: int,
    prompts: Read,
    traces: Read,
    *,
    taught: Collection[str],
    refuse: Refuse = lambda example: None,
) -> list[Example]:
    """The prompts that a teacher is to answer: those of `taught` sources that `build`, so called, wants traces of."""
    slices = _Drawing(mix, seed, prompts, traces, taught, refuse).traced()
    return list({fold(prompt.prompt): prompt for _, part in slices for prompt in part}.values())


def counts(mix: TarsMix) -> dict[Kind, int]:
    """Prompts of each kind; halves are rounded up, for the harmful ones first and then for the ambiguous ones."""
    harmful = _share(mix.prompts, mix.harmful_ratio)
    ambiguous = _share(mix.prompts - harmful, mix.ambiguous_ratio)
    return {"harmful": harmful, "harmless": mix.prompts - harmful - ambiguous, "ambiguous": ambiguous}


def _share(total: int, ratio: float) -> int:
    return int((total * Decimal(str(ratio))).to_integral_value(ROUND_HALF_UP))


class _Drawing:
    """One draw of a mix, and what all its parts share."""

    def __init__(
        self, mix: TarsMix, seed: int, prompts: Read, traces: Read, taught: Collection[str], refuse: Refuse
    ) -> None:
        self.mix = mix
        self.seed = seed
        self.prompts = prompts
        self.traces = traces
        self.taught = taught
        self.refuse = first_of(longer_than(mix.max_prompt_chars), refuse)
        self.drops: Counter[str] = Counter()
        self._orders: dict[str, dict[tuple[str, int], Iterator[Example]]] = {}
        self._drawn_of: dict[str, str] = {}

    def mixture(self) -> Mixture:
        """The whole of it; SFT's slices come first, since RL may not have them."""
        slices = self._slices()
        drawn = self._drawn(slices)
        traced = self._by_source(drawn) if self.mix.trace_prompts else slices
        return Mixture(tuple(interleave(drawn)), tuple(self._traces(traced)), drops=self.drops)

    def traced(self) -> list[Slice]:
        """The prompts that traces are wanted of from a teacher."""
        if self.mix.trace_prompts:
            slices = self._by_source(self._drawn(self._slices()))
            return [(share, part) for share, part in slices if share.source in self.taught]
        named = enumerate(shares(self.mix, self.mix.traces))
        return [(share, self.slice_of(i, share)) for i, share in named if share.source in self.taught]

    def _slices(self) -> list[Slice]:
        return [(share, self.slice_of(i, share)) for i, share in enumerate(shares(self.mix, self.mix.traces))]

    def _drawn(self, slices: Sequence[Slice]) -> list[list[Example]]:
        """The prompts of each kind."""
        of_sft: dict[str, set[str]] = {}
        for share, part in slices:
            of_sft.setdefault(share.source, set()).update(fold(e.prompt) for e in part)
        unlike = self._unlike()
        return [self._pool(kind, wanted, of_sft, unlike) for kind, wanted in counts(self.mix).items()]

    def _by_source(self, drawn: Sequence[Sequence[Example]]) -> list[Slice]:
        """The mix's own prompts, by the source that they were drawn from."""
        parts: dict[str, list[Example]] = {}
        for example in chain.from_iterable(drawn):
            parts.setdefault(self._drawn_of[fold(example.prompt)], []).append(example)
        return [(SourceShare(source=source, prompts=len(part)), part) for source, part in parts.items()]

    def slice_of(self, number: int, share: SourceShare) -> list[Example]:
        """The prompts that a share of the traces takes; of a prompt's traces one stands for it.

        It is sliced before unusable traces are dropped, so that what `skip` of another share passes over are exactly
        these prompts.
        """
        if share.source in self.taught:
            rows: Iterable[Example] = self._in_order(share.source)["traces", number]
        else:
            rows = ordered((e for e in self.traces(share.source) if is_of(e, share)), self.seed, "source")
        once = (next(traces) for _, traces in groupby(rows, key=lambda e: fold(e.prompt)))
        return list(islice(self._usable(once, "traces"), share.skip, share.skip + share.prompts))

    def _pool(self, kind: Kind, wanted: int, of_sft: Mapping[str, set[str]], unlike: Refuse) -> list[Example]:
        """`wanted` prompts of the pool of this kind; `unlike` has seen the pools before it."""
        if not wanted:
            return []
        pool: list[Example] = []
        named: Sequence[SourceShare] = shares(self.mix, getattr(self.mix, kind))
        for number, share in enumerate(named):
            rows = self._in_order(share.source)[kind, number]
            part = self._share(share, rows, of_sft.get(share.source, set()))
            taken = list(fit(part, unlike, self.drops, "prompts, of another share"))
            self._drawn_of.update((fold(example.prompt), share.source) for example in taken)
            pool += taken
        if len(pool) < wanted:
            of = ", ".join(share.source for share in named) or "no source is left"
            raise InputError(
                f"data.{kind}: {wanted} prompts are wanted and the pool has {len(pool)} ({of}); add a source or lower "
                "data.prompts"
            )
        return ordered(pool, self.seed, "pool")[:wanted]

    def _share(self, share: SourceShare, rows: Iterable[Example], of_sft: set[str]) -> Iterator[Example]:
        """What a share takes of its rows; SFT's prompts count as passed over, and are never taken."""
        after = islice(self._usable(rows, "prompts"), share.skip, None)
        return islice(
            fit(after, lambda e: "SFT has it" if fold(e.prompt) in of_sft else None, self.drops, "prompts"),
            share.prompts,
        )

    def _in_order(self, source: str) -> Mapping[tuple[str, int], Iterator[Example]]:
        """What each share may take of a source's prompts, by its pool and number; one reading serves all shares."""
        if source not in self._orders:
            wants = {}
            for pool in (*(kind for kind, wanted in counts(self.mix).items() if wanted), "traces"):
                for number, share in enumerate(shares(self.mix, getattr(self.mix, pool))):
                    if share.source == source and (pool != "traces" or source in self.taught):
                        wants[pool, number] = Want(partial(_takes, share, pool), share.skip + share.prompts + MARGIN)
            self._orders[source] = in_order(lambda: self.prompts(source), self.seed, "source", wants)
        return self._orders[source]

    def _usable(self, rows: Iterable[Example], what: str) -> Iterator[Example]:
        return fit(rows, first_of(self.refuse, self._unlike()), self.drops, what)

    def _unlike(self) -> Unlike:
        return Unlike(self.mix.hygiene.repeats)

    def _traces(self, slices: Sequence[tuple[SourceShare, list[Example]]]) -> list[Example]:
        """The traces of each slice's prompts, at most `traces_per_prompt` a prompt, with the kinds spread evenly."""
        chosen: dict[str, dict[tuple[str, str], Example]] = {}
        for share, part in slices:
            by_prompt: dict[str, list[Example]] = {fold(e.prompt): [] for e in part}
            for trace in sorted((e for e in self.traces(share.source) if is_of(e, share)), key=lambda e: e.id):
                if (prompt := fold(trace.prompt)) in by_prompt:
                    by_prompt[prompt].append(trace)
            self.drops["traces: a prompt without any"] += sum(not traces for traces in by_prompt.values())
            for prompt, traces in by_prompt.items():
                chosen.setdefault(prompt, {}).update(self._whole(traces))
        most = self.mix.traces_per_prompt
        kept = [t for traces in chosen.values() for t in ordered(traces.values(), self.seed, "trace")[:most]]
        self.drops["traces: more than traces_per_prompt"] += sum(map(len, chosen.values())) - len(kept)
        if slices and not kept:
            raise InputError(
                "data.traces: no usable trace is left; lower `skip`, raise data.max_prompt_chars or add a source"
            )
        return interleave([ordered((t for t in kept if t.kind == kind), self.seed, "order") for kind in KINDS])

    def _whole(self, traces: Sequence[Example]) -> dict[tuple[str, str], Example]:
        """The traces of one prompt that have reasoning and an answer, each once, by what they say."""
        kept: dict[tuple[str, str], Example] = {}
        for trace in traces:
            reasoning, answer = trace.reasoning or "", trace.answer or ""
            if not reasoning.strip():
                self.drops["traces: no reasoning"] += 1
            elif not answer.strip():
                self.drops["traces: no answer"] += 1
            elif (reasoning, answer) in kept:
                self.drops["traces: a duplicate"] += 1
            else:
                kept[reasoning, answer] = trace
        return kept


def _takes(share: SourceShare, pool: str, example: Example) -> bool:
    return is_of(example, share) and pool in ("traces", example.kind)
