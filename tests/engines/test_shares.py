"""Completions drawn in shares, by several workers: the same as one engine draws."""

from pathlib import Path

import engine_contract
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.engine_spec import EngineSpec
from safereason.engines.shares import Call, draw, share_of
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine
from safereason.recipe.schema import Sampling
from safereason.text.chat import user

# Batches are planned by the longest that completions may be: four rows each here.
SAMPLING = Sampling(temperature=1.0, max_new_tokens=4000)
CONVERSATIONS = [*[user("word " * (i % 7 + 1)) for i in range(10)], engine_contract.LONG]
WORKERS = ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    folder: Path = engine_contract.save_model(tmp_path_factory.mktemp("contract"))
    return EngineSpec(ModelSpec(str(folder), "hf"))


@pytest.fixture(scope="module")
def engine(spec: EngineSpec) -> TransformersEngine:
    opened = spec.open()
    assert isinstance(opened, TransformersEngine)
    return opened


@settings(max_examples=25)
@given(
    done=st.sets(st.integers(0, len(CONVERSATIONS) - 1)),
    shares=st.integers(1, 5),
    n=st.integers(1, 3),
)
def test_each_conversation_that_is_left_is_in_one_share(
    engine: TransformersEngine, done: set[int], shares: int, n: int
):
    call = Call(CONVERSATIONS, SAMPLING, GenerateOptions(n=n, done=done))
    of_each = [share_of(engine, call, number, shares) for number in range(shares)]
    assert sorted(i for share in of_each for i in share) == sorted({*range(len(CONVERSATIONS))} - done)


def test_what_is_computed_together_is_in_one_share(engine: TransformersEngine):
    call = Call(CONVERSATIONS, SAMPLING, GenerateOptions())
    batches = engine.batches(CONVERSATIONS, SAMPLING, GenerateOptions())
    assert [len(batch) for batch in batches] == [4, 4, 2]
    shares = [share_of(engine, call, number, 2) for number in range(2)]
    # The long prompt is in no batch.
    assert shares == [{*batches[0], *batches[2], 10}, set(batches[1])]
    # A batch that is done leaves its place to the next one.
    done = Call(CONVERSATIONS, SAMPLING, GenerateOptions(done=[*batches[0], *batches[1][:1]]))
    assert share_of(engine, done, 0, 2) == {*batches[1][1:], 10}
    # A lack of memory in one process does not change its share.
    before = engine.batch_tokens
    engine.shrink(2, 100)
    assert share_of(engine, call, 1, 2) == shares[1]
    engine.batch_tokens = before


def drawn(spec: EngineSpec, calls: list[Call], environments=()) -> dict[tuple[int, int, int], Completion]:
    completions: dict[tuple[int, int, int], Completion] = {}

    def keep(call: int, conversation: int, number: int, completion: Completion) -> None:
        assert (call, conversation, number) not in completions
        completions[call, conversation, number] = completion

    draw(spec, calls, keep, environments)
    return completions


def test_workers_draw_what_one_engine_draws(spec: EngineSpec, engine: TransformersEngine):
    calls = [
        Call(CONVERSATIONS, SAMPLING, GenerateOptions(seed=3, done=[1, 5])),
        Call(CONVERSATIONS[:2], SAMPLING, GenerateOptions(n=2, prefix="<think>\n")),
    ]
    one = drawn(spec, calls)
    assert drawn(spec, calls, WORKERS) == one
    expected = engine.generate(CONVERSATIONS, SAMPLING, GenerateOptions(seed=3))
    assert [one.get((0, i, 0)) for i in range(len(CONVERSATIONS))] == [
        None if i in (1, 5) else row[0] for i, row in enumerate(expected)
    ]


def test_nothing_is_opened_for_calls_that_are_done():
    done = Call(CONVERSATIONS, SAMPLING, GenerateOptions(done=range(len(CONVERSATIONS))))
    nowhere = EngineSpec(ModelSpec("/no/where", "hf"))
    for calls in ([], [done]):
        assert drawn(nowhere, calls, WORKERS) == drawn(nowhere, calls) == {}
