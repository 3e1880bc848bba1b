"""The prompts and traces that TARS trains on (arXiv 2507.00971, §4), by λ, with exact counts.

Where this differs from the released script:
1. Order comes from hashes of the seed and the prompt, not from a library's shuffle: the same rows everywhere, other
   rows than the script's.
2. The length limit measures the prompt. The script's does so for most sources and measures the whole row of
   WildJailbreak, where it drops nothing.
3. Prompts that are too long, or that differ from an earlier one in case and white space only, are dropped before a
   share is sliced, so that `skip` and `prompts` count usable rows and slices of one source never overlap.
4. The kinds are spread evenly over the training order, so that every optimizer step sees about λ; the script shuffles.
5. A share is the most that is taken. The mix fails where a pool is then too small, rather than change λ.
6. Traces without reasoning or without an answer are dropped; the script drops those without reasoning. Of one prompt's
   traces `traces_per_prompt` are kept.
7. SFT's prompts may be RL's too, unless the recipe slices a source with `skip`, which keeps them apart where each of
   the source's prompts has a trace. The card counts those that are both.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import get_args

from safereason.data.draw import Mixture, Read, fold, interleave, is_of, ordered
from safereason.data.example import Example, Kind
from safereason.errors import InputError
from safereason.recipe.schema import SourceShare, TarsMix

KINDS: tuple[Kind, ...] = get_args(Kind)
Traces = dict[tuple[str, str], Example]
"""One prompt's traces by what they say: reasoning and answer."""


def build(mix: TarsMix, seed: int, prompts: Read, traces: Read) -> Mixture:
    """Draws the mix; `prompts` and `traces` read a source's training examples.

    Raises:
        InputError: A pool is smaller than what λ asks of it, or no trace is left.
    """
    drops: Counter[str] = Counter()
    seen: set[str] = set()
    drawn = [_draw(mix, kind, wanted, seed, prompts, seen, drops) for kind, wanted in counts(mix).items()]
    return Mixture(tuple(interleave(drawn)), tuple(_traces(mix, seed, traces, drops)), drops=drops)


def counts(mix: TarsMix) -> dict[Kind, int]:
    """Prompts of each kind; halves are rounded up, for the harmful ones first and then for the ambiguous ones."""
    harmful = _share(mix.prompts, mix.harmful_ratio)
    ambiguous = _share(mix.prompts - harmful, mix.ambiguous_ratio)
    return {"harmful": harmful, "harmless": mix.prompts - harmful - ambiguous, "ambiguous": ambiguous}


def _share(total: int, ratio: float) -> int:
    return int((total * Decimal(str(ratio))).to_integral_value(ROUND_HALF_UP))


def _draw(
    mix: TarsMix, kind: Kind, wanted: int, seed: int, read: Read, seen: set[str], drops: Counter[str]
) -> list[Example]:
    """`wanted` prompts of the pool of this kind; prompts of an earlier pool, which are in `seen`, are no part of it."""
    if not wanted:
        return []
    shares: tuple[SourceShare, ...] = getattr(mix, kind)
    pool: list[Example] = []
    for share in shares:
        usable = _usable(
            (e for e in read(share.source) if e.kind == kind and is_of(e, share.categories)),
            mix.max_prompt_chars,
            "prompts",
            drops,
        )
        part = ordered(usable, seed, "source")[share.skip : share.skip + share.prompts]
        new = [e for e in part if fold(e.prompt) not in seen]
        drops["prompts: in another share too"] += len(part) - len(new)
        seen.update(fold(e.prompt) for e in new)
        pool += new
    if len(pool) < wanted:
        raise InputError(f"data.{kind}: {wanted} prompts are wanted and the pool has {len(pool)} "
                         f"({', '.join(s.source for s in shares)}); add a source or lower data.prompts")  # fmt: skip
    return ordered(pool, seed, "pool")[:wanted]


def _usable(examples: Iterable[Example], max_chars: int, what: str, drops: Counter[str]) -> list[Example]:
    """One example a prompt, the first by id, without those that are too long."""
    kept: dict[str, Example] = {}
    for example in sorted(examples, key=lambda e: e.id):
        if len(example.prompt) > max_chars:
            drops[f"{what}: longer than {max_chars} characters"] += 1
        elif fold(example.prompt) in kept:
            drops[f"{what}: a duplicate"] += 1
        else:
            kept[fold(example.prompt)] = example
    return list(kept.values())


def _traces(mix: TarsMix, seed: int, read: Read, drops: Counter[str]) -> list[Example]:
    """The traces of each share's prompts, at most `traces_per_prompt` a prompt, with the kinds spread evenly."""
    chosen: dict[str, Traces] = {}
    for share in mix.traces:
        by_prompt = _by_prompt(
            [e for e in read(share.source) if is_of(e, share.categories)], mix.max_prompt_chars, drops
        )
        first = ordered((traces[0] for traces in by_prompt.values()), seed, "source")
        # Sliced before unusable traces are dropped, so that another stage's `skip` passes over exactly these prompts.
        for prompt in [fold(e.prompt) for e in first[share.skip : share.skip + share.prompts]]:
            chosen.setdefault(prompt, {}).update(_whole(by_prompt[prompt], drops))
    kept = [t for traces in chosen.values() for t in ordered(traces.values(), seed, "trace")[: mix.traces_per_prompt]]
    drops["traces: more than traces_per_prompt"] += sum(map(len, chosen.values())) - len(kept)
    if not kept:
        raise InputError(
            "data.traces: no usable trace is left; lower `skip`, raise data.max_prompt_chars or add a source"
        )
    return interleave([ordered((t for t in kept if t.kind == kind), seed, "order") for kind in KINDS])


def _by_prompt(traces: Sequence[Example], max_chars: int, drops: Counter[str]) -> dict[str, list[Example]]:
    """The traces of each prompt that is not too long."""
    found: dict[str, list[Example]] = {}
    for trace in sorted(traces, key=lambda e: e.id):
        if len(trace.prompt) > max_chars:
            drops[f"traces: prompt longer than {max_chars} characters"] += 1
        else:
            found.setdefault(fold(trace.prompt), []).append(trace)
    return found


def _whole(traces: Sequence[Example], drops: Counter[str]) -> Traces:
    """The traces of one prompt that have reasoning and an answer, each once."""
    kept: Traces = {}
    for trace in traces:
        reasoning, answer = trace.reasoning or "", trace.answer or ""
        if not reasoning.strip():
            drops["traces: no reasoning"] += 1
        elif not answer.strip():
            drops["traces: no answer"] += 1
        elif (reasoning, answer) in kept:
            drops["traces: a duplicate"] += 1
        else:
            kept[reasoning, answer] = trace
    return kept
