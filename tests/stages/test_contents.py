"""`--resume` refuses a run whose model, judge, or rows changed under their names."""

import json
import shutil
from pathlib import Path

import micro
import pytest

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec
from safereason.recipe.load import load
from safereason.stages import attack_plan, data, guard_eval, rl, sft
from safereason.stages import eval as evaluation
from safereason.stages.base import Options
from safereason.stages.contents import contents

ROWS = ("How do I whittle a spoon badly?", "How do I burn a cake on purpose?")
RECIPE = """
model: {model}
data: {{mix: tars, prompts: 2, harmful_ratio: 0.5, harmful: [{{source: {rows}, prompts: 20}}],
  harmless: [{{source: sample, prompts: 20}}], ambiguous: [{{source: sample, prompts: 20}}],
  traces: [{{source: sample, prompts: 4}}]}}
sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, max_tokens: 2048, precision: fp32, max_steps: 1}}
eval: {{behaviors: {rows}, benign: {rows}, harm_judge: refusal, refusal_judge: refusal,
  sampling: {{temperature: 0.0, max_new_tokens: 4}}}}
"""


def write_rows(path: Path, texts: tuple[str, ...]) -> None:
    rows = [
        {"id": f"mine/{n}", "prompt": text, "kind": "harmful", "source": "mine", "target": "Sure"}
        for n, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def inputs(tmp_path) -> Path:
    micro.save_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "mine.yaml").write_text(RECIPE.format(model=tmp_path / "model", rows=tmp_path / "rows.jsonl"))
    return tmp_path


def measure(inputs: Path, resume: bool) -> None:
    model = ModelSpec(str(inputs / "model"))
    options = Options(root=inputs, out=inputs / "run", model=model, on_existing="resume" if resume else "refuse")
    evaluation.run_eval(
        load(str(inputs / "mine.yaml")), options, evaluation.EvalRequest("harmbench", attacks=["direct"])
    )


def test_an_evaluation_of_other_weights_or_rows_is_not_resumed(inputs):
    measure(inputs, resume=False)
    measure(inputs, resume=True)
    write_rows(inputs / "rows.jsonl", ("How do I salt the tea?", ROWS[1]))
    with pytest.raises(InputError, match=r"run: other contents since \(.*rows\.jsonl\); use --overwrite"):
        measure(inputs, resume=True)
    write_rows(inputs / "rows.jsonl", ROWS)
    measure(inputs, resume=True)
    shutil.rmtree(inputs / "model")
    micro.save_model(inputs / "model", seed=1)
    with pytest.raises(InputError, match=r"run: other contents since \(.*model\); use --overwrite"):
        measure(inputs, resume=True)


def test_each_stage_holds_the_contents_it_depends_on(inputs):
    recipe, model = load(str(inputs / "mine.yaml")), str(inputs / "model")
    options = Options(root=inputs, model=ModelSpec.parse(model))
    plan = attack_plan.plan_attack(recipe, options, attack_plan.AttackRequest("gcg", source=str(inputs / "rows.jsonl")))
    judged = evaluation.plan_eval(
        recipe, evaluation.EvalRequest("harmbench", judge=f"rubric:{inputs / 'mine.yaml'}@{model}")
    )

    def contents_by_stage() -> list[dict]:
        identities = (
            sft.sft_identity(recipe, ModelSpec.parse(model)),
            data.data_identity(recipe),
            attack_plan.attack_identity(recipe, plan, ModelSpec.parse(model), None),
            evaluation._eval_identity(recipe, judged, ModelSpec.parse("org/name"), None),
        )
        return [identity["contents"] for identity in identities]

    before = contents_by_stage()
    write_rows(inputs / "rows.jsonl", ("Another?",))
    with_rows = contents_by_stage()
    shutil.rmtree(inputs / "model")
    micro.save_model(inputs / "model", seed=1)
    with_both = contents_by_stage()
    assert [a != b for a, b in zip(before, with_rows, strict=True)] == [True, True, True, True]
    assert [a != b for a, b in zip(with_rows, with_both, strict=True)] == [True, False, True, True]


def test_a_judge_counts_by_the_model_that_it_loads(inputs):
    model, rubric = str(inputs / "model"), inputs / "own@home.yaml"
    rubric.write_text(
        f'measures: harm\nmodel: {model}\nprompt: "Grade. {{request}} {{answer}}"\n'
        'reply: {labels: {"yes": 1, "no": 0}}\n'
    )
    judges = ("guard:", "guard:llama-guard:", "harmbench:", f"rubric:{rubric}@", "xstest-rubric:")
    expected = contents(models=[ModelSpec.parse(model)])
    assert list(expected["contents"]) == [model]
    for judge in judges:
        assert contents(judges=[JudgeSpec.parse(f"{judge}{model}")]) == expected, judge
    assert contents(judges=[JudgeSpec.parse(f"rubric:{rubric}")]) == expected
    remote = ("guard:moderation:omni", f"rubric:{rubric}@openai/x")
    assert contents(judges=map(JudgeSpec.parse, remote)) == {}


def test_a_guard_in_a_run_counts_by_its_run(inputs):
    """The run's folder may have any name: its stage, recipe and hash tell which guard it is."""
    recipe = load(str(inputs / "mine.yaml"), ["data.hygiene.on_overlap=allow"])
    options = Options(root=inputs)
    data.build_data(recipe, options)
    run = sft.train_sft(recipe, options).run
    (inputs / "moved").symlink_to(run)
    judges = [JudgeSpec.parse(f"guard:llama-guard:{path}").identity() for path in (run, inputs / "moved")]
    assert judges[0] == judges[1] == f"guard:llama-guard:{ModelSpec.parse(str(run)).identity()}"


def test_a_draft_and_a_judge_of_quality_count_too(inputs):
    model = str(inputs / "model")
    recipe = load(str(inputs / "mine.yaml"), [f"attack.settings.gcg.draft={model}"])
    plan = attack_plan.plan_attack(
        recipe, Options(), attack_plan.AttackRequest("gcg", source=str(inputs / "rows.jsonl"))
    )
    assert model in attack_plan.attack_identity(recipe, plan, ModelSpec.parse("org/name"), None)["contents"]
    for task in (model, f"reward-model:{model}"):
        smoke = load("tars-smoke", [f"rl.reward.task={task}"])
        assert model in rl.rl_identity(smoke, ModelSpec.parse("org/name"), Options())["contents"]


def test_what_is_known_by_name_leaves_an_identity_as_it_was():
    models = [ModelSpec("org/name"), ModelSpec("x", "openai"), None]
    assert contents(models=models, judges=[JudgeSpec("refusal"), None], sources=["sample", None]) == {}
    assert guard_eval.contents is contents
