"""How a guard's training is watched: when it is looked at, what is written down, and which model is kept."""

import copy
import shutil
from pathlib import Path

import micro
import micro_guard
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safereason import processes
from safereason.data.example import Example
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import Category, Policy
from safereason.guard.prompt import VERDICT_ONLY, GuardTemplates
from safereason.recipe.schema import Sampling
from safereason.runs.records import RecordLog, read_json, read_records
from safereason.training.model import save_copy
from safereason.training.validation import Validation, best_f1, validation_metrics

GUIDE = GuardPrompt(
    Policy("short", "Short", (Category("A1", "Rudeness"),)),
    GuardTemplates("{policy} {prompt}", "{policy} {prompt} {response}", VERDICT_ONLY),
    False,
    Sampling(temperature=0.0, max_new_tokens=20),
)
ROWS = [
    Example(f"s/{label}{i}", f"{label} {i}?", "harmless", "s", label=label, response=response)
    for i, response in enumerate((None, "So."))
    for label in ("safe", "unsafe")
]
MUTE = {"f1": 0.0, "unparsed": 1.0, "says_unsafe": 0.0, "mean_tokens": 20.0}


@pytest.fixture(scope="module")
def guards(tmp_path_factory, micro_model):
    """Models by what they always say."""
    folders = {
        say: micro_guard.save_guard(tmp_path_factory.mktemp(say), unsafe)
        for say, unsafe in (("unsafe", 0.9), ("safe", 0.1))
    }
    return {say: load_model(str(folder)) for say, folder in {**folders, "nothing": micro_model}.items()}


class Training:
    """A validation in a folder of its own, told of steps as the loop tells it."""

    def __init__(self, folder: Path, every: int = 2, keep: bool = True, guard_prompt: GuardPrompt = GUIDE) -> None:
        self.folder, self.best = folder, folder / "best"
        self.tokenizer = micro.tokenizer()
        self.log = RecordLog(folder / "validation.jsonl")
        self.validation = Validation(
            ROWS,
            guard_prompt,
            self.tokenizer,
            every=every,
            seed=3,
            log=self.log,
            best=self.best if keep else None,
            save=lambda model, to: save_copy(model, self.tokenizer, to, "fp32"),
        )

    def begin(self, model) -> None:
        self.validation.after_step(0, model, False)

    def step(self, model, step: int, last: int = 5) -> None:
        self.validation.after_step(step, model, step == last)

    @property
    def records(self) -> list[dict]:
        return list(read_records(self.folder / "validation.jsonl"))

    def best_label(self) -> str:
        """What the kept model says."""
        weights = load_model(str(self.best)).lm_head.weight
        return next(say for say, model in self.models.items() if torch.equal(weights, model.lm_head.weight))


@pytest.fixture
def training(tmp_path, guards) -> Training:
    result = Training(tmp_path)
    result.models = guards
    return result


def test_it_looks_before_the_first_step_every_so_many_and_after_the_last(training, guards, capsys):
    training.begin(guards["safe"])
    for step in range(1, 6):
        training.step(guards["safe"], step)
    assert [record["step"] for record in training.records] == [0, 2, 4, 5]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "validation after step 0: F1 0.000, unparsed 0.000, unsafe 0.000"
    assert len(lines) == 4


def test_a_last_step_that_is_a_usual_one_is_looked_at_once(training, guards):
    training.step(guards["safe"], 4, last=4)
    assert [record["step"] for record in training.records] == [4]


def test_a_look_says_what_the_model_says(training, guards):
    training.begin(guards["unsafe"])
    training.step(guards["safe"], 2)
    training.step(guards["nothing"], 4)
    unsafe, safe, nothing = training.records
    assert unsafe == {
        "step": 0,
        "n": 4,
        "f1": pytest.approx(2 / 3),
        "unparsed": 0.0,
        "says_unsafe": 1.0,
        "mean_tokens": 15.0,
    }
    assert safe == {"step": 2, "n": 4, "f1": 0.0, "unparsed": 0.0, "says_unsafe": 0.0, "mean_tokens": 13.0}
    assert nothing == {"step": 4, "n": 4, **MUTE}


def test_an_earlier_look_that_was_better_is_kept(training, guards):
    training.begin(guards["safe"])
    assert training.best_label() == "safe"
    training.step(guards["unsafe"], 2)
    training.step(guards["nothing"], 4)
    training.step(guards["safe"], 5)
    assert training.best_label() == "unsafe"
    assert read_json(training.best / "validation.json") == training.records[1]
    assert best_f1(training.best) == pytest.approx(2 / 3)
    assert sorted(path.name for path in training.folder.iterdir()) == ["best", "validation.jsonl"]
    assert load_tokenizer(ModelSpec.parse(str(training.best))).chat_template


def test_of_equal_looks_the_first_is_kept(training, guards):
    training.begin(guards["nothing"])
    training.step(guards["safe"], 2)
    assert [record["f1"] for record in training.records] == [0.0, 0.0]
    assert training.best_label() == "nothing"


def test_none_is_kept_where_none_is_asked_for(tmp_path, guards):
    training = Training(tmp_path, keep=False)
    training.begin(guards["unsafe"])
    assert [path.name for path in tmp_path.iterdir()] == ["validation.jsonl"]
    assert len(training.records) == 1


def test_another_process_than_the_first_looks_and_leaves_writing_to_it(training, guards, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_main", lambda: False)
    training.step(guards["unsafe"], 2)
    assert [record["step"] for record in training.records] == [2]
    assert not training.best.exists()
    assert capsys.readouterr().err == ""


def test_verdicts_are_drawn_alike_at_every_look(tmp_path, guards):
    guard_prompt = GuardPrompt(GUIDE.policy, GUIDE.templates, False, Sampling(temperature=1.0, max_new_tokens=20))
    training = Training(tmp_path, every=1, keep=False, guard_prompt=guard_prompt)
    for step in (1, 2):
        training.step(guards["nothing"], step)
    first, second = training.records
    assert {**first, "step": 2} == second


def test_a_look_leaves_the_training_as_it_was(training, guards):
    model = copy.deepcopy(guards["unsafe"]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    training.begin(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad and not p.is_inference() for p in model.parameters())


def exchanged(training, guards, cut) -> Training:
    """Killed while the better model took the other one's place: `cut` says what was there then."""
    training.begin(guards["safe"])
    old = training.folder / "old"
    shutil.copytree(training.best, old)
    training.step(guards["unsafe"], 2)
    new = training.folder / ".best.new"
    training.best.rename(new)
    old.rename(training.best)
    cut(training.best, new)
    again = Training(training.folder)
    again.models = guards
    assert not new.exists()
    return again


def half_deleted(old: Path, new: Path) -> None:
    (old / "validation.json").unlink()
    (old / "model.safetensors").unlink()


CUTS = {
    "new one is whole": (half_deleted, "unsafe"),
    "old one is gone": (lambda old, new: shutil.rmtree(old), "unsafe"),
    "new one has no record": (lambda old, new: (new / "validation.json").unlink(), "safe"),
    "nothing was deleted": (lambda old, new: None, "safe"),
}


@pytest.mark.parametrize(("cut", "kept"), CUTS.values(), ids=CUTS.keys())
def test_a_kill_in_between_leaves_one_whole_model(training, guards, cut, kept):
    again = exchanged(training, guards, cut)
    assert again.best_label() == kept
    again.step(guards["unsafe"], 2)  # a resumed training comes to the same look again
    assert again.best_label() == "unsafe"


TRUTH_AND_PREDICTED = st.lists(
    st.tuples(st.sampled_from(["safe", "unsafe"]), st.sampled_from(["safe", "unsafe", None])), min_size=1, max_size=12
)


@given(TRUTH_AND_PREDICTED)
def test_what_cannot_be_read_counts_as_wrong(pairs):
    rows = [Example(f"s/{i}", "x", "harmless", "s", label=label) for i, (label, _) in enumerate(pairs)]
    metrics = validation_metrics(
        rows, [GuardVerdict(predicted, None, tokens=i) for i, (_, predicted) in enumerate(pairs)]
    )
    right = sum(label == predicted == "unsafe" for label, predicted in pairs)
    missed = sum(label == "unsafe" != predicted for label, predicted in pairs)
    raised = sum(label == "safe" != predicted for label, predicted in pairs)
    assert metrics["f1"] == pytest.approx(2 * right / (2 * right + missed + raised) if right else 0.0)
    unread = sum(predicted is None for _, predicted in pairs)
    assert metrics["unparsed"] == pytest.approx(unread / len(pairs))
    calls = sum(predicted == "unsafe" for _, predicted in pairs)
    assert metrics["says_unsafe"] == pytest.approx(calls / (len(pairs) - unread) if len(pairs) > unread else 0.0)
    assert (metrics["n"], metrics["mean_tokens"]) == (len(pairs), pytest.approx((len(pairs) - 1) / 2))
