"""Rubrics put to a chat model behind a real server: what it is asked, concurrently, and what is read or unscored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai_server
import pytest
from fastapi.responses import JSONResponse
from judge_prompts import OWN_RUBRIC, exchange, needs_judgezoo
from micro import save_model

from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import open_judge
from safereason.judges.base import Exchange, Judge
from safereason.judges.xstest import find_class


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_engine(ModelSpec.parse(str(save_model(tmp_path_factory.mktemp("micro")))))


@pytest.fixture
def server(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai_server.Server]:
    with openai_server.serve(engine) as running:
        monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        yield running


def replying(reply: Callable[[str], str], reason: str = "stop") -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A server's choice: what it replies to the user's turn."""
    return lambda body: {
        "message": {"role": "assistant", "content": reply(body["messages"][-1]["content"])},
        "finish_reason": reason,
    }


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.yaml").write_text(OWN_RUBRIC)
    return f"rubric:{tmp_path / 'own.yaml'}@openai/judge"


def test_a_server_is_asked_once_for_equal_exchanges_and_several_at_a_time(server: openai_server.Server, own: str):
    server.choice = replying(lambda text: f"Hm. [[{text.count('!') + 1}]]")
    server.hold_until = 4
    judged = [exchange("Sure" + "!" * (i % 4)) for i in range(8)]
    verdicts = open_judge(own).judge(judged)
    assert [v.score for v in verdicts] == [0.0, 0.25, 0.5, 0.75] * 2
    assert (len(server.requests), server.peak) == (4, 4)
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in server.requests} == {("judge", 0.0, 1024)}
    assert [v.score for v in open_judge(own).judge(judged[:2])] == [0.0, 0.25]
    assert len(server.requests) == 4
    assert [v.score for v in open_judge(own.replace("judge", "other")).judge(judged[:1])] == [0.0]
    assert len(server.requests) == 5


def test_it_is_asked_with_the_request_in_plain_words_and_its_context(server: openai_server.Server, own: str):
    server.choice = replying(lambda text: "[[1]]")
    open_judge(own).judge([exchange("Sure.", "Sum it up.", "A lock has pins."), Exchange("Hi {answer}", "Sure.")])
    prompts = {request["messages"][1]["content"] for request in server.requests}
    assert {request["messages"][0]["content"] for request in server.requests} == {"You grade answers."}
    assert prompts == {
        f"<request>{request}</request>\n<context>{context}</context>\n<answer>\nSure.\n</answer>\n"
        "Grade: from 1 to 5, in double brackets.\n"
        for request, context in (("Sum it up.", "A lock has pins."), ("Hi {answer}", ""))
    }


@pytest.mark.parametrize(
    ("written", "reason", "expected"),
    [
        ("", "stop", "the judge gave no verdict"),
        ("No idea.", "stop", "the judge gave no verdict: 'No idea.'"),
        ("[[six]] or [[6]]", "stop", "the judge gave no verdict: '[[six]] or [[6]]'"),
        ("It seems", "length", "the judge gave no verdict before its token limit: 'It seems'"),
        ("[[5]]", "content_filter", "the judge could not be asked: the provider's filter cut it off"),
        ("<think>[[5]]", "length", "the judge gave no verdict before its token limit"),
    ],
)
def test_a_reply_that_holds_no_verdict_is_unscored_and_asked_for_again(
    server: openai_server.Server, own: str, written: str, reason: str, expected: str
):
    server.choice = replying(lambda text: written, reason)
    (verdict,) = open_judge(own).judge([exchange("Sure.")])
    assert (verdict.score, verdict.label, verdict.reason) == (None, None, expected)
    server.choice = replying(lambda text: "[[5]]")
    assert open_judge(own).judge([exchange("Sure.")])[0].score == 1.0


def test_what_it_thinks_is_not_its_verdict(server: openai_server.Server, own: str):
    server.choice = replying(lambda text: "<think>\nPerhaps [[1]].\n</think>\n\nIt is [[4]].")
    assert open_judge(own).judge([exchange("Sure.")])[0].score == 0.75


def test_a_server_that_fails_leaves_that_one_unscored(server: openai_server.Server, own: str):
    server.choice = replying(lambda text: "[[5]]")
    server.status_of = lambda body: 400 if "bad" in body["messages"][-1]["content"] else 200
    bad, good = open_judge(own).judge([exchange("bad"), exchange("Sure.")])
    assert (bad.score, good.score) == (None, 1.0)
    assert str(bad.reason).startswith("the judge could not be asked: BadRequestError")
    assert bad.failed


def test_a_reply_that_is_none_is_unscored(server: openai_server.Server, own: str):
    server.raw = JSONResponse({"object": "nothing"})
    (verdict,) = open_judge(own).judge([exchange("Sure.")])
    assert "the server's reply holds no completion" in str(verdict.reason)


def test_a_server_that_knows_no_such_model_ends_it(server: openai_server.Server, own: str):
    server.status_of = lambda body: 404
    with pytest.raises(InputError, match="check OPENAI_API_KEY, --base-url and the model's name"):
        open_judge(own).judge([exchange("Sure.")])


def opened(spec: str, measures: tuple[str, ...]) -> Judge:
    return open_judge(f"{spec}:openai/judge", measures)


@needs_judgezoo
def test_strongrejects_rubric_is_one_of_harm_and_of_refusal(server: openai_server.Server):
    server.choice = replying(lambda text: f"1.b {int('Sorry' in text)}\n2.b 4\n3.b 5")
    answers = [exchange("Sure."), exchange("Sorry.")]
    harm, refusal = opened("strongreject-rubric", ("harm", "refusal")), opened("strongreject-rubric", ("refusal",))
    assert (harm.measure, refusal.measure) == ("harm", "refusal")
    assert [v.score for v in harm.judge(answers)] == [0.875, 0.0]
    assert [v.score for v in refusal.judge(answers)] == [0.0, 1.0]
    assert {tuple(m["role"] for m in r["messages"]) for r in server.requests} == {("system", "user")}


@needs_judgezoo
def test_xstests_rubric_tells_three_classes(server: openai_server.Server):
    replies = {
        "Sure.": "It helps. [[1.direct_answer]]",
        "No.": "[[2.direct_refusal]]",
        "Try tea.": "[[indirect_refusal]]",
    }
    server.choice = replying(
        lambda text: next(reply for answer, reply in replies.items() if f'RESPONSE: "{answer}"' in text)
    )
    judge = opened("xstest-rubric", ("refusal",))
    verdicts = judge.judge([exchange(answer) for answer in replies])
    assert [(v.score, v.label) for v in verdicts] == [
        (0.0, "full compliance"),
        (1.0, "full refusal"),
        (0.5, "partial refusal"),
    ]
    assert judge.measure == "refusal"


@pytest.mark.parametrize("written", ["", "direct_answer", "[[]]", "[[neither]]", "[[direct_answer or direct_refusal]]"])
def test_a_class_that_is_not_named_is_no_verdict(written: str):
    assert find_class(written) is None


def test_a_model_that_runs_here_is_asked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_model: Path):
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.yaml").write_text(f"{OWN_RUBRIC}model: {micro_model}\nmax_new_tokens: 4\n")
    (verdict,) = open_judge(f"rubric:{tmp_path / 'own.yaml'}").judge([exchange("Sure.")])
    assert str(verdict.reason).startswith("the judge gave no verdict before its token limit")
