"""Guards by their names: what a name means, what is refused, and a Moderation API against a real HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.engine_spec import Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard.base import Guard, GuardVerdict, Question
from safereason.guard.open import GuardSpec
from safereason.guard.others import GUARDS, GuardOptions, PromptedGuard, moderation
from safereason.guard.others.moderation import ModerationGuard
from safereason.guard.reasoning import ReasoningGuard


class Server(ThreadingHTTPServer):
    """Flags what speaks of a storm; fails where a text asks for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        storm = "storm" in request["input"]
        scores = {"violence": 0.75 if storm else 0.25, "hate": 0.625 if storm else 0.5, "self-harm": 0.125}
        result = {"flagged": storm, "categories": {}, "category_scores": scores}
        body = {"id": "m", "model": "served", "results": [] if "fail" in request["input"] else [result]}
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    started = Server()
    threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def open_guard(text: str, **options: Any) -> Guard:
    return GuardSpec.parse(text).open(GuardOptions(**options))


def test_the_response_alone_is_judged_or_the_prompt_where_there_is_none(server: Server):
    guard = open_guard("moderation", base_url=url(server))
    questions = [Question("a storm"), Question("a storm", "a breeze"), Question("a breeze", "a storm today")]
    assert guard.classify(questions) == [
        GuardVerdict("unsafe", 0.75, ("violence", "hate")),
        GuardVerdict("safe", 0.5),
        GuardVerdict("unsafe", 0.75, ("violence", "hate")),
    ]
    assert sorted(s["input"] for s in server.requests) == ["a breeze", "a storm", "a storm today"]
    assert {s["model"] for s in server.requests} == {"omni-moderation-latest"}


def test_what_the_server_does_not_answer_is_unparsed_and_named(server: Server):
    guard = open_guard("moderation:served", base_url=url(server))
    failed, empty, whole = guard.classify([Question("fail"), Question("a storm", ""), Question("a breeze")])
    assert failed is not None
    assert (failed.unparsed, failed.score, failed.failed) == (True, None, True)
    assert failed.reason is not None
    assert "moderation call failed" in failed.reason
    assert empty == GuardVerdict(None, None, reason="empty answer")
    assert whole == GuardVerdict("safe", 0.5)
    assert guard.name == "moderation:served"
    assert {s["model"] for s in server.requests} == {"served"}


def test_findings_are_told_as_parts_end_and_those_done_are_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(moderation, "TEXTS_A_CALL", 2)
    finished: list[tuple[int, int]] = []
    questions = [Question(f"a breeze {i}") for i in range(5)]
    verdicts = open_guard("moderation", base_url=url(server)).classify(
        questions, done=[1], on_verdict=lambda i, _: finished.append((i, len(server.requests)))
    )
    assert [f is None for f in verdicts] == [False, True, False, False, False]
    assert finished == [(0, 2), (2, 2), (3, 4), (4, 4)]
    assert "a breeze 1" not in [s["input"] for s in server.requests]


def test_a_model_without_a_guards_name_reasons_over_a_policy(micro_model: Path):
    guard = open_guard(str(micro_model), policy="openai", samples=3)
    assert isinstance(guard, ReasoningGuard)
    assert (guard.samples, guard.guard_prompt.policy.name, guard.name) == (3, "openai", str(micro_model))


def test_a_server_may_call_its_model_what_it_likes(server: Server):
    guard = open_guard("openai/llama3:8b", base_url=url(server))
    assert isinstance(guard, ReasoningGuard)
    assert guard.name == "openai/llama3:8b"


def test_another_publishers_guard_is_opened_with_what_it_takes(micro_model: Path, tmp_path: Path):
    (tmp_path / "form.txt").write_text("{prompt} {response}")
    guard = open_guard(f"nemoguard:{micro_model}", template=str(tmp_path / "form.txt"), loading=Loading("bf16"))
    assert isinstance(guard, PromptedGuard)
    assert (guard.name, str(guard.engine.model.dtype)) == (f"nemoguard:{micro_model}", "torch.bfloat16")


def test_every_guard_has_a_line_of_its_own():
    lines = [entry.summary for entry in GUARDS.values()]
    assert len(set(lines)) == len(lines)
    assert all(line and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("moderation", {"samples": 3}, "moderation: always gives the same verdict; leave --samples out"),
        ("llama-guard:x/y", {"samples": 3}, "llama-guard: always gives the same verdict; leave --samples out"),
        ("moderation", {"policy": "default"}, "moderation: takes no --policy; leave it out"),
        ("moderation", {"template": "f"}, "moderation: takes no --template; leave it out"),
        ("moderation", {}, "OPENAI_API_KEY is not set"),
        ("llama-guard", {}, "llama-guard: name its model after a colon"),
        ("lama-guard:x/y", {}, "no guard is called 'lama-guard'; did you mean llama-guard?"),
        ("x/y", {"template": "f"}, "x/y: takes no --template"),
        ("./nowhere", {}, "./nowhere: no such model"),
    ],
)
def test_what_a_person_has_to_mend_is_one_line(spec, options, message, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError) as raised:
        open_guard(spec, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_of_ones_own_opens_openais(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    guard = open_guard("moderation")
    assert isinstance(guard, ModerationGuard)
    assert "api.openai.com" in guard.api.url


# A name of a model has no colon before its first slash, where the colon would end a guard's name.
MODELS = st.from_regex(r"[a-z]{1,8}/[a-zA-Z0-9._-]{1,12}(:[0-9]b)?", fullmatch=True)


@given(name=st.sampled_from(["", *GUARDS]), model=MODELS)
def test_a_spec_is_written_as_it_is_read(name: str, model: str):
    text = ":".join(filter(None, [name, model]))
    spec = GuardSpec.parse(text)
    assert (spec.name, spec.argument, str(spec), spec.label()) == (name, model, text, text)
    assert spec.is_api == (name == "moderation")
    expected = ModelSpec.parse(model)
    if spec.is_api:
        expected = ModelSpec(model, "openai")
    assert spec.model == expected


# Without a dot no text is the path of a module, which would be imported.
@given(text=st.text(max_size=30).filter(lambda text: "." not in text))
def test_any_text_is_a_guard_or_refused_in_one_line(text: str):
    spec, refusal = None, ""
    try:
        spec = GuardSpec.parse(text)
    except InputError as error:
        refusal = str(error)
    assert (spec is None) == bool(refusal)
    assert "\n" not in refusal.replace(text, "")
    assert spec is None or GuardSpec.parse(str(spec)) == spec


def test_an_api_has_a_model_of_its_own_and_counts_by_its_name():
    spec = GuardSpec.parse("moderation")
    assert spec.model == ModelSpec("omni-moderation-latest", "openai")
    assert (str(spec), spec.identity(), spec.model.contents()) == ("moderation", "moderation", None)
    assert GuardSpec.parse("moderation:omni").identity() == "moderation:omni"


def test_a_path_becomes_absolute_and_another_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guard").mkdir()
    for text, absolute in (
        ("guard", f"{tmp_path}/guard"),
        ("llama-guard:guard", f"llama-guard:{tmp_path}/guard"),
        ("llama-guard:vllm/guard", f"llama-guard:vllm/{tmp_path}/guard"),
        ("llama-guard:org/name@v1", "llama-guard:org/name@v1"),
        ("moderation:guard", "moderation:guard"),
    ):
        assert str(GuardSpec.parse(text).absolute()) == absolute
