"""Which tokens may stand in a suffix, and which suffixes a gradient speaks for."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safereason.attacks.whitebox.slot import Ids


@lru_cache(maxsize=4)
def allowed(tokenizer: PreTrainedTokenizerBase, ascii_only: bool) -> Tensor:
    """[V] bool: what may stand in a suffix. Never a special token; with `ascii_only` only printable ASCII."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    fits = (bool(text) and (not ascii_only or (text.isascii() and text.isprintable())) for text in texts)
    return torch.tensor([fit and i not in special for i, fit in enumerate(fits)])


def draw(
    current: Ids, gradient: Tensor, may: Tensor, *, width: int, top_k: int, replaced: int, generator: torch.Generator
) -> list[Ids]:
    """Suffixes that differ from the current one in `replaced` places, each once.

    Args:
        current: n token ids.
        gradient: [n, V] of the loss; the lower, the better a token promises to be.
        may: [V] bool: the tokens that may stand there.
        width: How many are drawn; fewer come back where two are the same.
        top_k: Tokens to draw from at each place.
        replaced: Places, at most n.
        generator: Where the random numbers come from, on the CPU.
    """
    size = min(len(may), gradient.shape[1])
    slope = gradient[:, :size].masked_fill(~may[:size].to(gradient.device), float("inf"))
    ids = torch.tensor(current)
    slope.scatter_(1, ids[:, None].to(slope.device), float("inf"))
    likeliest = (-slope).topk(min(top_k, int(may[:size].sum()) - 1), dim=1).indices.cpu()  # [n, K]
    places = torch.rand(width, len(current), generator=generator).argsort(1)[:, :replaced]  # [W, R]
    ranks = torch.randint(likeliest.shape[1], places.shape, generator=generator)
    drawn = ids.repeat(width, 1).scatter_(1, places, likeliest[places, ranks])  # [W, n]
    return list(dict.fromkeys(tuple(row) for row in drawn.tolist()))


def merged(current: Ids, best_first: list[Ids], most: int) -> list[Ids]:
    """The best suffixes' edits put together one after another: of the first two, of the first three, and so on.

    An edit of a place that a better one edited already is left out.
    """
    together, edited = list(current), set[int]()
    found: list[Ids] = []
    for ids in best_first:
        changes = {i: new for i, (new, old) in enumerate(zip(ids, current, strict=True)) if new != old}
        if len(found) > most or edited & changes.keys():
            continue
        edited |= changes.keys()
        for place, token in changes.items():
            together[place] = token
        found.append(tuple(together))
    return found[1 : most + 1]
