"""Which prompts go through a model together, so that what they begin with is computed once for all of them."""

from collections.abc import Iterator, Sequence


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def groups(shared: Sequence[int], lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Parts prompts so that the fewest tokens are computed.

    Prompts of one group are computed from where the one that shares least departs; a shorter one is padded.

    Args:
        shared: Tokens at each prompt's beginning whose states are at hand.
        lengths: Tokens of each prompt.
        overhead: What one more group costs, in tokens.

    Returns:
        Indices of the prompts of each group, each prompt once.
    """
    order = sorted(range(len(shared)), key=lambda i: (shared[i], lengths[i]))
    starts = sorted(set(shared))
    bounds = [next(n for n, i in enumerate(order) if shared[i] == s) for s in starts] + [len(order)]
    longest = [[0] * len(bounds) for _ in starts]
    for a in range(len(starts)):
        for b in range(a + 1, len(bounds)):
            longest[a][b] = max(longest[a][b - 1], *(lengths[i] for i in order[bounds[b - 1] : bounds[b]]))
    least, cut = [0], [0]  # of the prompts before each bound: their cost, and where their last group begins
    for b in range(1, len(bounds)):
        costs = [least[a] + overhead + (bounds[b] - bounds[a]) * (longest[a][b] - starts[a]) for a in range(b)]
        least.append(min(costs))
        cut.append(costs.index(least[-1]))
    found, b = [], len(starts)
    while b:
        found.append(order[bounds[cut[b]] : bounds[b]])
        b = cut[b]
    return found[::-1]


def batches(members: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Members in even batches of at most `budget` tokens, at least one each; those of like length side by side."""
    ordered = sorted(members, key=lambda i: lengths[i])
    while ordered:
        rows = max(1, budget // lengths[ordered[-1]])
        parts = -(-len(ordered) // rows)
        size = -(-len(ordered) // parts)
        yield ordered[-size:]
        ordered = ordered[:-size]
