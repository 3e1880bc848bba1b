r"""The probability of `unsafe`: read at the token after the last `\boxed{`, however the text was cut into tokens."""

import math
from pathlib import Path

import micro_guard
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.base import Completion, GenerateOptions, TokenChoice
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.guard.base import Question
from safereason.guard.open import guard_prompt_of, open_guard
from safereason.guard.score import CHOICES, unsafe_probability
from safereason.recipe.schema import Sampling
from safereason.text import verdict
from safereason.text.chat import user
from safereason.text.verdict import BOX

FREE = Sampling(temperature=1.0, max_new_tokens=40)


@pytest.fixture(scope="module", params=[0.6, 0.05, 0.999])
def guard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    return micro_guard.save_guard(tmp_path_factory.mktemp("guard"), request.param), request.param


def completion(*tokens: tuple[str, list[tuple[str, float]]]) -> Completion:
    """Tokens with what might have stood in their place, by probability; themselves where nothing is given."""
    choices = tuple(
        TokenChoice(text, tuple((other, math.log(p)) for other, p in likeliest or [(text, 1.0)]))
        for text, likeliest in tokens
    )
    return Completion("".join(text for text, _ in tokens), (), "stop", choices=choices)


def test_it_is_what_a_forced_verdict_is_worth_to_the_model(guard: tuple[Path, float]):
    folder, unsafe = guard
    engine = open_engine(ModelSpec.parse(str(folder)))
    written = engine.generate([user("a"), user("bb")], FREE, GenerateOptions(n=3, choices=CHOICES))
    likely = [engine.loglikelihood([user(text)] * 2, ["unsafE", "safE"], prefix=BOX) for text in ("a", "bb")]
    for row, (first, second) in zip(written, likely, strict=True):
        direct = 1 / (1 + math.exp(second.total - first.total))
        assert {verdict.parse(c.text) for c in row} <= {"safe", "unsafe"}
        assert [unsafe_probability(c) for c in row] == pytest.approx([direct] * 3, abs=1e-5)
        assert direct == pytest.approx(unsafe, abs=1e-3)


def test_neither_temperature_nor_truncation_nor_penalty_moves_it(guard: tuple[Path, float]):
    folder, unsafe = guard
    shaped = Sampling(temperature=0.3, top_p=0.5, top_k=3, repetition_penalty=1.2, max_new_tokens=40)
    completions = open_engine(ModelSpec.parse(str(folder))).generate(
        [user("a")], shaped, GenerateOptions(n=2, choices=CHOICES)
    )
    assert [unsafe_probability(c) for c in completions[0]] == pytest.approx([unsafe] * 2, abs=1e-3)


def test_a_guard_reports_it_with_its_verdict(guard: tuple[Path, float]):
    folder, unsafe = guard
    guard_prompt = guard_prompt_of(ModelSpec(str(folder)), sampling=FREE)
    verdicts = open_guard(ModelSpec(str(folder)), sampling=guard_prompt.sampling, samples=5).classify(
        [Question("a"), Question("b", "c")]
    )
    for guard_verdict in verdicts:
        assert guard_verdict is not None
        assert guard_verdict.score == pytest.approx(unsafe, abs=1e-3)
        assert guard_verdict.label in guard_verdict.votes
        assert len(guard_verdict.votes) == 5


@st.composite
def segmentations(draw: st.DrawFn) -> tuple[list[str], str, str]:
    """A text with a verdict, cut into tokens anywhere; the verdict and the other one."""
    word, other = draw(
        st.sampled_from([("unsafe", "safe"), ("safe", "unsafe"), ("UNSAFE", "Safe"), ("safE", "Unsafe")])
    )
    before = draw(st.sampled_from(["", "<think>x</think>", r"\boxed{safe}, no: ", "ü\n", r"\boxed{unsafe}\boxed{"]))
    text = before + BOX + word + "}" + draw(st.sampled_from(["", ".", " \n"]))
    cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1))))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], word, other


@given(segmentations(), st.floats(0.01, 0.99))
def test_any_segmentation_is_read(cut: tuple[list[str], str, str], probability: float):
    tokens, word, other = cut
    start = "".join(tokens).rindex(BOX) + len(BOX)
    offset, given_tokens = 0, []
    for token in tokens:
        head, inside = token[: max(0, start - offset)], token[max(0, start - offset) :]
        if offset <= start < offset + len(token):
            # In its place: the same letters of the other verdict, and two tokens that begin neither.
            likeliest = [
                (token, 0.5 * probability),
                (head + (other + "}.\n ")[: len(inside)], 0.5 * (1 - probability)),
                (head + "maybe", 0.3),
                ("{" if head else "", 0.2),
            ]
            given_tokens.append((token, likeliest))
        else:
            given_tokens.append((token, [("unsafe", 0.5), ("safe", 0.5)]))
        offset += len(token)
    expected = probability if word.lower() == "unsafe" else 1 - probability
    assert unsafe_probability(completion(*given_tokens)) == pytest.approx(expected)


def test_all_tokens_that_begin_a_verdict_count():
    at = [("un", 0.3), ("u", 0.1), ("unsafe}", 0.1), ("s", 0.1), ("Safe", 0.1), ("safety", 0.1), ("unsafely", 0.1)]
    assert unsafe_probability(completion((BOX, []), ("un", at), ("safe}", []))) == pytest.approx(0.5 / 0.7)


@pytest.mark.parametrize(
    "without",
    [
        completion(("unsafe", [])),
        completion((BOX, [])),
        completion((BOX, []), ("maybe", []), ("}", [])),
        Completion(r"\boxed{unsafe}", (1, 2), "stop"),
        completion(),
    ],
)
def test_without_a_box_or_probabilities_there_is_none(without: Completion):
    assert unsafe_probability(without) is None


@pytest.mark.parametrize("logprob", [-9999.0, float("-inf"), float("nan")])
def test_a_verdict_of_no_probability_has_none(logprob: float):
    choices = (TokenChoice(BOX, ()), TokenChoice("safe", (("safe", logprob),)))
    assert unsafe_probability(Completion(r"\boxed{safe}", (), "stop", choices=choices)) is None
