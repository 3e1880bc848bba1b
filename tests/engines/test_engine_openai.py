"""The OpenAI engine against a real server: the micro model behind HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai_server
import pytest
from engine_contract import EngineContract, save_model
from fastapi.responses import HTMLResponse, JSONResponse
from openai_server import Server

from safereason.engines.base import Completion, GenerateOptions, TokenChoice, Usage, request_seed
from safereason.engines.open import open_engine
from safereason.engines.openai import OpenAIEngine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Evaluation, Recipe, Sampling, SourceShare, TarsMix
from safereason.runs.records import read_records
from safereason.stages import eval as stage_eval
from safereason.stages.base import Options
from safereason.text.chat import user

PROMPTS = [user(text) for text in ("one", "a somewhat longer second prompt", "three!")]
SAMPLED = Sampling(temperature=0.9, max_new_tokens=12)


@pytest.fixture(scope="module")
def local(micro_model: Path) -> TransformersEngine:
    engine = open_engine(ModelSpec.parse(str(micro_model)))
    assert isinstance(engine, TransformersEngine)
    return engine


@pytest.fixture
def server(local: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai_server.serve(local) as started:
        yield started


def client(server: Server, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("micro", base_url=server.url, **options)


def always(text: str, finish_reason: str | None = "stop", **fields: str) -> Any:
    message = {"role": "assistant", "content": text, **fields}
    return lambda body: {"message": message, "finish_reason": finish_reason}


def only(server: Server, **options: Any) -> Completion:
    """The completion of one prompt, asked once."""
    return client(server, patience=0).generate([user("x")], SAMPLED, GenerateOptions(**options))[0][0]


class TestContract(EngineContract):
    """What every engine keeps."""

    knows_tokens = False

    @pytest.fixture(scope="class")
    def reference(self, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
        opened = open_engine(ModelSpec.parse(str(save_model(tmp_path_factory.mktemp("contract")))))
        assert isinstance(opened, TransformersEngine)
        return opened

    @pytest.fixture(scope="class")
    def engine(self, reference: TransformersEngine) -> Iterator[OpenAIEngine]:
        with pytest.MonkeyPatch.context() as patch, openai_server.serve(reference) as started:
            patch.delenv("OPENAI_API_KEY", raising=False)
            patch.setenv("NO_PROXY", "127.0.0.1")
            yield OpenAIEngine("micro", base_url=started.url)


def test_greedy_completions_are_the_local_engine_s_in_order(server: Server, local: TransformersEngine):
    greedy = Sampling(temperature=0.0, max_new_tokens=12)
    completions = client(server).generate(PROMPTS, greedy)
    expected = local.generate(PROMPTS, greedy)
    assert [[c.text for c in row] for row in completions] == [[c.text for c in row] for row in expected]
    assert [row[0].finish_reason for row in completions] == [row[0].finish_reason for row in expected]
    assert all(c.token_ids == () and c.error == "" for row in completions for c in row)
    assert [row[0].usage for row in completions] == [row[0].usage for row in expected]


def test_each_completion_has_a_seed_of_its_own_and_comes_back_in_its_place(server: Server, local: TransformersEngine):
    completions = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=3, seed=5))
    expected = [
        [local.generate([prompt], SAMPLED, GenerateOptions(seed=request_seed(5, i, k)))[0][0].text for k in range(3)]
        for i, prompt in enumerate(PROMPTS)
    ]
    assert [[c.text for c in row] for row in completions] == expected
    assert len({c.text for row in completions for c in row}) == 9
    assert [row[0].text for row in client(server).generate(PROMPTS, SAMPLED, GenerateOptions(seed=6))] != [
        r[0].text for r in completions
    ]


def test_seeds_fit_in_31_bits_and_do_not_collide():
    seeds = {request_seed(seed, i, k) for seed in range(5) for i in range(20) for k in range(5)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_only_settings_off_their_default_leave_the_api_s_own_fields(server: Server):
    client(server).generate([user("x")], SAMPLED)
    assert server.requests[0] == {
        "model": "micro",
        "messages": user("x"),
        "temperature": 0.9,
        "top_p": 1.0,
        "max_tokens": 12,
        "seed": request_seed(0, 0, 0),
    }
    client(server).generate(
        [user("x")], SAMPLED.model_copy(update={"top_k": 5, "repetition_penalty": 1.2}), GenerateOptions(stop=["q"])
    )
    extra = {"top_k": 5, "repetition_penalty": 1.2, "stop": ["q"]}
    assert {k: v for k, v in server.requests[1].items() if k not in server.requests[0]} == extra


def test_a_prefix_is_gone_on_from(server: Server, local: TransformersEngine):
    completion = only(server, prefix="<think>\n")
    expected = local.generate([user("x")], SAMPLED, GenerateOptions(seed=request_seed(0, 0, 0), prefix="<think>\n"))[0][
        0
    ]
    assert (completion.prefix, completion.text) == ("<think>\n", expected.text)
    assert completion.text != only(server).text
    assert server.requests[0]["messages"][-1] == {"role": "assistant", "content": "<think>\n"}
    assert server.requests[0]["add_generation_prompt"] is False


def test_stop_texts_are_cut_off(server: Server, local: TransformersEngine):
    whole = local.generate([user("x")], SAMPLED, GenerateOptions(seed=request_seed(0, 0, 0)))[0][0].text
    stop = next(c for c in whole if c.isascii())
    completion = only(server, stop=[stop])
    assert (completion.text, completion.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_done_conversations_are_not_asked_and_the_others_do_not_change(server: Server):
    whole = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=2))
    server.requests.clear()
    resumed = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=2, done={0, 2}))
    assert resumed == [[], whole[1], []]
    assert [r["messages"] for r in server.requests] == [PROMPTS[1]] * 2
    assert client(server).generate(PROMPTS, SAMPLED, GenerateOptions(done=range(3))) == [[], [], []]


def test_on_finish_is_called_once_a_completion_in_the_caller_s_thread(server: Server):
    finished: dict[tuple[int, int], Completion] = {}
    threads = set()

    def record(index: int, number: int, completion: Completion) -> None:
        assert (index, number) not in finished
        finished[index, number] = completion
        threads.add(threading.current_thread())

    completions = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=2, on_finish=record))
    assert finished == {(i, k): completions[i][k] for i in range(3) for k in range(2)}
    assert threads == {threading.current_thread()}


def test_as_many_requests_as_allowed_are_under_way_at_a_time(server: Server):
    server.hold_until = 3
    client(server, concurrency=3).generate([user(str(i)) for i in range(9)], SAMPLED)
    assert (server.peak, len(server.requests)) == (3, 9)


def test_what_may_pass_is_tried_again(server: Server):
    server.statuses = [429, 500, 503]
    completions = client(server, concurrency=1, patience=60).generate(PROMPTS, SAMPLED)
    assert [row[0].finish_reason for row in completions] == ["length"] * 3
    assert len(server.requests) == 6


def test_a_request_that_fails_for_good_is_an_error_and_the_others_are_kept(server: Server):
    server.status_of = lambda body: 500 if body["messages"] == PROMPTS[1] else 200
    completions = client(server, patience=0).generate(PROMPTS, SAMPLED)
    assert [row[0].finish_reason for row in completions] == ["length", "error", "length"]
    assert "told to fail with 500" in completions[1][0].error
    assert len(server.requests) == 3


def test_a_request_that_hangs_is_an_error(server: Server):
    server.hangs = lambda body: body["messages"] == PROMPTS[0]
    completions = client(server, patience=0, timeout=1.0).generate([PROMPTS[0]], SAMPLED)
    assert completions[0][0].finish_reason == "error"
    assert "timed out" in completions[0][0].error


def test_a_bad_request_is_an_error_that_says_why(server: Server):
    server.statuses = [400]
    completion = only(server, prefix="<think>\n")
    assert (completion.finish_reason, completion.prefix) == ("error", "<think>\n")
    assert "told to fail with 400" in completion.error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_stops_at_once(server: Server, status: int):
    server.status_of = lambda body: status
    with pytest.raises(InputError, match=f"openai/micro: .*told to fail with {status}.*OPENAI_API_KEY") as raised:
        client(server, concurrency=1).generate(PROMPTS, SAMPLED)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_server_that_was_never_reached_is_an_input_error(local: TransformersEngine):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=r"openai/micro: http.* cannot be reached .*refused.*--base-url"):
            OpenAIEngine("micro", base_url=url, patience=0).generate(PROMPTS, SAMPLED)


def test_a_server_that_is_lost_later_costs_only_what_it_did_not_answer(local: TransformersEngine):
    with openai_server.serve(local) as server:
        engine = client(server, patience=0)
        assert engine.generate(PROMPTS[:1], SAMPLED)[0][0].finish_reason == "length"
    completions = engine.generate(PROMPTS, SAMPLED)
    assert [row[0].finish_reason for row in completions] == ["error"] * 3


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "stop"), ("length", "length"), (None, "stop"), ("content_filter", "filtered")]
)
def test_finish_reasons(server: Server, reason: str | None, expected: str):
    server.choice = always("text", reason)
    completion = only(server)
    assert (completion.finish_reason, completion.text) == (expected, "text")
    assert bool(completion.error) == completion.missing == (expected == "filtered")


@pytest.mark.parametrize("reason", ["stop", "content_filter"])
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}}, Usage(7, 0)),
        ({"usage": {"prompt_tokens": 7}}, None),
        ({"usage": None}, None),
        ({}, None),
    ],
)
def test_usage_is_what_a_server_says_or_none(server: Server, reason: str, usage: dict[str, Any], expected: Any):
    server.choice = lambda body: {**always("text", reason)(body), **usage}
    assert only(server).usage == expected


def test_a_failed_request_has_no_usage(server: Server):
    server.statuses = [400]
    assert only(server).usage is None


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_in_a_field_of_its_own_is_put_back(server: Server, name: str):
    server.choice = always("\n\nthe answer", **{name: "\nstep by step\n"})
    completion = only(server)
    assert completion.text == "<think>\nstep by step\n</think>\n\nthe answer"
    assert (completion.parts.reasoning, completion.parts.answer) == ("step by step", "the answer")


def test_reasoning_after_a_prefix_that_opened_it_is_not_opened_twice(server: Server):
    server.choice = always("the answer", reasoning_content="step by step")
    completion = only(server, prefix="<think>\n")
    assert completion.full_text == "<think>\nstep by step\n</think>\n\nthe answer"


@pytest.mark.parametrize("content", ["", None])
def test_reasoning_without_an_answer_is_not_closed(server: Server, content: Any):
    server.choice = always(content, "length", reasoning_content="step by")
    completion = only(server)
    assert (completion.text, completion.parts.closed) == ("<think>\nstep by", False)


def test_half_a_surrogate_pair_can_be_written_to_a_file(server: Server):
    server.raw = JSONResponse({})
    server.raw.body = (
        b'{"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": '
        b'[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a\\ud83d"}}]}'
    )
    server.raw.headers["content-length"] = str(len(server.raw.body))
    assert only(server).text == "a?"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (HTMLResponse("<html>"), "is not JSON: it begins '<html>'"),
        (JSONResponse({"error": {"message": "quota"}}), "reports an error: quota"),
        (JSONResponse({}), "holds no completion"),
        (JSONResponse({"choices": []}), "holds no completion"),
        (JSONResponse([1]), "is a list in JSON, not an object"),
    ],
)
def test_a_reply_without_a_completion_is_an_error(server: Server, raw: Any, message: str):
    server.raw = raw
    completion = only(server)
    assert completion.finish_reason == "error"
    assert message in completion.error


def test_the_key_is_the_given_one_else_the_variable_else_none(server: Server, monkeypatch: pytest.MonkeyPatch):
    client(server).generate([user("x")], SAMPLED)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-variable")
    client(server).generate([user("x")], SAMPLED)
    client(server, api_key="sk-given").generate([user("x")], SAMPLED)
    assert server.keys == ["Bearer none", "Bearer sk-variable", "Bearer sk-given"]


def test_the_address_may_come_from_the_variable(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAIEngine("micro").generate([user("x")], SAMPLED)[0][0].finish_reason == "length"


def test_open_engine_connects_to_the_server(server: Server):
    engine = open_engine(ModelSpec.parse("openai/org/micro"), base_url=server.url)
    engine.generate([user("x")], SAMPLED)
    assert (engine.name, server.requests[0]["model"]) == ("openai/org/micro", "org/micro")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match=r"OPENAI_API_KEY is not set.*--base-url"):
        OpenAIEngine("gpt-4o")
    with pytest.raises(InputError, match="name the model"):
        OpenAIEngine("", base_url="http://localhost:8000/v1")
    with pytest.raises(InputError, match="--base-url localhost:8000/v1: is no address"):
        OpenAIEngine("micro", base_url="localhost:8000/v1")


def test_log_likelihoods_are_refused(server: Server):
    with pytest.raises(InputError, match=r"openai/micro: .*log-likelihoods; use a local engine"):
        client(server).loglikelihood([user("x")], ["y"])


def test_choices_are_the_local_engine_s(server: Server, local: TransformersEngine):
    greedy = Sampling(temperature=0.0, max_new_tokens=6)
    completions = client(server).generate(PROMPTS, greedy, GenerateOptions(choices=5))
    expected = [local.generate([prompt], greedy, GenerateOptions(choices=5))[0] for prompt in PROMPTS]
    assert [[c.choices for c in row] for row in completions] == [[c.choices for c in row] for row in expected]
    assert {len(choice.likeliest) for row in completions for c in row for choice in c.choices} == {5}
    assert {(r["logprobs"], r["top_logprobs"]) for r in server.requests} == {(True, 5)}


def test_a_drawn_token_stands_behind_the_likeliest_as_it_does_locally(server: Server, local: TransformersEngine):
    completions = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=2, choices=2))
    sizes = set()
    for i, row in enumerate(completions):
        for k, completion in enumerate(row):
            (expected,) = local.generate([PROMPTS[i]], SAMPLED, GenerateOptions(seed=request_seed(0, i, k), choices=2))[
                0
            ]
            assert [c.text for c in completion.choices] == [c.text for c in expected.choices]
            # Parts of a character are written alike, and one may already be there.
            whole = [(a, b) for a, b in zip(completion.choices, expected.choices, strict=True) if a.text.isascii()]
            assert all(a == b for a, b in whole)
            sizes |= {len(choice.likeliest) for choice, _ in whole}
    assert sizes >= {3}


PLACE = {"token": "a", "logprob": -2.0}
PART = {"token": "\ufffd", "logprob": -1.0}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ()),
        ([], ()),
        ([PLACE], (TokenChoice("a", (("a", -2.0),)),)),
        ([{**PLACE, "top_logprobs": None}], (TokenChoice("a", (("a", -2.0),)),)),
        ([{**PLACE, "top_logprobs": []}] * 2, (TokenChoice("a", (("a", -2.0),)),) * 2),
        (
            [{**PLACE, "top_logprobs": [PLACE, {**PLACE, "token": "b"}]}],
            (TokenChoice("a", (("a", -2.0), ("b", -2.0))),),
        ),
        (
            [{**PLACE, "top_logprobs": [PART, {**PART, "logprob": -1.5}]}],
            (TokenChoice("a", (("\ufffd", -1.0), ("\ufffd", -1.5), ("a", -2.0))),),
        ),
    ],
)
def test_choices_are_what_a_server_lists_and_the_token_itself(server: Server, content: Any, expected: Any):
    server.choice = lambda body: {**always("text")(body), "logprobs": {"content": content}}
    completion = only(server, choices=3)
    assert (completion.text, completion.finish_reason, completion.choices) == ("text", "stop", expected)


@pytest.mark.parametrize(
    "logprobs", [{}, {"logprobs": None}, {"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]
)
def test_a_server_that_lists_none_gives_none(server: Server, logprobs: dict[str, Any]):
    server.choice = lambda body: {**always("text")(body), **logprobs}
    completion = only(server, choices=3)
    assert (completion.text, completion.finish_reason, completion.choices) == ("text", "stop", ())


def test_alone_each_conversation_is_asked_with_the_seed_it_has_by_itself(server: Server):
    completions = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(n=2, seed=5, alone=True))
    assert {r["seed"] for r in server.requests} == {request_seed(5, 0, 0), request_seed(5, 0, 1)}
    assert completions == [
        client(server).generate([prompt], SAMPLED, GenerateOptions(n=2, seed=5))[0] for prompt in PROMPTS
    ]


def eval_recipe(source: Path) -> Recipe:
    kinds = ("harmless", "harmful")
    rows = [{"id": f"mine/{i}", "prompt": f"Prompt {i}", "kind": kinds[i % 2], "source": "mine"} for i in range(6)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = (SourceShare(source="sample", prompts=4),)
    mix = TarsMix(
        mix="tars", prompts=4, harmful_ratio=0.5, harmful=share, harmless=share, ambiguous=share, traces=share
    )
    section = Evaluation(sampling=SAMPLED, benign=str(source), refusal_judge="refusal", prefix="")
    return Recipe(name="micro", model="org/none", seed=3, data=mix, eval=section)


def test_an_evaluation_asks_again_only_for_what_the_server_failed_at(server: Server, tmp_path: Path):
    recipe = eval_recipe(tmp_path / "prompts.jsonl")
    options = Options(out=tmp_path / "run", model=ModelSpec.parse("openai/micro"), base_url=server.url)
    server.status_of = lambda body: 400 if body["messages"][0]["content"] in ("Prompt 2", "Prompt 5") else 200
    with pytest.raises(StageFailed, match=r"2 of 6 completions failed .*told to fail with 400"):
        stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("xstest"))
    server.status_of = lambda body: 200
    server.requests.clear()
    stage_eval.run_eval(recipe, replace(options, on_existing="resume"), stage_eval.EvalRequest("xstest"))
    assert {r["messages"][0]["content"] for r in server.requests} == {"Prompt 2", "Prompt 5"}
    records = list(read_records(tmp_path / "run" / "completions.jsonl"))
    assert sorted(r["id"] for r in records) == [f"mine/{i}/direct" for i in range(6)]
    assert all(r["tokens"] is None and r["finish_reason"] != "error" for r in records)


INTERRUPTED = """
import sys
from safereason.engines.openai import OpenAIEngine
from safereason.recipe.schema import Sampling
from safereason.text.chat import user

OpenAIEngine("micro", base_url=sys.argv[1]).generate([user("x"), user("y")], Sampling())
"""


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(server: Server):
    server.hangs = lambda body: True
    child = subprocess.Popen([sys.executable, "-c", INTERRUPTED, server.url], stderr=subprocess.PIPE, env=os.environ)
    with server.changed:
        assert server.changed.wait_for(lambda: server.under_way == 2, openai_server.PATIENCE)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=openai_server.PATIENCE)
    assert server.under_way == 2
    assert b"KeyboardInterrupt" in errors


def test_a_server_that_refuses_to_list_alternatives_is_asked_without(server: Server):
    server.choice = always("text")
    server.status_of = lambda body: 400 if "logprobs" in body else 200
    server.refusal = "logprobs are not supported"
    completions = client(server).generate(PROMPTS, SAMPLED, GenerateOptions(choices=5))
    assert [row[0].text for row in completions] == ["text"] * len(PROMPTS)
    assert all(row[0].choices == () for row in completions)
    assert sum("logprobs" in body for body in server.requests) < len(server.requests)
