"""`--gpus` of evaluations, attacks and `guard classify`: two GPUs, a faked number, give what one process gives."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import engine_contract
import micro
import micro_guard
import pytest
from program import python, refusal_line, safereason
from transformers import LlamaForCausalLM

from safereason import processes
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.policy import load
from safereason.recipe.schema import Sampling

FAKED = """
import os, signal, sys
from safereason import workers
from safereason.cli.app import main
from safereason.runs.records import RecordLog
from safereason.training import layout

victim, last = sys.argv.pop(1), int(sys.argv.pop(1))
layout.devices_here = lambda: [48 * 2**30] * 2
layout.device_count = lambda: 2
started = []
start, extend = workers._Worker.__init__, RecordLog.extend
written = 0


def start_and_say(self, environment):
    start(self, environment)
    started.append(self.process.pid)
    print("worker:", environment["CUDA_VISIBLE_DEVICES"], self.process.pid, file=sys.stderr, flush=True)


def write_and_kill(self, records):
    global written
    extend(self, records)
    before = written
    written += len(records)
    if before < last <= written:
        os.kill(os.getpid() if victim == "parent" else started[-1], signal.SIGKILL)


workers._Worker.__init__ = start_and_say
RecordLog.extend = write_and_kill
main()
"""
"""The program on a machine with two GPUs, whose workers compute on the CPU all the same. After so many records it kills
itself, or the worker that was started last."""
ROWS = 70
"""More than are judged together."""
RECIPE = """
model: {model}
data: {{mix: tars, prompts: 4, harmful_ratio: 1.0, harmful: [{{source: sample, prompts: 4}}],
  harmless: [{{source: sample, prompts: 4}}], ambiguous: [{{source: sample, prompts: 4}}],
  traces: [{{source: sample, prompts: 4}}]}}
attack: {{sampling: {{temperature: 1.0, max_new_tokens: 8}}, settings: {{best-of-n: {{n: 4, batch: 2}}}}}}
eval: {{sampling: {{temperature: 1.0, max_new_tokens: 400}}, prefix: "", behaviors: {behaviors}, benign: null,
  harm_judge: "guard:{guard}"}}
"""
# Batches are planned by the longest that completions may be: with 400 tokens they hold about forty rows.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe `tiny.yaml`, a target that ends its turns early, a guard that knows its policy, and prompts."""
    folder = tmp_path_factory.mktemp("shards")
    micro.save_model(folder / "model")
    model = LlamaForCausalLM.from_pretrained(folder / "model")
    model.generation_config.eos_token_id = engine_contract.ENDS
    model.save_pretrained(folder / "model")
    micro_guard.save_guard(folder / "guard")
    (folder / "house.yaml").write_text(micro_guard.POLICY)
    policy = load(str(folder / "house.yaml"))
    replace(guard_prompts.default(), policy=policy, sampling=Sampling(max_new_tokens=40)).save(folder / "guard")
    lines = []
    for number in range(ROWS):
        row = {"id": f"p{number}", "prompt": f"topic {'x' * (number % 5)}{number}", "kind": "harmful", "source": "own"}
        lines.append(json.dumps(row) + "\n")
    (folder / "prompts.jsonl").write_text("".join(lines))
    recipe = RECIPE.format(model=folder / "model", behaviors=folder / "prompts.jsonl", guard=folder / "guard")
    (folder / "tiny.yaml").write_text(recipe)
    return folder


def on_two_gpus(*words: object, victim: str = "nobody", last: int = 0):
    return python(FAKED, victim, last, *words)


def workers_of(stderr: str) -> dict[int, str]:
    """The GPU of each worker, by its process."""
    words = [line.split() for line in stderr.splitlines() if line.startswith("worker: ")]
    return {int(pid): gpu for _, gpu, pid in words}


def files_of(run: Path) -> dict[str, bytes]:
    names = ("completions.jsonl", "verdicts.jsonl", "cases.jsonl", "metrics.json", "engine.json")
    return {name: (run / name).read_bytes() for name in names if (run / name).exists()}


def eval_words(folder: Path, out: Path) -> tuple[object, ...]:
    return ("eval", "harmbench", "--recipe", folder / "tiny.yaml", "--model", folder / "model", "--out", out)


def attack_words(folder: Path, out: Path) -> tuple[object, ...]:
    words = ("attack", "best-of-n", "--recipe", folder / "tiny.yaml", "--model", folder / "model", "--limit", 7)
    return (*words, "--judge", "refusal", "--out", out)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of runs in one process."""
    files = {}
    for name, words_of in (("eval", eval_words), ("attack", attack_words)):
        out = tmp_path_factory.mktemp("whole") / name
        done = safereason(*words_of(folder, out))
        assert done.returncode == 0, done.stderr
        files[name] = files_of(out)
    return files


def test_an_evaluation_on_two_gpus_is_that_of_one_process(folder, whole, tmp_path):
    assert set(whole["eval"]) == {"completions.jsonl", "verdicts.jsonl", "metrics.json", "engine.json"}
    assert whole["eval"]["completions.jsonl"].count(b"\n") == ROWS
    assert {json.loads(line)["label"] for line in whole["eval"]["verdicts.jsonl"].splitlines()} == {"safe", "unsafe"}
    done = on_two_gpus(*eval_words(folder, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    # Two draw, and when they have ended two judge.
    assert sorted(workers_of(done.stderr).values()) == ["0", "0", "1", "1"]
    assert files_of(tmp_path / "run") == whole["eval"]


@pytest.mark.parametrize(("victim", "last"), [("parent", 30), ("worker", 1), ("parent", ROWS + 1)])
def test_an_evaluation_that_is_killed_on_two_gpus_ends_with_the_same_bytes(folder, whole, victim, last, tmp_path):
    words = eval_words(folder, tmp_path / "run")
    killed = on_two_gpus(*words, victim=victim, last=last)
    if victim == "parent":
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:
        assert killed.returncode == 1
        assert killed.stderr.splitlines()[-1] == "error: a worker was ended by SIGKILL; pass --resume to go on"
    wait_until_none_is_left(workers_of(killed.stderr))
    done = on_two_gpus(*words, "--resume")
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "run") == whole["eval"]


def test_an_attack_on_two_gpus_is_that_of_one_process(folder, whole, tmp_path):
    assert whole["attack"]["cases.jsonl"].count(b"\n") == 7
    killed = on_two_gpus(*attack_words(folder, tmp_path / "run"), victim="parent", last=3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(workers_of(killed.stderr).values()) == ["0", "1"]
    wait_until_none_is_left(workers_of(killed.stderr))
    done = on_two_gpus(*attack_words(folder, tmp_path / "run"), "--resume")
    assert done.returncode == 0, done.stderr
    assert "behavior 7/7: " in done.stderr
    assert files_of(tmp_path / "run") == whole["attack"]


def test_the_error_of_a_worker_is_the_programs_one_line(folder, tmp_path):
    broken = tmp_path / "broken"
    micro.save_model(broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:500])
    words = ("eval", "harmbench", "--recipe", folder / "tiny.yaml", "--model", broken, "--out", tmp_path / "run")
    done = on_two_gpus(*words)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {broken}: cannot be loaded (")
    assert done.stderr.count("Traceback") == 0
    # Nothing was recorded, so that the corrected command need not say what becomes of it.
    assert not (tmp_path / "run").exists()
    one = safereason(*words)
    assert (one.returncode, one.stderr.splitlines()[-1]) == (2, line)


def test_rows_are_classified_on_two_gpus_in_their_order(folder, tmp_path):
    lines = [json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(3 * 64 + 5)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    words = ("guard", "classify", tmp_path / "rows.jsonl", "--model", folder / "guard")
    whole = safereason(*words)
    assert whole.returncode == 0, whole.stderr
    done = on_two_gpus(*words)
    assert done.returncode == 0, done.stderr
    assert sorted(workers_of(done.stderr).values()) == ["0", "1"]
    assert done.stdout == whole.stdout
    out = tmp_path / "out.jsonl"
    killed = on_two_gpus(*words, "--out", out, victim="parent", last=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_until_none_is_left(workers_of(killed.stderr))
    assert 100 <= out.read_bytes().count(b"\n") < len(lines)
    again = on_two_gpus(*words, "--out", out, "--resume")
    assert again.returncode == 0, again.stderr
    assert out.read_text() == whole.stdout


def test_a_row_that_cannot_be_read_comes_after_the_verdicts_on_those_before_it(folder, tmp_path):
    lines = [json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(150)]
    (tmp_path / "rows.jsonl").write_text("".join(lines) + '{"prompt": 3}\n')
    words = ("guard", "classify", tmp_path / "rows.jsonl", "--model", folder / "guard")
    whole = safereason(*words)
    done = on_two_gpus(*words)
    assert (whole.returncode, done.returncode) == (2, 2)
    assert whole.stdout.count("\n") == 150
    assert done.stdout == whole.stdout
    assert done.stderr.splitlines()[-1] == whole.stderr.splitlines()[-1]


def test_one_gpu_of_several_is_one_process(folder, tmp_path):
    done = on_two_gpus(*eval_words(folder, tmp_path / "run"), "--gpus", 1, "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert workers_of(done.stderr) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--gpus", "4"),
            "--gpus 4: this machine has 2; name no more, or leave the option out",
        ),
        (
            ("--gpus", "4x48GB"),
            "--gpus 4x48GB: all or a number is expected; GPUs elsewhere, as 4x48GB, go with --dry-run only",
        ),
        (
            ("--gpus", "0"),
            "--gpus 0: all or a number is expected; GPUs elsewhere, as 4x48GB, go with --dry-run only",
        ),
    ],
)
def test_gpus_that_are_not_there_are_refused(folder, words, message, tmp_path):
    done = on_two_gpus(*eval_words(folder, tmp_path / "run"), *words)
    assert done.returncode == 2
    assert refusal_line(done) == f"error: {message}"
    assert not (tmp_path / "run").exists()


def test_a_plan_says_which_model_lies_on_which_gpu(tmp_path):
    words = ("eval", "harmbench", "--recipe", "tars-1.5b", "--attacks", "pair", "--dry-run", "--gpus", "4x48GB")
    plan = json.loads(safereason(*words, "--json").stdout)
    rows = [(row["work"], row["role"], row["shards"], row["on GPU"], row["GiB"]) for row in plan["placement"]]
    assert rows == [
        ("searches of pair", "target model", 4, "0", 2.9),
        ("searches of pair", "attacker", 4, "0", 14.2),
        ("searches of pair", "rater", 4, "0", 14.2),
        ("completions", "model", 4, "0", 2.9),
        ("verdicts", "judge", 4, "0", 24.2),
    ]
    assert {row["precision"] for row in plan["placement"]} == {"bf16"}
    table = safereason(*words).stdout.splitlines()[-6:]
    assert "  ".join(table[0].split()) == "work  shards  GPUs  a  shard  role  model  engine  precision  GiB  on  GPU"
    old = json.loads(safereason(*words[:-1], "8xV100", "--json").stdout)["placement"]
    assert {row["precision"] for row in old} == {"fp32"}


def test_what_does_not_fit_is_one_line_before_any_search(tmp_path):
    words = ("eval", "harmbench", "--recipe", "tars-1.5b", "--attacks", "pair", "--dry-run", "--gpus", "16GB")
    done = safereason(*words, "eval.attacks=[pair]", "--precision", "fp32")
    assert done.returncode == 2
    line = refusal_line(done)
    assert line.startswith(
        "error: attack pair: does not fit 1 x 16GB, of which 14.7 GiB each can be used: target model"
    )
    assert "attacker and rater huihui-ai/Qwen2.5-7B-Instruct-abliterated-v3 28.4 GiB in fp32" in line


def wait_until_none_is_left(workers: dict[int, str]) -> None:
    for _ in range(500):
        if not any(processes.is_alive(number) for number in workers):
            return
        time.sleep(0.02)
    pytest.fail("a worker outlived the program")
