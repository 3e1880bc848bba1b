import json

import report_runs
from peak import peak

from safereason.report.page import MOST_TRANSCRIPT_CHARS
from safereason.report.read import measured_models, read_run, read_runs
from safereason.report.sample import choose
from safereason.report.transcripts import collect


def drawn(paths, count=20, seed=0):
    runs = read_runs(paths)
    return choose(collect(runs, measured_models(runs), MOST_TRANSCRIPT_CHARS, seed).transcripts, count, seed)


def transcripts(exhibits):
    return [t for exhibit in exhibits for t in exhibit.transcripts]


def test_the_draw_covers_models_kinds_and_unscored_ones(tmp_path):
    exhibits = drawn(report_runs.everything(tmp_path))
    chosen = transcripts(exhibits)
    assert len(chosen) == 20
    strata = {(t.model.split(" ")[0], t.kind, t.is_unscored) for t in chosen}
    assert strata == {(m, k, u) for m in ("Base", "SFT", "RL") for k in ("harmful", "ambiguous") for u in (True, False)}
    assert sum(t.is_unscored for t in chosen) == 6


def test_models_stand_side_by_side_on_the_same_prompts(tmp_path):
    exhibits = drawn(report_runs.everything(tmp_path), count=18)
    assert [[t.model.split(" ")[0] for t in exhibit.transcripts] for exhibit in exhibits] == [["Base", "SFT", "RL"]] * 6


def test_the_draw_depends_on_the_seed_alone(tmp_path):
    paths = report_runs.everything(tmp_path)
    assert drawn(paths) == drawn(list(reversed(paths)))
    assert drawn(paths) != drawn(paths, seed=1)


def test_what_judges_wrote_is_not_held(tmp_path):
    path = report_runs.evaluation(tmp_path, "xstest", report_runs.BASE, high=100, n=200)
    lines = (path / "verdicts.jsonl").read_text().splitlines()
    replies = [{**json.loads(line), "details": {"reply": "x" * 20_000}} for line in lines]
    (path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    runs = read_runs([path])
    models = measured_models(runs)
    size = (path / "verdicts.jsonl").stat().st_size
    assert peak(lambda: collect(runs, models, MOST_TRANSCRIPT_CHARS, 0)) < size / 10


def test_a_completion_without_a_verdict_is_unscored(tmp_path):
    path = report_runs.evaluation(tmp_path, "xstest", report_runs.BASE, high=2, n=6, unscored=0)
    (path / "verdicts.jsonl").unlink()
    chosen = transcripts(drawn([path]))
    assert [(t.score, t.reason) for t in chosen] == [(None, "no verdict was written")]


def test_a_completion_of_an_evaluation_without_a_judge_is_not_unscored(tmp_path):
    path = report_runs.evaluation(tmp_path, "adaptivity", report_runs.BASE, high=2, n=6, unscored=0)
    (path / "verdicts.jsonl").unlink()
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps({**metrics, "judge": None}))
    labels = {(t.is_unscored, t.label, t.reason) for t in transcripts(drawn([path]))}
    assert labels == {(False, "not judged", None)}


def test_without_evaluations_rollouts_are_shown_with_their_reward_parts(tmp_path):
    path = report_runs.rl(tmp_path, {"seed": 0, "model": report_runs.BASE})
    exhibits = drawn([path])
    chosen = transcripts(exhibits)
    assert len(chosen) == 20
    assert {t.kind for t in chosen} == {"harmful", "harmless", "ambiguous"}
    assert {(t.reasoning.startswith("Hm"), t.answer, t.closed) for t in chosen} == {(True, "An answer.", True)}
    assert all(set(t.parts) == {"format", "safety"} for t in chosen)
    assert sum(t.is_unscored for t in chosen) == 1


def test_an_answer_to_a_harmful_prompt_is_folded_unless_it_refuses(tmp_path):
    path = report_runs.evaluation(tmp_path, "harmbench", report_runs.BASE, high=3, n=8, unscored=1)
    folded = {t.label: t.is_folded for t in transcripts(drawn([path]))}
    assert folded == {"refusal": False, "compliance": True, None: True}
    assert read_run(path).model == report_runs.BASE
