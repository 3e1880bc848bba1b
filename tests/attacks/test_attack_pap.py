"""PAP: behaviors rewritten by an attacker behind a real server, with the published taxonomy."""

from pathlib import Path

import attack_setup
import pytest
from attack_setup import BEHAVIOR

from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.pap import ATTACK, PapSettings
from safereason.attacks.persuasion import find_techniques
from safereason.errors import InputError

TOP_FIVE = PapSettings().techniques


@pytest.fixture(autouse=True)
def _taxonomy(data_home: Path):
    """The published file, or the tests are skipped."""


def technique_in(asked_of_attacker: str) -> str:
    return next(line for line in asked_of_attacker.splitlines() if line.startswith("Technique: "))[11:]


def rewrite(prompt: str) -> str:
    return f"Here it is:\n<request>\nBy {technique_in(prompt)}\n</request>\nDone."


def transferred(attacker, seed: int = 0, **settings) -> list[SearchStep]:
    with attack_setup.target(attacker) as engine:
        return attack_setup.steps(ATTACK, PapSettings(**settings), Setup(None, seed=seed, attacker=engine))


def test_the_taxonomy_has_forty_techniques_and_the_top_five():
    assert len(find_techniques(("all",))) == 40
    assert [way.name for way in find_techniques(TOP_FIVE)] == list(TOP_FIVE)
    assert [way.name for way in find_techniques(("logical appeal", "Rumors"))] == ["Logical Appeal", "Rumors"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("Logical Apeal",), "no technique is called 'Logical Apeal'; did you mean Logical Appeal?"),
        (("xyzzy",), "there are Evidence-based Persuasion, "),
        ((), "no technique is named"),
    ],
)
def test_an_unknown_technique_is_said(names: tuple[str, ...], problem: str):
    with pytest.raises(InputError) as refused:
        find_techniques(names)
    assert problem in str(refused.value)


def test_transferred_one_technique_rewrites_the_behavior_without_the_target():
    steps = transferred(rewrite)
    assert [step.number for step in steps] == [0, 1]
    assert steps[0].cases[0].prompt == BEHAVIOR.prompt
    (case,) = steps[1].cases
    assert case.prompt == f"By {case.details['technique']}"
    assert case.details["technique"] in TOP_FIVE
    assert transferred(rewrite) == steps
    drawn = {transferred(rewrite, seed)[-1].cases[0].details["technique"] for seed in range(12)}
    assert 1 < len(drawn) <= 5


def test_the_attacker_is_told_the_behavior_and_the_technique(tmp_path: Path):
    way = find_techniques(("Rumors",))[0]
    prompts: list[str] = []
    transferred(lambda prompt: prompts.append(prompt) or "r", techniques=("Rumors",))
    for part in (BEHAVIOR.prompt, "Rumors", way.definition, way.example):
        assert part in prompts[0]
    file = tmp_path / "prompt.txt"
    file.write_text("{technique} ({definition}) on {behavior}, {else}")
    transferred(lambda prompt: prompts.append(prompt) or "r", techniques=("Rumors",), prompt=file)
    assert prompts[1] == f"Rumors ({way.definition}) on {BEHAVIOR.prompt}, {{else}}"


@pytest.mark.parametrize(
    ("reply", "request_"),
    [
        ("plain words", "plain words"),
        ("<think>\nHm. <request>no</request>\n</think>\n\n<request>a <b> c</request>", "a <b> c"),
        ("<request>cut short", "cut short"),
        ("  ", BEHAVIOR.prompt),
        ("<request> </request>", BEHAVIOR.prompt),
    ],
)
def test_the_request_is_read_from_what_the_attacker_wrote(reply: str, request_: str):
    case = transferred(lambda prompt: reply)[-1].cases[0]
    assert case.prompt == request_
    assert (case.details["technique"] is None) == (request_ == BEHAVIOR.prompt)


def test_on_the_target_the_best_technique_is_kept():
    scores = {"By Rumors": "0.2", "By Threats": "0.8", "By Favor": "unclear"}
    with attack_setup.target(rewrite) as attacker, attack_setup.target(lambda prompt: scores[prompt]) as engine:
        setup = attack_setup.metered(engine, attack_setup.by_number, attacker=attacker)
        steps = attack_setup.steps(
            ATTACK, PapSettings(techniques=("Rumors", "Threats", "Favor"), on_target=True), setup
        )
    assert steps[-1].value == 0.8
    assert steps[-1].cases[0].prompt == "By Threats"
    assert steps[-1].cases[0].details == {"technique": "Threats", "score": 0.8, "tries": 3, "unscored": 1}
    assert setup.meter.queries == 3


def test_it_needs_an_attacker_and_on_the_target_a_judge():
    with pytest.raises(InputError, match="attack pap: needs an attacker"):
        attack_setup.steps(ATTACK, PapSettings(), Setup(None))
    with attack_setup.target(rewrite) as engine:
        with pytest.raises(InputError, match="on_target needs a judge"):
            attack_setup.steps(ATTACK, PapSettings(on_target=True), Setup(engine, attacker=engine))
        assert engine.server.requests == []


@pytest.mark.parametrize(("content", "problem"), [("{behavior}", "has no {technique}"), (None, "cannot be read")])
def test_a_bad_prompt_file_is_said(content: str | None, problem: str, tmp_path: Path):
    file = tmp_path / "prompt.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError) as refused:
        transferred(rewrite, prompt=file)
    assert problem in str(refused.value)
