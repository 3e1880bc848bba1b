"""The loss of one step, and its gradient, against two independent ones: written out token by token, and verl's."""

import math

import pytest
import torch
import verl_peer
from grpo_parts import REWARDS, exact, inputs, make_trainer, one_step, padded, perturb, plain, section
from trl import GRPOTrainer

from safereason.training.advantage import group_advantages

TOTAL = {"kl_coef": 0.1, "entropy_coef": 0.02}


def advantages(rewards=REWARDS) -> torch.Tensor:
    """[B] in float64, by the formula."""
    groups = [torch.tensor(group, dtype=torch.float64) for group in rewards.values()]
    return torch.cat([(g - g.mean()) / (g.std() + 1e-6) for g in groups])


def by_hand(logps, old, reference, entropies, advantage, chosen):
    """Token by token: clipped surrogate with its dual bound, k3 and entropy bonus, over all tokens of the step."""
    total, tokens = 0.0, 0
    for row, a in enumerate(advantage.tolist()):
        for t in range(len(logps[row])):
            ratio = (logps[row][t] - old[row][t]).exp()
            clipped = ratio.clamp(1 - chosen.clip, 1 + chosen.clip)
            surrogate = torch.minimum(ratio * a, clipped * a)
            if a < 0:
                surrogate = torch.maximum(surrogate, torch.tensor(chosen.dual_clip * a, dtype=ratio.dtype))
            distance = reference[row][t] - logps[row][t]
            k3 = distance.exp() - distance - 1
            total = total - surrogate + chosen.kl_coef * k3 - chosen.entropy_coef * entropies[row][t]
            tokens += 1
    return total / tokens


def by_verl(logps, old, reference, entropies, advantage, chosen):
    values, mask = padded(logps)
    others = [padded(rows)[0] for rows in (old, reference, entropies)]
    return verl_peer.loss(values, others[0], others[1], others[2], advantage, mask, chosen)


def expected(trainer, chosen, loss, old=None, rewards=REWARDS):
    """The loss and its gradients, in float64, of the trainer's present model."""
    model = exact(trainer.model)
    with torch.no_grad():
        reference = plain(exact(trainer.ref_model), trainer.fixed, chosen.sampling.temperature)[0]
    logps, entropies = plain(model, trainer.fixed, chosen.sampling.temperature)
    value = loss(logps, old or [row.detach() for row in logps], reference, entropies, advantages(rewards), chosen)
    value.backward()
    return value.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(result, reference) -> None:
    assert result[0] == pytest.approx(reference[0], rel=1e-4, abs=1e-6)
    assert result[1].keys() == reference[1].keys()
    for name, gradient in reference[1].items():
        torch.testing.assert_close(result[1][name].double(), gradient, rtol=1e-3, atol=1e-5)


SHAPED = {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "max_new_tokens": 40}
"""As RSafe draws its rollouts."""
WHOLE = {
    "shared": {},
    "row by row": {"shared_prefix": False},
    "hotter": {"sampling": {"temperature": 1.3}},
    "nucleus and penalty": {"sampling": SHAPED},
}
CUT = {"kl_coef": 0.1, "micro_batch_size": 4}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE.keys())
def test_one_step_is_what_the_papers_say(micro_model, tmp_path, changes):
    chosen = section(**{**TOTAL, **changes})
    trainer = make_trainer(micro_model, tmp_path, chosen)
    perturb(trainer.model)
    reference = expected(trainer, chosen, by_hand)
    assert_same(one_step(trainer), reference)


@pytest.mark.parametrize("shares", [True, False])
def test_the_ratio_is_1_where_it_is_differentiated_however_the_draw_was_shaped(micro_model, tmp_path, shares):
    chosen = section(entropy_coef=0.02, sampling=SHAPED, shared_prefix=shares)
    trainer = make_trainer(micro_model, tmp_path, chosen)
    perturb(trainer.model)
    with torch.no_grad():
        entropies = plain(exact(trainer.model), trainer.fixed, chosen.sampling.temperature)[1]
    lengths = torch.tensor([len(row) for row in entropies])
    bonus = 0.02 * torch.cat(entropies).mean()
    expected_loss = -(advantages() * lengths).sum() / lengths.sum() - bonus
    step = trainer._generate_and_score_completions(inputs(trainer))
    assert step.get("old_per_token_logps") is None
    assert step.get("importance_sampling_ratio") is None
    trainer.current_gradient_accumulation_steps = 1
    assert trainer._compute_loss(trainer.model, step).item() == pytest.approx(expected_loss.item(), abs=1e-6)
    assert abs(expected_loss + bonus) > 0.01


@pytest.mark.parametrize("shares", [True, False])
def test_accumulation_still_means_over_all_tokens_of_the_step(micro_model, tmp_path, shares):
    chosen = section(**CUT, shared_prefix=shares)
    trainer = make_trainer(micro_model, tmp_path, chosen)
    assert trainer.args.gradient_accumulation_steps == 3
    perturb(trainer.model)
    reference = expected(trainer, chosen, by_hand)
    assert_same(one_step(trainer), reference)


@pytest.mark.parametrize("changes", [TOTAL, CUT], ids=["one pass", "accumulated"])
def test_one_step_is_what_verl_does(micro_model, tmp_path, changes):
    chosen = section(**changes)
    trainer = make_trainer(micro_model, tmp_path, chosen)
    perturb(trainer.model)
    reference = expected(trainer, chosen, by_verl)
    assert_same(one_step(trainer), reference)


@pytest.mark.parametrize("loss", [by_hand, by_verl])
def test_both_clips_bind_where_the_policy_has_moved(micro_model, tmp_path, loss):
    chosen = section(**TOTAL, dual_clip=1.5)
    trainer = make_trainer(micro_model, tmp_path, chosen)
    perturb(trainer.model)
    step = trainer._generate_and_score_completions(inputs(trainer))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logps = plain(exact(trainer.model), trainer.fixed, chosen.sampling.temperature)[0]
    old = [row + torch.randn(len(row), generator=generator).double() for row in logps]
    ratios = torch.cat([(new - before).exp() for new, before in zip(logps, old, strict=True)])
    assert all(bool(bound.any()) for bound in (ratios < 0.8, ratios > 1.2, ratios > 1.5))
    step["old_per_token_logps"] = padded(old)[0].float()
    trainer.current_gradient_accumulation_steps = 1
    value = trainer._compute_loss(trainer.model, step)
    value.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert_same((value.item(), gradients), expected(trainer, chosen, loss, old))


def test_trl_alone_would_divide_by_another_deviation(micro_model, tmp_path):
    ours = make_trainer(micro_model, tmp_path / "ours", section())
    trls = make_trainer(micro_model, tmp_path / "trls", section(), kind=GRPOTrainer, scale_rewards="group")
    own, other = (t._generate_and_score_completions(inputs(t))["advantages"] for t in (ours, trls))
    assert own.tolist() == pytest.approx(advantages().tolist(), rel=1e-5)
    spread = torch.tensor(list(REWARDS.values())).std(1).repeat_interleave(6)
    torch.testing.assert_close(other * (spread + 1e-4), own * (spread + 1e-6), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(other, own, rtol=1e-5)


def test_an_unscored_rollout_moves_only_through_the_kl_term(micro_model, tmp_path):
    rewards = {prompt: [None, *group[1:]] for prompt, group in REWARDS.items()}
    trainer = make_trainer(micro_model, tmp_path, section(), rewards)
    own = trainer._generate_and_score_completions(inputs(trainer))["advantages"].view(2, 6)
    assert own[:, 0].tolist() == [0.0, 0.0]
    alone = torch.cat([group_advantages(torch.tensor(group[1:]), 5, 1e-6) for group in REWARDS.values()])
    torch.testing.assert_close(own[:, 1:].flatten(), alone)


@pytest.mark.parametrize("micro_batch_size", [12, 4])
def test_a_group_without_spread_is_left_out_where_asked(micro_model, tmp_path, micro_batch_size):
    rewards = {**REWARDS, "Why?": [0.0] * 6}
    chosen = section(kl_coef=0.1, drop_uniform_groups=True, micro_batch_size=micro_batch_size)
    trainer = make_trainer(micro_model, tmp_path, chosen, rewards)
    perturb(trainer.model)
    kept = {prompt: ids for prompt, ids in trainer.fixed.completions.items() if prompt != "Why?"}
    everything = trainer.fixed.completions
    trainer.fixed.completions = kept
    reference = expected(trainer, chosen, by_hand, rewards={prompt: rewards[prompt] for prompt in kept})
    trainer.fixed.completions = everything
    assert_same(one_step(trainer), reference)


def test_a_step_of_nothing_but_uniform_groups_changes_nothing(micro_model, tmp_path):
    rewards = {prompt: [1.0] * 6 for prompt in REWARDS}
    trainer = make_trainer(micro_model, tmp_path, section(**TOTAL, drop_uniform_groups=True), rewards)
    perturb(trainer.model)
    loss, gradients = one_step(trainer)
    assert loss == 0.0
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "adapters"])
def test_sharing_the_prompt_changes_no_number(micro_model, tmp_path, lora):
    steps = {}
    for shares in (True, False):
        chosen = section(**TOTAL, shared_prefix=shares, lora=lora)
        trainer = make_trainer(micro_model, tmp_path / str(shares), chosen)
        perturb(trainer.model)
        reference = trainer._generate_and_score_completions(inputs(trainer))["ref_per_token_logps"]
        steps[shares] = (*one_step(trainer), reference)
    mask = padded([torch.ones(len(ids)) for group in trainer.fixed.completions.values() for ids in group])[0].bool()
    torch.testing.assert_close(steps[True][2][mask], steps[False][2][mask], rtol=0, atol=1e-5)
    assert steps[True][0] == pytest.approx(steps[False][0], abs=1e-5)
    assert steps[True][1].keys() == steps[False][1].keys()
    assert len(steps[True][1]) == (28 if lora else 20)
    for name, gradient in steps[False][1].items():
        torch.testing.assert_close(steps[True][1][name], gradient, rtol=1e-4, atol=1e-5)
    assert math.isfinite(steps[True][0])


@pytest.mark.parametrize("shares", [True, False])
def test_bf16_is_the_arithmetic_of_both_paths(micro_model, tmp_path, shares):
    trainer = make_trainer(micro_model, tmp_path, section(**TOTAL, shared_prefix=shares), bf16=True)
    dtypes = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    with torch.no_grad():
        reference, mask = padded(plain(exact(trainer.ref_model), trainer.fixed, 0.7)[0])
    step = trainer._generate_and_score_completions(inputs(trainer))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, step)
    loss.backward()
    assert dtypes == {torch.bfloat16}
    logps = step["ref_per_token_logps"].double() * mask
    torch.testing.assert_close(logps, reference, rtol=0, atol=0.05)
    assert {p.grad.dtype for p in trainer.model.parameters()} == {torch.float32}
