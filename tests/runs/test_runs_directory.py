"""Run directories: created, refused, resumed or overwritten as a whole."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safereason
from safereason.errors import InputError, StageFailed
from safereason.runs import directory, manifest
from safereason.runs.directory import (
    RunDirectory,
    differing_keys,
    digest,
    finished_runs,
    is_finished,
    read_manifest,
    run_path,
)
from safereason.runs.records import RecordLog, read_json, read_records, write_json
from safereason.stages.base import finished_result

IDENTITY = {"seed": 0, "sft": {"epochs": 3, "optimizer": {"name": "adamw"}}, "model": "org/name"}


def run(path: Path, on_existing: Any = "refuse", **changes: Any) -> RunDirectory:
    return RunDirectory(path, "sft", "tars", "name: tars\n", {**IDENTITY, **changes}, on_existing)


def finished(path: Path) -> Path:
    with run(path) as this:
        this.finish({"loss": 0.5})
    return path


def status(path: Path) -> str:
    return read_json(path / "manifest.json")["status"]


def names(path: Path) -> set[str]:
    return {p.name for p in path.iterdir()}


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_finished_run_holds_its_recipe_manifest_and_metrics(tmp_path: Path):
    path = tmp_path / "run"
    with run(path) as this:
        assert status(path) == "running"
        assert not is_finished(path)
        this.inputs["data.parquet"] = "abc"
        with this.records("steps") as log:
            log.append({"step": 1})
        logging.getLogger("safereason.training").warning("something odd")
        this.finish({"loss": 0.5})
    assert names(path) == {".lock", "recipe.yaml", "manifest.json", "steps.jsonl", "metrics.json", "log.txt"}
    assert (path / "recipe.yaml").read_text() == "name: tars\n"
    assert read_json(path / "metrics.json") == {"loss": 0.5}
    assert list(read_records(path / "steps.jsonl")) == [{"step": 1}]
    assert "WARNING something odd" in (path / "log.txt").read_text()
    assert is_finished(path)


def test_the_manifest_says_what_made_the_run(tmp_path: Path):
    path = tmp_path / "run"
    with run(path) as this:
        this.inputs["data.parquet"] = "abc"
        this.finish({})
    document = read_manifest(path)
    assert document is not None
    expected = {
        "stage": "sft",
        "recipe": "tars",
        "status": "finished",
        "identity": IDENTITY,
        "inputs": {"data.parquet": "abc"},
        **manifest.describe(),
    }
    assert {key: document[key] for key in expected} == expected
    assert document["safereason"] == safereason.__version__
    assert document["started"] <= document["finished"] <= manifest.now()


def test_what_is_logged_after_a_run_does_not_reach_it(tmp_path: Path):
    path = finished(tmp_path / "run")
    logging.getLogger("safereason").warning("too late")
    assert "too late" not in (path / "log.txt").read_text()


REFUSED = {
    "finished": "exists and is not empty; pass --resume to go on or --overwrite to start anew",
    "failed": "exists and is not empty; pass --resume to go on or --overwrite to start anew",
    "another": "it holds another run (differing in model); pass --overwrite to start anew, or name another --out",
    "notes.txt": "holds no run (no manifest.json); name another --out",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_is(tmp_path: Path, what: str):
    path = tmp_path / "run"
    if what == "notes.txt":
        path.mkdir()
        (path / what).write_text("mine")
    elif what == "finished":
        finished(path)
    else:
        with pytest.raises(ZeroDivisionError), run(path, **({"model": "x"} if what == "another" else {})):
            raise ZeroDivisionError
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(InputError, match="exists and is not empty") as error:
        run(path).__enter__()
    assert str(error.value).endswith(REFUSED[what])
    if what == "finished":
        assert run(path).is_done()
    else:  # before a stage loads anything
        with pytest.raises(InputError, match="exists and is not empty"):
            run(path).is_done()
    assert one_line(error)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


@pytest.mark.parametrize("on_existing", ["refuse", "resume", "overwrite"])
@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".manifest.json.123.part"]])
def test_a_folder_in_which_no_run_began_is_used(tmp_path: Path, on_existing: str, left: list[str]):
    path = tmp_path / "run"
    path.mkdir()
    for name in left:
        (path / name).touch()
    with run(path, on_existing) as this:
        this.finish({})
    assert is_finished(path)


def interrupt(log: RecordLog) -> None:
    log.append({"step": 1})
    raise KeyboardInterrupt


def test_a_run_is_resumed_with_its_records(tmp_path: Path):
    path = tmp_path / "run"
    this = run(path)
    with pytest.raises(KeyboardInterrupt), this, this.records("steps") as log:
        interrupt(log)
    write_json(path / "manifest.json", {**read_json(path / "manifest.json"), "started": "2020-01-01T00:00:00+00:00"})
    with run(path, "resume") as this, this.records("steps") as log:
        log.append({"step": 2})
        assert status(path) == "running"
        this.finish({})
    assert list(read_records(path / "steps.jsonl")) == [{"step": 1}, {"step": 2}]
    document = read_json(path / "manifest.json")
    assert document["started"] == "2020-01-01T00:00:00+00:00"
    assert "error" not in document


def test_a_changed_recipe_is_not_resumed_and_the_keys_are_named(tmp_path: Path):
    path = finished(tmp_path / "run")
    changes = {"seed": 1, "sft": {"epochs": 3, "optimizer": {"name": "sgd"}}, "data": "new"}
    for attempt in (run(path, "resume", **changes).__enter__, run(path, "resume", **changes).is_done):
        with pytest.raises(InputError, match=r"recipe changed since \(data, seed, sft.optimizer.name\)") as error:
            attempt()
        assert one_line(error)
    assert is_finished(path)


def test_a_refused_resume_leaves_the_run_free(tmp_path: Path):
    path = finished(tmp_path / "run")
    with pytest.raises(InputError):
        run(path, "resume", seed=1).__enter__()
    with run(path, "resume"):
        assert status(path) == "running"


@pytest.mark.parametrize("on_existing", ["refuse", "resume"])
def test_a_kill_between_the_end_of_a_run_and_that_of_its_checkpoints_leaves_none(tmp_path: Path, on_existing: str):
    path = finished(tmp_path / "run")
    (path / "checkpoints" / "1").mkdir(parents=True)
    (path / "checkpoints" / "1" / "weights").touch()
    assert run(path, on_existing).is_done()
    assert "checkpoints" not in names(path)


def test_overwriting_starts_anew(tmp_path: Path):
    path = finished(tmp_path / "run")
    (path / "checkpoints" / "1").mkdir(parents=True)
    (path / "checkpoints" / "1" / "weights").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (path / "link").symlink_to(tmp_path / "outside")
    with run(path, "overwrite", seed=1):
        assert names(path) == {".lock", "recipe.yaml", "manifest.json", "log.txt"}
        assert read_json(path / "manifest.json")["identity"]["seed"] == 1
    assert (tmp_path / "outside" / "kept").exists()


@pytest.mark.parametrize("on_existing", ["resume", "overwrite"])
def test_a_folder_that_is_no_run_is_neither_resumed_nor_deleted(tmp_path: Path, on_existing: str):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds files but no manifest.json") as error:
        run(tmp_path, on_existing).__enter__()
    assert one_line(error)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_path_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: is a file"):
        run(tmp_path / "file").__enter__()
    with pytest.raises(InputError, match=r"file/run: cannot be written \(Not a directory\); choose another --out"):
        run(tmp_path / "file" / "run").__enter__()
    assert (tmp_path / "file").read_text() == "mine"


HOLD = """
import sys
from pathlib import Path
from safereason.runs.directory import RunDirectory

with RunDirectory(Path(sys.argv[1]), "sft", "tars", "", {}):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that is writing the run `tmp_path/run`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    yield child
    child.kill()
    child.communicate()


@pytest.mark.parametrize("on_existing", ["resume", "overwrite"])
def test_a_run_that_another_process_writes_is_left_alone(tmp_path: Path, holder: Any, on_existing: str):
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(StageFailed, match="another process is writing this run") as error:
        RunDirectory(tmp_path / "run", "sft", "tars", "", {}, on_existing).__enter__()
    assert one_line(error)
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_a_killed_process_leaves_a_run_that_can_be_resumed(tmp_path: Path, holder: Any):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert status(tmp_path / "run") == "running"
    with RunDirectory(tmp_path / "run", "sft", "tars", "", {}, "resume") as this:
        this.finish({})
    assert is_finished(tmp_path / "run")


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from safereason.runs.directory import RunDirectory

steps_left = 0

def die_in_time(event, arguments):
    global steps_left
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree") and sys.argv[1] in str(arguments):
        steps_left -= 1
        if steps_left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

status, number = -1, 0
while status != 0:
    path = Path(sys.argv[1]) / str(number)
    if sys.argv[2] == "overwrite":
        with RunDirectory(path, "sft", "tars", "", {}) as run:
            run.finish({})
        (path / "model").mkdir()
    child = os.fork()
    if child == 0:
        steps_left = number
        sys.addaudithook(die_in_time)
        with RunDirectory(path, "sft", "tars", "", {}, sys.argv[2]) as run:
            run.finish({})
        os._exit(0)
    status, number = os.waitpid(child, 0)[1], number + 1
    assert status in (0, signal.SIGKILL), status
"""


@pytest.mark.parametrize("mode", ["refuse", "overwrite"])
def test_a_run_killed_at_any_step_can_be_overwritten(tmp_path: Path, mode: str):
    subprocess.run([sys.executable, "-c", KILLED_AT, str(tmp_path), mode], check=True)
    runs = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert len(runs) > 10
    assert [is_finished(path) for path in runs[-2:]] == [True, True], "killed when all was written, and not at all"
    assert not all(is_finished(path) for path in runs)
    for path in runs:
        with run(path, "overwrite") as this:
            this.finish({})
        assert is_finished(path)


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt(), "interrupted"), (StageFailed("no memory"), "failed")]
)
def test_a_run_that_does_not_end_well_says_so(tmp_path: Path, error: BaseException, expected: str):
    with pytest.raises(type(error)), run(tmp_path / "run"):
        raise error
    document = read_json(tmp_path / "run" / "manifest.json")
    assert (document["status"], document["error"]) == (expected, str(error))
    assert not is_finished(tmp_path / "run")
    with run(tmp_path / "run", "resume"):
        assert status(tmp_path / "run") == "running"


def interrupt_and_fail() -> None:
    try:
        raise KeyboardInterrupt("SIGTERM")
    finally:
        raise StageFailed("the other process is gone")


def test_what_fails_on_the_way_out_does_not_hide_an_interruption(tmp_path: Path):
    with pytest.raises(StageFailed), run(tmp_path / "run"):
        interrupt_and_fail()
    document = read_json(tmp_path / "run" / "manifest.json")
    assert (document["status"], document["error"]) == ("interrupted", "SIGTERM")


def test_a_finished_run_stays_finished_whatever_comes_after(tmp_path: Path):
    def finish_and_interrupt(this: RunDirectory) -> None:
        this.finish({"loss": 0.5})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run(tmp_path / "run") as this:
        finish_and_interrupt(this)
    assert is_finished(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt(), "interrupted"), (OSError(errno.ENOSPC, "full"), "failed")]
)
def test_a_run_that_ends_while_it_begins_says_so(tmp_path: Path, monkeypatch, error: BaseException, expected: str):
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(directory, "write_text", end)
    with pytest.raises(type(error)):
        run(tmp_path / "run").__enter__()
    monkeypatch.undo()
    assert status(tmp_path / "run") == expected
    with run(tmp_path / "run", "resume"):
        assert status(tmp_path / "run") == "running"


def record_one_and_fail(directory: RunDirectory):
    with directory as this, this.records("cases") as log:
        log.append({"behavior": "a"})
        raise InputError("no target for b")


def test_bad_input_leaves_no_run_unless_something_was_done(tmp_path: Path):
    path = tmp_path / "stage" / "run"
    with pytest.raises(InputError, match="no target"), run(path) as this, this.records("cases"):
        raise InputError("no target")
    assert not path.exists()
    with pytest.raises(InputError):
        record_one_and_fail(run(path))
    assert (status(path), list(read_records(path / "cases.jsonl"))) == ("failed", [{"behavior": "a"}])
    (path / "cases.jsonl").write_text("")
    with pytest.raises(InputError), run(path, "resume"):
        raise InputError("still none")
    assert status(path) == "failed", "a run that was there before stays"


def test_only_a_run_that_finished_is_done(tmp_path: Path):
    path = tmp_path / "run"
    assert not run(path, "resume").is_done()
    with run(path) as this:
        assert not run(path, "resume").is_done()
        this.finish({})
    assert run(path, "resume").is_done()
    assert run(path, "refuse").is_done()
    assert not run(path, "overwrite").is_done()


def test_what_is_no_run_has_no_manifest(tmp_path: Path):
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "none") is None
    write_json(tmp_path / "manifest.json", ["no", "mapping"])
    assert read_manifest(tmp_path) is None
    assert not is_finished(tmp_path)


def test_finished_runs_come_oldest_first_and_only_those_of_the_recipe(tmp_path: Path):
    for place, (name, when) in enumerate(
        [("b", "2026-01-02"), ("a", "2026-01-03"), ("d", "2026-01-01"), ("c", "2026-01-03")]
    ):
        path = finished(tmp_path / "sft" / f"tars--{name}")
        write_json(path / "manifest.json", {**read_json(path / "manifest.json"), "finished": f"{when}T00:00:00+00:00"})
        os.utime(path / "manifest.json", ns=(place, place))
    with run(tmp_path / "sft" / "tars--unfinished"):
        pass
    finished(tmp_path / "sft" / "tars-7b--x")
    finished(tmp_path / "rl" / "tars--x")
    runs = finished_runs(tmp_path, "sft", "tars")
    assert [p.name for p in runs] == ["tars--d", "tars--b", "tars--a", "tars--c"]
    assert finished_runs(tmp_path, "eval/xstest", "tars") == []


def test_a_run_is_named_by_stage_recipe_model_and_identity(tmp_path: Path):
    path = run_path(tmp_path, "eval/xstest", "my recipe", "org/na me", IDENTITY)
    assert path == tmp_path / "eval" / "xstest" / f"my_recipe--org_na_me--{digest(IDENTITY)}"
    assert run_path(tmp_path, "sft", "../..", "..", {}) == tmp_path / "sft" / f"run--run--{digest({})}"


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(tree=st.dictionaries(st.sampled_from("abc"), TREES))
def test_an_identity_has_one_digest_whatever_its_order(tree: dict[str, Any]):
    assert digest(tree) == digest(dict(reversed(tree.items())))
    assert len(digest(tree)) == 8
    assert int(digest(tree), 16) >= 0


@given(before=st.dictionaries(st.sampled_from("abc"), TREES), after=st.dictionaries(st.sampled_from("abc"), TREES))
def test_keys_differ_exactly_where_identities_do(before: dict[str, Any], after: dict[str, Any]):
    keys = differing_keys(before, after)
    assert (keys == []) is (before == after)
    assert sorted(keys) == sorted(differing_keys(after, before))
    assert differing_keys(before, before) == []
    assert all(key.split(".")[0] in before.keys() | after.keys() for key in keys)


def test_differing_keys_are_dotted_down_to_what_changed():
    before = {"sft": {"epochs": 3, "optimizer": {"name": "adamw"}}, "seed": 0, "old": 1}
    after = {"sft": {"epochs": 4, "optimizer": {"name": "adamw", "betas": [0.9]}}, "seed": 0, "new": {"a": 1}}
    assert differing_keys(before, after) == ["new", "old", "sft.epochs", "sft.optimizer.betas"]


@pytest.mark.parametrize(("before", "after"), [(logging.NOTSET, logging.INFO), (logging.DEBUG, logging.DEBUG)])
def test_a_run_does_not_take_back_what_verbose_asked_for(tmp_path: Path, before: int, after: int):
    logger = logging.getLogger("safereason")
    logger.setLevel(before)
    try:
        with run(tmp_path / "run"):
            assert logger.getEffectiveLevel() == after
    finally:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("damage", ["{", "[]", "7", '{"stage": 5}', '{"stage": "sft", "identity": []}', "{}", "\xff"])
def test_a_damaged_manifest_is_an_error_in_one_line(tmp_path: Path, damage: str):
    path = finished(tmp_path / "run")
    (path / "manifest.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(InputError) as caught, run(path, "resume"):
        pass
    assert str(path) in one_line(caught)


@pytest.mark.parametrize("damage", ["{", "[]", ""])
def test_damaged_metrics_are_an_error_in_one_line(tmp_path: Path, damage: str):
    path = finished(tmp_path / "run")
    (path / "metrics.json").write_text(damage)
    with pytest.raises(InputError) as caught:
        finished_result(run(path, "resume"))
    assert str(path / "metrics.json") in one_line(caught)


def test_a_full_disk_does_not_hide_what_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, document: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    this = run(tmp_path / "run")
    this.__enter__()
    monkeypatch.setattr(directory, "write_json", full)
    this.__exit__(StageFailed, StageFailed("the server failed"), None)
    monkeypatch.undo()
    with run(tmp_path / "run", "resume"):  # its lock is free
        assert status(tmp_path / "run") == "running"


def test_only_who_began_a_run_may_look_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = os.umask(0)
    try:
        finished(tmp_path / "own")
        monkeypatch.setenv("SAFEREASON_UMASK", "022")
        finished(tmp_path / "shared")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("own", "shared")]
    assert modes == [0o700, 0o755]
