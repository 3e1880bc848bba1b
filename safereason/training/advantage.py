"""GRPO's advantage: how much better a rollout did than the others of its prompt."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def group_advantages(rewards: "Tensor", group_size: int, epsilon: float) -> "Tensor":
    """(r - mean) / (std + epsilon) inside each group, with the unbiased standard deviation.

    DeepSeekMath (arXiv 2402.03300), §4.1.2, as TARS's released code has it (arXiv 2507.00971; verl).

    Deviations:
        1. An unscored rollout (NaN) is left out of its group's mean and deviation, and its advantage is 0: it neither
           gains nor loses probability. The papers do not mention unscored rollouts.

    Args:
        rewards: [B], the rollouts of a prompt side by side; NaN is unscored.
        group_size: G, rollouts a prompt; it divides B.
        epsilon: Added to the standard deviation.

    Returns:
        [B].
    """
    import torch

    # In float64: the rounding of float32's mean is as large as epsilon and gives equal rewards an advantage of 0.1.
    grouped = rewards.double().view(-1, group_size)  # [P, G]
    scored = ~grouped.isnan()
    count = scored.sum(1, keepdim=True)  # [P, 1]
    values = grouped.nan_to_num(0.0)
    mean = values.sum(1, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(scored, values - mean, 0.0)
    # A group with a single scored rollout has a deviation of 0, and the advantage 0.
    std = (deviation.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (deviation / (std + epsilon)).view(-1).to(rewards.dtype)


def uniform_groups(rewards: "Tensor", group_size: int) -> "Tensor":
    """[B] bool: whether all scored rollouts of the row's group have reward 0, or all have reward 1."""
    grouped = rewards.view(-1, group_size)
    unscored = grouped.isnan()
    all_zero = ((grouped == 0) | unscored).all(1, keepdim=True)
    all_one = ((grouped == 1) | unscored).all(1, keepdim=True)
    return (all_zero | all_one).expand_as(grouped).reshape(-1)
