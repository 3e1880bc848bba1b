"""The group's advantage against verl's, against numpy, and its own laws."""

import math

import numpy as np
import pytest
import torch
import verl_peer
from hypothesis import given
from hypothesis import strategies as st

from safereason.training.advantage import group_advantages, uniform_groups

NAN = float("nan")
REWARDS = st.floats(-5, 5, width=32)
"""Of the size that rewards have."""


@st.composite
def groups(draw, values=REWARDS):
    """(rewards of 1 … 4 groups side by side, group size)."""
    size = draw(st.integers(2, 8))
    count = draw(st.integers(1, 4))
    return draw(st.lists(values, min_size=size * count, max_size=size * count)), size


def by_hand(rewards: list[float], size: int, epsilon: float) -> list[float]:
    """A group at a time, over the scored rewards, with numpy's unbiased deviation."""
    result = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        scored = np.array([r for r in group if not math.isnan(r)], dtype=np.float64)
        deviation = scored.std(ddof=1) if len(scored) > 1 else 0.0
        result += [0.0 if math.isnan(r) else float((r - scored.mean()) / (deviation + epsilon)) for r in group]
    return result


def ours(rewards: list[float], size: int, epsilon: float = 1e-6) -> list[float]:
    return group_advantages(torch.tensor(rewards), size, epsilon).tolist()


def test_a_worked_example():
    # Mean 0.5; squared deviations 0.25 x 4; divided by 3, not 4.
    assert ours([1.0, 0.0, 1.0, 0.0], 4) == pytest.approx([0.8660239, -0.8660239] * 2, abs=1e-6)


def test_verl_gives_the_same():
    torch.manual_seed(0)
    spread = torch.rand(24).tolist()
    rewards = [*spread, 0.7, 0.7, 0.7, 0.7, 1.0, 0.0, 0.0, 0.0]
    assert ours(rewards, 4) == pytest.approx(verl_peer.advantages(rewards, 4, 1e-6).tolist(), abs=1e-4)
    assert ours(rewards, 8, 0.3) == pytest.approx(verl_peer.advantages(rewards, 8, 0.3).tolist(), abs=1e-5)


@given(groups(st.one_of(REWARDS, st.just(NAN))), st.sampled_from([1e-6, 1e-4, 0.5]))
def test_numpy_gives_the_same(drawn, epsilon):
    rewards, size = drawn
    assert ours(rewards, size, epsilon) == pytest.approx(by_hand(rewards, size, epsilon), rel=1e-4, abs=1e-4)


@given(groups(st.integers(-8, 8).map(float)), st.integers(-64, 64))
def test_a_shift_of_all_rewards_changes_nothing(drawn, shift):
    rewards, size = drawn
    assert ours([r + shift for r in rewards], size) == pytest.approx(ours(rewards, size), rel=1e-6, abs=1e-6)


@given(groups(st.floats(-1, 1, width=32).filter(lambda r: abs(r) > 1e-3)), st.data())
def test_an_unscored_rollout_gets_nothing_and_moves_nothing(drawn, data):
    rewards, size = drawn
    lost = data.draw(st.integers(0, len(rewards) - 1))
    marked = [NAN if i == lost else r for i, r in enumerate(rewards)]
    advantages = ours(marked, size)
    assert advantages[lost] == 0.0
    start = lost // size * size
    others = [r for r in marked[start : start + size] if not math.isnan(r)]
    rest = [a for i, a in enumerate(advantages) if start <= i < start + size and i != lost]
    assert rest == pytest.approx(by_hand(others, len(others), 1e-6), rel=1e-3, abs=1e-3)
    assert (
        advantages[:start] + advantages[start + size :]
        == ours(rewards, size)[:start] + ours(rewards, size)[start + size :]
    )


@given(REWARDS, st.integers(2, 16))
def test_a_group_without_spread_has_no_advantage(reward, size):
    assert ours([reward] * size, size) == pytest.approx([0.0] * size, abs=1e-8)


@given(groups())
def test_a_groups_advantages_sum_to_nothing(drawn):
    rewards, size = drawn
    sums = torch.tensor(ours(rewards, size)).view(-1, size).sum(1)
    assert sums.tolist() == pytest.approx([0.0] * len(sums), abs=1e-3)


def test_a_wholly_unscored_group_has_no_advantage():
    assert ours([NAN, NAN, 1.0, 0.0], 2) == pytest.approx([0.0, 0.0, 0.7071058, -0.7071058], abs=1e-5)


def test_the_dtype_of_the_rewards_is_kept():
    assert group_advantages(torch.tensor([1.0, 0.0]), 2, 1e-6).dtype == torch.float32


@pytest.mark.parametrize(
    ("group", "uniform"),
    [
        ([0.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0], True),
        ([0.5, 0.5, 0.5], False),
        ([1.0, 0.0, 1.0], False),
        ([1.0, NAN, 1.0], True),
        ([0.0, NAN, 0.0], True),
        ([0.0, NAN, 1.0], False),
        ([NAN, NAN, NAN], True),
    ],
)
def test_uniform_groups_are_all_0_or_all_1(group, uniform):
    mixed = [1.0, 0.0, 0.5]
    assert uniform_groups(torch.tensor([*group, *mixed]), 3).tolist() == [uniform] * 3 + [False] * 3
