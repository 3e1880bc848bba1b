"""Rows to verdicts: order, chunks, and a run that goes on as if it had not been cut."""

import json
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.guard.base import GuardVerdict, OnVerdict, Question
from safereason.guard.classify import CHUNK_ROWS, ClassifyOutput, StatusCounts, chunk_seed, classify, record_of_row
from safereason.guard.output import VerdictFile
from safereason.guard.rows import InputRow
from safereason.runs.records import read_records

UNSAFE = GuardVerdict("unsafe", 0.9, ("U1",), "why", "text", tokens=3)
FAILED = GuardVerdict(None, None, reason="no server", failed=True)
IDENTITY: dict[str, Any] = {"model": "m", "guide": {"policy": {"name": "p"}}, "samples": 1}


class Scripted:
    """A guard whose verdicts depend on the question, its place and the seed, and come in a random order."""

    name = "scripted"

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.stop_after = stop_after

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_verdict: OnVerdict | None = None,
    ) -> list[GuardVerdict | None]:
        self.calls.append((len(questions), seed, len(done)))
        order = [i for i in range(len(questions)) if i not in done]
        random.Random(seed).shuffle(order)
        verdicts: dict[int, GuardVerdict] = {}
        for i in order:
            if self.stop_after == 0:
                raise KeyboardInterrupt
            self.stop_after = self.stop_after and self.stop_after - 1
            score = random.Random(f"{seed}/{i}/{questions[i].prompt}").random()
            verdicts[i] = GuardVerdict("unsafe" if score >= 0.5 else "safe", score, text=questions[i].prompt)
            if on_verdict:
                on_verdict(i, verdicts[i])
        return [verdicts.get(i) for i in range(len(questions))]


def some_rows(count: int, bad: bool = False) -> Iterator[InputRow]:
    for number in range(1, count + 1):
        yield InputRow(number, Question(f"question {number}"), f"id{number}" if number % 2 else None)
    if bad:
        raise InputError(f"in:{count + 1}: bad")


def written(count: int, **options: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    classify(Scripted(), some_rows(count), ClassifyOutput(records.append), **options)
    return records


@pytest.mark.parametrize("count", [0, 1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS + 5])
def test_each_row_has_one_record_in_order(count: int):
    guard, records = Scripted(), []
    tally = classify(guard, some_rows(count), ClassifyOutput(records.append), seed=3)
    assert [r["row"] for r in records] == list(range(1, count + 1))
    assert [r.get("id") for r in records] == [row.id for row in some_rows(count)]
    assert tally.rows == count == tally.counts["safe"] + tally.counts["unsafe"]
    sizes = [CHUNK_ROWS] * (count // CHUNK_ROWS) + ([count % CHUNK_ROWS] if count % CHUNK_ROWS else [])
    assert guard.calls == [(size, chunk_seed(3, number), 0) for number, size in enumerate(sizes)]


def test_chunks_and_seeds_have_draws_of_their_own():
    assert len({chunk_seed(seed, chunk) for seed in range(20) for chunk in range(20)}) == 400
    assert all(0 <= chunk_seed(seed, 1) < 2**63 for seed in range(20))
    assert written(CHUNK_ROWS, seed=1) != written(CHUNK_ROWS, seed=2)


def test_a_row_is_written_as_soon_as_its_turn_has_come():
    events: list[str] = []

    class Loud(Scripted):
        def classify(self, questions: Sequence[Question], **named: Any) -> list[GuardVerdict | None]:
            on_verdict = named["on_verdict"]
            for i in (1, 0, 2):
                events.append(f"found {i}")
                on_verdict(i, UNSAFE)
            return [UNSAFE] * 3

    classify(Loud(), some_rows(3), ClassifyOutput(lambda record: events.append(f"wrote {record['row'] - 1}")))
    assert events == ["found 1", "found 0", "wrote 0", "wrote 1", "found 2", "wrote 2"]


def test_no_more_than_a_chunk_is_read_ahead():
    count = {"read": 0, "written": 0}
    most = 0

    def rows() -> Iterator[InputRow]:
        nonlocal most
        for row in some_rows(10 * CHUNK_ROWS):
            count["read"] += 1
            most = max(most, count["read"] - count["written"])
            yield row

    def write(record: dict[str, Any]) -> None:
        count["written"] += 1

    classify(Scripted(), rows(), ClassifyOutput(write))
    assert count == {"read": 10 * CHUNK_ROWS, "written": 10 * CHUNK_ROWS}
    assert most == CHUNK_ROWS


@pytest.mark.parametrize("count", [0, 3, CHUNK_ROWS, CHUNK_ROWS + 3])
def test_what_comes_before_a_bad_row_is_written(count: int):
    records: list[dict[str, Any]] = []
    with pytest.raises(InputError, match=f"^in:{count + 1}: bad$"):
        classify(Scripted(), some_rows(count, bad=True), ClassifyOutput(records.append))
    assert records == written(count)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    total=st.integers(0, 2 * CHUNK_ROWS + 9), share=st.floats(0, 1), torn=st.integers(0, 200), seed=st.integers(0, 3)
)
def test_a_run_that_was_cut_goes_on_to_the_same_bytes(tmp_path: Path, total: int, share: float, torn: int, seed: int):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    options: dict[str, Any] = {"seed": seed, "threshold": 0.3}
    with VerdictFile(whole, IDENTITY, "overwrite").open() as log:
        first = classify(Scripted(), some_rows(total), ClassifyOutput(log.append), **options)
    with suppress(KeyboardInterrupt), VerdictFile(cut, IDENTITY, "overwrite").open() as log:
        classify(Scripted(stop_after=int(share * total)), some_rows(total), ClassifyOutput(log.append), **options)
    content = cut.read_bytes()
    cut.write_bytes(content[: max(0, len(content) - torn)])
    again, target = Scripted(), VerdictFile(cut, IDENTITY, "resume")
    with target.open() as log:
        second = classify(again, some_rows(total), ClassifyOutput(log.append, target.records()), **options)
    assert cut.read_bytes() == whole.read_bytes()
    assert second == first


def test_a_finished_run_asks_nothing_again(tmp_path: Path):
    target = VerdictFile(tmp_path / "out.jsonl", IDENTITY, "resume")
    with target.open() as log:
        first = classify(Scripted(), some_rows(CHUNK_ROWS + 2), ClassifyOutput(log.append))
    guard = Scripted()
    with target.open() as log:
        assert classify(guard, some_rows(CHUNK_ROWS + 2), ClassifyOutput(log.append, target.records())) == first
    assert guard.calls == []
    with target.open() as log:
        more = classify(guard, some_rows(CHUNK_ROWS + 4), ClassifyOutput(log.append, target.records()))
    assert (more.rows, guard.calls) == (CHUNK_ROWS + 4, [(4, chunk_seed(0, 1), 2)])


def test_finished_rows_of_another_input_are_refused():
    finished = written(4)
    other = [InputRow(1, Question("a"), "id1"), InputRow(2, Question("b"), "another")]
    with pytest.raises(InputError, match=r"^row 2: the one that is finished is another"):
        classify(Scripted(), iter(other), ClassifyOutput(finished.append, iter(finished)))
    with pytest.raises(InputError, match=r"^more rows are finished than there are \(3\)"):
        classify(Scripted(), some_rows(3), ClassifyOutput(finished.append, iter(finished)))
    with pytest.raises(InputError, match=r"^row 1: the one that is finished is another"):
        classify(Scripted(), some_rows(3), ClassifyOutput(finished.append, iter([{"row": 1, "id": "id1"}])))


def test_a_record_says_what_was_found():
    assert record_of_row(InputRow(3, Question("p"), "x"), UNSAFE) == {
        "row": 3,
        "id": "x",
        "label": "unsafe",
        "score": 0.9,
        "categories": ["U1"],
        "reasoning": "why",
        "unparsed": False,
    }
    lost = GuardVerdict(None, None, reasoning="r", text="all of it", reason="no box", votes=(None, None))
    assert record_of_row(InputRow(1, Question("p")), lost) == {
        "row": 1,
        "label": None,
        "score": None,
        "categories": [],
        "reasoning": "r",
        "unparsed": True,
        "reason": "no box",
        "text": "all of it",
        "votes": [None, None],
    }
    assert record_of_row(InputRow(1, Question("p")), FAILED)["failed"] is True
    assert record_of_row(InputRow(1, Question("p"), 0), UNSAFE)["id"] == 0


@pytest.mark.parametrize(
    ("verdict", "threshold", "label"),
    [
        (UNSAFE, 0.9, "unsafe"),
        (UNSAFE, 0.91, "safe"),
        (UNSAFE, None, "unsafe"),
        (GuardVerdict("safe", 0.0), 0.0, "unsafe"),
        (GuardVerdict("safe", 1.0), 1.0, "unsafe"),
        (GuardVerdict("safe", None), 0.0, "safe"),
        (GuardVerdict("unsafe", None, ("U1",)), 1.0, "unsafe"),
        (FAILED, 0.0, None),
    ],
)
def test_a_threshold_decides_where_there_is_a_score(verdict: GuardVerdict, threshold: float | None, label: str | None):
    record = record_of_row(InputRow(1, Question("p")), verdict, threshold)
    assert (record["label"], record["unparsed"], record["score"]) == (label, label is None, verdict.score)
    assert bool(record["categories"]) == (label == "unsafe" and bool(verdict.categories))


def tallied(*verdicts: GuardVerdict) -> StatusCounts:
    tally = StatusCounts()
    for number, verdict in enumerate(verdicts, start=1):
        tally.add(record_of_row(InputRow(number, Question("p")), verdict))
    return tally


def test_a_bar_names_how_many_rows_and_the_first_of_them():
    safe, lost = GuardVerdict("safe", 0.1), GuardVerdict(None, None, reason="no box")
    tally = tallied(safe, UNSAFE, lost, *[UNSAFE] * 6)
    tally.check([])
    tallied(safe).check(["unsafe", "unparsed"])
    with pytest.raises(BarNotMet) as caught:
        tally.check(["unsafe", "unparsed", "unsafe"])
    assert str(caught.value) == (
        "--fail-on unsafe: 7 of 9 rows (2, 4, 5, 6, 7, ...); --fail-on unparsed: 1 of 9 rows (3)"
    )


def test_rows_that_could_not_be_asked_about_fail_the_command_unless_a_bar_does():
    tally = tallied(FAILED, UNSAFE)
    assert tally.counts == {"unparsed": 1, "failed": 1, "unsafe": 1}
    with pytest.raises(StageFailed, match=r"^the guard could not be asked about 1 of 2 rows \(1\); `reason` says why"):
        tally.check([])
    with pytest.raises(BarNotMet):
        tally.check(["unparsed"])


def test_an_existing_file_is_refused_resumed_or_replaced(tmp_path: Path):
    path = tmp_path / "deep" / "out.jsonl"
    with VerdictFile(path, IDENTITY).open() as log:
        log.append({"row": 1})
    assert json.loads((tmp_path / "deep" / "out.jsonl.meta.json").read_text()) == IDENTITY
    with pytest.raises(InputError, match="exists already; pass --resume to go on or --overwrite to start anew"):
        VerdictFile(path, IDENTITY).check()
    with VerdictFile(path, IDENTITY, "resume").open() as log:
        log.append({"row": 2})
    assert [r["row"] for r in read_records(path)] == [1, 2]
    with VerdictFile(path, {**IDENTITY, "samples": 3}, "overwrite").open():
        pass
    assert path.read_bytes() == b""
    assert json.loads(VerdictFile(path, {}).meta.read_text())["samples"] == 3


def test_a_resume_of_another_guard_names_what_differs(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    VerdictFile(path, IDENTITY).open().close()
    changed = {"model": "m", "guide": {"policy": {"name": "q"}}, "samples": 3}
    with pytest.raises(InputError, match=r"was written otherwise \(guide\.policy\.name, samples\)"):
        VerdictFile(path, changed, "resume").open()
    assert json.loads(VerdictFile(path, {}).meta.read_text()) == IDENTITY
    VerdictFile(path, {}).meta.unlink()
    with pytest.raises(InputError, match=r"has no out\.jsonl\.meta\.json, so it cannot be resumed"):
        VerdictFile(path, IDENTITY, "resume").check()


def test_a_directory_is_no_target(tmp_path: Path):
    with pytest.raises(InputError, match="is a directory; name a file"):
        VerdictFile(tmp_path, IDENTITY, "overwrite").check()


def test_reasons_that_differ_in_their_numbers_alone_count_together():
    tally, other = StatusCounts(), StatusCounts()
    for row, reason in enumerate(("no verdict", "a prompt has 2736 tokens", "a prompt has 2740 tokens"), start=1):
        counted = tally if row < 3 else other
        counted.add({"row": row, "label": None, "reason": reason, "text": ""})
    tally.merge(other)
    with pytest.raises(StageFailed, match="commonest reason, 2 times: a prompt has 2736 tokens; change the rows"):
        tally.check(())
