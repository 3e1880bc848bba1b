"""Candidate suffixes of GCG: the tokens that a suffix may contain, and edits in the direction of a gradient."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safereason.attacks.whitebox.suffix import TokenIds


# The mask decodes the whole vocabulary, which takes seconds, and each behavior's search needs the same one.
@lru_cache(maxsize=4)
def allowed_token_mask(tokenizer: PreTrainedTokenizerBase, ascii_only: bool) -> Tensor:
    """[V] bool: the tokens that a suffix may contain. No special token; with `ascii_only` only printable ASCII."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    mask: list[bool] = []
    for i, text in enumerate(texts):
        is_plain = not ascii_only or (text.isascii() and text.isprintable())
        mask.append(bool(text) and is_plain and i not in special)
    return torch.tensor(mask)


def draw_candidates(
    current: TokenIds,
    gradient: Tensor,
    allowed_tokens: Tensor,
    *,
    width: int,
    top_k: int,
    replaced: int,
    generator: torch.Generator,
) -> list[TokenIds]:
    """Suffixes that differ from the current one at `replaced` positions, each once.

    Args:
        current: n token ids.
        gradient: [n, V] of the loss; the lower, the more promising a token is.
        allowed_tokens: [V] bool: the tokens to draw from.
        width: Number of draws; equal suffixes are returned once.
        top_k: Tokens to draw from at each position.
        replaced: Positions to change, at most n.
        generator: Random numbers, on the CPU.
    """
    # A model's table may be padded beyond its tokenizer's vocabulary.
    size = min(len(allowed_tokens), gradient.shape[1])
    scores = gradient[:, :size].masked_fill(~allowed_tokens[:size].to(gradient.device), float("inf"))
    ids = torch.tensor(current)
    # The current token is not drawn for its position again: the candidate would be no edit.
    scores.scatter_(1, ids[:, None].to(scores.device), float("inf"))
    # One less than the allowed tokens, as the current one is among them.
    likeliest = (-scores).topk(min(top_k, int(allowed_tokens[:size].sum()) - 1), dim=1).indices.cpu()  # [n, K]
    # The first R of a random permutation are R different positions.
    positions = torch.rand(width, len(current), generator=generator).argsort(1)[:, :replaced]  # [W, R]
    ranks = torch.randint(likeliest.shape[1], positions.shape, generator=generator)
    candidates = ids.repeat(width, 1).scatter_(1, positions, likeliest[positions, ranks])  # [W, n]
    return list(dict.fromkeys(tuple(row) for row in candidates.tolist()))


def merge_edits(current: TokenIds, best_first: list[TokenIds], limit: int) -> list[TokenIds]:
    """Suffixes with the edits of the best two suffixes, of the best three, and so on.

    A suffix is skipped if it edits a position that a better one has already edited.

    Args:
        current: The suffix that all others are edits of.
        best_first: Suffixes by ascending loss.
        limit: Maximum number of merged suffixes.
    """
    merged = list(current)
    edited_positions: set[int] = set()
    suffixes: list[TokenIds] = []
    for ids in best_first:
        # One more than `limit`, because the first has the edits of the best suffix alone and is no merge.
        if len(suffixes) > limit:
            break
        edits: dict[int, int] = {}
        for position, (new, old) in enumerate(zip(ids, current, strict=True)):
            if new != old:
                edits[position] = new
        if edited_positions & edits.keys():
            continue
        edited_positions |= edits.keys()
        for position, token in edits.items():
            merged[position] = token
        suffixes.append(tuple(merged))
    return suffixes[1 : limit + 1]
