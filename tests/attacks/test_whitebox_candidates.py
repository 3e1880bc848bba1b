"""Slots, groups, candidates and probe sets."""

from itertools import combinations, pairwise

import micro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safereason.attacks.whitebox import candidates, grouping, probe, suffix
from safereason.errors import InputError
from safereason.text import chat

TOKENIZER = micro.tokenizer()


@given(
    prompts=st.lists(st.tuples(st.integers(0, 9), st.integers(10, 14)), min_size=1, max_size=9),
    overhead=st.integers(0, 30),
)
def test_no_other_parting_into_groups_computes_fewer_tokens(prompts: list[tuple[int, int]], overhead: int) -> None:
    shared, lengths = [p[0] for p in prompts], [p[1] for p in prompts]

    def cost(groups: list[list[int]]) -> int:
        tokens = 0
        for group in groups:
            width = max(lengths[i] for i in group) - min(shared[i] for i in group)
            tokens += width * len(group)
        return tokens + overhead * len(groups)

    grouped = grouping.group_prompts(shared, lengths, overhead)
    assert sorted(i for group in grouped for i in group) == list(range(len(prompts)))
    starts = sorted(set(shared))
    for count in range(len(starts)):
        for cuts in combinations(starts[1:], count):
            bounds = [starts[0], *cuts, 99]
            other = [[i for i, s in enumerate(shared) if low <= s < high] for low, high in pairwise(bounds)]
            assert cost(grouped) <= cost(other)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), budget=st.integers(1, 200))
def test_batches_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(grouping.split_batches(range(len(lengths)), lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


@given(
    behavior=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), opening=st.sampled_from(["", "<think>\n"])
)
def test_a_suffix_position_is_the_prompt_that_is_deployed(behavior: str, opening: str) -> None:
    position = suffix.find_suffix_position(TOKENIZER, behavior, "! !", opening)
    whole = chat.prompt_ids(TOKENIZER, chat.user(f"{behavior} ! !"), opening)
    assert position.ids(position.start.ids) == whole == position.encode(["! !"])[0]
    assert TOKENIZER.decode(position.start.ids) == "! !"
    assert whole[position.span] == list(position.start.ids)


def test_the_last_place_of_the_suffix_is_the_one_that_is_searched() -> None:
    position = suffix.find_suffix_position(TOKENIZER, "! ! is what I say !", "! !", "")
    changed = (*position.start.ids[:2], *TOKENIZER("?")["input_ids"])
    assert position.read([changed]) == [suffix.Suffix(changed, "! ?")]
    assert position.encode(["! ?"]) == [position.ids(changed)]


def test_ids_that_are_read_otherwise_do_not_survive() -> None:
    position = suffix.find_suffix_position(TOKENIZER, "Say", "!!", "")
    end = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    half = TOKENIZER("é")["input_ids"][0]  # a byte that is no character
    kept = TOKENIZER("ab")["input_ids"]
    assert [s.text for s in position.read([tuple(kept), (kept[0], half)])] == ["ab"]
    trimming = micro.tokenizer()
    trimming.chat_template = micro.TEMPLATE.replace("m['content']", "m['content'] | trim")
    space = TOKENIZER(" ")["input_ids"][0]
    assert (
        suffix.find_suffix_position(trimming, "Say", "!!", "").read([(kept[0], space), (kept[0], kept[1])])[0].text
        == "ab"
    )
    assert end not in torch.nonzero(candidates.allowed_token_mask(TOKENIZER, False))[:, 0].tolist()


def test_a_suffix_that_the_template_takes_away_is_refused() -> None:
    trimming = micro.tokenizer()
    trimming.chat_template = micro.TEMPLATE.replace("m['content']", "m['content'] | trim")
    with pytest.raises(InputError, match="is not read as it was written; choose another start"):
        suffix.find_suffix_position(trimming, "Say", "! ", "")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_allowed_tokens(ascii_only: bool) -> None:
    allowed_tokens = candidates.allowed_token_mask(TOKENIZER, ascii_only)
    texts = [TOKENIZER.decode([i]) for i in torch.nonzero(allowed_tokens)[:, 0].tolist()]
    assert not set(texts) & set(micro.SPECIAL)
    assert all(t.isascii() and t.isprintable() for t in texts) == ascii_only
    assert {"a", "~", " "} <= set(texts)


@given(
    current=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    replaced=st.integers(1, 6),
    top_k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_candidates_come_from_the_steepest_allowed_tokens(
    current: list[int], replaced: int, top_k: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(len(current), 10, generator=generator)
    allowed_tokens = torch.arange(10) != 3
    replaced = min(replaced, len(current))
    drawn = candidates.draw_candidates(
        tuple(current), gradient, allowed_tokens, width=30, top_k=top_k, replaced=replaced, generator=generator
    )
    assert len(drawn) == len(set(drawn)) >= 1
    for ids in drawn:
        changed = [i for i in range(len(current)) if ids[i] != current[i]]
        assert len(changed) == replaced
        for i in changed:
            better = sum(bool(gradient[i, t] < gradient[i, ids[i]]) for t in range(10) if t not in (3, current[i]))
            assert ids[i] != 3
            assert better < top_k


def test_edits_are_put_together_one_after_another() -> None:
    current = (0, 0, 0, 0)
    best_first = [(1, 0, 0, 0), (2, 0, 0, 0), (0, 0, 3, 0), (0, 4, 0, 0), (0, 0, 0, 5)]
    assert candidates.merge_edits(current, best_first, 2) == [(1, 0, 3, 0), (1, 4, 3, 0)]
    assert candidates.merge_edits(current, best_first, 9) == [(1, 0, 3, 0), (1, 4, 3, 0), (1, 4, 3, 5)]
    assert candidates.merge_edits(current, best_first[:2], 9) == []


def test_the_better_the_draft_agrees_the_fewer_are_left_to_score() -> None:
    target = torch.arange(64.0)
    probes = list(range(0, 64, 8))
    agreeing = probe.choose_candidates(target * 2, target[probes], probes, 8)
    opposed = probe.choose_candidates(-target, target[probes], probes, 8)
    unrelated = probe.choose_candidates(torch.ones(64), target[probes], probes, 8)
    assert len(agreeing) <= 1  # its best, unless the probe set has it
    assert len([*opposed, *set(probes) & set(range(56, 64))]) == 8
    assert len(unrelated) <= 4
    assert not set(probes) & {*agreeing, *opposed, *unrelated}
    assert probe.rank_correlation(target, target.exp()) == pytest.approx(1.0)
    assert probe.rank_correlation(target, -target) == pytest.approx(-1.0)


@given(size=st.integers(1, 100), share=st.integers(1, 30))
def test_a_probe_set_is_a_share_of_all(size: int, share: int) -> None:
    probe_set = probe.draw_probe_set(size, share, torch.Generator().manual_seed(0))
    assert len(probe_set) == len(set(probe_set)) == max(min(2, size), size // share)
    assert set(probe_set) <= set(range(size))
