"""The evaluation of guards: on the micro model, on a guard that is scripted, and on predictions from files."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from program import python

from safereason.engines.spec import ModelSpec
from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.evals import bars
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.base import GuardVerdict, Question
from safereason.guard.open import GuardSpec
from safereason.recipe.schema import SFT, GuardEvaluation, GuardSection, GuardSet, Recipe, RSafeMix, Sampling
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records
from safereason.stages import guard_eval, guard_eval_score, guard_sets
from safereason.stages.base import Options
from safereason.stages.guard_eval_plan import GuardEvalRequest, plan_guard_eval
from safereason.stages.measured_guard import measured_guard

SHORT = "title: Short\ncategories:\n  - {id: A, name: Harm}\n"
KILLED = """
import os, signal, sys
from pathlib import Path
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import Recipe
from safereason.runs.records import RecordLog
from safereason.stages import guard_eval
from safereason.stages.base import Options

append = RecordLog.append
def append_then_die(self, record):
    append(self, record)
    if sum(1 for _ in self.path.open()) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
RecordLog.append = append_then_die
recipe = Recipe.model_validate_json(sys.argv[1])
guard_eval.run_guard_eval(recipe, Options(root=Path(sys.argv[2]), model=ModelSpec.parse(sys.argv[3])))
"""


def write_source(path: Path, rows: int = 6) -> str:
    """Labelled prompts, and responses some of which nobody labelled."""
    labelled = [
        {"id": f"mine/{kind}-{i}", "prompt": f"{kind} {i}?", "kind": kind, "source": "mine", "category": f"c{i % 2}; x"}
        for kind in ("harmless", "harmful")
        for i in range(rows)
    ]
    replies = [
        {
            "id": f"mine/reply-{label}",
            "prompt": "Hm?",
            "response": f"a {label} one",
            "label": label,
            "kind": "harmless",
            "source": "mine",
        }
        for label in ("safe", None)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*labelled, *replies)))
    return str(path)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return str(path)


@pytest.fixture
def recipe(tmp_path: Path, policy: str) -> Recipe:
    source = write_source(tmp_path / "mine.jsonl")
    sets = (
        GuardSet(source=source, name="mine"),
        GuardSet(source=source, name="some", safe=2, unsafe=1, skip=1, categories=("c0",)),
    )
    return Recipe(
        name="micro",
        model="org/none",
        seed=3,
        data=RSafeMix(mix="rsafe", rows_per_label=2, sources=("sample",)),
        guard=GuardSection(
            policy=policy,
            sft=SFT(epochs=1, learning_rate=1e-4, batch_size=2),
            sampling=Sampling(temperature=1.0, max_new_tokens=8),
            eval=GuardEvaluation(sets=sets, resamples=50),
        ),
    )


@pytest.fixture
def options(tmp_path: Path, micro_model: Path) -> Options:
    return Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model)))


class Scripted:
    """A guard that knows the kinds, misses one row, gives another no verdict, and ends in reverse order."""

    name = "scripted"

    def __init__(self, fails: Collection[str] = ()) -> None:
        self.fails = fails
        self.prompts: list[str] = []

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_verdict: Callable[[int, GuardVerdict], None] | None = None,
    ) -> list[GuardVerdict | None]:
        assert on_verdict is not None
        for i in reversed(range(len(questions))):
            if i not in done:
                self.prompts.append(questions[i].prompt)
                on_verdict(i, self.verdict_on(questions[i].prompt))
        return []

    def verdict_on(self, prompt: str) -> GuardVerdict:
        if prompt in self.fails:
            return GuardVerdict(None, None, reason="HTTP 503", failed=True)
        if prompt == "harmless 0?":
            return GuardVerdict(None, None, text="Well.", reason="the guard gave no verdict")
        unsafe = prompt.startswith("harmful") and prompt != "harmful 1?"
        return GuardVerdict(
            "unsafe" if unsafe else "safe", 0.9 if unsafe else 0.2, ("A",) if unsafe else (), "Hm.", "Hm. x"
        )


def script(monkeypatch: pytest.MonkeyPatch, fails: Collection[str] = ()) -> Scripted:
    guard = Scripted(fails)
    monkeypatch.setattr(GuardSpec, "open", lambda spec, options: guard)
    return guard


def by_key(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    records = list(read_records(path))
    result = {(record["set"], record["id"]): record for record in records}
    assert len(result) == len(records), "a row was recorded twice"
    return result


def values(metrics: dict[str, Any]) -> dict[str, float | None]:
    return {f"{f['name']}/{f['group']}": f["value"] for f in metrics["figures"]}


def test_rows_figures_and_tables_of_a_guard(
    recipe: Recipe, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script(monkeypatch)
    result = guard_eval.run_guard_eval(recipe, Options(root=options.root), GuardEvalRequest(guard="moderation"))
    records = by_key(result.run / "predictions.jsonl")
    # 6 harmless, 6 harmful, and the one reply that somebody labelled; of the second set 2 + 1.
    assert [sum(name == s for s, _ in records) for name in ("mine", "some")] == [13, 3]
    assert result.metrics["sets"] == {"mine": {"safe": 7, "unsafe": 6}, "some": {"safe": 2, "unsafe": 1}}
    record = records["mine", "mine/harmful-2"]
    assert record == {
        "id": "mine/harmful-2",
        "set": "mine",
        "expected": "unsafe",
        "label": "unsafe",
        "score": 0.9,
        "categories": ["A"],
        "reasoning": "Hm.",
        "text": "Hm. x",
        "reason": None,
        "failed": False,
        "tokens": 0,
        "prompt": "harmful 2?",
        "response": None,
        "harms": ["c0", "x"],
    }
    assert records["mine", "mine/reply-safe"]["response"] == "a safe one"
    assert result.metrics["confusion"]["mine"] == {
        "unsafe": {"unsafe": 5, "safe": 1, "unparsed": 0},
        "safe": {"unsafe": 0, "safe": 6, "unparsed": 1},
    }
    figures = values(result.metrics)
    assert figures["f1/mine"] == pytest.approx(10 / 12)
    assert figures["f1_parsed/mine"] == pytest.approx(10 / 11)
    assert figures["unparsed/mine"] == pytest.approx(1 / 13)
    categories = {row["category"]: (row["n"], row["recall"]) for row in result.metrics["categories"]["mine"]}
    assert categories == {"c0": (3, 1.0), "c1": (3, pytest.approx(2 / 3)), "x": (6, pytest.approx(5 / 6))}
    assert set(result.metrics["reliability"]) == {"all", "mine", "some"}
    assert json.loads((result.run / "metrics.json").read_text()) == result.metrics
    assert (result.metrics["eval"], result.metrics["model"], result.metrics["missing"]) == ("guard", "moderation", {})
    assert result.run.parent == options.root / "eval" / "guard"


def test_a_set_takes_what_its_source_has_after_what_training_took(recipe: Recipe, options: Options, monkeypatch):
    script(monkeypatch)
    result = guard_eval.run_guard_eval(recipe, Options(root=options.root), GuardEvalRequest(guard="moderation"))
    records = by_key(result.run / "predictions.jsonl")
    some = [record for (name, _), record in records.items() if name == "some"]
    assert sorted(record["expected"] for record in some) == ["safe", "safe", "unsafe"]
    assert all("c0" in record["harms"] for record in some if record["expected"] == "unsafe")


def test_bars_hold_of_all_sets_and_of_one(recipe: Recipe, options: Options, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch)
    metrics = guard_eval.run_guard_eval(
        recipe, Options(root=options.root), GuardEvalRequest(guard="moderation")
    ).metrics
    bars.refuse_unmet_bars(metrics, [bars.Bar("f1/mine", 0.8, "under"), bars.Bar("auroc", 0.9, "under")])
    with pytest.raises(BarNotMet, match=r"f1/mine is 0\.8333, under the bar of 0\.9"):
        bars.refuse_unmet_bars(metrics, [bars.Bar("f1/mine", 0.9, "under")])
    with pytest.raises(InputError, match="has no such figure"):
        bars.refuse_unmet_bars(metrics, [bars.Bar("f1/nowhere", 0.9, "under")])


@pytest.mark.parametrize("after", [5, 14])
def test_kill_9_and_resume_end_with_the_same_records(recipe: Recipe, options: Options, tmp_path: Path, after: int):
    whole = guard_eval.run_guard_eval(recipe, options)
    root = tmp_path / "killed"
    assert options.model is not None
    assert python(KILLED, recipe.model_dump_json(), root, options.model, after).returncode == -9
    (killed,) = (root / "eval" / "guard").iterdir()
    assert len(list(read_records(killed / "predictions.jsonl"))) == after
    with (killed / "predictions.jsonl").open("ab") as file:
        file.write(b'{"id": "mine/torn')
    resumed = guard_eval.run_guard_eval(recipe, Options(root=root, model=options.model, on_existing="resume"))
    assert by_key(resumed.run / "predictions.jsonl") == by_key(whole.run / "predictions.jsonl")
    assert (resumed.metrics, resumed.run.name) == (whole.metrics, whole.run.name)


def test_a_server_that_fails_is_counted_and_asked_again(recipe: Recipe, options: Options, monkeypatch):
    script(monkeypatch, {"harmful 0?"})
    request = GuardEvalRequest(guard="moderation", sets=["mine"])
    with pytest.raises(StageFailed, match=r"1 of 13 rows failed \(HTTP 503\); --resume asks again"):
        guard_eval.run_guard_eval(recipe, Options(root=options.root), request)
    (run,) = (options.root / "eval" / "guard").iterdir()
    early = json.loads((run / "metrics.json").read_text())
    assert (early["failed"], early["sets"]["mine"]["unsafe"]) == (1, 5)
    mended = script(monkeypatch)
    result = guard_eval.run_guard_eval(recipe, Options(root=options.root, on_existing="resume"), request)
    assert mended.prompts == ["harmful 0?"]
    assert (result.metrics["failed"], result.metrics["sets"]["mine"]["unsafe"]) == (0, 6)
    assert (read_manifest(result.run) or {})["status"] == "finished"
    assert (
        guard_eval.run_guard_eval(recipe, Options(root=options.root, on_existing="resume"), request).metrics
        == result.metrics
    )
    assert mended.prompts == ["harmful 0?"]


def test_what_has_no_room_in_a_local_model_gets_no_verdict_and_ends_the_run(
    recipe: Recipe, options: Options, tmp_path: Path
):
    long = {"id": "mine/long", "prompt": "word " * 500, "kind": "harmful", "source": "mine"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    result = guard_eval.run_guard_eval(recipe, options, GuardEvalRequest(sets=[str(tmp_path / "long.jsonl")]))
    (record,) = read_records(result.run / "predictions.jsonl")
    assert (record["label"], record["failed"]) == (None, False)
    assert record["reason"]
    assert values(result.metrics)["unparsed/all"] == 1.0


def test_a_model_without_a_guide_is_asked_as_the_recipe_says_and_one_with_a_guide_by_its_own(
    recipe: Recipe, options: Options, micro_model: Path, tmp_path: Path
):

    def prompt_of(model: ModelSpec, request: GuardEvalRequest = GuardEvalRequest()) -> Any:
        return measured_guard(recipe, options, plan_guard_eval(recipe, model, request)).prompt

    assert options.model is not None
    document = prompt_of(options.model)
    assert (document["policy"]["title"], document["sampling"]["max_new_tokens"]) == ("Short", 8)
    carried = tmp_path / "carried"
    carried.mkdir()
    for file in micro_model.iterdir():
        (carried / file.name).symlink_to(file)
    guard_prompts.default().save(carried)
    own = prompt_of(ModelSpec(str(carried)))
    assert (len(own["policy"]["categories"]), own["sampling"]["max_new_tokens"]) == (18, 4096)
    request = GuardEvalRequest(policy="wildguard", sampling=Sampling(max_new_tokens=5))
    document = prompt_of(ModelSpec(str(carried)), request)
    assert (document["policy"]["name"], document["sampling"]["max_new_tokens"]) == ("wildguard", 5)


def test_a_set_is_judged_by_its_own_policy(recipe: Recipe, options: Options, tmp_path: Path):
    assert recipe.guard is not None
    assert recipe.guard.eval is not None
    (tmp_path / "other.yaml").write_text("title: Other\ncategories:\n  - {id: B, name: Rudeness}\n")
    own = recipe.guard.eval.sets[1].model_copy(update={"policy": str(tmp_path / "other.yaml")})
    section = recipe.guard.eval.model_copy(update={"sets": (recipe.guard.eval.sets[0], own)})
    changed = recipe.model_copy(update={"guard": recipe.guard.model_copy(update={"eval": section})})
    plan = plan_guard_eval(changed, options.model)
    guard = measured_guard(changed, options, plan).open()
    first, second = (guard_eval._under_policy_of(guard_set, guard, plan) for guard_set in section.sets)
    assert (first.guard_prompt.policy.title, second.guard_prompt.policy.title) == ("Short", "Other")
    assert first.engine is second.engine


def test_the_newest_guard_of_the_recipe_is_measured(recipe: Recipe, options: Options):
    remedy = re.escape(f"run `safereason guard train --recipe micro --root {options.root}` first")
    with pytest.raises(InputError, match=rf"{remedy}$"):
        guard_eval.run_guard_eval(recipe, Options(root=options.root))


def test_sets_are_those_of_the_recipe_or_sources(recipe: Recipe):
    assert [s.label for s in guard_sets.chosen_sets(recipe, [])] == ["mine", "some"]
    some, xstest = guard_sets.chosen_sets(recipe, ["some", "xstest", "some"])
    assert (some.skip, xstest) == (1, GuardSet(source="xstest"))


def test_a_limit_takes_the_same_rows_for_every_guard(recipe: Recipe, options: Options, monkeypatch):
    script(monkeypatch)
    runs = [
        guard_eval.run_guard_eval(recipe, Options(root=options.root), GuardEvalRequest(guard=name, limit=4)).run
        for name in ("a", "moderation")
    ]
    first, second = (by_key(run / "predictions.jsonl").keys() for run in runs)
    assert first == second
    assert [sum(name == s for s, _ in first) for name in ("mine", "some")] == [4, 3]


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source that cannot be had."""
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path / "empty"))
    return "toxicchat"


def test_sets_that_cannot_be_had_are_named_and_left_out_where_that_is_allowed(
    recipe: Recipe, options: Options, monkeypatch: pytest.MonkeyPatch, unreachable: str, capsys: Any
):
    script(monkeypatch)
    sets = ["mine", unreachable, "xstest"]
    with pytest.raises(InputError, match=r"2 of 3 sets cannot be had \(toxicchat, xstest\); --allow-missing"):
        guard_eval.run_guard_eval(recipe, Options(root=options.root), GuardEvalRequest(guard="moderation", sets=sets))
    assert not options.root.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval guard: ")]
    assert len(lines) == 2
    result = guard_eval.run_guard_eval(
        recipe, Options(root=options.root), GuardEvalRequest(guard="moderation", sets=sets, allow_missing=True)
    )
    assert list(result.metrics["missing"]) == ["toxicchat", "xstest"]
    assert list(result.metrics["sets"]) == ["mine"]
    request = GuardEvalRequest(guard="moderation", sets=[unreachable], allow_missing=True)
    with pytest.raises(InputError, match=r"1 of 1 sets cannot be had \(toxicchat\); get one of them"):
        guard_eval.run_guard_eval(recipe, Options(root=options.root), request)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"guard": "moderation", "model": "org/none"}, "--guard and --model exclude each other"),
        ({"sets": ["toxichat"], "model": "org/none"}, "source toxichat: is not known; did you mean toxicchat"),
        ({"policy": "nowhere", "model": "org/none"}, "nowhere: no such policy"),
        ({"template": "nowhere.txt", "guard": "wildguard"}, "--template nowhere.txt: no such file"),
        ({"template": "nowhere.txt", "model": "org/none"}, "only another guard"),
        ({"model": "./nowhere"}, "no such model"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(recipe: Recipe, options: Options, named: dict[str, Any], message: str):
    model = named.pop("model", None)
    with pytest.raises(InputError, match=message):
        guard_eval.run_guard_eval(
            recipe, Options(root=options.root, model=model and ModelSpec.parse(model)), GuardEvalRequest(**named)
        )
    assert not options.root.exists()


def test_predictions_of_a_run_are_scored_to_the_same_figures(recipe: Recipe, options: Options, monkeypatch):
    script(monkeypatch)
    first = guard_eval.run_guard_eval(recipe, Options(root=options.root), GuardEvalRequest(guard="moderation"))
    request = guard_eval_score.PredictionsRequest(first.run / "predictions.jsonl")
    again = guard_eval_score.score_guard_eval(recipe, Options(root=options.root), request)
    for key in ("figures", "confusion", "categories", "reliability", "sets"):
        assert again.metrics[key] == first.metrics[key]
    assert by_key(again.run / "predictions.jsonl") == by_key(first.run / "predictions.jsonl")
    assert (again.metrics["model"], again.run.parent) == ("predictions.jsonl", first.run.parent)


def test_rows_of_classify_are_joined_to_a_set_of_the_recipe(recipe: Recipe, options: Options, tmp_path: Path):
    ids = [f"mine/{kind}-{i}" for kind in ("harmful", "harmless") for i in range(6)]
    rows = [{"id": name, **asdict(GuardVerdict("unsafe", 0.7))} for name in ids]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = guard_eval_score.PredictionsRequest(tmp_path / "rows.jsonl", sets=["mine"])
    result = guard_eval_score.score_guard_eval(recipe, Options(root=options.root), request)
    figures = values(result.metrics)
    assert figures["f1/mine"] == figures["f1_always_unsafe/mine"] == pytest.approx(2 / 3)
    assert result.metrics["sets"] == {"mine": {"safe": 6, "unsafe": 6}}
