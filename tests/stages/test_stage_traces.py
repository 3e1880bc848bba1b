"""The traces stage: a real local teacher and a real server, resuming after `kill -9`, guards, judges, cost."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_guard
import openai_server
import pytest
from openai_server import Server
from program import python

from safereason.data.example import Example, read_examples
from safereason.data.sources import SOURCES
from safereason.data.sources.base import Source
from safereason.data.traces import KEPT
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.guard.prompt import Question
from safereason.judges import Exchange, JudgeSpec, Verdict
from safereason.recipe.schema import (
    GRPO,
    GuardSection,
    Recipe,
    RSafeMix,
    RSafeRewardSettings,
    Sampling,
    SourceShare,
    TarsMix,
    Teacher,
)
from safereason.runs.directory import RunDirectory, read_manifest
from safereason.runs.records import Record, read_records
from safereason.stages import traces as stage_traces
from safereason.stages.base import Options, Result
from safereason.stages.preparation.teacher import Price, cost, plan_teacher, teacher_outline

THOUGHT = "<think>\nhm\n</think>\n\n"
"""With it the micro guard writes whole traces: it ends each with one of two verdicts, whatever it is asked."""
SAMPLED = Sampling(temperature=1.0, max_new_tokens=24)
KINDS = ("harmful", "harmless", "ambiguous")
ROWS = [
    Example(
        f"mine/{kind}-{i}",
        f"Number {i} of {kind}?",
        kind,
        "mine",
        label=("safe", "unsafe")[i % 2],
        response="So it is done." if i == 3 else None,
    )
    for kind in KINDS
    for i in range(4)
]
PROMPTS = [row.prompt for row in ROWS]

KILLED = """
import os, signal, sys
from pathlib import Path
from safereason.recipe.schema import Recipe
from safereason.runs.records import RecordLog
from safereason.stages import traces
from safereason.stages.base import Options

append = RecordLog.append
def append_then_die(self, record):
    append(self, record)
    if self.path.name == sys.argv[3] and sum(1 for _ in self.path.open()) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
RecordLog.append = append_then_die
traces.write_traces(Recipe.model_validate_json(sys.argv[1]), Options(root=Path(sys.argv[2])))
"""


@pytest.fixture(scope="session")
def local_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_guard.save_guard(tmp_path_factory.mktemp("teacher"), unsafe=0.5)


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of labelled prompts without any reasoning."""
    source = Source(
        name="mine", title="ours", page="here", licence="CC0-1.0", serves=("train",), prompts=lambda _: ROWS
    )
    monkeypatch.setitem(SOURCES, "mine", source)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai_server.serve(None) as started:
        started.choice = always("<think>\nhm\n</think>\n\nYes.")
        yield started


def always(text: str, finish_reason: str = "stop", **fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    usage = {"usage": fields.pop("usage")} if "usage" in fields else {}
    message = {"role": "assistant", "content": text, **fields}
    return lambda body: {"message": message, "finish_reason": finish_reason, **usage}


def tars(source: str = "mine", prompts: int = 12, **teacher: Any) -> Recipe:
    pool = (SourceShare(source="sample", prompts=8),)
    mix = TarsMix(
        mix="tars",
        prompts=4,
        harmful_ratio=0.5,
        harmful=pool,
        harmless=pool,
        ambiguous=pool,
        traces=(SourceShare(source=source, prompts=prompts),),
        teacher=Teacher(**{"model": "openai/deep", "sampling": SAMPLED, **teacher}),
    )
    return Recipe(name="micro", model="org/none", seed=3, data=mix)


def rsafe(folder: Path, **teacher: Any) -> Recipe:
    (folder / "rules.yaml").write_text(micro_guard.POLICY)
    train = GRPO(
        epochs=1,
        learning_rate=1e-3,
        prompts_per_step=2,
        rollouts_per_prompt=2,
        micro_batch_size=2,
        kl_coef=0.0,
        max_prompt_tokens=512,
        sampling=SAMPLED,
        reward=RSafeRewardSettings(name="rsafe"),
    )
    return Recipe(
        name="micro-guard",
        model=teacher["model"],
        seed=3,
        data=RSafeMix(
            mix="rsafe",
            rows_per_label=2,
            sources=("sample-verdicts",),
            max_prompt_task_tokens=4096,
            max_response_task_tokens=4096,
            traces=(SourceShare(source="mine", prompts=12),),
            teacher=Teacher(**{"sampling": SAMPLED, **teacher}),
        ),
        guard=GuardSection(policy=str(folder / "rules.yaml"), train=train, sampling=SAMPLED),
    )


def options_for(server: Server, tmp_path: Path, **options: Any) -> Options:
    return Options(**{"out": tmp_path / "run", "base_url": server.url, **options})


def replies(run: Path) -> list[Record]:
    return list(read_records(run / "replies.jsonl"))


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def traces_of(result: Result) -> list[Example]:
    return read_examples(result.run / "traces.parquet")


def test_a_local_teacher_writes_traces(local_teacher: Path, tmp_path: Path):
    recipe = tars(model=str(local_teacher), samples=3, prefix=THOUGHT)
    result = stage_traces.write_traces(recipe, Options(root=tmp_path))
    assert result.run.parent == tmp_path / "data" / "traces"
    records, kept = replies(result.run), traces_of(result)
    assert [(r["id"], r["sample"]) for r in records] == [
        (e.id, k) for e in plan_teacher(recipe, Options()).examples for k in (1, 2, 3)
    ]
    assert {r["id"] for r in records} == {row.id for row in ROWS}
    assert {r["text"] for r in records} == {r"\boxed{safE}", r"\boxed{unsafE}"}
    assert {r["outcome"] for r in records} == {KEPT, "a duplicate"}
    by_id = {row.id: row for row in ROWS}
    assert kept == [
        replace(by_id[r["id"]], id=f"{r['id']}/{r['sample']}", reasoning="hm", answer=r["text"])
        for r in records
        if r["outcome"] == KEPT
    ]
    assert len({example.id for example in kept}) == len(kept) > len(ROWS)
    assert result.metrics["outcomes"] == Counter(r["outcome"] for r in records)
    assert result.metrics["tokens"] == {
        "read": sum(r["usage"]["prompt"] for r in records),
        "written": sum(r["usage"]["completion"] for r in records),
        "replies_without": 0,
    }
    assert min(r["usage"]["prompt"] for r in records) > len(THOUGHT)
    assert result.metrics["sources"] == {"mine": {"prompts": 12, "prompts_without_trace": 0, "kept": len(kept)}}
    assert json.loads((result.run / "metrics.json").read_text()) == result.metrics


@pytest.mark.parametrize("during", ["replies.jsonl", "verdicts.jsonl"])
def test_kill_9_and_resume_end_with_the_same_records(local_teacher: Path, tmp_path: Path, during: str):
    recipe = tars("sample-harmless", 8, model=str(local_teacher), samples=2, prefix=THOUGHT, judge="refusal")
    whole = stage_traces.write_traces(recipe, Options(root=tmp_path / "whole"))
    root = tmp_path / "killed"
    assert python(KILLED, recipe.model_dump_json(), root, during).returncode == -9
    (killed,) = (root / "data" / "traces").iterdir()
    assert len(list(read_records(killed / during))) == 5
    assert not (killed / "traces.parquet").exists()
    with (killed / during).open("ab") as file:
        file.write(b'{"id": "mine/torn')
    resumed = stage_traces.write_traces(recipe, Options(root=root, on_existing="resume"))
    for name in ("replies.jsonl", "verdicts.jsonl", "traces.parquet", "metrics.json"):
        assert (resumed.run / name).read_bytes() == (whole.run / name).read_bytes()
    assert resumed.run.name == whole.run.name
    assert 0 < resumed.metrics["kept"] < 16


SCRIPT: dict[str, tuple[dict[str, Any], str, str]] = {
    "apart": (always("\n\nYes.", reasoning_content="by step\n")({}), "<think>\nby step\n</think>\n\nYes.", KEPT),
    "inline": (always("<think>hm</think>Yes.")({}), "<think>hm</think>Yes.", KEPT),
    "prefilled": (always("hm\n</think>\n\nYes.")({}), "hm\n</think>\n\nYes.", KEPT),
    "fenced": (always("```\n<think>hm</think>Yes.\n```")({}), "```\n<think>hm</think>Yes.\n```", KEPT),
    "cut": (always("<think>hm</think>Ye", "length")({}), "<think>hm</think>Ye", "truncated"),
    "cut thinking": (always("", "length", reasoning_content="step")({}), "<think>\nstep", "truncated"),
    "open": (always("<think>hm")({}), "<think>hm", "never closed"),
    "twice": (always("<think>hm</think>Yes.", reasoning_content="hm")({}), "<think>hm</think>Yes.", KEPT),
    "both": (
        always("<think>hm</think>Yes.", reasoning_content="I am to use tags.")({}),
        "<think>\nI am to use tags.\n</think>\n\n<think>hm</think>Yes.",
        KEPT,
    ),
    "without": (always("Yes.", reasoning_content="")({}), "Yes.", "empty reasoning"),
    "silent": (always("", reasoning_content=None)({}), "", "empty reasoning"),
    "unanswered": (always("<think>hm</think>\n")({}), "<think>hm</think>\n", "empty answer"),
}


def test_what_a_server_says_is_kept_raw_and_read(server: Server, tmp_path: Path):
    of_prompt = dict(zip(PROMPTS, SCRIPT.values(), strict=False))
    server.choice = lambda body: of_prompt.get(prompt_of(body), (always("<think>hm</think>Yes.")({}), "", ""))[0]
    result = stage_traces.write_traces(tars(), options_for(server, tmp_path))
    records = {r["prompt"]: r for r in replies(result.run)}
    for prompt, (_, text, outcome) in of_prompt.items():
        assert (records[prompt]["text"], records[prompt]["outcome"]) == (text, outcome)
    assert {r["error"] for r in records.values()} == {None}
    kept = {e.prompt: (e.reasoning, e.answer) for e in traces_of(result)}
    assert kept.keys() == {prompt for prompt, record in records.items() if record["outcome"] == KEPT}
    assert kept[PROMPTS[0]] == ("by step", "Yes.")
    assert result.metrics["prompts_without_trace"] == 12 - len(kept) == 6
    assert len(of_prompt) == len(SCRIPT)
    assert [body["messages"] for body in server.requests if len(body["messages"]) > 1] == []


def test_usage_is_summed_where_the_server_says_it_and_counted_where_not(server: Server, tmp_path: Path):
    with_usage = always("<think>hm</think>Yes.", usage={"prompt_tokens": 1000, "completion_tokens": 50000})
    without_usage = always("<think>hm</think>Yes.")
    server.choice = lambda body: (with_usage if prompt_of(body) in PROMPTS[:3] else without_usage)(body)
    price = Price(read=2.0, written=10.0)
    result = stage_traces.write_traces(tars(), options_for(server, tmp_path), price=price)
    assert result.metrics["tokens"] == {"read": 3000, "written": 150000, "replies_without": 9}
    assert result.metrics["usd"] == 1.506
    again = stage_traces.write_traces(
        tars(), options_for(server, tmp_path, on_existing="resume"), price=Price(0.0, 20.0)
    )
    assert again.metrics == {**result.metrics, "usd": 3.0}


def test_without_any_usage_tokens_and_cost_are_unknown(server: Server, tmp_path: Path):
    result = stage_traces.write_traces(tars(), options_for(server, tmp_path), price=Price(1.0, 1.0))
    assert result.metrics["tokens"] == {"read": None, "written": None, "replies_without": 12}
    assert result.metrics["usd"] is None


def test_what_failed_is_asked_again_and_nothing_else(server: Server, tmp_path: Path):
    recipe, options = tars(samples=2), options_for(server, tmp_path)
    server.status_of = lambda body: 503 if prompt_of(body) in PROMPTS[:2] else 200
    with pytest.raises(
        StageFailed, match=r"4 of 24 replies failed \(.*told to fail with 503.*--resume.*--allow-failed"
    ):
        stage_traces.write_traces(recipe, options)
    assert (read_manifest(tmp_path / "run") or {})["status"] == "failed"
    assert Counter(r["outcome"] for r in replies(tmp_path / "run")) == {KEPT: 10, "a duplicate": 10, "failed": 4}
    assert len(read_examples(tmp_path / "run" / "traces.parquet")) == 10
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["outcomes"]["failed"] == 4
    server.requests.clear()
    server.status_of = lambda body: 200
    result = stage_traces.write_traces(recipe, replace(options, on_existing="resume"))
    assert Counter(map(prompt_of, server.requests)) == {PROMPTS[0]: 2, PROMPTS[1]: 2}
    fresh = stage_traces.write_traces(recipe, options_for(server, tmp_path, out=tmp_path / "fresh"))
    for name in ("replies.jsonl", "traces.parquet", "metrics.json"):
        assert (result.run / name).read_bytes() == (fresh.run / name).read_bytes()


def test_what_the_provider_filters_is_counted_and_the_run_ends(server: Server, tmp_path: Path):
    filtered = always("<think>hm", "content_filter")
    server.choice = lambda body: (filtered if prompt_of(body) == PROMPTS[0] else always("<think>hm</think>Yes."))(body)
    result = stage_traces.write_traces(tars(judge="refusal"), options_for(server, tmp_path))
    assert result.metrics["outcomes"]["filtered by the provider"] == 1
    assert len(list(read_records(result.run / "verdicts.jsonl"))) == 11


def test_what_fails_for_good_can_be_left_out(server: Server, tmp_path: Path):
    filtered = always("<think>hm", "abort", usage={"prompt_tokens": 5, "completion_tokens": 2})
    server.choice = lambda body: (filtered if prompt_of(body) == PROMPTS[0] else always("<think>hm</think>Yes."))(body)
    with pytest.raises(StageFailed, match="1 of 12 replies failed"):
        stage_traces.write_traces(tars(), options_for(server, tmp_path))
    server.requests.clear()
    result = stage_traces.write_traces(tars(), options_for(server, tmp_path, on_existing="resume"), allow_failed=True)
    assert list(map(prompt_of, server.requests)) == [PROMPTS[0]]
    assert result.metrics["outcomes"] == {KEPT: 11, "failed": 1}
    assert result.metrics["tokens"] == {"read": 5, "written": 2, "replies_without": 11}
    (failed,) = [r for r in replies(result.run) if r["outcome"] == "failed"]
    assert (failed["text"], failed["error"]) == ("<think>hm", "the server ended it: abort")


def test_a_prompt_that_a_local_teacher_cannot_read_does_not_hold_up_the_run(
    local_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    long = replace(ROWS[0], id="mine/long", prompt="a" * 5000)
    source = replace(SOURCES["mine"], prompts=lambda _: [long, *ROWS[:2]])
    monkeypatch.setitem(SOURCES, "mine", source)
    recipe = tars(model=str(local_teacher), prefix=THOUGHT)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_prompt_chars": 6000})})
    result = stage_traces.write_traces(recipe, Options(root=tmp_path))
    assert result.metrics["outcomes"] == {KEPT: 2, "failed": 1}
    assert (read_manifest(result.run) or {})["status"] == "finished"


def test_a_run_of_sft_teaches_itself(local_teacher: Path, tmp_path: Path):
    with RunDirectory(tmp_path / "sft" / "micro--none--0", "sft", "micro", "{}", {"seed": 3}) as run:
        micro_guard.save_guard(run.path / "model")
        run.finish({})
    plain = tars(model="org/other", prefix=THOUGHT)
    result = stage_traces.write_traces(plain, Options(root=tmp_path, model=ModelSpec.parse(str(run.path))))
    assert result.metrics["kept"] == 12
    assert result.metrics["teacher"].startswith("sft/micro/")
    assert result.run.name.startswith("micro--sft.")


def test_a_guards_teacher_is_asked_as_the_guard_and_kept_where_it_is_right(local_teacher: Path, tmp_path: Path):
    recipe = rsafe(tmp_path, model=str(local_teacher), samples=4, prefix=THOUGHT)
    plan = plan_teacher(recipe, Options())
    assert plan.guard_prompt is not None
    for example in plan.examples:
        assert plan.conversation(example) == plan.guard_prompt.conversation(Question(example.prompt, example.response))
    result = stage_traces.write_traces(recipe, Options(root=tmp_path / "runs"))
    assert result.metrics["outcomes"].keys() == {KEPT, "wrong verdict", "a duplicate"}
    kept = traces_of(result)
    assert {(e.label, e.answer) for e in kept} == {("safe", r"\boxed{safE}"), ("unsafe", r"\boxed{unsafE}")}
    assert len({e.id.rpartition("/")[0] for e in kept}) == len(kept)
    assert {e.response for e in kept} == {None, "So it is done."}
    labels = {example.id: example.label for example in plan.examples}
    for record in replies(result.run):
        right = labels[record["id"]] == ("unsafe" if "unsafE" in record["text"] else "safe")
        assert (record["outcome"] == "wrong verdict") == (not right)


def test_of_a_guards_right_verdicts_the_first_is_kept(server: Server, micro_model: Path, tmp_path: Path):
    numbers = Counter[str]()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        with server.changed:
            numbers[prompt_of(body)] += 1
            number = numbers[prompt_of(body)]
        verdict = "It depends." if "Number 2" in prompt_of(body) else rf"\boxed{{unsafe}} ({number})"
        return always(f"<think>hm</think>{verdict}")(body)

    server.choice = answer
    recipe = rsafe(tmp_path, model=str(micro_model), samples=2)
    result = stage_traces.write_traces(recipe, options_for(server, tmp_path, model=ModelSpec("deep", "openai")))
    by_label = {label: [r["outcome"] for r in replies(result.run) if label in r["id"][-1]] for label in "0123"}
    assert by_label == {
        "0": ["wrong verdict"] * 6,
        "1": [KEPT, "more than one"] * 3,
        "2": ["unparsed"] * 6,
        "3": [KEPT, "more than one"] * 3,
    }


def test_a_judge_of_refusal_wants_it_of_harmful_prompts_alone(server: Server, tmp_path: Path):
    refuses, helps = (
        always("<think>hm</think>I can't help with that."),
        always("<think>hm</think>Boil it for ten minutes."),
    )
    server.choice = lambda body: (refuses if " 0 " in prompt_of(body) or " 1 " in prompt_of(body) else helps)(body)
    result = stage_traces.write_traces(tars(judge="refusal"), options_for(server, tmp_path))
    outcomes = {r["id"]: r["outcome"] for r in replies(result.run)}
    assert outcomes == {
        row.id: KEPT if (row.id[-1] in "01") == (row.kind == "harmful") else "rejected by the judge" for row in ROWS
    }
    assert {e.id for e in traces_of(result)} == {f"{name}/1" for name, outcome in outcomes.items() if outcome == KEPT}
    verdicts = list(read_records(result.run / "verdicts.jsonl"))
    assert len(verdicts) == 12
    assert set(verdicts[0]) == {"id", "sample", "judge", "score", "label", "reason", "details", "failed"}


class Scripted:
    """A judge that says what it is told, and remembers what it was shown."""

    name = "scripted"

    def __init__(self, measure: str, score_of: Callable[[Exchange], float | None]) -> None:
        self.measure = measure
        self.score_of = score_of
        self.exchanges: list[Exchange] = []

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.exchanges += exchanges
        scores = [self.score_of(exchange) for exchange in exchanges]
        return [Verdict.failure("HTTP 503") if score is None else Verdict(score, "any") for score in scores]


@pytest.mark.parametrize(
    ("measure", "passing"),
    [
        ("harm", {(kind, 0.49) for kind in KINDS}),
        ("quality", {(kind, 0.5) for kind in KINDS}),
        ("refusal", {("harmful", 0.5), ("harmless", 0.49), ("ambiguous", 0.49)}),
    ],
)
def test_a_score_passes_by_what_the_judge_measures(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: str, passing: set[tuple[str, float]]
):
    judge = Scripted(measure, lambda exchange: 0.5 if " 0 " in exchange.prompt else 0.49)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: judge)
    result = stage_traces.write_traces(tars(judge="refusal"), options_for(server, tmp_path))
    kept = {(e.kind, 0.5 if " 0 " in e.prompt else 0.49) for e in traces_of(result)}
    assert kept == passing
    assert {exchange.answer for exchange in judge.exchanges} == {"Yes."}


def test_what_a_judge_could_not_score_is_not_kept_and_no_verdict_is_asked_for_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe, options = tars(judge="refusal"), options_for(server, tmp_path)
    judge = Scripted("harm", lambda exchange: None if exchange.prompt in PROMPTS[:3] else 0.0)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: judge)
    server.status_of = lambda body: 503 if prompt_of(body) == PROMPTS[5] else 200
    with pytest.raises(StageFailed, match="1 of 12 replies failed"):
        stage_traces.write_traces(recipe, options)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert first["outcomes"] == {KEPT: 8, "not judged: the judge failed": 3, "failed": 1}
    server.status_of = lambda body: 200
    mended = Scripted("harm", lambda exchange: 0.0)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: mended)
    result = stage_traces.write_traces(recipe, replace(options, on_existing="resume"))
    assert {exchange.prompt for exchange in mended.exchanges} == {*PROMPTS[:3], PROMPTS[5]}
    assert result.metrics["outcomes"] == {KEPT: 12}


def test_a_judge_that_fails_ends_the_run_with_the_reason_and_only_its_verdicts_are_asked_for_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe, options = tars(judge="refusal"), options_for(server, tmp_path)
    judge = Scripted("harm", lambda exchange: None if exchange.prompt in PROMPTS[:3] else 0.0)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: judge)
    for allow in (False, True):  # which is about the teacher's failures
        with pytest.raises(StageFailed, match=r"3 verdicts failed \(HTTP 503\); --resume asks again"):
            stage_traces.write_traces(recipe, replace(options, on_existing="resume"), allow_failed=allow)
    assert (read_manifest(tmp_path / "run") or {})["status"] == "failed"
    server.requests.clear()
    mended = Scripted("harm", lambda exchange: 0.0)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: mended)
    result = stage_traces.write_traces(recipe, replace(options, on_existing="resume"))
    assert ({exchange.prompt for exchange in mended.exchanges}, server.requests) == ({*PROMPTS[:3]}, [])
    assert result.metrics["outcomes"] == {KEPT: 12}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "openai/other"),
        ("samples", 2),
        ("sampling", Sampling(temperature=0.1, max_new_tokens=7)),
        ("prefix", "<think>\n"),
    ],
)
def test_each_field_of_the_teacher_changes_what_is_asked_and_the_run(
    server: Server, tmp_path: Path, field: str, value: Any
):
    runs, bodies = [], []
    for changes in ({}, {field: value}):
        server.requests.clear()
        result = stage_traces.write_traces(tars(**changes), Options(root=tmp_path, base_url=server.url))
        runs.append(result.run)
        bodies.append(sorted(json.dumps(body, sort_keys=True) for body in server.requests))
    assert runs[0] != runs[1]
    assert bodies[0] != bodies[1]


def test_the_judge_changes_the_run(server: Server, tmp_path: Path):
    names = {
        stage_traces.write_traces(tars(judge=judge), Options(root=tmp_path, base_url=server.url)).run
        for judge in (None, "refusal", "compliance")
    }
    assert len(names) == 3


def test_other_prompts_are_another_run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage_traces.write_traces(tars(), options_for(server, tmp_path))
    changed = [replace(ROWS[0], prompt="Another one?"), *ROWS[1:]]
    monkeypatch.setitem(SOURCES, "mine", replace(SOURCES["mine"], prompts=lambda _: changed))
    with pytest.raises(InputError, match=r"the recipe changed since \(prompts\)"):
        stage_traces.write_traces(tars(), options_for(server, tmp_path, on_existing="resume"))


def test_a_limit_is_drawn_by_the_seed_and_nested(server: Server, tmp_path: Path):
    few = stage_traces.write_traces(tars(), Options(root=tmp_path, base_url=server.url), limit=5)
    more = plan_teacher(tars(), Options(), limit=8)
    assert few.metrics["prompts"] == len(server.requests) == 5
    assert {r["id"] for r in replies(few.run)} < {e.id for e in more.examples}
    assert few.run.name != stage_traces.write_traces(tars(), Options(root=tmp_path, base_url=server.url)).run.name


def test_the_outline_counts_without_asking_anybody():
    recipe = tars(samples=3, prefix="1234", model="openai/none")
    outline = teacher_outline(plan_teacher(recipe, Options()), Price(read=1e6, written=2e6))
    read = 3 * sum(-(-(len(prompt) + 4) // 4) for prompt in PROMPTS)
    size = {
        "prompts": 12,
        "replies": 36,
        "tokens read, about": read,
        "tokens written, at most": 36 * 24,
        "USD, at most about": read + 2 * 36 * 24,
    }
    assert outline == {
        "stage": "data/traces",
        "teacher": "openai/none",
        "asked": "the prompt alone",
        "judge": None,
        **size,
        "sources": {"mine": size},
    }
    assert "USD, at most about" not in teacher_outline(plan_teacher(recipe, Options()))


def test_a_guards_outline_counts_its_policy(local_teacher: Path, tmp_path: Path):
    recipe = rsafe(tmp_path, model=str(local_teacher))
    plan = plan_teacher(recipe, Options())
    outline = teacher_outline(plan)
    assert outline["asked"] == "as a guard under policy rules"
    assert outline["tokens read, about"] == sum(-(-len(plan.conversation(e)[0]["content"]) // 4) for e in plan.examples)


def test_cost_is_nothing_without_a_price():
    assert cost({"read": 1, "written": 1, "replies_without": 0}, None) == {}
    assert cost({"read": 0, "written": 0, "replies_without": 0}, Price(1.0, 1.0)) == {"usd": 0.0}


def changed(recipe: Recipe, section: str, **values: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


def test_without_a_teacher_one_has_to_be_named(server: Server, tmp_path: Path):
    recipe = changed(tars(), "data", teacher=None)
    with pytest.raises(InputError, match="recipe micro: it names no teacher; pass --model, or set"):
        stage_traces.write_traces(recipe, Options(root=tmp_path))
    plan = plan_teacher(recipe, Options(model=ModelSpec.parse("openai/deep")))
    assert (plan.teacher, plan.model) == (Teacher(model="openai/deep"), ModelSpec("deep", "openai"))
    recipe = tars(samples=3)
    plan = plan_teacher(recipe, Options(model=ModelSpec.parse("openai/other")))
    assert (plan.teacher, plan.model) == (recipe.data.teacher, ModelSpec("other", "openai"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: changed(r, "data", traces=(SourceShare(source="sample", prompts=4),)),
            "data.traces leaves no prompt for a teacher to answer",
        ),
        (lambda r: changed(r, "data", without_sources=("mine",)), "leaves no prompt"),
        (lambda r: changed(r, "data", teacher=Teacher(model="openai/deep", judge="refusl")), "no judge is called"),
        (lambda r: changed(r, "data", teacher=Teacher(model="./nowhere")), "nowhere: no such model"),
    ],
)
def test_what_cannot_be_done_stops_before_anything_is_written(change: Any, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        stage_traces.write_traces(change(tars()), Options(root=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.model_copy(update={"guard": None}), "it has no guard section"),
        (lambda r: changed(r, "guard", reasoning=False), "verdicts alone need no teacher"),
        (lambda r: changed(r, "data", teacher=Teacher(model="openai/deep", judge="refusal")), "set it to null"),
    ],
)
def test_a_guard_that_cannot_be_taught_says_why(change: Any, message: str, micro_model: Path, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        stage_traces.write_traces(change(rsafe(tmp_path, model=str(micro_model))), Options(root=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_the_summary_says_what_was_kept_and_why_not(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cut = always("<think>hm", "length", usage={"prompt_tokens": 100000, "completion_tokens": 900000})
    server.choice = lambda body: (cut if prompt_of(body) in PROMPTS[:2] else always("<think>hm</think>Yes."))(body)
    stage_traces.write_traces(tars(), options_for(server, tmp_path), price=Price(1.0, 2.0))
    assert capsys.readouterr().err.splitlines()[-1] == (
        "traces: 10 of 12 replies kept, for 10 of 12 prompts, 2 truncated, 200000 tokens read and 1800000 written, "
        "10 replies do not say how many tokens, 3.80 USD"
    )
