"""Where values come from, and that a paper's recipe says so of each."""

from pathlib import Path

import pytest

from safereason.recipe.load import leaves, load, to_yaml
from safereason.recipe.provenance import sources, validate

PAPER = """\
paper: arXiv 0
model: org/base
data: {mix: rsafe, rows_per_label: 2, sources: [sample], max_response_task_tokens: 2048}
provenance:
  model: paper
  seed: ours
  data: paper, code
  data.rows_per_label: summary
"""


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER)
    return path


def child(paper: Path, text: str) -> str:
    path = paper.with_name("child.yaml")
    path.write_text(f"extends: paper.yaml\n{text}")
    return str(path)


def test_each_value_has_the_nearest_source(paper):
    recipe = load(str(paper))
    origins = sources(recipe)
    assert list(origins) == [key for key, _ in leaves(recipe)]
    assert origins["data.rows_per_label"] == "summary"
    assert origins["data.max_prompt_task_tokens"] == "paper, code"
    assert validate(recipe) == []


def test_without_provenance_it_is_the_recipe_or_the_default(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("model: m\ndata: {mix: rsafe, rows_per_label: 2, sources: [sample]}\n")
    origins = sources(load(str(path)))
    assert (origins["model"], origins["seed"]) == ("recipe", "default")
    assert (origins["data.rows_per_label"], origins["data.max_prompt_task_tokens"]) == ("recipe", "default")
    assert validate(load(str(path))) == []


def test_an_override_is_its_own_source_and_stays_so_in_the_run(paper, tmp_path):
    recipe = load(str(paper), ["data.rows_per_label=3", "data.max_response_task_tokens=2048"])
    copy = tmp_path / "recipe.yaml"
    copy.write_text(to_yaml(recipe))
    for one in (recipe, load(str(copy))):
        assert sources(one)["data.rows_per_label"] == "override"
        assert sources(one)["data.max_response_task_tokens"] == "paper, code"
        assert validate(one) == []


@pytest.mark.parametrize("key", ["model", "seed"])
def test_a_value_of_a_paper_without_provenance_is_an_error(paper, key):
    paper.write_text("".join(line for line in PAPER.splitlines(keepends=True) if not line.startswith(f"  {key}:")))
    assert [problem.partition(":")[0] for problem in validate(load(str(paper)))] == [key]


def test_defaults_of_a_papers_recipe_need_provenance_too_and_nulls_do_not(paper):
    paper.write_text(PAPER.replace("  data: paper, code\n", "  data.mix: paper\n"))
    recipe = load(str(paper), ["eval={sampling: {max_new_tokens: 8}}"])
    problems = {problem.partition(":")[0] for problem in validate(recipe)}
    assert {"data.sources", "data.max_prompt_task_tokens", "data.safe_only", "eval.prefix"} <= problems
    assert not problems & {"data.mix", "data.rows_per_label", "eval.limit", "eval.sampling.max_new_tokens"}


def test_provenance_of_nothing_is_an_error(paper):
    paper.write_text(f"{PAPER}  data.rows_per_lable: paper\n  rl.kl_coef: paper\n  name: ours\n")
    assert validate(load(str(paper))) == [
        "provenance.data.rows_per_lable: names nothing in this recipe; did you mean data.rows_per_label?",
        "provenance.rl.kl_coef: names nothing in this recipe",
        "provenance.name: names nothing in this recipe",
    ]


def test_a_childs_change_does_not_keep_its_parents_provenance(paper):
    plain = load(child(paper, "data: {rows_per_label: 9}\n"))
    assert sources(plain)["data.rows_per_label"] == "recipe"
    assert sources(plain)["data.sources"] == "paper, code"
    assert validate(plain) == []
    of_paper = load(child(paper, "paper: arXiv 1\ndata: {rows_per_label: 9}\n"))
    assert validate(of_paper) == [
        "data.rows_per_label: differs from its parent's without a provenance; say under `provenance:` where it is from"
    ]
    recipe = load(child(paper, "paper: arXiv 1\ndata: {rows_per_label: 9}\nprovenance: {data.rows_per_label: ours}\n"))
    assert sources(recipe)["data.rows_per_label"] == "ours"
    assert validate(recipe) == []


def test_a_childs_change_under_a_sections_provenance_is_marked_too(paper):
    of_paper = load(child(paper, "paper: arXiv 1\ndata: {sources: [other]}\n"))
    assert sources(of_paper)["data.sources"] == "recipe"
    assert len(validate(of_paper)) == 1
