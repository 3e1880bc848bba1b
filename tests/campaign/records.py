"""What a command left, beside what an uninterrupted one left: lost, doubled and different records, partial files."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from campaign.tally import Tally

PASSED_OVER = ("log.txt", ".lock")
"""What depends on when a run was begun, and nothing else."""
TIMED = ("step_time", "started", "finished", "seconds", "date")
"""Fields that another run would not repeat."""
LOOSE = ("completions.jsonl", "verdicts.jsonl", "replies.jsonl")
"""Records that are written as they end; their order is not promised."""
OF_A_RUN = ("stage", "recipe", "status", "identity")
"""What two manifests have in common."""
HIDDEN = re.compile(r"^\.")


def files_under(folder: Path) -> set[str]:
    """Relative paths of all files."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def is_result(name: str) -> bool:
    """Whether a file is one that two runs must have alike."""
    path = Path(name)
    return path.name not in PASSED_OVER and path.suffix != ".lock" and "cache" not in path.parts[:1]


def is_left_over(name: str) -> bool:
    """Whether a file is one that was being written when its process ended."""
    path = Path(name)
    return path.name.endswith((".part", ".tmp")) or "checkpoints" in path.parts or path.name.startswith(".part-")


def damaged(folder: Path) -> Iterator[str]:
    """Files under their final name that cannot be read, of runs that may still be unfinished."""
    for name in sorted(files_under(folder)):
        path = folder / name
        if is_left_over(name) or not path.exists():
            continue
        try:
            _read(path)
        except Exception as error:
            yield f"{name}: {type(error).__name__}"


def _read(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        *lines, _ = path.read_bytes().split(b"\n")
        for line in lines:
            json.loads(line)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.read_metadata(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            list(file.keys())
    elif path.suffix == ".html" and "</html>" not in path.read_text():
        raise ValueError("cut")


def compare(tally: Tally, result: Path, expected: Path, names: set[str], about: dict[str, object]) -> None:
    """Counts what is lost, doubled or different in `result`, file by file of `names`, and left-overs."""
    for name in sorted(names):
        if not is_result(name):
            continue
        if not (result / name).exists():
            tally.fault("lost", f"{about['command']}: {shape(name)} is missing", {**about, "file": name})
            continue
        for column, number, what in differences(result / name, expected / name, result, expected):
            kind = f"{about['command']}: {shape(name)}: {column}"
            tally.fault(column, kind, {**about, "file": name, "what": what}, [result / name], number)
    for name in sorted(files_under(result) - names):
        if is_left_over(name):
            tally.fault("partial_files", f"{about['command']}: left over: {shape(name)}", {**about, "file": name})
        elif is_result(name):
            tally.fault("different", f"{about['command']}: not asked for: {shape(name)}", {**about, "file": name})


def shape(name: str) -> str:
    """A path without what varies."""
    return re.sub(r"--[^/]*", "--*", re.sub(r"\d{2,}", "N", name))


def differences(result: Path, expected: Path, root: Path, whole: Path) -> Iterator[tuple[str, int, str]]:
    if result.suffix == ".jsonl":
        yield from _records(result, expected)
        return
    texts = [_canonical(path, base) for path, base in ((result, root), (expected, whole))]
    if texts[0] != texts[1]:
        yield "different", 1, f"{result.name} differs"


def _records(result: Path, expected: Path) -> Iterator[tuple[str, int, str]]:
    lines, expected_lines = _lines(result), _lines(expected)
    if lines == expected_lines:
        return
    there, due = Counter(lines), Counter(expected_lines)
    more, less = there - due, due - there
    doubled = sum(number for line, number in more.items() if line in due)
    other = sum(number for line, number in more.items() if line not in due)
    lost = max(0, less.total() - other)
    for column, number in (("doubled", doubled), ("different", other), ("lost", lost)):
        if number:
            yield (
                column,
                number,
                f"{len(lines)} records, {len(expected_lines)} wanted; first: {[*more, *less][0][:300]}",
            )
    if not more and not less and result.name not in LOOSE:
        yield "different", 1, "the records are in another order"


def _lines(path: Path) -> list[str]:
    lines = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        lines.append(json.dumps({key: value for key, value in record.items() if key not in TIMED}, sort_keys=True))
    return lines


def _canonical(path: Path, root: Path) -> object:
    """The content without times and without the folder that a trial has of its own."""
    if path.name == "manifest.json":
        document = json.loads(path.read_text())
        return {key: document.get(key) for key in OF_A_RUN}
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text().replace(str(root), "")))
    if path.suffix == ".html":
        return _page(path.read_text().replace(str(root), ""))
    if path.suffix in (".svg", ".csv", ".md", ".yaml"):
        return path.read_text().replace(str(root), "")
    return path.read_bytes()


def _without_times(document: object) -> object:
    if isinstance(document, dict):
        return {key: _without_times(value) for key, value in document.items() if key not in TIMED}
    if isinstance(document, list):
        return [_without_times(value) for value in document]
    return document


def _page(text: str) -> str:
    """A report without the moments at which its runs ended and what they took."""
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?\S*|\d+(\.\d+)? ?(s|min|seconds)\b", "", text)
