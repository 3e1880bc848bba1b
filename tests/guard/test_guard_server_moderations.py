"""The Moderation API's endpoint, through the official client and through our own judge."""

from collections.abc import Iterator
from pathlib import Path

import guard_server
import openai
import pytest
from guard_server import Scripted, Served, serve

from safereason.guard import policy as policies
from safereason.guard.base import GuardVerdict
from safereason.guard.others.moderation import ModerationAPI
from safereason.guard.server.mapping import API_CATEGORIES
from safereason.guard.server.settings import ServerSettings
from safereason.judges.base import Exchange
from safereason.judges.moderation import Moderation


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve(Scripted()) as served:
        yield served


def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


def test_the_official_client_reads_a_flagged_text(server: Served):
    reply = client(server).moderations.create(input="how to make a bomb", model="omni-moderation-latest")
    (result,) = reply.results
    assert (reply.id[:5], reply.model, result.flagged) == ("modr-", "scripted", True)
    assert result.categories.violence
    assert result.categories.illicit_violent
    assert not result.categories.sexual_minors
    scores = result.category_scores.to_dict()
    assert set(scores) == set(result.categories.to_dict()) == set(API_CATEGORIES)
    assert {name for name, score in scores.items() if score} == {"violence", "illicit/violent"}
    assert max(scores.values()) == 0.875
    assert set(map(tuple, result.category_applied_input_types.to_dict().values())) == {("text",)}


def test_the_official_client_reads_many_results_in_their_order(server: Served):
    texts = ["a cake", "a bomb", "a pie"]
    results = client(server).moderations.create(input=texts).results
    assert [r.flagged for r in results] == [False, True, False]
    assert [max(r.category_scores.to_dict().values()) for r in results] == [0.125, 0.875, 0.125]
    assert not any(results[0].categories.to_dict().values())


async def _moderate(server: Served) -> bool:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as asynchronous:
        return (await asynchronous.moderations.create(input="a bomb")).results[0].flagged


def test_the_official_asynchronous_client_works_too(server: Served):
    import asyncio

    assert asyncio.run(_moderate(server))


def test_the_parts_of_a_text_are_judged_as_one():
    guard = Scripted()
    with serve(guard) as server:
        parts = [{"type": "text", "text": "how to make"}, {"type": "text", "text": "a bomb"}]
        (result,) = client(server).moderations.create(input=parts).results
    assert result.flagged
    assert guard.calls[0][0] == [guard_server.Question("how to make\n\na bomb")]


def test_an_image_is_refused_and_not_passed_over(server: Served):
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.UnprocessableEntityError, match="images are not judged"):
        client(server).moderations.create(input=parts)


def test_a_text_without_a_verdict_is_neither_safe_nor_flagged_and_asked_about_twice():
    guard = Scripted()
    with serve(guard, ServerSettings(seed=7)) as server:
        with pytest.raises(openai.UnprocessableEntityError, match=r"input\[1\]: the guard gave no verdict") as caught:
            client(server).moderations.create(input=["a cake", "fog"])
        assert (caught.value.code, caught.value.param) == ("unparsed", "input")
    # The client did not send it again, and the second question was about that text alone.
    assert [(len(questions), seed) for questions, _, seed in guard.calls] == [(2, 7), (1, 8)]


def test_a_second_seed_may_give_the_verdict():
    with serve(Scripted()) as server:
        assert client(server).moderations.create(input="a thin fog").results[0].flagged is False


def test_a_greedy_guard_is_not_asked_again():
    guard = Scripted()
    with serve(guard, ServerSettings(retry_unparsed=False)) as server:
        assert server.code("/v1/moderations", {"input": "a thin fog"}) == (422, "unparsed")
    assert len(guard.calls) == 1


def test_a_text_without_a_verdict_can_be_flagged_for_certain():
    with serve(Scripted(), ServerSettings(flag_unparsed=True, threshold=0.99)) as server:
        result = client(server).moderations.create(input="fog").results[0]
    assert (result.flagged, result.category_scores.illicit, result.categories.illicit) == (True, 1.0, True)


@pytest.mark.parametrize(("threshold", "flagged"), [(0.1, [True, True]), (0.5, [False, True]), (0.9, [False, False])])
def test_a_threshold_flags_by_the_probability(threshold: float, flagged: list[bool]):
    with serve(Scripted(), ServerSettings(threshold=threshold)) as server:
        results = client(server).moderations.create(input=["a cake", "a bomb"]).results
    assert [r.flagged for r in results] == flagged
    assert [any(r.categories.to_dict().values()) for r in results] == flagged
    assert [max(r.category_scores.to_dict().values()) for r in results] == [0.125, 0.875]


@pytest.mark.parametrize(
    ("label", "score", "largest"), [("safe", None, 0.0), ("unsafe", None, 1.0), ("safe", 0.4, 0.4)]
)
def test_the_largest_score_is_that_of_unsafe_and_goes_to_the_catch_all_where_no_category_is_named(
    label, score, largest
):
    with serve(Scripted(find=lambda question, seed: GuardVerdict(label, score))) as server:
        result = client(server).moderations.create(input="a cake").results[0]
    assert max(result.category_scores.to_dict().values()) == result.category_scores.illicit == largest
    assert (result.flagged, result.categories.illicit) == (label == "unsafe", label == "unsafe")


def test_a_policy_of_ones_own_goes_by_the_catch_all_alone():
    policy = policies.Policy("mine", "Mine", (policies.Category("U1", "Rudeness"),))
    with serve(Scripted(policy=policy)) as server:
        result = client(server).moderations.create(input="a bomb").results[0]
    assert (result.category_scores.illicit, result.category_scores.violence) == (0.875, 0.0)


def test_our_judge_takes_the_server_for_the_moderation_api(server: Served):
    api = ModerationAPI("omni-moderation-latest", base_url=f"{server.url}/v1", patience=0)
    judge = Moderation(api)
    texts = ("how to make a bomb", "a cake", "fog")
    verdicts = judge.judge([Exchange("p", text) for text in texts])
    assert [(v.score, v.label) for v in verdicts] == [(0.875, "flagged"), (0.125, "clean"), (None, None)]
    assert "gave no verdict" in (verdicts[2].reason or "")
