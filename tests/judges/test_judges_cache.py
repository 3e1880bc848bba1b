"""The cache of verdicts."""

import multiprocessing
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from safereason.engines.result_cache import KEYS_A_QUERY, cache_key
from safereason.errors import InputError
from safereason.judges.base import Verdict
from safereason.judges.cache import VerdictCache


def _fill(path: Path, start: int) -> None:
    cache = VerdictCache(path)
    for i in range(start, start + 40):
        cache.put(str(i), Verdict(i / 100, "clean"))


def test_a_verdict_comes_back_whole(tmp_path: Path):
    verdict = Verdict(0.25, "clean", details={"hate": 0.25, "violence/graphic": 0.01})
    VerdictCache(tmp_path / "judges.sqlite3").put("key", verdict)
    assert VerdictCache(tmp_path / "judges.sqlite3").get(["key", "other"]) == {"key": verdict}


def test_an_unscored_verdict_is_not_kept(tmp_path: Path):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    cache.put("key", Verdict.unscored("server down"))
    assert cache.get(["key"]) == {}


def test_more_keys_than_one_query_takes(tmp_path: Path):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    cache.put("7", Verdict(0.5, None))
    keys = [str(i) for i in range(3 * KEYS_A_QUERY)]
    assert list(cache.get(keys)) == ["7"]


def test_several_processes_write_at_once(tmp_path: Path):
    path = tmp_path / "judges.sqlite3"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(path, start)) for start in (0, 20, 40)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(VerdictCache(path).get([str(i) for i in range(100)])) == 80


def test_the_default_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    assert VerdictCache().path == tmp_path / "cache" / "judges.sqlite3"


def test_a_file_that_is_no_cache_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "judges.sqlite3"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(InputError, match=r"judges\.sqlite3: the cache of verdicts cannot be used"):
        VerdictCache(path)


def test_keys_differ_where_the_parts_do():
    assert len({cache_key("a", "bc"), cache_key("ab", "c"), cache_key("abc"), cache_key("a", "b", "c")}) == 4


def test_through_it_only_what_is_not_held_is_asked_once_and_kept_as_it_comes(tmp_path: Path):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    cache.put("b", Verdict(0.5, "held"))
    judged: list[int] = []

    def judge(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
        for i in missing:
            judged.append(i)
            keep(i, Verdict.unscored("no") if i == 3 else Verdict(1.0, str(i)))
            if i == 0:
                assert VerdictCache(tmp_path / "judges.sqlite3").get(["a"]) == {"a": Verdict(1.0, "0")}

    verdicts = cache.through(["a", "b", "a", "c"], judge)
    assert [v.label for v in verdicts] == ["0", "held", "0", None]
    assert judged == [0, 3]
    assert [v.label for v in cache.through(["a", "b"], judge)] == ["0", "held"]
    assert judged == [0, 3]
    cache.through(["c", "a"], lambda missing, keep: keep(missing[0], Verdict(0.0, "again")))
    assert cache.get(["c"]) == {"c": Verdict(0.0, "again")}


PAYING = """
import sys, urllib.request
from pathlib import Path
from safereason.judges.base import Verdict
from safereason.judges.cache import VerdictCache

cache = VerdictCache(Path(sys.argv[1]))
for start in range(0, 24, 6):
    part = [f"key-{i}" for i in range(start, start + 6)]

    def judge(missing, keep):
        for i in missing:
            urllib.request.urlopen(f"{sys.argv[2]}/{part[i]}").read()
            keep(i, Verdict(0.5, part[i]))

    assert [verdict.label for verdict in cache.through(part, judge)] == part
"""


class _Counting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with self.server.lock:  # type: ignore[attr-defined]
            self.server.counts[self.path.strip("/")] += 1  # type: ignore[attr-defined]
        time.sleep(0.02)  # so that the two are under way together
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_of_two_processes_that_want_the_same_one_pays_and_the_other_waits(tmp_path: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Counting)
    server.lock, server.counts = threading.Lock(), Counter()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    arguments = [sys.executable, "-c", PAYING, str(tmp_path / "judges.sqlite3"), address]
    processes = [subprocess.Popen(arguments) for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    server.shutdown()
    server.server_close()
    assert server.counts == {f"key-{i}": 1 for i in range(24)}  # type: ignore[attr-defined]


KILLED = """
import os, signal, sys
from pathlib import Path
from safereason.judges.cache import VerdictCache

VerdictCache(Path(sys.argv[1])).through(["a", "b"], lambda missing, keep: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_one_that_was_killed_does_not_block_the_others(tmp_path: Path):
    path = tmp_path / "judges.sqlite3"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    judged: list[int] = []

    def judge(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
        for i in missing:
            judged.append(i)
            keep(i, Verdict(1.0, "mine"))

    assert [v.label for v in VerdictCache(path).through(["a", "b"], judge)] == ["mine", "mine"]
    assert judged == [0, 1]


def test_a_claim_of_another_machine_holds_until_it_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    with cache._claimed(["a"]) as ours:
        assert ours == ["a"]
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        assert cache._claim(["a", "b"], "other") == ["b"]
        monkeypatch.setattr("time.time", lambda: 1e12)
        assert cache._claim(["a"], "other") == ["a"]


def test_what_the_first_got_no_score_for_the_second_asks_itself(tmp_path: Path):
    cache, begun = VerdictCache(tmp_path / "judges.sqlite3"), threading.Event()
    calls: list[str] = []

    def first(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
        begun.set()
        calls.append("first")
        keep(0, Verdict.failure("down"))

    def second(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
        calls.append("second")
        keep(0, Verdict(1.0, "had"))

    thread = threading.Thread(target=lambda: cache.through(["a"], first))
    thread.start()
    begun.wait(60)
    assert cache.through(["a"], second) == [Verdict(1.0, "had")]
    thread.join()
    assert calls == ["first", "second"]


def test_a_damaged_page_is_an_error_in_one_line(tmp_path):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    for number in range(400):
        cache.put(f"{number:064d}", Verdict(1.0, "yes", "because " * 20))
    with cache._connected() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(cache.path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    cache.path.write_bytes(content)
    with pytest.raises(InputError, match=r"judges\.sqlite3: the cache of verdicts cannot be used \(.*\); delete it"):
        cache.get([f"{number:064d}" for number in range(400)])


def test_a_verdict_that_cannot_be_read_is_asked_for_again(tmp_path):
    cache = VerdictCache(tmp_path / "judges.sqlite3")
    cache.put("a", Verdict(1.0, "yes"))
    with cache._connected() as db:
        db.execute("INSERT INTO verdicts VALUES ('b', '{'), ('c', '[]'), ('d', '{\"other\": 1}')")
    assert list(cache.get(["a", "b", "c", "d"])) == ["a"]
