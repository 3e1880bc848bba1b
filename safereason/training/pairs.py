"""Pairs of a better and a worse completion to one prompt, for preference optimisation.

The DPO baseline of TARS (arXiv 2507.00971) ranks 8 completions to a prompt by the reward and makes 4 pairs of them.

Deviations:
    1. How the ranked completions are paired is not stated: here the best goes with the worst, the second best with the
       second worst, and so on. Of an odd number the middle one is left out.
    2. Two completions of the same reward make no pair; the paper does not mention them.
    3. An unscored completion is left out before ranking.
"""

from collections.abc import Sequence


def best_with_worst(rewards: Sequence[float | None]) -> list[tuple[int, int]]:
    """The pairs of one prompt's completions, as numbers of the chosen and the rejected one.

    Args:
        rewards: One per completion; None is unscored. Of equal rewards the earlier one is ranked higher.
    """
    scored = [(reward, number) for number, reward in enumerate(rewards) if reward is not None]
    ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    pairs: list[tuple[int, int]] = []
    for i in range(len(ranked) // 2):
        high, better = ranked[i]
        low, worse = ranked[-1 - i]
        if high > low:
            pairs.append((better, worse))
    return pairs
