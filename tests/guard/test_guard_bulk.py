"""The workers of a classification on Ray: how many there are, and what each of them takes; no Ray is started."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines import vllm
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import guard_prompt
from safereason.guard.bulk import Pool, _pool_of
from safereason.guard.classify import ClassifySettings


def ray(*machines: tuple[int, int]) -> Any:
    """A Ray of machines with so many cores and GPUs, and one that has left."""
    nodes = [{"Alive": True, "Resources": {"CPU": cores, "GPU": gpus}} for cores, gpus in machines]
    gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    return SimpleNamespace(nodes=lambda: [*nodes, gone])


@pytest.mark.parametrize(
    ("machines", "workers", "share", "expected"),
    [
        ([(16, 4)], None, None, Pool(4, 1, 1)),
        ([(16, 4), (16, 2)], None, None, Pool(6, 1, 1)),
        ([(16, 4)], 2, None, Pool(2, 1, 1)),
        ([(16, 4)], None, 0.5, Pool(8, 1, 0.5)),
        ([(16, 1)], None, 0.1, Pool(10, 1, 0.1)),
        ([(16, 2)], None, 0.4, Pool(4, 1, 0.4)),
        ([(16, 4), (16, 3)], None, 2, Pool(3, 1, 2)),
        ([(16, 0)], None, None, Pool(4, 4, 0)),
        ([(2, 0), (6, 0)], 2, None, Pool(2, 4, 0)),
    ],
)
def test_a_pool_has_the_workers_that_the_machines_have_room_for(
    machines: list[tuple[int, int]], workers: int | None, share: float | None, expected: Pool
):
    assert _pool_of(ray(*machines), workers, share, is_remote=False) == expected


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=4), st.sampled_from([0.1, 0.25, 1 / 3, 0.4, 0.5, 1.0, 2.0, 3.0])
)
def test_no_machine_is_asked_for_more_than_it_has(gpus: list[int], share: float):
    cluster = ray(*[(8, count) for count in gpus])
    if max(gpus) < share:
        with pytest.raises(InputError, match="--gpus-per-worker"):
            _pool_of(cluster, None, share, is_remote=False)
        return
    pool = _pool_of(cluster, None, share, is_remote=False)
    # Each worker lies on one machine, and those that share a GPU on one GPU.
    room = sum(count // int(share) if share >= 1 else count * int(1 / share + 1e-6) for count in gpus)
    assert pool.workers == room
    assert pool.workers * share <= sum(gpus) + 1e-6


@pytest.mark.parametrize(
    ("machines", "workers", "share", "is_remote", "error"),
    [
        ([(16, 4)], 5, None, False, "--workers 5: the GPUs serve 4, with 1 for each"),
        ([(16, 4)], 9, 0.5, False, "--workers 9: the GPUs serve 8, with 0.5 for each"),
        ([(16, 4), (16, 4)], None, 8, False, "--gpus-per-worker 8: the largest machine has 4 GPUs"),
        ([(16, 0)], None, 0.5, False, "--gpus-per-worker 0.5: no machine of the Ray has a GPU"),
        ([(2, 0)], 3, None, False, "--workers 3: there are 2 cores, one for each worker"),
        ([(2, 4)], 3, None, True, "--workers 3: there are 2 cores, one for each worker"),
    ],
)
def test_a_pool_without_room_is_refused(
    machines: list[tuple[int, int]], workers: int | None, share: float | None, is_remote: bool, error: str
):
    with pytest.raises(InputError, match=error):
        _pool_of(ray(*machines), workers, share, is_remote=is_remote)


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        (1, "", {}),
        (2, "", {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}),
        (0.5, "", {"gpu_memory_utilization": 0.45}),
        (0.5, '{"gpu_memory_utilization": 0.3}', {"gpu_memory_utilization": 0.3}),
        (1, '{"max_num_seqs": 8}', {"max_num_seqs": 8}),
    ],
)
def test_vllm_takes_the_gpus_of_its_worker(
    monkeypatch: pytest.MonkeyPatch, gpus: float, given: str, expected: dict[str, object]
):
    monkeypatch.setenv(vllm.VARIABLE, given)
    vllm.use_gpus(gpus)
    assert vllm._settings("name", ()) == expected


def test_a_precision_is_part_of_an_output_only_where_it_was_asked_for():
    def identity(precision: Any) -> dict[str, object]:
        settings_of_guard = ClassifySettings(
            ModelSpec("x", "openai"), None, guard_prompt.default(), 1, None, 0, {}, precision
        )
        return json.loads(json.dumps(settings_of_guard.identity()))

    assert "precision" not in identity(None)
    assert identity("bf16") == identity(None) | {"precision": "bf16"}
