"""Pairs of a better and a worse response to one prompt, for preference optimisation.

The DPO baseline of TARS (arXiv 2507.00971) ranks 8 responses to a prompt by the reward and makes 4 pairs of them.

Deviations:
    1. How the ranked responses are paired is not stated: here the best goes with the worst, the second best with the
       second worst, and so on. Of an odd number the middle one is left out.
    2. Two responses of the same reward make no pair; the paper does not say what happens to them.
    3. An unscored response is left out before ranking.
"""

from collections.abc import Sequence


def best_with_worst(rewards: Sequence[float | None]) -> list[tuple[int, int]]:
    """The pairs of one prompt's responses, by number: chosen, rejected.

    Args:
        rewards: One a response; None is unscored. Of equal ones the earlier counts as the better.
    """
    scored = [(reward, i) for i, reward in enumerate(rewards) if reward is not None]
    ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    half = len(ranked) // 2
    matched = zip(ranked[:half], reversed(ranked), strict=False)
    return [(better, worse) for (high, better), (low, worse) in matched if high > low]
