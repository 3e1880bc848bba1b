"""verl's own GRPO functions (the trainer both papers used), for comparison."""

import importlib
import logging
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor


def core_algos() -> ModuleType:
    """`verl.trainer.ppo.core_algos`, or the test is skipped and says so.

    verl names ray's types at the top of its modules; no function used here calls it. So where ray (240 MB) is missing,
    an empty module stands in for it while verl is imported.
    """
    if importlib.util.find_spec("verl") is None:
        pytest.skip("verl is not installed: pip install --no-deps -r requirements/peers.txt")
    handlers, level = logging.root.handlers[:], logging.root.level
    stands_in = importlib.util.find_spec("ray") is None
    if stands_in:
        sys.modules["ray"] = ModuleType("ray")
        sys.modules["ray"].ObjectRef = object
    try:
        return importlib.import_module("verl.trainer.ppo.core_algos")
    finally:
        if stands_in:
            del sys.modules["ray"]
        logging.root.handlers[:], logging.root.level = handlers, level  # verl configures the root logger


def loss(
    logps: Tensor, old: Tensor, reference: Tensor | None, entropies: Tensor, advantages: Tensor, mask: Tensor, section
) -> Tensor:
    """The loss of one mini-batch, put together as verl's actor does; everything but `advantages` [B] is [B, C]."""
    algos = core_algos()
    config = importlib.import_module("verl.workers.config").ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio=section.clip,
        clip_ratio_low=section.clip,
        clip_ratio_high=section.clip,
        clip_ratio_c=section.dual_clip,
    )
    policy, _ = algos.compute_policy_loss_vanilla(
        old, logps, advantages[:, None].expand_as(logps), mask, loss_agg_mode="token-mean", config=config
    )
    total = policy - section.entropy_coef * algos.agg_loss(entropies, mask, "token-mean")
    if reference is not None:
        kl = algos.kl_penalty(logps, reference, "low_var_kl")
        total = total + section.kl_coef * algos.agg_loss(kl, mask, "token-mean")
    return total


def advantages(rewards: list[float], group_size: int, epsilon: float) -> Tensor:
    """[B] advantages of rewards [B] whose groups stand side by side."""
    rows = torch.tensor(rewards, dtype=torch.float64)[:, None]  # one token a response, which carries the reward
    index = [str(i // group_size) for i in range(len(rewards))]
    result, _ = core_algos().compute_grpo_outcome_advantage(rows, torch.ones_like(rows), index, epsilon)
    return result[:, 0]
