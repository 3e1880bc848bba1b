"""The shipped rubric, which is the whole reward of `baseline-deliberative`."""

import pytest

from safereason.engines.spec import ModelSpec
from safereason.judges import rubric
from safereason.recipe.load import load
from safereason.rewards import judges_of

OURS = rubric.load(rubric.SHIPPED / "deliberative.yaml")


@pytest.mark.parametrize(
    ("reply", "score"), [("Right. [[5]]", 1.0), ("[[5]] at first, but [[2]]", 0.25), ("[[1]]", 0.0)]
)
def test_the_grade_at_the_end_is_the_score(reply: str, score: float):
    verdict = OURS.reply.find(reply)
    assert verdict is not None
    assert verdict.score == score


@pytest.mark.parametrize("reply", ["5", "[[6]]", "[[good]]", ""])
def test_a_reply_without_a_grade_on_the_scale_is_unscored(reply: str):
    assert OURS.reply.find(reply) is None


def test_the_recipe_names_it_for_every_prompt():
    safety, task = judges_of(load("baseline-deliberative").rl.reward)
    assert safety == task
    parsed = rubric.RubricSpec.parse(safety.removeprefix("rubric:"))
    assert parsed == rubric.RubricSpec("deliberative", ModelSpec("gpt-4.1-mini", "openai"))
    assert OURS.measures == "quality"
