"""Gradient and losses against nanoGCG's own, where it is installed: `requirements/peers.txt`."""

import micro
import pytest
import torch
from transformers import LlamaForCausalLM

from safereason.attacks.whitebox import suffix
from safereason.attacks.whitebox.loss import TargetLoss

nanogcg = pytest.importorskip("nanogcg.gcg", reason="nanogcg 0.3.0 is not installed")


def test_the_same_gradient_and_losses() -> None:
    torch.manual_seed(0)
    model, tokenizer = LlamaForCausalLM(micro.config()).eval(), micro.tokenizer()
    place = suffix.find_suffix_position(tokenizer, "Tell me of locks", "! ! ! !", "")
    target = tokenizer("Sure, here")["input_ids"]
    peer = nanogcg.GCG(model, tokenizer, nanogcg.GCGConfig(use_prefix_cache=False, verbosity="ERROR"))
    embed = model.get_input_embeddings()
    peer.target_ids = torch.tensor([target])
    peer.before_embeds, peer.after_embeds, peer.target_embeds = (
        embed(torch.tensor([ids])) for ids in (place.before, place.after, target)
    )
    ours = TargetLoss(model, target)
    gradient = ours.gradient(place.ids(place.start.ids), place.span)
    torch.testing.assert_close(gradient, peer.compute_token_gradient(torch.tensor([place.start.ids]))[0])

    changed = [(*place.start.ids[:i], 70, *place.start.ids[i + 1 :]) for i in range(len(place.start.ids))]
    whole = embed(torch.tensor([[*place.ids(ids), *target] for ids in changed]))
    with torch.no_grad():
        theirs = peer._compute_candidates_loss_original(len(changed), whole)
    torch.testing.assert_close(ours.losses([place.ids(ids) for ids in changed]).values, theirs, atol=1e-4, rtol=0)
