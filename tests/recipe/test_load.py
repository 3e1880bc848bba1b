"""Names, parents, overrides, and what goes wrong with them."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.recipe.load import leaves, load, resolved, to_yaml
from safereason.recipe.named import find, shipped
from safereason.recipe.schema import Recipe

BASE = """\
model: org/base
data:
  mix: tars
  prompts: 8
  harmful_ratio: 0.5
  harmful: [{source: sample, prompts: 4}]
  harmless: [{source: sample, prompts: 4}]
  ambiguous:
    - {source: sample, prompts: 4}
  traces: [{source: sample, prompts: 4}]
rl:
  epochs: 1
  learning_rate: 1e-6
  prompts_per_step: 4
  rollouts_per_prompt: 4
  micro_batch_size: 2
  kl_coef: 1e-3
  max_prompt_tokens: 64
  sampling: {temperature: 0.6}
  reward:
    name: tars
    safety: refusal
    task: compliance
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def child(base: Path, text: str, name: str = "child.yaml") -> Path:
    path = base.with_name(name)
    path.write_text(text)
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(str(path), overrides)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path}:", f"{Path(path).name}:")


def line_of(text: str, key: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if line.strip().startswith(key))


# Names


def test_a_recipe_is_found_by_name_or_path(base):
    assert find("tars-smoke") in shipped()
    assert find(str(base)) == base
    assert load(str(base)).name == "base"
    assert load("tars-smoke").name == "tars-smoke"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("tars-1.5", "no such recipe; did you mean tars-1.5b?"),
        ("nowhere/tars-7b.yaml", "no such recipe file; did you mean tars-7b?"),
        ("a" * 5000 + ".yaml", f"a recipe is a path ending in .yaml or one of {', '.join(p.stem for p in shipped())}"),
        ("", f"a recipe is a path ending in .yaml or one of {', '.join(p.stem for p in shipped())}"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name, end):
    with pytest.raises(InputError) as caught:
        find(name)
    assert str(caught.value).endswith(end)


def test_the_shipped_recipes_are_listed_by_name():
    names = [path.stem for path in shipped()]
    assert names == sorted(names)
    assert {"tars-1.5b", "tars-7b", "tars-smoke", "rsafe", "rsafe-smoke"} <= set(names)


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(InputError, match="no such recipe file"):
        find(str(tmp_path / "x.yaml"))


def test_a_file_that_cannot_be_read_is_refused(base):
    base.write_bytes(b"model: caf\xe9\n")
    assert refusal(base) == "base.yaml: byte 10 is not UTF-8; save the file as UTF-8"
    base.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load(str(base)).model == "org/base"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(base):
    base.chmod(0)
    assert "cannot be read (Permission denied)" in refusal(base)


# Parents


def test_a_child_changes_what_it_names(base):
    path = child(base, "extends: base.yaml\nseed: 7\nrl: {kl_coef: 0, sampling: {top_p: 0.9}}\n")
    recipe, parent = load(str(path)), load(str(base))
    assert (recipe.name, recipe.seed, recipe.model) == ("child", 7, "org/base")
    assert recipe.rl.kl_coef == 0
    assert (recipe.rl.sampling.temperature, recipe.rl.sampling.top_p) == (0.6, 0.9)
    assert recipe.data == parent.data


def test_a_parent_can_be_a_shipped_recipe(base):
    recipe = load(str(child(base, "extends: tars-smoke\nseed: 3\n")))
    assert recipe == load("tars-smoke").model_copy(
        update={"name": "child", "seed": 3, "provenance": {"seed": "recipe"}}
    )


def test_another_mix_or_reward_replaces_the_parents(base):
    text = "extends: base.yaml\ndata: {mix: rsafe, rows_per_label: 2, sources: [sample]}\nrl: {reward: {name: rsafe}}\n"
    recipe = load(str(child(base, text)))
    assert recipe.data.mix == "rsafe"
    assert recipe.rl.reward.name == "rsafe"


def test_a_child_can_leave_a_stage_out(base):
    assert load(str(child(base, "extends: base.yaml\nrl: null\n"))).rl is None


def test_a_variation_is_not_the_papers_unless_it_says_so(base):
    base.write_text(f"paper: arXiv 0\n{BASE}")
    assert load(str(base)).paper == "arXiv 0"
    assert load(str(child(base, "extends: base.yaml\n"))).paper is None
    assert load(str(base), ["seed=1"]).paper == "arXiv 0"


def test_a_circle_of_parents_is_refused(base):
    child(base, "extends: b.yaml\n", "a.yaml")
    b = child(base, "seed: 1\nextends: ./a.yaml\n", "b.yaml")
    message = refusal(b)
    assert "a.yaml:1: extends: b.yaml → a.yaml → b.yaml goes round in a circle" in message
    assert "goes round in a circle" in refusal(child(base, "extends: self.yaml\n", "self.yaml"))


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("tars-smok", "child.yaml:2: extends: tars-smok: no such recipe; did you mean tars-smoke?"),
        ("[a, b]", 'child.yaml:2: extends: one recipe\'s name or path is expected, not ["a", "b"]'),
    ],
)
def test_a_parent_that_is_none_is_refused(base, parent, expected):
    assert refusal(child(base, f"seed: 1\nextends: {parent}\n")) == expected


def test_a_mistake_is_blamed_on_the_file_it_stands_in(base):
    base.write_text(BASE.replace("kl_coef: 1e-3", "kl_coef: -1"))
    path = child(base, "extends: base.yaml\nrl:\n  epochs: 2\n")
    assert refusal(path).startswith(
        f"{base}:{line_of(BASE, 'kl_coef')}: rl.kl_coef: should be greater than or equal to 0"
    )
    base.write_text(BASE)
    assert refusal(child(base, "extends: base.yaml\nrl:\n  kl_coef: -1\n")).startswith(
        "child.yaml:3: rl.kl_coef: should be"
    )


# Overrides


def test_an_override_is_read_as_yaml_is(base):
    recipe = load(
        str(base),
        [
            "rl.kl_coef=2e-3",
            "seed=5",
            "rl.epochs=3",
            "data.harmful_ratio=1",
            "data.ambiguous=[]",
            "rl.drop_uniform_groups=true",
            "rl.max_steps=null",
            "rl.reward.task=org/rm",
            "rl.extra.key=no",
            "model=a=b",
            "data.harmless=[{source: x, prompts: 1}]",
        ],
    )
    assert (recipe.rl.kl_coef, recipe.seed, recipe.rl.epochs, recipe.data.harmful_ratio) == (0.002, 5, 3.0, 1.0)
    assert recipe.data.ambiguous == ()
    assert recipe.rl.drop_uniform_groups is True
    assert recipe.rl.max_steps is None
    assert recipe.rl.reward.task == "org/rm"
    assert recipe.rl.extra == {"key": "no"}
    assert recipe.model == "a=b"
    assert [s.source for s in recipe.data.harmless] == ["x"]


def test_the_last_override_of_a_key_counts(base):
    assert load(str(base), ["seed=1", "seed=2"]).seed == 2


def test_an_override_can_make_a_section(base):
    recipe = load(str(base), ["rl.lora.rank=4", "sft={epochs: 1, learning_rate: 1e-4}", "sft.batch_size=2"])
    assert (recipe.rl.lora.rank, recipe.rl.lora.alpha) == (4, 32.0)
    assert (recipe.sft.learning_rate, recipe.sft.batch_size) == (1e-4, 2)
    assert refusal(base, "sft.epochs=1") == "override 'sft.epochs=1': sft.learning_rate: is missing (and 1 more)"


@pytest.mark.parametrize("flip", [False, True])
def test_overrides_can_change_the_variant_in_any_order(base, flip):
    overrides = ["rl.reward.name=rsafe", "rl.reward.accuracy_weight=0.8"]
    reward = load(str(base), overrides[::-1] if flip else overrides).rl.reward
    assert (reward.name, reward.accuracy_weight, reward.format_weight) == ("rsafe", 0.8, 0.1)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("rl.epochs=true", "rl.epochs: should be a number, not true"),
        ('rl.prompts_per_step="3"', 'rl.prompts_per_step: should be a whole number, not "3"'),
        ("rl.prompts_per_step=3.0", "rl.prompts_per_step: should be a whole number, not 3.0"),
        ("rl.prompts_per_step=3.5", "rl.prompts_per_step: should be a whole number, not 3.5"),
        ("rl.prompts_per_step=true", "rl.prompts_per_step: should be a whole number, not true"),
        ("rl.drop_uniform_groups=1", "rl.drop_uniform_groups: should be a boolean, not 1"),
        ("rl.drop_uniform_groups=yes", 'rl.drop_uniform_groups: should be a boolean, not "yes"'),
        ("rl.learning_rate=.inf", 'rl.learning_rate: should be a number, not ".inf"'),
        ("model=3", "model: should be a string, not 3"),
        ("model=", "model: should be a string, not null"),
        ("seed=-1", "seed: should be greater than or equal to 0, not -1"),
        ("rl.kl_ceof=0", "rl.kl_ceof: unknown key; did you mean kl_coef?"),
        ("rl.temperature=0", "rl.temperature: unknown key; did you mean sampling.temperature?"),
        ("rll.kl_coef=0", "rll: unknown key; did you mean rl?"),
        (
            "rl.lr_schedule=constnat",
            "rl.lr_schedule: should be 'constant', 'linear' or 'cosine', not \"constnat\"; did you mean constant?",
        ),
        ("rl=3", "rl: should be a mapping of keys to values, not 3"),
        ("data=3", "data: should be a mapping of keys to values, not 3"),
        ("data.mix=trs", "data.mix: should be one of 'tars', 'rsafe', not \"trs\""),
        ("model.name=x", 'model: should be a string, not {"name": "x"}'),
        ("data.harmful=sample", 'data.harmful: should be a list, not "sample"'),
        ("data.harmful=[{source: x}]", "data.harmful[0].prompts: is missing"),
        ("rl.sampling.top_p=0", "rl.sampling.top_p: should be greater than 0, not 0"),
        ("rl.reward.safty=x", "rl.reward.safty: unknown key; did you mean safety?"),
        ("rl.reward.name=rsafe2", "rl.reward.name: should be one of 'tars', 'rsafe', not \"rsafe2\""),
        ("provenance={rl.kl_coef: 3}", "provenance.rl.kl_coef: should be a string, not 3"),
        ("rl.lora.target_modules=3", "rl.lora.target_modules: should be a string, not 3"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(base, override, what):
    assert refusal(base, override) == f"override {override!r}: {what}"


@pytest.mark.parametrize("override", ["seed", "=3", "rl..x=1", ".seed=1", "rl.=1", ""])
def test_what_is_no_override_is_a_usage_error(base, override):
    assert refusal(base, override) == f"override {override!r}: section.key=value is expected, such as rl.kl_coef=1e-3"


@pytest.mark.parametrize("override", ["name=x", "extends=tars-smoke", "extends.x=1"])
def test_an_override_cannot_rename_a_recipe_or_give_it_a_parent(base, override):
    assert refusal(base, override).startswith(f"override {override!r}: a recipe's name and parent are its file's")


def test_an_override_is_not_blamed_for_what_the_file_lacks(base):
    base.write_text(BASE.replace("  epochs: 1\n", ""))
    assert refusal(base, "rl.kl_coef=0") == f"base.yaml:{line_of(BASE, 'rl:')}: rl.epochs: is missing"


# What goes wrong in a file


@pytest.mark.parametrize(
    ("before", "after", "key", "what"),
    [
        ("kl_coef: 1e-3", "kl_ceof: 1e-3", "kl_coef", "rl.kl_ceof: unknown key; did you mean kl_coef? (and 1 more)"),
        ("  prompts: 8", "  prompts: eight", "prompts", 'data.prompts: should be a whole number, not "eight"'),
        ("    safety: refusal\n", "", "reward", "rl.reward.safety: is missing"),
        ("    name: tars\n", "", "reward", "rl.reward.name: is missing"),
        ("  mix: tars\n", "", "data", "data.mix: is missing"),
        (
            "    - {source: sample, prompts: 4}",
            "    - {source: sample, prompts: 0}",
            "- {",
            "data.ambiguous[0].prompts: should be greater than 0, not 0",
        ),
        (
            "    - {source: sample, prompts: 4}",
            "    []",
            "data:",
            "data: ambiguous_ratio is above 0 but `ambiguous` names no source; add one or set it to 0",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(base, before, after, key, what):
    base.write_text(BASE.replace(before, after))
    assert refusal(base) == f"base.yaml:{line_of(BASE, key)}: {what}"


def test_a_top_level_mistake_is_told_with_its_line(base):
    base.write_text(f"{BASE}sfd:\n  epochs: 1\n")
    last = len(BASE.splitlines()) + 1
    assert refusal(base) == f"base.yaml:{last}: sfd: unknown key; did you mean sft?"
    base.write_text(BASE.replace("model: org/base\n", "# no model\n"))
    assert refusal(base) == "base.yaml:1: model: is missing"
    base.write_text(f"{BASE}extend: tars-smoke\n")
    assert refusal(base) == f"base.yaml:{last}: extend: unknown key; did you mean extends?"
    base.write_text(f"name: mine\n{BASE}")
    assert refusal(base) == "base.yaml:1: name: a recipe is named by its file; delete this line"
    base.write_text(f"{BASE}zzz: 1\n")
    assert refusal(base).endswith(
        "unknown key; known here: "
        "extends, paper, model, seed, hardware, report_to, data, sft, rl, guard, attack, eval, provenance"
    )


def test_a_shorter_list_does_not_keep_the_lines_of_the_one_it_replaces(base):
    path = child(base, "extends: base.yaml\ndata:\n  ambiguous:\n    - source: x\n")
    assert refusal(path) == "child.yaml:4: data.ambiguous[0].prompts: is missing"


# Back to YAML

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
POSITIVE = st.floats(min_value=1e-12, max_value=1e12)
EXTRA = st.none() | st.booleans() | st.integers() | POSITIVE | TEXT | st.lists(TEXT)


@st.composite
def changed(draw: st.DrawFn) -> Recipe:
    plain = Recipe.model_validate(load("tars-smoke").model_dump())
    rl = plain.rl.model_copy(
        update={
            "learning_rate": draw(POSITIVE),
            "kl_coef": draw(POSITIVE),
            "max_steps": draw(st.none() | st.integers(1, 10**6)),
            "drop_uniform_groups": draw(st.booleans()),
            "extra": draw(st.dictionaries(TEXT, EXTRA, max_size=3)),
        }
    )
    return plain.model_copy(
        update={
            "model": draw(TEXT),
            "seed": draw(st.integers(0, 2**32 - 1)),
            "rl": draw(st.sampled_from([None, rl])),
            "sft": draw(st.sampled_from([None, plain.sft])),
            "paper": draw(st.none() | TEXT),
            "eval": plain.eval.model_copy(
                update={
                    "prefix": draw(TEXT),
                    "attacks": tuple(draw(st.lists(TEXT, max_size=3))),
                    "benign": draw(st.none() | TEXT),
                }
            ),
            "provenance": draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        }
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changed())
def test_what_is_written_is_loaded_back(tmp_path, recipe):
    path = tmp_path / "copy.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8", newline="")
    assert load(str(path)) == recipe.model_copy(update={"name": "copy"})
    assert to_yaml(load(str(path))) == to_yaml(recipe)


def test_a_written_recipe_has_no_name_and_no_absent_stage(base):
    recipe = load(str(base))
    assert list(resolved(recipe)) == ["name", "model", "seed", "report_to", "data", "rl", "provenance"]
    text = to_yaml(recipe)
    assert not text.startswith("name")
    assert "sft" not in text
    assert "max_steps: null" in text


def test_leaves_are_the_values_by_dotted_key(base):
    values = dict(leaves(load(str(base))))
    assert values["rl.sampling.temperature"] == 0.6
    assert values["data.harmful"] == [{"source": "sample", "prompts": 4, "skip": 0, "categories": [], "kind": None}]
    assert values["rl.lora"] is None
    assert not values.keys() & {"name", "paper", "sft", "provenance"}
    assert next(iter(values)) == "model"
