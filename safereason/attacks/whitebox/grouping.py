"""Groups of prompts that go through a model together, so that their common beginning is computed once."""

from collections.abc import Iterator, Sequence


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that both sequences begin with."""
    shorter = min(len(first), len(second))
    for i in range(shorter):
        if first[i] != second[i]:
            return i
    return shorter


def group_prompts(shared: Sequence[int], lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Splits prompts into groups so that the fewest tokens are computed.

    A group is computed from the end of the beginning that all its prompts share with the cache; shorter prompts are
    padded.

    Args:
        shared: Number of tokens at each prompt's beginning whose states are cached.
        lengths: Number of tokens of each prompt.
        overhead: Cost of one more group, in tokens.

    Returns:
        Indices of the prompts of each group; each prompt is in one group.
    """
    order = sorted(range(len(shared)), key=lambda i: (shared[i], lengths[i]))
    starts = sorted(set(shared))
    bounds = _start_bounds(order, shared, starts)
    longest = _longest_between(order, lengths, bounds)
    # Prompts sorted by their shared beginning: an optimal group is a run of them, and so the best split of all prompts
    # before a bound follows from the best splits before earlier bounds.
    lowest_costs = [0]
    last_group_starts = [0]
    for end in range(1, len(bounds)):
        costs: list[int] = []
        for begin in range(end):
            tokens = (bounds[end] - bounds[begin]) * (longest[begin][end] - starts[begin])
            costs.append(lowest_costs[begin] + overhead + tokens)
        lowest_costs.append(min(costs))
        last_group_starts.append(costs.index(lowest_costs[-1]))
    groups: list[list[int]] = []
    end = len(starts)
    while end:
        begin = last_group_starts[end]
        groups.append(order[bounds[begin] : bounds[end]])
        end = begin
    return groups[::-1]


def _start_bounds(order: Sequence[int], shared: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Positions in `order` of the first prompt with each start, then the number of prompts."""
    bounds: list[int] = []
    for position, prompt in enumerate(order):
        if len(bounds) < len(starts) and shared[prompt] == starts[len(bounds)]:
            bounds.append(position)
    return [*bounds, len(order)]


def _longest_between(order: Sequence[int], lengths: Sequence[int], bounds: Sequence[int]) -> list[list[int]]:
    """The length of the longest prompt between any two bounds."""
    longest = [[0] * len(bounds) for _ in bounds[:-1]]
    for begin in range(len(bounds) - 1):
        for end in range(begin + 1, len(bounds)):
            added = [lengths[i] for i in order[bounds[end - 1] : bounds[end]]]
            longest[begin][end] = max(longest[begin][end - 1], *added)
    return longest


def split_batches(members: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Splits a group into even batches of similar lengths.

    Args:
        members: Indices of the group's prompts.
        lengths: Number of tokens of every prompt.
        budget: Maximum number of tokens of a batch, padding included; a batch has at least one prompt.
    """
    ordered = sorted(members, key=lambda i: lengths[i])
    # From the longest on, which sets the padded length of its batch.
    while ordered:
        rows = max(1, budget // lengths[ordered[-1]])
        # Ceiling division, twice: as few batches as fit, of equal size instead of a small last one.
        batches_left = -(-len(ordered) // rows)
        size = -(-len(ordered) // batches_left)
        yield ordered[-size:]
        ordered = ordered[:-size]
