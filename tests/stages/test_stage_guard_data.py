"""What a guard's data needs besides its mix: room for the prompt, no tested rows, and sources that can be had."""

import json
from dataclasses import replace
from pathlib import Path

import micro
import micro_guard
import pytest

from safereason.data import rsafe_mix
from safereason.data.example import Example, read_examples
from safereason.data.sampling import Mixture
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.prompt import Question
from safereason.recipe.schema import GuardSet, Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json
from safereason.stages import data
from safereason.stages.base import Options
from safereason.stages.preparation import guard_data
from safereason.stages.preparation.contamination import ContaminationCheck
from safereason.stages.preparation.mixture import draw_mixture
from safereason.text.chat import prompt_ids

SFT = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "precision": "fp32"}
GONE = "gone.jsonl"
HYGIENE = {"near_duplicate": None, "on_overlap": "drop"}
"""Numbered rows are nearly the same."""


def write_rows(path: Path, prompts=8, name: str = "mine") -> str:
    """Prompts and responses of both labels, with reasoning that ends in the right verdict."""
    rows = [
        {
            "id": f"{name}/{label}-{i}",
            "prompt": f"{label} thing {i} of {name}?",
            "kind": "harmless",
            "source": name,
            "label": label,
            "category": f"c{i % 2}",
            "response": "So it is done." if i % 4 == 3 else None,
            "reasoning": "Hm.",
            "answer": rf"\boxed{{{label}}}",
        }
        for label in ("safe", "unsafe")
        for i in range(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def source(tmp_path) -> str:
    return write_rows(tmp_path / "mine.jsonl")


@pytest.fixture
def policy(tmp_path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(micro_guard.POLICY)
    return str(path)


@pytest.fixture
def recipe_of(source, policy, micro_model):
    def make(guard=None, **mix) -> Recipe:
        return Recipe(
            name="tiny",
            model=str(micro_model),
            seed=3,
            data={
                "mix": "rsafe",
                "rows_per_label": 4,
                "sources": [source],
                "traces": [{"source": source, "prompts": 4}],
                "hygiene": HYGIENE,
                **mix,
            },
            guard={"policy": policy, "sft": SFT, "sampling": {"max_new_tokens": 8}, **(guard or {})},
        )

    return make


def draw(recipe: Recipe) -> Mixture:
    return draw_mixture(recipe, Options(), ContaminationCheck.of(recipe))


def length(recipe: Recipe, example: Example) -> int:
    """Tokens of the filled template, chat template included."""
    conversation = guard_prompts.of_section(recipe.guard).conversation(Question(example.prompt, example.response))
    return len(prompt_ids(micro.tokenizer(), conversation))


def drops(mixture: Mixture) -> dict[str, int]:
    return {reason: count for reason, count in mixture.drops.items() if count}


def test_each_task_has_its_own_limit_of_tokens(recipe_of, source):
    recipe = recipe_of()
    rows = read_examples(Path(source))
    prompts, responses = ([r for r in rows if (r.response is None) == alone] for alone in (True, False))
    longest = max(length(recipe, r) for r in prompts)  # those about `unsafe` things, which is two letters longer
    every = {"rows_per_label": 8, "traces": [{"source": source, "prompts": 16}]}
    fits = draw(recipe_of(max_prompt_task_tokens=longest, **every))
    assert drops(fits) == {}
    tight = draw(recipe_of(max_prompt_task_tokens=longest - 1, **every))
    reason = "longer than its limit of tokens"
    assert drops(tight) == {f"{source}: {reason}": 6, f"{source}, with reasoning: {reason}": 6}
    kept = [e for e in (*tight.prompts, *tight.traces) if e.label == "unsafe"]
    assert kept
    assert all(e.response is not None for e in kept)
    shortest = min(length(recipe, r) for r in responses)
    none = draw(recipe_of(max_response_task_tokens=shortest - 1, **every))
    assert drops(none) == {f"{source}: {reason}": 4, f"{source}, with reasoning: {reason}": 4}
    assert all(e.response is None for e in (*none.prompts, *none.traces))


def test_the_limit_is_on_the_prompt_that_the_guard_is_asked_with(recipe_of, tmp_path, source):
    recipe = recipe_of()
    longest = max(length(recipe, row) for row in read_examples(Path(source)) if row.response is None)
    short = tmp_path / "short.txt"
    short.write_text("{policy}\n{prompt}\nSay it.")
    with pytest.raises(InputError, match="has no safe row"):
        draw(recipe_of(max_prompt_task_tokens=longest // 2, max_response_task_tokens=10))
    ours = recipe_of({"prompt_template": str(short)}, max_prompt_task_tokens=longest // 2, max_response_task_tokens=10)
    assert {e.label for e in draw(ours).prompts} == {"safe", "unsafe"}


def test_without_a_guard_rows_of_any_length_are_drawn(source):
    mix = {
        "mix": "rsafe",
        "rows_per_label": 4,
        "sources": [source],
        "max_prompt_task_tokens": 1,
        "max_response_task_tokens": 1,
        "hygiene": HYGIENE,
    }
    mixture = draw(Recipe(name="tiny", model="org/none", data=mix, sft=SFT))
    assert len(mixture.prompts) == 8
    assert guard_data.guard_data_identity(Recipe(name="tiny", model="org/none", data=mix, sft=SFT)) == {}


def test_rows_of_a_test_set_are_left_out_and_counted(recipe_of, tmp_path, source):
    rows = read_examples(Path(source))
    tested = [
        replace(rows[0], prompt="  SAFE thing 0  of mine?"),
        rows[3],
        rows[8],
        replace(rows[1], response="Other."),
    ]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({**vars(row), "id": f"t/{i}"}) + "\n" for i, row in enumerate(tested)))
    every = {"rows_per_label": 8, "traces": [{"source": source, "prompts": 16}]}
    mixture = draw(recipe_of({"eval": {"sets": [{"source": str(test)}]}}, validation_rows_per_label=1, **every))
    why = f"in the test set {test}"
    assert drops(mixture) == {f"{source}: {why}": 3, f"{source}, with reasoning: {why}": 3}
    used = {e.id for e in (*mixture.prompts, *mixture.traces, *mixture.validation)}
    assert used.isdisjoint({"mine/safe-0", "mine/safe-3", "mine/unsafe-0"})
    assert "mine/safe-1" in used  # the same prompt with another response is another question


def test_a_set_of_the_training_split_leaves_what_it_takes(recipe_of, source):
    sets = [{"source": source, "split": "train", "skip": 4, "safe": 2, "unsafe": 2}]
    mixture = draw(recipe_of({"eval": {"sets": sets}}))
    plain = draw(recipe_of())
    assert [e.id for e in mixture.prompts] == [e.id for e in plain.prompts]
    more = draw(recipe_of({"eval": {"sets": sets}}, rows_per_label=8))
    assert drops(more)[f"{source}: in the test set {source}"] == 4
    tested = rsafe_mix.set_rows(GuardSet(**sets[0]), 3, read_examples(Path(source)))
    assert not {e.prompt for e in more.prompts} & {e.prompt for e in tested}


def test_every_source_that_cannot_be_had_is_named_in_a_line_and_then_refused(recipe_of, tmp_path, source, capsys):
    first, second = str(tmp_path / GONE), str(tmp_path / "lost.jsonl")
    recipe = recipe_of(sources=[first, source], safe_only=[{"source": second, "prompts": 2}])
    with pytest.raises(InputError) as caught:
        data.build_data(recipe, Options(root=tmp_path / "runs"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"data: {path}: ") for line, path in zip(lines, (first, second), strict=True))
    assert str(caught.value) == (
        f"data: 2 of 3 sources cannot be had ({first}; {second}); the lines above say how to get each, and "
        "--allow-missing goes on without them"
    )
    assert not (tmp_path / "runs").exists()


def test_rows_by_source_tells_rows_by_label_or_why_there_are_none(recipe_of, tmp_path, source):
    gone = str(tmp_path / GONE)
    rows = guard_data.rows_by_source(recipe_of(sources=[source, gone], safe_only=[{"source": source, "prompts": 1}]))
    assert list(rows) == [source, gone]
    assert rows[source] == "8 safe, 8 unsafe"
    assert rows[gone].startswith(f"cannot be had: {gone}: ")
    assert "\n" not in rows[gone]


def test_a_test_set_that_cannot_be_had_is_a_note(recipe_of, tmp_path, source, capsys):
    sets = [{"source": str(tmp_path / GONE), "name": "lost set"}, {"source": source, "safe": 1, "unsafe": 0}]
    recipe = recipe_of({"eval": {"sets": sets}}, rows_per_label=7)
    result = data.build_data(recipe, Options(root=tmp_path / "runs"))
    (note,) = read_json(result.run / "card.json")["notes"]
    assert note.startswith(f"not compared with the test set lost set: {tmp_path / GONE}: ")
    assert f"data: {note}" in capsys.readouterr().err
    assert read_json(result.run / "card.json")["drops"][f"{source}: in the test set {source}"] == 1
    assert read_json(result.run / "card.json")["overlap"]["sets"]["lost set"]["not compared"] in note


def test_a_guard_that_reasons_needs_reasoning_for_its_sft(recipe_of):
    with pytest.raises(InputError, match=r"recipe tiny: guard.sft trains .* name some, or set guard.reasoning=false"):
        draw(recipe_of(traces=[]))


def test_without_reasoning_the_labels_of_the_mix_are_what_sft_trains_on(recipe_of):
    mixture = draw(recipe_of({"reasoning": False}, traces=[], validation_rows_per_label=1))
    assert [(e.id, e.prompt, e.answer) for e in mixture.traces] == [
        (e.id, e.prompt, rf"\boxed{{{e.label}}}") for e in mixture.prompts
    ]
    assert len(mixture.traces) == 8
    assert not {e.prompt for e in mixture.validation} & {e.prompt for e in mixture.traces}


def changed(recipe: Recipe, **guard) -> Recipe:
    return recipe.model_copy(update={"guard": recipe.guard.model_copy(update=guard)})


def test_the_identity_changes_with_what_the_guard_is_asked(recipe_of, tmp_path, policy):
    recipe = recipe_of()
    before = data.data_identity(recipe)
    template = tmp_path / "own.txt"
    template.write_text("{policy} {prompt} {response}")
    others = [
        changed(recipe, policy="wildguard"),
        changed(recipe, prompt_template=str(template)),
        changed(recipe, response_template=str(template)),
        changed(recipe, reasoning=False),
        recipe.model_copy(update={"model": "org/other"}),
        recipe.model_copy(update={"seed": 4}),
    ]
    identities = [data.data_identity(other) for other in others]
    assert before not in identities
    assert len({json.dumps(one, sort_keys=True) for one in identities}) == len(identities)
    assert (
        data.data_identity(changed(recipe, sampling=recipe.guard.sampling.model_copy(update={"top_p": 0.5}))) == before
    )
    Path(policy).write_text(micro_guard.POLICY.replace("Spoilers", "Gossip"))
    assert data.data_identity(recipe) != before
    template.write_text("{policy} {prompt} {response}!")
    assert data.data_identity(others[1]) != identities[1]


def test_another_policy_is_other_data(recipe_of, tmp_path):
    options = Options(root=tmp_path / "runs", on_existing="resume")
    recipe = recipe_of()
    first = data.build_data(recipe, options).run
    assert data.build_data(recipe, options).run == first
    assert data.build_data(changed(recipe, policy="default-names"), options).run != first


def test_own_files_with_reasoning_are_part_of_the_data(recipe_of, tmp_path):
    options = Options(root=tmp_path / "runs", on_existing="resume")
    own = write_rows(tmp_path / "traces.jsonl", name="other")
    recipe = recipe_of(traces=[{"source": own, "prompts": 4}])
    first = data.build_data(recipe, options).run
    assert own in [entry["name"] for entry in read_json(first / "card.json")["sources"]]
    before = read_json(first / "manifest.json")
    data.build_data(recipe, options)
    assert read_json(first / "manifest.json") == before
    write_rows(Path(own), prompts=9, name="other")
    second = data.build_data(recipe, options).run
    assert second != first
    assert read_json(first / "manifest.json") == before
    assert read_json(second / "manifest.json")["inputs"][own] == sha256(Path(own)) != before["inputs"][own]
    assert own in [entry["name"] for entry in read_json(second / "card.json")["sources"]]
