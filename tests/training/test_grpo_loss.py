"""The loss of one step, and its gradient, against independent ones: written out token by token, verl's and TRL's."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import trl_peer
import verl_peer
from grpo_parts import REWARDS, Training, exact, one_step, open_training, padded, perturb, plain, section

from safereason.training import grpo
from safereason.training.logprobs import TokenLogps

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


def expected(training: Training, loss, old=None, rewards=REWARDS):
    """The loss and its gradients, in float64, of the training's present model."""
    chosen = training.section
    model = exact(training.trained.model)
    with torch.no_grad():
        reference = plain(exact(training.trained.reference), training.fixed, chosen.sampling.temperature)[0]
    logps, entropies = plain(model, training.fixed, chosen.sampling.temperature)
    value = loss(logps, old or [row.detach() for row in logps], reference, entropies, advantages(rewards), chosen)
    value.backward()
    return value.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(result, expected_step) -> None:
    assert result[0] == pytest.approx(expected_step[0], rel=1e-4, abs=1e-6)
    assert result[1].keys() == expected_step[1].keys()
    for name, gradient in expected_step[1].items():
        torch.testing.assert_close(result[1][name].double(), gradient.double(), rtol=1e-3, atol=1e-5)


SHAPED = {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "max_new_tokens": 40}
"""As RSafe draws its rollouts."""
WHOLE = {
    "shared": {},
    "row by row": {"shared_prefix": False},
    "hotter": {"sampling": {"temperature": 1.3}},
    "nucleus and penalty": {"sampling": SHAPED},
    "activations computed again": {"activation_checkpointing": True},
}
CUT = {"kl_coef": 0.1, "entropy_coef": 0.02, "micro_batch_size": 4}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE.keys())
def test_one_step_is_what_the_papers_say(micro_model, tmp_path, changes):
    training = open_training(micro_model, tmp_path, section(**{**TOTAL, **changes}))
    perturb(training.trained.model)
    expected_step = expected(training, by_hand)
    assert_same(one_step(training), expected_step)


@pytest.mark.parametrize("shares", [True, False])
def test_accumulation_still_means_over_all_tokens_of_the_step(micro_model, tmp_path, shares):
    training = open_training(micro_model, tmp_path, section(**CUT, shared_prefix=shares))
    perturb(training.trained.model)
    expected_step = expected(training, by_hand)
    assert_same(one_step(training), expected_step)


@pytest.mark.parametrize("changes", [TOTAL, CUT], ids=["one pass", "accumulated"])
def test_one_step_is_what_verl_does(micro_model, tmp_path, changes):
    training = open_training(micro_model, tmp_path, section(**changes))
    perturb(training.trained.model)
    expected_step = expected(training, by_verl)
    assert_same(one_step(training), expected_step)


PEERS = {
    "plain": {},
    "KL and entropy": TOTAL,
    "accumulated": {"kl_coef": 0.1, "micro_batch_size": 4},
    "row by row": {**TOTAL, "shared_prefix": False},
    "hotter": {**TOTAL, "sampling": {"temperature": 1.3}},
    "uniform groups left out": {"kl_coef": 0.1, "drop_uniform_groups": True},
    "adapters": {**TOTAL, "lora": {"rank": 4}},
}


@pytest.mark.parametrize("changes", PEERS.values(), ids=PEERS.keys())
def test_one_step_is_what_trl_does(micro_model, tmp_path, changes):
    chosen = section(**changes)
    rewards = {**REWARDS, "Why?": [0.0] * 6} if chosen.drop_uniform_groups else REWARDS
    training = open_training(micro_model, tmp_path / "ours", chosen, rewards)
    perturb(training.trained.model)
    weights = training.trained.model.state_dict()
    assert_same(one_step(training), trl_peer.one_step(micro_model, tmp_path / "trl", training, weights))


@pytest.mark.parametrize("shares", [True, False])
def test_the_ratio_is_1_where_it_is_differentiated_however_the_draw_was_shaped(micro_model, tmp_path, shares):
    chosen = section(entropy_coef=0.02, sampling=SHAPED, shared_prefix=shares)
    training = open_training(micro_model, tmp_path, chosen)
    perturb(training.trained.model)
    with torch.no_grad():
        entropies = plain(exact(training.trained.model), training.fixed, chosen.sampling.temperature)[1]
    lengths = torch.tensor([len(row) for row in entropies])
    bonus = 0.02 * torch.cat(entropies).mean()
    expected_loss = -(advantages() * lengths).sum() / lengths.sum() - bonus
    assert one_step(training)[0] == pytest.approx(expected_loss.item(), abs=1e-6)
    assert abs(expected_loss + bonus) > 0.01


@pytest.mark.parametrize("loss", [by_hand, by_verl])
def test_both_clips_bind_where_the_policy_has_moved(micro_model, tmp_path, loss):
    training = open_training(micro_model, tmp_path, section(**TOTAL, dual_clip=1.5))
    perturb(training.trained.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logps = plain(exact(training.trained.model), training.fixed, 0.7)[0]
    old = [row + torch.randn(len(row), generator=generator).double() for row in logps]
    ratios = torch.cat([(new - before).exp() for new, before in zip(logps, old, strict=True)])
    assert all(bool(bound.any()) for bound in (ratios < 0.8, ratios > 1.2, ratios > 1.5))
    batch = training.batch
    figures = training.trained.module(rows=batch.rows)
    per_token = batch.advantages.repeat_interleave(torch.tensor(batch.rows.lengths))
    reference = training.trained.reference_logps(batch.rows)
    losses, _ = grpo.token_losses(figures, torch.cat(old).float(), reference, per_token, training.section)
    losses.mean().backward()
    gradients = {name: p.grad for name, p in training.trained.model.named_parameters()}
    assert_same((losses.mean().item(), gradients), expected(training, loss, old))


def test_an_unscored_rollout_moves_only_through_the_kl_term(micro_model, tmp_path):
    rewards = {prompt: [None, *group[1:]] for prompt, group in REWARDS.items()}
    training = open_training(micro_model, tmp_path, section(), rewards)
    result = training.batch.advantages.view(2, 6)
    assert result[:, 0].tolist() == [0.0, 0.0]
    alone = advantages({prompt: group[1:] for prompt, group in REWARDS.items()})
    torch.testing.assert_close(result[:, 1:].flatten().double(), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [12, 4])
def test_a_group_without_spread_is_left_out_where_requested(micro_model, tmp_path, micro_batch_size):
    rewards = {**REWARDS, "Why?": [0.0] * 6}
    chosen = section(kl_coef=0.1, drop_uniform_groups=True, micro_batch_size=micro_batch_size)
    training = open_training(micro_model, tmp_path, chosen, rewards)
    perturb(training.trained.model)
    everything = training.fixed.completions
    training.fixed.completions = {prompt: ids for prompt, ids in everything.items() if prompt != "Why?"}
    kept = training.fixed.completions
    expected_step = expected(training, by_hand, rewards={prompt: rewards[prompt] for prompt in kept})
    training.fixed.completions = everything
    assert_same(one_step(training), expected_step)


def test_a_step_of_nothing_but_uniform_groups_changes_nothing(micro_model, tmp_path):
    rewards = {prompt: [1.0] * 6 for prompt in REWARDS}
    training = open_training(micro_model, tmp_path, section(**TOTAL, drop_uniform_groups=True), rewards)
    perturb(training.trained.model)
    loss, gradients = one_step(training)
    assert loss == 0.0
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "adapters"])
def test_sharing_the_prompt_changes_no_number(micro_model, tmp_path, lora):
    steps = {}
    for shares in (True, False):
        training = open_training(micro_model, tmp_path, section(**TOTAL, shared_prefix=shares, lora=lora))
        perturb(training.trained.model)
        reference = training.trained.reference_logps(training.batch.rows)
        steps[shares] = (*one_step(training), reference)
    torch.testing.assert_close(steps[True][2], steps[False][2], rtol=0, atol=1e-5)
    assert steps[True][0] == pytest.approx(steps[False][0], abs=1e-5)
    assert steps[True][1].keys() == steps[False][1].keys()
    assert len(steps[True][1]) == (28 if lora else 20)
    for name, gradient in steps[False][1].items():
        torch.testing.assert_close(steps[True][1][name], gradient, rtol=1e-4, atol=1e-5)
    assert math.isfinite(steps[True][0])


@pytest.fixture
def in_bf16(monkeypatch) -> Iterator[None]:
    """The arithmetic of a GPU, on this machine's CPU."""
    monkeypatch.setattr(grpo, "precision_here", lambda precision: precision)
    return


@pytest.mark.usefixtures("in_bf16")
@pytest.mark.parametrize("shares", [True, False])
def test_bf16_is_the_arithmetic_of_both_paths(micro_model, tmp_path, shares):
    training = open_training(micro_model, tmp_path, section(**TOTAL, shared_prefix=shares, precision="bf16"))
    dtypes = set()
    for module in training.trained.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    with torch.no_grad():
        expected_logps = torch.cat(plain(exact(training.trained.reference), training.fixed, 0.7)[0])
    with training.trained.autocast():
        logps = training.trained.reference_logps(training.batch.rows)
    one_step(training)
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(logps.double(), expected_logps, rtol=0, atol=0.05)
    assert {p.grad.dtype for p in training.trained.model.parameters()} == {torch.float32}


def test_a_figure_of_a_token_is_float32_and_of_the_right_row(micro_model, tmp_path):
    training = open_training(micro_model, tmp_path, section(shared_prefix=False))
    rows = training.batch.rows
    figures: TokenLogps = training.trained.module(rows=rows)
    alone = [
        training.trained.module(rows=replace(rows, prompts=[p], completions=[c])).logps
        for p, c in zip(rows.prompts, rows.completions, strict=True)
    ]
    assert figures.logps.dtype == figures.entropies.dtype == torch.float32
    torch.testing.assert_close(figures.logps, torch.cat(alone), rtol=1e-4, atol=1e-5)
