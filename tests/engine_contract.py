"""What every engine keeps, as one class of tests; a subclass says which engine by its fixtures."""

from collections import Counter
from pathlib import Path

import micro
import pytest
import torch
from transformers import LlamaForCausalLM

from safereason.engines.base import Completion, Engine, GenerateOptions
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError
from safereason.recipe.schema import Sampling
from safereason.text.chat import prompt_ids, user

TEXTS = ("a", "a much longer second prompt", "three!", "four four four", "and the fifth one")
PROMPTS = [user(text) for text in TEXTS]
LONG = user("x" * 200)
"""More than the model reads."""
SAMPLED = Sampling(temperature=1.0, max_new_tokens=24)
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
ENDS = [*range(235, 256), 258]
"""Token ids that end a turn: about one in twelve, so that completions end at different lengths."""

Texts = list[list[tuple[str, str]]]


def save_model(folder: Path, context: int = 128) -> Path:
    """Writes a micro model whose answers hang on all it read, with heads as wide as vLLM wants them."""
    torch.manual_seed(1)
    config = micro.config(tie_word_embeddings=False, hidden_size=128, max_position_embeddings=context)
    config.initializer_range = 0.4
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = ENDS
    model.save_pretrained(folder)
    micro.tokenizer().save_pretrained(folder)
    return folder


def texts_of(completions: list[list[Completion]]) -> Texts:
    return [[(c.text, c.finish_reason) for c in row] for row in completions]


class EngineContract:
    """Fixtures of a subclass: `engine`, and `reference`, transformers on the same weights."""

    knows_tokens = True
    """Whether it gives token ids and likelihoods."""

    def test_greedy_completions_are_the_reference_s_in_order(self, engine: Engine, reference: TransformersEngine):
        completions, expected = (each.generate(PROMPTS, GREEDY) for each in (engine, reference))
        assert texts_of(completions) == texts_of(expected)
        assert {row[0].finish_reason for row in completions} == {"stop", "length"}
        assert [row[0].usage for row in completions] == [row[0].usage for row in expected]
        if self.knows_tokens:
            assert [row[0].token_ids for row in completions] == [row[0].token_ids for row in expected]

    @pytest.mark.parametrize("changes", [{"repetition_penalty": 1.3}, {"max_new_tokens": 3}])
    def test_greedy_under_other_settings_is_the_reference_s(self, changes, engine, reference):
        sampling = GREEDY.model_copy(update=changes)
        assert texts_of(engine.generate(PROMPTS, sampling)) == texts_of(reference.generate(PROMPTS, sampling))

    def test_a_single_likeliest_token_is_greedy(self, engine: Engine, reference: TransformersEngine):
        for changes in ({"top_k": 1}, {"top_p": 1e-6}):
            completions = engine.generate(PROMPTS, SAMPLED.model_copy(update=changes))
            assert texts_of(completions) == texts_of(reference.generate(PROMPTS, GREEDY))

    def test_the_seed_decides_and_completions_of_a_prompt_differ(self, engine: Engine):
        first, again, other = (engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=3, seed=seed)) for seed in (1, 1, 2))
        assert first == again
        assert texts_of(first) != texts_of(other)
        assert [len(row) for row in first] == [3] * 5
        assert len({c.text for row in first for c in row}) > 12

    def test_a_prefix_is_gone_on_from_and_is_no_part_of_the_text(self, engine: Engine, reference: TransformersEngine):
        completions, expected = (
            each.generate(PROMPTS, GREEDY, GenerateOptions(prefix="<think>\n")) for each in (engine, reference)
        )
        assert texts_of(completions) == texts_of(expected) != texts_of(engine.generate(PROMPTS, GREEDY))
        assert all(row[0].full_text == "<think>\n" + row[0].text for row in completions)
        assert [row[0].usage for row in completions] == [row[0].usage for row in expected]

    def test_stop_texts_are_cut_off(self, engine: Engine, reference: TransformersEngine):
        whole = max((row[0].text for row in reference.generate(PROMPTS, GREEDY)), key=len)
        stops = [c for c in whole if c.isascii() and c.isprintable()][1:3]
        completions, expected = (
            each.generate(PROMPTS, GREEDY, GenerateOptions(stop=stops)) for each in (engine, reference)
        )
        assert texts_of(completions) == texts_of(expected) != texts_of(reference.generate(PROMPTS, GREEDY))
        assert not any(stop in row[0].text for row in completions for stop in stops)

    def test_what_is_done_is_not_asked_and_leaves_the_others_as_they_were(self, engine: Engine):
        whole = engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2))
        finished: list[int] = []
        resumed = engine.generate(
            PROMPTS, SAMPLED, GenerateOptions(n=2, done={0, 3}, on_finish=lambda i, k, c: finished.append(i))
        )
        assert resumed == [[], whole[1], whole[2], [], whole[4]]
        assert sorted(finished) == [1, 1, 2, 2, 4, 4]
        assert engine.generate(PROMPTS, SAMPLED, GenerateOptions(done=range(5))) == [[]] * 5
        assert engine.generate([], SAMPLED) == []

    def test_on_finish_has_each_completion_once(self, engine: Engine):
        calls: list[tuple[int, int, Completion]] = []
        completions = engine.generate(
            PROMPTS, SAMPLED, GenerateOptions(n=3, on_finish=lambda *call: calls.append(call))
        )
        assert Counter((i, k) for i, k, _ in calls) == Counter((i, k) for i in range(5) for k in range(3))
        assert all(completions[i][k] == completion for i, k, completion in calls)

    def test_an_interrupted_call_leaves_nothing_to_the_next(self, engine: Engine):
        def stop(index: int, number: int, completion: Completion) -> None:
            raise KeyboardInterrupt

        expected = engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2))
        with pytest.raises(KeyboardInterrupt):
            engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2, on_finish=stop))
        assert engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2)) == expected

    def test_alone_means_whichever_stand_beside_it(self, engine: Engine):
        twice = [PROMPTS[1], PROMPTS[1]]
        together, apart = (
            texts_of(engine.generate(twice, SAMPLED, GenerateOptions(n=2, alone=alone))) for alone in (True, False)
        )
        assert together == texts_of(engine.generate(twice[:1], SAMPLED, GenerateOptions(n=2))) * 2
        assert apart[0] == together[0] != apart[1]

    def test_a_prompt_longer_than_the_context_is_an_error_and_costs_the_others_nothing(self, engine: Engine):
        completions = engine.generate([PROMPTS[0], LONG, PROMPTS[2]], SAMPLED, GenerateOptions(n=2, choices=2))
        assert [[c.finish_reason == "error" for c in row] for row in completions] == [
            [False] * 2,
            [True] * 2,
            [False] * 2,
        ]
        assert all(c.error and c.text == "" and c.choices == () for c in completions[1])
        assert all(c.error == "" for row in (completions[0], completions[2]) for c in row)

    def test_a_completion_ends_where_the_context_does(self, engine: Engine, reference: TransformersEngine):
        long = Sampling(temperature=0.0, max_new_tokens=1000)
        completions = engine.generate(PROMPTS, long)
        assert texts_of(completions) == texts_of(reference.generate(PROMPTS, long))
        assert {row[0].usage.prompt + row[0].usage.completion <= 128 for row in completions} == {True}

    def test_choices_hold_the_written_token_and_change_no_draw(self, engine: Engine, reference: TransformersEngine):
        shaped = SAMPLED.model_copy(update={"temperature": 2.0, "repetition_penalty": 1.2})
        completions = engine.generate(PROMPTS, shaped, GenerateOptions(choices=3))
        assert texts_of(completions) == texts_of(engine.generate(PROMPTS, shaped))
        for row in completions:
            assert len(row[0].choices) == row[0].usage.completion
            assert all(choice.text in dict(choice.likeliest) for choice in row[0].choices)
            assert {len(choice.likeliest) for choice in row[0].choices} <= {3, 4}
        drawn, expected = (each.generate(PROMPTS, GREEDY, GenerateOptions(choices=3)) for each in (engine, reference))
        for row, expected_row in zip(drawn, expected, strict=True):
            for choice, other in zip(row[0].choices, expected_row[0].choices, strict=True):
                assert choice.text == other.text
                listed = [logprob for _, logprob in other.likeliest]
                assert [logprob for _, logprob in choice.likeliest] == pytest.approx(listed, abs=1e-3)

    def test_token_ids_are_what_was_written(self, engine: Engine):
        completions = [c for row in engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2)) for c in row]
        if not self.knows_tokens:
            assert {c.token_ids for c in completions} == {()}
            return
        for completion in completions:
            assert micro.tokenizer().decode(completion.token_ids, skip_special_tokens=True) == completion.text
            assert (completion.token_ids[-1] in ENDS) == (completion.finish_reason == "stop")
            assert not {*completion.token_ids[:-1]} & {*ENDS}

    @pytest.mark.parametrize("prefix", ["", "<think>\n"])
    def test_likelihoods_are_the_reference_s(self, engine: Engine, reference: TransformersEngine, prefix: str):
        texts = ["Sure", "I cannot help with that.", "", "no", "a longer continuation"]
        if not self.knows_tokens:
            with pytest.raises(InputError, match="does not give log-likelihoods"):
                engine.loglikelihood(PROMPTS, texts, prefix=prefix)
            return
        likelihoods, expected = (each.loglikelihood(PROMPTS, texts, prefix=prefix) for each in (engine, reference))
        for one, other in zip(likelihoods, expected, strict=True):
            assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-3)
            assert one.is_greedy is other.is_greedy
        assert (likelihoods[2].token_logprobs, likelihoods[2].is_greedy) == ((), True)

    def test_a_greedy_continuation_is_known_as_such(self, engine: Engine):
        if not self.knows_tokens:
            return
        texts = [row[0].text for row in engine.generate(PROMPTS, Sampling(temperature=0.0, max_new_tokens=1))]
        plain = [i for i, text in enumerate(texts) if text.isascii() and len(prompt_ids(micro.tokenizer(), user(text)))]
        prompts, written = [PROMPTS[i] for i in plain if texts[i]], [texts[i] for i in plain if texts[i]]
        assert written
        assert all(one.is_greedy for one in engine.loglikelihood(prompts, written))

    def test_a_likelihood_without_room_is_refused(self, engine: Engine):
        with pytest.raises(InputError, match=r"shorten it|does not give"):
            engine.loglikelihood([LONG], ["a"])
