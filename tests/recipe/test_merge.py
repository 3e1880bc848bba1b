"""One recipe laid on another."""

from hypothesis import given
from hypothesis import strategies as st

from safereason.recipe.merge import covering, flatten, lay, lookup, merge

KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.recursive(st.integers(0, 2), lambda v: st.dictionaries(KEYS, v, max_size=3), max_leaves=6)
MAPPINGS = st.dictionaries(KEYS, TREES)


def test_mappings_go_into_each_other_and_lists_are_replaced():
    base = {"rl": {"kl": 1, "sampling": {"t": 0.6, "n": 8}}, "list": [1, 2]}
    assert merge(base, {"rl": {"sampling": {"t": 1.0}}, "list": [3]}) == {
        "rl": {"kl": 1, "sampling": {"t": 1.0, "n": 8}},
        "list": [3],
    }
    assert base["rl"]["sampling"]["t"] == 0.6


def test_another_variant_replaces():
    base = {"data": {"mix": "tars", "prompts": 1}, "reward": {"name": "tars", "safety": "x"}}
    over = {"data": {"mix": "rsafe", "rows": 2}, "reward": {"name": "tars", "task": "y"}}
    assert merge(base, over) == {
        "data": {"mix": "rsafe", "rows": 2},
        "reward": {"name": "tars", "safety": "x", "task": "y"},
    }


def test_another_algorithm_replaces_one_that_is_not_said():
    grpo = {"rl": {"epochs": 1, "kl_coef": 0.1}}
    assert merge(grpo, {"rl": {"algorithm": "dpo", "beta": 0.1}}) == {"rl": {"algorithm": "dpo", "beta": 0.1}}
    assert merge(grpo, {"rl": {"algorithm": "grpo"}}) == {"rl": {"epochs": 1, "kl_coef": 0.1, "algorithm": "grpo"}}


@given(MAPPINGS, MAPPINGS)
def test_every_value_of_the_upper_one_stands(base, over):
    merged = merge(base, over)
    for key, value in flatten(over):
        assert lookup(merged, tuple(key.split("."))) == value


@given(MAPPINGS)
def test_laying_nothing_or_itself_changes_nothing(tree):
    assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


@given(MAPPINGS, MAPPINGS, st.dictionaries(st.sampled_from(["a", "a.b", "b", "c.a"]), st.just("paper")))
def test_provenance_never_outlives_the_value_it_spoke_of(base, over, texts):
    merged = lay({**base, "provenance": texts}, over, "recipe")
    before = dict(flatten(base))
    for key, value in flatten({k: v for k, v in merged.items() if k != "provenance"}):
        if before.get(key) != value:
            assert covering(merged["provenance"], key) == "recipe"


def test_a_value_that_is_set_again_keeps_its_provenance():
    base = {"rl": {"kl": 1, "t": 2}, "provenance": {"rl": "paper"}}
    assert lay(base, {"rl": {"kl": 1}}, "override")["provenance"] == {"rl": "paper"}


def test_a_changed_value_has_the_provenance_of_the_one_who_changed_it():
    base = {"rl": {"kl": 1, "sampling": {"t": 2, "n": 8}}, "provenance": {"rl": "paper", "rl.sampling": "code"}}
    unsaid = lay(base, {"rl": {"sampling": {"t": 3}}}, "recipe")["provenance"]
    assert unsaid == {"rl": "paper", "rl.sampling": "code", "rl.sampling.t": "recipe"}
    provenance = lay(base, {"rl": {"sampling": {"t": 3}}, "provenance": {"rl": "ours"}}, "recipe")["provenance"]
    assert provenance == {"rl": "ours", "rl.sampling": "code", "rl.sampling.t": "ours"}


def test_provenance_of_what_is_replaced_goes_with_it():
    base = {
        "data": {"mix": "tars", "prompts": 1},
        "sft": {"lr": 1},
        "provenance": {"data.prompts": "paper", "sft.lr": "paper"},
    }
    merged = lay(base, {"data": {"mix": "rsafe"}, "sft": None}, "override")
    assert merged["provenance"] == {"data.mix": "override", "sft": "override"}


def test_the_nearest_provenance_counts():
    texts = {"rl": "a", "rl.sampling": "b"}
    assert covering(texts, "rl.sampling.top_p") == "b"
    assert covering(texts, "rl.kl_coef") == "a"
    assert covering(texts, "rlx") is None
