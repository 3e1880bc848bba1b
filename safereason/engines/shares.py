"""Completions of one model by several engines, each in a worker: the same as one engine draws.

Each worker gets the whole calls, and draws the completions of its share alone. A share is made of whole batches, as one
engine would lay them out, so that each completion has the same neighbours, seed and rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from safereason import workers
from safereason.engines.base import Completion, Conversation, Engine, GenerateOptions, Sampling, TokenizerEngine
from safereason.engines.engine_spec import EngineSpec

OnDrawn = Callable[[int, int, int, Completion], None]
"""Called as completions end: index of the call, index of the conversation, number of the completion, completion."""
_Share = tuple[int, int]
"""Index of a call, and number of the share of it."""
_Drawn = tuple[int, int, Completion]
"""Index of the conversation, number of the completion, completion."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of `Engine.generate`; its options have no callback."""

    conversations: Sequence[Conversation]
    sampling: Sampling
    options: GenerateOptions

    @property
    def open_conversations(self) -> int:
        """Number of conversations that are not done."""
        return len(self.conversations) - len(set(self.options.done))


@dataclass(frozen=True)
class _Work:
    """The model and all calls, of which every worker gets a copy."""

    spec: EngineSpec
    calls: Sequence[Call]
    shares: int
    """Shares of each call."""


def draw(
    spec: EngineSpec, calls: Sequence[Call], on_drawn: OnDrawn, environments: Sequence[Mapping[str, str]] = ()
) -> None:
    """Draws the completions of several calls.

    Args:
        spec: The model, in each worker's own view of the GPUs.
        calls: The calls, in order.
        on_drawn: Called in this process.
        environments: Variables of each worker; without several, this process draws.

    Raises:
        InputError: The model cannot be had.
        StageFailed: It does not fit in memory, or a worker was killed.
    """
    # No model is loaded for nothing, and no worker started for a share that is empty.
    most = max((call.open_conversations for call in calls), default=0)
    if not most:
        return
    environments = environments[:most]
    shares = max(1, len(environments))
    items = [(index, number) for index in range(len(calls)) for number in range(shares)]

    def take(item: _Share, drawn: _Drawn) -> None:
        on_drawn(item[0], *drawn)

    workers.work(_begin, _Work(spec, calls, shares), items, take, environments)


def _begin(work: _Work) -> workers.Handle[_Share, _Drawn]:
    if work.shares == 1:
        engine = work.spec.open()

        def draw_call(item: _Share, send: Callable[[_Drawn], None]) -> None:
            _generate(engine, work.calls[item[0]], send)

        return draw_call
    engine_here = work.spec.open_here()

    def draw_share(item: _Share, send: Callable[[_Drawn], None]) -> None:
        index, number = item
        call = work.calls[index]
        share = share_of(engine_here, call, number, work.shares)
        others = set(range(len(call.conversations))) - share
        if share:
            _generate(engine_here, replace(call, options=replace(call.options, done=others)), send)

    return draw_share


def _generate(engine: Engine, call: Call, send: Callable[[_Drawn], None]) -> None:
    def send_drawn(index: int, number: int, completion: Completion) -> None:
        send((index, number, completion))

    engine.generate(call.conversations, call.sampling, replace(call.options, on_finish=send_drawn))


def share_of(engine: TokenizerEngine, call: Call, number: int, shares: int) -> set[int]:
    """The conversations of one share of a call that are left to draw: each batch goes to the next share.

    Args:
        engine: The engine.
        call: The call.
        number: Number of the share, from 0.
        shares: Number of all shares.
    """
    owners: dict[int, int] = {}
    for position, batch in enumerate(engine.batches(call.conversations, call.sampling, call.options)):
        for index in batch:
            # Completions of one conversation may be in two batches. The first one's share draws them all.
            owners.setdefault(index, position % shares)
    done = set(call.options.done)
    share: set[int] = set()
    for index in range(len(call.conversations)):
        # A prompt that is too long is in no batch. It needs no model, and the first share says so of it.
        if index not in done and owners.get(index, 0) == number:
            share.add(index)
    return share
