"""Workers: what they give is what one process gives, and none outlives the process that started it."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from program import python

from safereason import processes, workers
from safereason.errors import InputError, StageFailed

NAME = "SAFEREASON_TEST_WORKER"
TWO = ({NAME: "first"}, {NAME: "second"})


def begin_counting(step: int) -> workers.Handle[int, tuple[int, str, int]]:
    """Counts from an item on, in three parts, and says where."""

    def count(item: int, send: Callable[[tuple[int, str, int]], None]) -> None:
        if item == 13:
            raise InputError("13: is no number to count from; name another")
        if item == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        for number in range(3):
            print("what a library prints")
            send((item + step * number, os.environ.get(NAME, ""), os.getpid()))

    return count


def begin_in_vain(setup: object) -> workers.Handle[int, int]:
    raise InputError("no such model; name another")


def begin_with_an_error_of_its_own(setup: object) -> workers.Handle[int, int]:
    class LocalError(Exception):
        pass

    raise LocalError("cannot be sent")


@pytest.mark.parametrize("environments", [(), TWO[:1], TWO])
def test_each_item_is_worked_at_once_and_its_parts_come_in_order(environments):
    parts: dict[int, list[int]] = {}
    devices = set()

    def take(item: int, part: tuple[int, str, int]) -> None:
        parts.setdefault(item, []).append(part[0])
        devices.add(part[1:])

    workers.work(begin_counting, 10, iter(range(6)), take, environments)
    assert parts == {item: [item, item + 10, item + 20] for item in range(6)}
    if len(environments) < 2:
        assert devices == {("", os.getpid())}
    else:
        assert {name for name, _ in devices} <= {"first", "second"}
        assert os.getpid() not in {pid for _, pid in devices}
        assert not any(processes.is_alive(pid) for _, pid in devices)


def test_a_worker_that_gets_no_item_is_not_started():
    names = set()
    workers.work(begin_counting, 1, [5], lambda item, part: names.add(part[1]), TWO)
    assert names == {"first"}
    workers.work(begin_in_vain, None, [], lambda item, part: None, TWO)


def test_items_are_taken_no_earlier_than_a_worker_is_free():
    taken = []
    finished = []

    def items() -> Iterator[int]:
        for item in range(8):
            taken.append(item)
            yield item

    def take(item: int, part: tuple[int, str, int]) -> None:
        if part[0] == item + 2:
            finished.append(item)
        assert len(taken) <= len(finished) + 2 + (part[0] != item + 2)

    workers.work(begin_counting, 1, items(), take, TWO)
    assert sorted(finished) == list(range(8))


@pytest.mark.parametrize(
    ("begin", "items", "error", "message"),
    [
        (begin_counting, [1, 13, 2], InputError, "13: is no number to count from; name another"),
        (begin_in_vain, [1, 2], InputError, "no such model; name another"),
        (begin_with_an_error_of_its_own, [1, 2], StageFailed, "LocalError: cannot be sent"),
        (begin_counting, [1, 14], StageFailed, "a worker was ended by SIGKILL; pass --resume to go on"),
    ],
)
def test_an_error_of_a_worker_is_raised_here_and_ends_the_others(begin, items, error, message):
    started = set()

    def take(item: int, part: tuple[int, str, int]) -> None:
        started.add(part[2])

    with pytest.raises(error) as raised:
        workers.work(begin, 1, items, take, TWO)
    assert str(raised.value) == message
    assert not any(processes.is_alive(pid) for pid in started)


def test_an_error_here_ends_the_workers():
    started = []

    def take(item: int, part: tuple[int, str, int]) -> None:
        started.append(part[2])
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        workers.work(begin_counting, 1, range(9), take, TWO)
    assert not any(processes.is_alive(pid) for pid in started)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_workers
from safereason import workers

def take(item, part):
    print(part[2], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

workers.work(test_workers.begin_counting, 1, range(9), take, test_workers.TWO)
"""


def test_a_worker_dies_with_a_process_that_is_killed():
    done = python(KILLED, os.path.dirname(__file__))
    assert done.returncode == -signal.SIGKILL, done.stderr
    number = int(done.stdout)
    for _ in range(500):
        if not processes.is_alive(number):
            return
        time.sleep(0.02)
    pytest.fail("a worker outlived the process that started it")
