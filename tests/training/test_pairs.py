"""Ranked completions turned into pairs."""

from hypothesis import given
from hypothesis import strategies as st

from safereason.training.pairs import best_with_worst

REWARDS = st.lists(st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=9)


def test_the_best_goes_with_the_worst():
    assert best_with_worst([0.1, 0.8, 0.3, 0.7, 0.2, 0.6, 0.4, 0.5]) == [(1, 0), (3, 4), (5, 2), (7, 6)]


def test_the_middle_one_of_an_odd_number_is_left_out():
    assert best_with_worst([0.0, 0.5, 1.0]) == [(2, 0)]


def test_ties_make_no_pair():
    assert best_with_worst([1.0, 1.0, 1.0, 0.0]) == [(0, 3)]
    assert best_with_worst([0.5, 0.5]) == []


def test_unscored_ones_are_left_out_before_ranking():
    assert best_with_worst([None, 0.2, None, 0.9, 0.4, 0.6]) == [(3, 1), (5, 4)]


@given(REWARDS)
def test_a_pair_is_of_two_scored_completions_and_the_first_is_better(rewards):
    pairs = best_with_worst(rewards)
    used = [i for pair in pairs for i in pair]
    assert len(used) == len(set(used))
    assert all(rewards[i] is not None for i in used)
    assert all(rewards[better] > rewards[worse] for better, worse in pairs)


@given(REWARDS)
def test_margins_shrink_from_pair_to_pair_and_only_ties_are_left_out(rewards):
    scored = sorted((reward for reward in rewards if reward is not None), reverse=True)
    margins = [rewards[better] - rewards[worse] for better, worse in best_with_worst(rewards)]
    assert margins == [m for m in (scored[i] - scored[-1 - i] for i in range(len(scored) // 2)) if m > 0]
