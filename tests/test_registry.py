"""Registries: what a name leads to, built in or in another package, and what is said where it leads nowhere."""

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from safereason.errors import InputError
from safereason.registry import Registry


@dataclass(frozen=True)
class Fruit:
    name: str
    summary: str = "A fruit"


@pytest.fixture
def fruits() -> Registry[Fruit]:
    return Registry("fruit", Fruit, (Fruit("apple"), Fruit("pear", "A sweet one")))


@pytest.fixture
def orchard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with an installed package of fruits: its module and its entry points."""
    (tmp_path / "orchard").mkdir()
    (tmp_path / "orchard" / "__init__.py").write_text("")
    (tmp_path / "orchard" / "trees.py").write_text(
        "from test_registry import Fruit\n"
        "PLUM = Fruit('plum', 'A stone fruit')\nAPPLE = Fruit('apple', 'Another one')\nSTONE = 'no fruit'\n"
    )
    (tmp_path / "orchard" / "broken.py").write_text("raise RuntimeError('no rain')\n")
    info = tmp_path / "orchard-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[safereason.fruits]\nplum = orchard.trees:PLUM\ndead = orchard.broken:TREE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "orchard"]:
        del sys.modules[name]


def test_a_built_in_entry_is_found_by_its_name(fruits: Registry[Fruit]):
    assert fruits.find("pear").summary == "A sweet one"
    assert list(fruits.listed()) == [("apple", "A fruit"), ("pear", "A sweet one")]


@pytest.mark.parametrize("name", ["plum", "orchard.trees:PLUM"])
def test_an_entry_of_another_package_is_found_and_keeps_its_own_name(fruits: Registry[Fruit], orchard: Path, name: str):
    assert any(point.name == "plum" for point in metadata.entry_points(group="safereason.fruits"))
    entry = fruits.find(name)
    assert (entry.name, entry.summary) == ("plum", "A stone fruit")
    assert fruits.find("plum") is entry
    assert fruits.find(name) is entry


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("orchard.trees:PLUM", "plum"),
        ("orchard.trees:PLUM:ripe:red", "plum:ripe:red"),
        ("plum:ripe", "plum:ripe"),
        ("apple:red", "apple:red"),
        ("melon", "melon"),
        ("org/melon", "org/melon"),
        ("melon.yaml", "melon.yaml"),
    ],
)
def test_records_know_an_entry_by_its_own_name(fruits: Registry[Fruit], orchard: Path, text: str, own: str):
    assert fruits.own_name(text) == own
    # The entry is registered by then, under the name that records have.
    assert fruits.own_name(text) == own
    assert fruits.own_name(own) == own


def test_the_listing_shows_what_is_installed_and_what_is_wrong_with_it(fruits: Registry[Fruit], orchard: Path):
    listed = dict(fruits.listed())
    assert listed["plum"] == "A stone fruit"
    assert listed["dead"] == (
        "fruit dead: orchard.broken:TREE cannot be imported (no rain); install its package, or check the path"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aple", "no fruit is called 'aple'; did you mean apple?"),
        ("melon", "no fruit is called 'melon'; available: apple, pear"),
        ("", "no fruit is called ''; available: apple, pear"),
        ("apple:red", "no fruit is called 'apple:red'; did you mean apple?"),
        ("orchard.trees:FIG", "fruit orchard.trees:FIG: orchard.trees:FIG cannot be imported (module"),
        (
            "no.such.module:FIG",
            "fruit no.such.module:FIG: no.such.module:FIG cannot be imported (No module named 'no')",
        ),
        ("orchard.trees:STONE", "is of type str; it has to be of test_registry.Fruit"),
        ("orchard.trees:APPLE", "orchard.trees:APPLE: is called 'apple', which is taken; give it another name"),
    ],
)
def test_what_is_no_entry_is_one_line(fruits: Registry[Fruit], orchard: Path, name: str, message: str):
    with pytest.raises(InputError) as error:
        fruits.find(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(fruits) == ["apple", "pear"]


def test_nothing_is_imported_for_a_name_that_is_built_in(fruits: Registry[Fruit], orchard: Path):
    fruits.find("apple")
    assert not any(name.startswith("orchard") for name in sys.modules)
