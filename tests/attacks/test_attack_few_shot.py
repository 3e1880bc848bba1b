"""Few-shot and many-shot: what stands before the behavior, and where it comes from."""

import json
from pathlib import Path

import attack_setup
import pytest
from attack_setup import BEHAVIOR

from safereason.attacks.base import Setup, TestCase
from safereason.attacks.few_shot import FEW_SHOT, MANY_SHOT, FewShotSettings, ManyShotSettings
from safereason.data.example import Example
from safereason.data.sources import sample
from safereason.errors import InputError


def few(seed: int = 0, behavior: Example = BEHAVIOR, **settings) -> TestCase:
    (step,) = attack_setup.steps(FEW_SHOT, FewShotSettings(**settings), Setup(None, seed=seed), behavior)
    return step.cases[0]


def pairs(case: TestCase) -> list[tuple[str, str]]:
    assert [turn["role"] for turn in case.turns] == ["user", "assistant"] * (len(case.turns) // 2)
    texts = [turn["content"] for turn in case.turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def file_of(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": f"a{i}"}) + "\n" for i in range(count)))
    return path


def test_the_bundled_samples_harmless_answers_stand_before_the_behavior():
    case = few()
    traces = [t for t in sample.SOURCE.traces("train") if t.kind == "harmless"]
    assert (case.prompt, case.prefix, case.details) == (BEHAVIOR.prompt, None, {"shots": 5})
    assert len({prompt for prompt, _ in pairs(case)}) == 5
    assert set(pairs(case)) <= {(t.prompt, t.answer) for t in traces}


def test_they_are_drawn_by_the_seed_and_the_behavior(tmp_path: Path):
    file = file_of(tmp_path / "shots.jsonl", 300)
    assert few(file=file) == few(file=file)
    other = Example("o/2", "p", "harmful", "o")
    assert len({str(pairs(case)) for case in (few(file=file), few(1, file=file), few(behavior=other, file=file))}) == 3
    (step,) = attack_setup.steps(MANY_SHOT, ManyShotSettings(file=file), Setup(None))
    assert step.cases[0].attack == "many-shot"
    assert len(set(pairs(step.cases[0]))) == 128
    assert all(answer == f"a{prompt[1:]}" for prompt, answer in pairs(step.cases[0]))


def test_the_behavior_is_no_demonstration_of_its_own(tmp_path: Path):
    file = file_of(tmp_path / "shots.jsonl", 2)
    case = few(behavior=Example("o/1", "q0", "harmful", "o"), file=file, shots=1)
    assert pairs(case) == [("q1", "a1")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            '{"prompt": "q", "answer": "a"}\n',
            r"attack.settings.few-shot.shots is 5, but .*shots.jsonl has 1; set attack.settings.few-shot.shots=1 or",
        ),
        ('{"prompt": "q"}\n', "row 1: `answer` is None"),
        ('{"prompt": " ", "answer": "a"}\n', "row 1: `prompt` is ' '"),
        ("nonsense\n", "shots.jsonl:1: not JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_said(content: str | None, problem: str, tmp_path: Path):
    file = tmp_path / "shots.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=problem):
        few(file=file)


def test_the_bundled_sample_has_too_few_for_many_shots():
    with pytest.raises(InputError, match=r"attack.settings.many-shot.shots is 128, but the bundled sample has 50; set"):
        attack_setup.steps(MANY_SHOT, ManyShotSettings(), Setup(None))
