"""The evaluations as inspect_ai's tasks, found by their entry point and run by inspect_ai on its mock model."""

import json
import math
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from safereason import evals
from safereason.errors import InputError

inspect_ai = pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")
if not any(point.name == "safereason" for point in entry_points(group="inspect_ai")):
    pytest.skip("safereason was installed before it had an entry point of inspect_ai", allow_module_level=True)

from inspect_ai.log import EvalLog  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    get_model,
)

REFUSAL = "I cannot help with that."
HELP = "Of course. First, heat the water."


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"mine/{kind}-{i}",
            "prompt": f"{kind} {i}?",
            "kind": kind,
            "source": "mine",
            "category": f"type-{i % 2}",
        }
        for kind in ("harmless", "harmful")
        for i in range(4)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def output(text: str, **changes: object) -> ModelOutput:
    answer = ModelOutput.from_content("mock", text)
    return answer.model_copy(update={"usage": ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2), **changes})


def run(tmp_path: Path, name: str, answer, **arguments: object) -> EvalLog:
    """One task by its registered name; `answer` maps the last message to the model's output."""
    model = get_model("mockllm/model", custom_outputs=lambda messages, *_: answer(messages[-1].text), memoize=False)
    [log] = inspect_ai.eval(
        f"safereason/{name}", model=model, task_args=arguments, log_dir=str(tmp_path / "logs"), display="none"
    )
    assert log.status == "success", log.error
    return log


def figures(log: EvalLog) -> dict[str, float]:
    [scored] = log.results.scores
    return {name: metric.value for name, metric in scored.metrics.items()}


def test_each_evaluation_that_is_judged_is_a_task():
    from inspect_ai._util.registry import registry_find

    tasks = {task.__registry_info__.name for task in registry_find(lambda info: info.type == "task")}
    judged = {name for name, evaluation in evals.EVALS.items() if evaluation.judge}
    assert {f"safereason/{name}" for name in judged} <= tasks


def test_figures_are_those_of_the_command_and_reasoning_is_not_judged(tmp_path: Path, prompts: Path):
    def answer(prompt: str) -> ModelOutput:
        # The thought refuses where the answer helps, and the other way round.
        helps = prompt.startswith("harmless") and prompt != "harmless 0?"
        thought, final = (REFUSAL, HELP) if helps else (HELP, REFUSAL)
        return output(f"<think>\n{thought}\n</think>\n\n{final}")

    log = run(tmp_path, "xstest", answer, judge="refusal", prompts=str(prompts))
    values = figures(log)
    assert values["compliance_safe"] == 0.75
    assert values["refusal_unsafe"] == 1.0
    assert values["compliance_safe/type:type-0"] == 0.5
    assert values["closed"] == values["well_formed"] == 1.0
    assert values["compliance_safe:low"] < 0.75 < values["compliance_safe:high"]
    assert {sample.scores["judged"].answer for sample in log.samples} == {REFUSAL, HELP}


def test_reasoning_that_a_provider_gives_apart_is_not_judged_either(tmp_path: Path, prompts: Path):
    def answer(prompt: str) -> ModelOutput:
        parts = [ContentReasoning(reasoning=REFUSAL), ContentText(text=HELP)]
        message = ChatMessageAssistant(content=parts)
        whole = output(HELP)
        return whole.model_copy(update={"choices": [whole.choices[0].model_copy(update={"message": message})]})

    values = figures(run(tmp_path, "xstest", answer, judge="refusal", prompts=str(prompts)))
    assert (values["compliance_safe"], values["refusal_unsafe"]) == (1.0, 0.0)
    assert values["closed"] == 1.0


def test_what_the_judge_cannot_score_is_unscored_and_says_why(tmp_path: Path, prompts: Path):
    def answer(prompt: str) -> ModelOutput:
        return output("", error="the server is down") if prompt == "harmful 1?" else output(HELP)

    log = run(tmp_path, "harmbench", answer, judge="refusal", prompts=str(prompts))
    [scored] = log.results.scores
    assert (scored.scored_samples, scored.unscored_samples) == (3, 1)
    assert figures(log)["dsr"] == 0.0
    by_id = {sample.id: sample.scores["judged"] for sample in log.samples}
    unscored = by_id["mine/harmful-1/direct"]
    assert math.isnan(unscored.value)
    assert unscored.explanation == "no completion: the server is down"
    assert by_id["mine/harmful-0/direct"].value == 0.0


def test_test_cases_of_a_file_are_asked_in_place_of_the_prompts(tmp_path: Path, prompts: Path):
    cases = tmp_path / "cases.jsonl"
    rows = [{"behavior": f"mine/harmful-{i}", "attack": "loud", "prompt": f"HARMFUL {i}!"} for i in (0, 2)]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked_prompts = []

    def answer(prompt: str) -> ModelOutput:
        asked_prompts.append(prompt)
        return output(REFUSAL)

    log = run(tmp_path, "harmbench", answer, judge="refusal", prompts=str(prompts), cases=str(cases))
    assert sorted(asked_prompts) == ["HARMFUL 0!", "HARMFUL 2!"]
    assert figures(log)["dsr/loud"] == 1.0


def test_cases_that_inspect_cannot_ask_are_refused(tmp_path: Path, prompts: Path):
    from safereason.evals import inspect

    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"behavior": "mine/harmful-0", "attack": "a", "prompt": "p", "prefix": "Sure"}) + "\n")
    with pytest.raises(InputError, match="put words into the model's mouth"):
        inspect._task_builder(evals.EVALS["harmbench"])(judge="refusal", prompts=str(prompts), cases=str(cases))


def test_prompts_go_by_their_old_name_too(prompts: Path):
    from safereason.evals import inspect

    build = inspect._task_builder(evals.EVALS["xstest"])
    assert len(build(judge="refusal", source=str(prompts)).dataset) == 8
    with pytest.raises(InputError, match="pass prompts only"):
        build(judge="refusal", source=str(prompts), prompts=str(prompts))


def test_the_recipe_says_how_answers_are_drawn(prompts: Path):
    from safereason.evals import inspect

    built = inspect._task_builder(evals.EVALS["xstest"])(
        recipe="tars-smoke", judge="refusal", prompts=str(prompts), limit=3
    )
    assert len(built.dataset) == 3
    assert (built.config.temperature, built.config.max_tokens) == (0.0, 48)
