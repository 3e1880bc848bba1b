"""TAP against a real server: it branches, prunes what strays and what rates low, and ends where it should."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import BEHAVIOR, MARKER, SECRET, Scene, choice_of

from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.meter import SpentError
from safereason.attacks.tap import ATTACK, TapSettings
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError

WORDS = (MARKER, "quay", "stray")
"""What a branch adds, by its seed: only the first is rated, and the last is off topic."""


@pytest.fixture(scope="module")
def server(micro_model: Path) -> Iterator[Scene]:
    with scripted.scene(open_engine(ModelSpec.parse(str(micro_model)))) as scene:
        yield scene


@pytest.fixture
def scene(server: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.server.choice = reply
    server.server.requests.clear()
    return server


def is_topic(body: dict[str, Any]) -> bool:
    return "<BEGIN PROMPT>" in body["messages"][-1]["content"]


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """As the scripted models do, but branches differ."""
    if body["model"] != "a" or is_topic(body):
        return scripted.reply(body)
    prompts = [json.loads(m["content"])["prompt"] for m in body["messages"] if m["role"] == "assistant"]
    prompt = f"{prompts[-1] if prompts else 'Harbour'} {WORDS[body['seed'] % 3]}"
    return choice_of(f"{{'improvement': 'a word', 'prompt': '{prompt}'}}")


def steps(setup: Setup, **settings: Any) -> list[SearchStep]:
    return list(ATTACK.search([BEHAVIOR], TapSettings(**settings), setup))


def details(step: SearchStep) -> dict[str, Any]:
    return dict(step.cases[0].details)


def target_prompts(scene: Scene) -> list[str]:
    """Prompts that the target was asked."""
    return [body["messages"][-1]["content"] for body in scene.requests_to("t")]


def test_it_climbs_by_its_best_branches(scene: Scene):
    search_steps = steps(scene.setup(), depth=9, width=2, branching=6)
    values = [step.value for step in search_steps]
    assert values[0] is None
    assert values[1:] == sorted(values[1:])
    assert (values[-1], search_steps[-1].cases[0].attack) == (1.0, "tap")
    assert search_steps[-1].cases[0].prompt.count(MARKER) >= 3
    assert len(search_steps) < 10


def test_what_strays_is_never_put_to_the_target(scene: Scene):
    search_steps = steps(scene.setup(), depth=2, width=3, branching=6, stop_at=None)
    requests = [body for body in scene.requests_to("a") if not is_topic(body)]
    strayed = sum(body["seed"] % 3 == 2 for body in requests)
    assert 0 < strayed < len(requests)
    assert not any("stray" in prompt for prompt in target_prompts(scene))
    assert len(target_prompts(scene)) == len(requests) - strayed == scene.meter.queries
    assert details(search_steps[-1])["off_topic"] == strayed
    assert details(search_steps[-1])["unclear"] == 0


def test_width_and_branching_bound_a_round_and_each_is_one_call(scene: Scene):
    scene.server.choice = scripted.reply  # nothing strays, and siblings rate alike
    setup = scene.setup()
    search_steps = steps(setup, depth=3, width=2, branching=3, roots=2, stop_at=None)
    assert setup.attacker.engine.calls == [6] * 6  # prompts, then whether they are on topic
    assert setup.target_model.engine.calls == [6] * 3 == scene.judge.calls
    assert [details(step)["pruned"] for step in search_steps] == [0, 4, 8, 12]


def test_only_the_best_go_on(scene: Scene):
    steps(scene.setup(), depth=2, width=1, branching=6)
    first, second = target_prompts(scene)[:1], [body for body in scene.requests_to("a") if len(body["messages"]) == 4]
    assert first
    assert len(second) == 6
    assert {json.loads(body["messages"][2]["content"])["prompt"] for body in second} == {f"Harbour {MARKER}"}


def test_those_that_rate_alike_go_on_from_more_than_one_branch(scene: Scene):
    scene.server.choice = scripted.reply
    steps(scene.setup(), depth=4, width=4, branching=4, roots=4, stop_at=None)
    last = [body["messages"] for body in scene.requests_to("a") if len(body["messages"]) == 8]
    roots = Counter(json.loads(messages[2]["content"])["prompt"] for messages in last)
    assert len(last) == 16
    assert len(roots) > 1


def test_where_all_stray_the_leaves_branch_again(scene: Scene):
    scene.server.choice = lambda body: choice_of("On topic: [[no]]") if is_topic(body) else reply(body)
    search_steps = steps(scene.setup(), depth=3, branching=2)
    assert (search_steps[-1].cases[0].prompt, details(search_steps[-1])["off_topic"]) == (BEHAVIOR.prompt, 6)
    assert target_prompts(scene) == []
    assert len(scene.requests_to("a")) == 12


def test_what_cannot_be_told_stays(scene: Scene):
    scene.server.choice = lambda body: choice_of("Perhaps.") if is_topic(body) else reply(body)
    search_steps = steps(scene.setup(), depth=1, branching=6)
    assert len(target_prompts(scene)) == 6
    assert (details(search_steps[-1])["unclear"], details(search_steps[-1])["off_topic"]) == (6, 0)


def test_nobody_but_the_target_sees_its_reasoning(scene: Scene):
    steps(scene.setup(), depth=3, width=2, branching=3)
    assert scene.requests_to("j")
    assert SECRET not in json.dumps([scene.requests_to("a"), scene.requests_to("j")])


def test_a_budget_is_spent_to_the_last_query_and_the_best_is_kept(scene: Scene):
    scene.server.choice = scripted.reply
    search = ATTACK.search([BEHAVIOR], TapSettings(depth=9, width=2, branching=3), scene.setup(most=5))
    search_steps = [next(search) for _ in range(3)]
    with pytest.raises(SpentError):
        next(search)
    assert (len(target_prompts(scene)), scene.meter.queries) == (5, 5)
    assert search_steps[-1].value == pytest.approx(1 / 3)
    assert len(scene.requests_to("a")) == 2 * (3 + 6)  # and nothing more was written


def test_the_same_seed_finds_the_same(scene: Scene):
    def tree(seed: int) -> list[Any]:
        scene.server.requests.clear()
        search_steps = steps(scene.setup(seed=seed), depth=3, width=2, branching=3, stop_at=None)
        return [sorted(target_prompts(scene)), [(step.cases, step.value) for step in search_steps]]

    assert tree(3) == tree(3)
    assert tree(3) != tree(4)


def test_an_attacker_is_named_where_there_is_none(scene: Scene):
    setup = scene.setup()
    with pytest.raises(InputError, match=r"attack tap: .*attack.attacker"):
        steps(Setup(target_model=setup.target_model, score=setup.score))


def test_the_paper_s_figures():
    settings = TapSettings()
    assert (settings.depth, settings.width, settings.branching, settings.roots) == (10, 10, 4, 1)
