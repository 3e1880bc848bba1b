"""The attack stage: what a search is given, what is recorded, and that a killed run ends with the same records."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from program import python

from safereason.attacks import ATTACKS
from safereason.attacks.base import Attack, AttackSettings, SearchStep, TestCase
from safereason.engines.base import GenerateOptions
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.judges import JudgeSpec, Verdict
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records
from safereason.stages import attack as stage_attack
from safereason.stages import eval as stage_eval
from safereason.stages.attack_plan import AttackRequest
from safereason.stages.base import Options
from safereason.text import chat


class Knocks(AttackSettings):
    """How often it asks."""

    tries: int = 3
    """Questions a behavior."""


def knock(behaviors, settings, setup):
    """Asks for each behavior again and again, and keeps the longest answer's prompt."""
    best = [TestCase(b.id, "knock", b.prompt) for b in behaviors]
    longest = -1.0
    for number in range(1, settings.tries + 1):
        prompts = [f"{b.prompt} {setup.seed % 1000} {number}" for b in behaviors]
        completions = setup.target_model.generate(
            [chat.user(p) for p in prompts], setup.sampling, GenerateOptions(seed=setup.seed)
        )
        length = float(sum(len(row[0].text) for row in completions))
        if length > longest:
            longest = length
            best = [
                TestCase(b.id, "knock", p, details={"length": length}) for b, p in zip(behaviors, prompts, strict=True)
            ]
        yield SearchStep(number, tuple(best), longest)


def rated(behaviors, settings, setup):
    (behavior,) = behaviors
    (value,) = setup.score(behavior, ["I can't help with that."])
    yield SearchStep(0, (TestCase(behavior.id, "rated", behavior.prompt),), value)


KNOCK = Attack("knock", "Asks again", knock, frozenset({"answers"}), Knocks)
TOGETHER = Attack("knock", "Asks again", knock, frozenset({"answers"}), Knocks, lambda cases, settings: [list(cases)])
RATED = Attack("rated", "Asks the judge", rated, frozenset({"answers", "score"}))


@pytest.fixture
def recipe(micro_model) -> Recipe:
    evaluation = {
        "sampling": {"max_new_tokens": 6},
        "behaviors": "sample",
        "benign": None,
        "prefix": "",
        "attacks": ["knock"],
        "harm_judge": "refusal",
    }
    share = [{"source": "sample", "prompts": 10}]
    mix = {
        "mix": "tars",
        "prompts": 4,
        "harmful_ratio": 1.0,
        "harmful": share,
        "harmless": share,
        "ambiguous": share,
        "traces": share,
    }
    return Recipe(
        name="tiny",
        model=str(micro_model),
        data=mix,
        eval=evaluation,
        attack={"sampling": {"max_new_tokens": 6, "temperature": 1.0}},
    )


@pytest.fixture(autouse=True)
def knocks(monkeypatch):
    monkeypatch.setitem(ATTACKS, "knock", KNOCK)
    monkeypatch.setitem(ATTACKS, "rated", RATED)


def run(recipe, root, name="knock", **request):
    options = Options(root=root, model=ModelSpec.parse(recipe.model), on_existing=request.pop("on_existing", "refuse"))
    return stage_attack.run_attack(recipe, options, AttackRequest(name, **{"limit": 4, **request}))


def with_attack(recipe, **changes):
    return recipe.model_copy(update={"attack": Attacking(**{**recipe.attack.model_dump(), **changes})})


def records_of(result):
    return list(read_records(result.run / stage_attack.CASES))


def test_each_behavior_gets_a_record_with_what_was_found_and_spent(recipe, tmp_path):
    result = run(recipe, tmp_path)
    records = records_of(result)
    assert len(records) == 4 == len({record["behavior"] for record in records})
    assert {(r["steps"], r["queries"], r["spent"]) for r in records} == {(3, 3, False)}
    assert all(r["value"] == r["details"]["length"] for r in records)
    assert min(r["read"] for r in records) > 3 * 6
    assert all(0 < r["written"] <= 18 for r in records)
    assert (result.metrics["queries"], result.metrics["behaviors"]) == (12, 4)
    assert result.metrics["tokens_read"] == sum(r["read"] for r in records)
    again = run(recipe, tmp_path / "again")
    assert records_of(again) == records
    assert run(recipe, tmp_path, on_existing="resume") == result


def test_the_budget_ends_a_search_with_its_best_and_one_that_never_began_with_the_behavior(recipe, tmp_path):
    records = records_of(run(with_attack(recipe, max_queries=2), tmp_path))
    assert {(r["steps"], r["queries"], r["spent"]) for r in records} == {(2, 2, True)}
    together = pytest.MonkeyPatch()
    together.setitem(ATTACKS, "knock", TOGETHER)
    result = run(with_attack(recipe, max_queries=2), tmp_path / "together")
    together.undo()
    assert {(r["steps"], r["queries"], r["spent"]) for r in records_of(result)} == {(0, 0, True)}
    assert all(r["details"] == {"nothing_found": stage_attack.NOTHING_FOUND} for r in records_of(result))
    assert (result.metrics["nothing_found"], result.metrics["budget_ended"]) == (4, 4)


def test_a_group_is_searched_for_once_and_counted_once(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(ATTACKS, "knock", TOGETHER)
    result = run(recipe, tmp_path)
    assert [r["queries"] for r in records_of(result)] == [12] * 4
    assert result.metrics["queries"] == 12


def test_shards_share_the_searches_and_find_what_one_machine_finds(recipe, tmp_path):
    whole = records_of(run(recipe, tmp_path / "whole"))
    parts = [records_of(run(recipe, tmp_path / "parts", shard=(i, 3))) for i in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [1, 1, 2]
    key = lambda record: record["behavior"]  # noqa: E731
    assert sorted((record for part in parts for record in part), key=key) == sorted(whole, key=key)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import test_stage_attack as here
from safereason.attacks import ATTACKS
from safereason.recipe.schema import Recipe
from safereason.runs.records import RecordLog
ATTACKS["knock"] = here.KNOCK
append = RecordLog.append
def append_then_die(self, record):
    append(self, record)
    if sum(1 for _ in self.path.open()) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
RecordLog.append = append_then_die
here.run(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_run_ends_with_the_records_of_one_that_was_not(recipe, tmp_path):
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    killed = python(KILLED, recipe.model_dump_json(), tmp_path / "a", *folders)
    assert killed.returncode == -9, killed.stderr
    (left,) = (tmp_path / "a" / "attack" / "knock").iterdir()
    assert len((left / stage_attack.CASES).read_bytes().splitlines()) == 2
    assert read_manifest(left)["status"] == "running"
    whole = run(recipe, tmp_path / "b")
    resumed = run(recipe, tmp_path / "a", on_existing="resume")
    assert (resumed.run / stage_attack.CASES).read_bytes() == (whole.run / stage_attack.CASES).read_bytes()
    assert resumed.metrics == whole.metrics


def test_settings_come_from_the_recipe_and_mistakes_are_named(recipe, tmp_path):
    records = records_of(run(with_attack(recipe, settings={"knock": {"tries": 1}}), tmp_path))
    assert {r["queries"] for r in records} == {1}
    for wrong, message in (
        ({"trys": 1}, "attack.settings.knock.trys: extra inputs .* attack knock has tries"),
        ({"tries": "many"}, "attack.settings.knock.tries: .*valid integer"),
    ):
        with pytest.raises(InputError, match=message):
            run(with_attack(recipe, settings={"knock": wrong}), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "attack rated: what judges the answers"),
        ({"judge": "compliance"}, "judge compliance: measures quality; one of harm or refusal is needed"),
        ({"judge": "nobody"}, "no judge is called 'nobody'"),
    ],
)
def test_a_judge_is_wanted_where_the_attack_looks_at_answers(recipe, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(with_attack(recipe, **changes), tmp_path, "rated")


def test_what_a_judge_of_refusal_finds_refused_is_not_harmful(recipe, tmp_path):
    result = run(with_attack(recipe, judge="refusal"), tmp_path, "rated")
    assert {record["value"] for record in records_of(result)} == {0.0}


def test_an_evaluation_searches_first_and_then_asks_what_was_found(recipe, tmp_path):
    options = Options(root=tmp_path, model=ModelSpec.parse(recipe.model))
    done = stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("harmbench", limit=3))
    (searched,) = (tmp_path / "attack" / "knock").iterdir()
    expected = {record["behavior"]: record["prompt"] for record in read_records(searched / stage_attack.CASES)}
    prompts = {r["behavior"]: r["prompt"] for r in read_records(done.run / "completions.jsonl")}
    assert prompts == expected
    assert len(prompts) == 3
    direct = stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("harmbench", limit=3, attacks=["direct"]))
    assert {r["attack"] for r in read_records(direct.run / "completions.jsonl")} == {"direct"}
    assert [path.name for path in (tmp_path / "attack").iterdir()] == ["knock"]
    other = with_attack(recipe, settings={"knock": {"tries": 1}})
    assert stage_eval.run_eval(other, options, stage_eval.EvalRequest("harmbench", limit=3)).run != done.run


def test_a_prefix_turns_and_a_completion_reach_the_evaluation(recipe, tmp_path, monkeypatch):
    def search(behaviors, settings, setup):
        (behavior,) = behaviors
        turns = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
        if behavior.id[-1] in "02468":
            yield SearchStep(0, (TestCase(behavior.id, "static", "Go on.", turns, prefix="Sure"),))
        else:
            yield SearchStep(0, (TestCase(behavior.id, "static", "Go on.", completion="I will."),))

    monkeypatch.setitem(ATTACKS, "static", Attack("static", "Static", search))
    done = stage_eval.run_eval(
        recipe,
        Options(root=tmp_path, model=ModelSpec.parse(recipe.model)),
        stage_eval.EvalRequest("harmbench", limit=8, attacks=["static"]),
    )
    records = {r["behavior"]: r for r in read_records(done.run / "completions.jsonl")}
    even = [r for name, r in records.items() if name[-1] in "02468"]
    odd = [r for name, r in records.items() if name[-1] not in "02468"]
    assert even
    assert odd
    assert {r["prefix"] for r in even} == {"Sure"}
    assert {(r["prefix"], r["text"]) for r in odd} == {("", "I will.")}
    assert json.loads((done.run / "metrics.json").read_text())["figures"]


def test_test_cases_of_a_file_are_asked_in_place_of_attacks(recipe, tmp_path):
    result = run(recipe, tmp_path)
    options = Options(root=tmp_path, model=ModelSpec.parse(recipe.model))
    done = stage_eval.run_eval(
        recipe, options, stage_eval.EvalRequest("harmbench", cases=[result.run / stage_attack.CASES])
    )
    prompts = {r["behavior"]: r["prompt"] for r in read_records(done.run / "completions.jsonl")}
    assert prompts == {r["behavior"]: r["prompt"] for r in records_of(result)}
    assert (done.metrics["attacks"], done.metrics["examples"]) == (["knock"], 4)
    first, second = list(prompts)[:2]
    exchanged = tmp_path / "test_cases.json"
    exchanged.write_text(json.dumps({first: ["one", "another"], second: [], "harmbench/other": ["of another source"]}))
    again = stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("harmbench", cases=[exchanged]))
    records = list(read_records(again.run / "completions.jsonl"))
    own = next(r["prompt"] for r in read_records(done.run / "completions.jsonl") if r["behavior"] == second)
    assert {(r["id"], r["prompt"]) for r in records if r["behavior"] == first} == {
        (f"{first}/test_cases", "one"),
        (f"{first}/test_cases#2", "another"),
    }
    assert [own.startswith(r["prompt"]) for r in records if r["behavior"] == second] == [True]
    exchanged.write_text(json.dumps({"harmbench/other": ["of another source"]}))
    with pytest.raises(InputError, match="holds no behavior of sample"):
        stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("harmbench", cases=[exchanged]))
    with pytest.raises(InputError, match="--attacks and --cases exclude each other"):
        stage_eval.run_eval(recipe, options, stage_eval.EvalRequest("harmbench", cases=[exchanged], attacks=["direct"]))
    with pytest.raises(InputError, match="eval xstest: is not made under attacks"):
        stage_eval.plan_eval(
            recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"benign": "sample"})}),
            stage_eval.EvalRequest("xstest", None, None, None, [exchanged]),
        )


class Judge:
    """Fails at some of what it is asked, by how often it was asked."""

    name, measure = "scripted", "harm"

    def __init__(self, verdicts) -> None:
        self.verdicts, self.calls = verdicts, 0

    def judge(self, exchanges):
        self.calls += 1
        return [self.verdicts(self.calls, place) for place in range(len(exchanges))]


def twice_rated(behaviors, settings, setup):
    (behavior,) = behaviors
    scores = setup.score(behavior, ["One.", "Two."])
    best = max((score for score in scores if score is not None), default=None)
    yield SearchStep(0, (TestCase(behavior.id, "rated", behavior.prompt),), best)


@pytest.fixture
def by_two(monkeypatch, recipe):
    monkeypatch.setitem(ATTACKS, "rated", Attack("rated", "Asks twice", twice_rated, frozenset({"answers", "score"})))
    return recipe.model_copy(update={"attack": recipe.attack.model_copy(update={"judge": "refusal"})})


def judged_by(monkeypatch, verdicts) -> Judge:
    judge = Judge(verdicts)
    monkeypatch.setattr(JudgeSpec, "open", lambda spec, **loading: judge)
    return judge


def test_a_search_whose_judge_is_gone_is_given_up_and_resumed(by_two, tmp_path, micro_model, monkeypatch):
    options = Options(out=tmp_path / "run", model=ModelSpec.parse(str(micro_model)))
    judged_by(monkeypatch, lambda call, place: Verdict.failure("HTTP 503") if call == 2 else Verdict(0.5, None))
    with pytest.raises(StageFailed, match=r"the search of .* was given up \(HTTP 503\); --resume asks again"):
        stage_attack.run_attack(by_two, options, AttackRequest("rated", limit=4))
    assert len(list(read_records(tmp_path / "run" / "cases.jsonl"))) == 1
    judge = judged_by(monkeypatch, lambda call, place: Verdict(0.5, None))
    result = stage_attack.run_attack(by_two, replace(options, on_existing="resume"), AttackRequest("rated", limit=4))
    assert (judge.calls, result.metrics["behaviors"], result.metrics["failed"]) == (3, 4, 0)


def test_a_refusal_score_at_the_threshold_does_not_end_a_search(recipe, tmp_path, micro_model, monkeypatch):
    judge = judged_by(monkeypatch, lambda call, place: Verdict(0.5, "partial refusal"))
    judge.measure = "refusal"
    settings = {"best-of-n": {"n": 2, "batch": 1}}
    section = recipe.attack.model_copy(update={"judge": "refusal", "settings": settings})
    stage_attack.run_attack(
        recipe.model_copy(update={"attack": section}),
        Options(out=tmp_path / "run", model=ModelSpec.parse(str(micro_model))),
        AttackRequest("best-of-n", limit=1),
    )
    (record,) = read_records(tmp_path / "run" / "cases.jsonl")
    assert (record["steps"], record["value"], judge.calls) == (2, pytest.approx(0.5), 2)


def test_a_search_that_met_a_failure_is_counted_and_done_anew(by_two, tmp_path, micro_model, monkeypatch):
    options = Options(out=tmp_path / "run", model=ModelSpec.parse(str(micro_model)))
    judged_by(
        monkeypatch, lambda call, place: Verdict.failure("down") if (call, place) == (2, 1) else Verdict(0.5, None)
    )
    with pytest.raises(StageFailed, match=r"1 of 4 searches met what could not be had \(down\); --resume asks again"):
        stage_attack.run_attack(by_two, options, AttackRequest("rated", limit=4))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["failed"] == 1
    judge = judged_by(monkeypatch, lambda call, place: Verdict(0.5, None))
    result = stage_attack.run_attack(by_two, replace(options, on_existing="resume"), AttackRequest("rated", limit=4))
    assert (judge.calls, result.metrics["behaviors"]) == (1, 4)
    assert (read_manifest(result.run) or {})["status"] == "finished"


def test_where_no_answer_could_be_scored_the_reason_is_told(by_two, tmp_path, micro_model, monkeypatch):
    judged_by(monkeypatch, lambda call, place: Verdict.unscored("empty answer"))
    result = stage_attack.run_attack(
        by_two, Options(out=tmp_path / "run", model=ModelSpec.parse(str(micro_model))), AttackRequest("rated", limit=2)
    )
    with pytest.raises(StageFailed, match=r"no answer could be scored \(empty answer\)"):
        stage_attack.check_attack_scored(result.run, result.metrics)
