"""Copyright by hashes: the similarity against sets counted by hand, and files that are not as they should be."""

import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash

from safereason.judges import copyright

WORDS = [f"w{i}" for i in range(120)]


def hashes(*windows: list[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.uint64]]":
    rows = []
    for window in windows:
        one = MinHash(num_perm=128, scheme="legacy")
        for word in window:
            one.update(word.encode())
        rows.append(one.hashvalues)
    return np.array(rows, dtype=np.uint64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    (tmp_path / "harmbench" / "copyright_hashes").mkdir(parents=True)
    return tmp_path / "harmbench" / "copyright_hashes"


def test_windows_overlap_as_the_protocol_lays_them():
    assert [(w[0], len(w)) for w in copyright.windows(WORDS[:75], 50, 40)] == [
        ("w0", 50),
        ("w10", 50),
        ("w20", 50),
        ("w30", 45),
    ]
    assert [list(w) for w in copyright.windows(WORDS[:3], 50, 40)] == [WORDS[:3]]
    assert [list(w) for w in copyright.windows([], 50, 40)] == [[]]


def test_similarity_estimates_the_shared_words_of_the_nearest_window():
    theirs = hashes(WORDS[:50], WORDS[60:110])
    assert copyright.similarity(WORDS[:50], theirs) == 1.0
    assert copyright.similarity(WORDS[70:120], theirs) == pytest.approx(40 / 60, abs=0.12)
    assert copyright.similarity([], theirs) == 0.0


def test_the_hash_values_are_those_of_the_published_files():
    """The first permutations of the published hashes, which datasketch 1 drew from seed 1."""
    own = MinHash(num_perm=128, scheme="legacy").permutations
    generator = np.random.RandomState(1)
    first = generator.randint(1, (1 << 61) - 1, dtype=np.uint64), generator.randint(0, (1 << 61) - 1, dtype=np.uint64)
    assert (own[0][0], own[1][0]) == first


@pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed")
def test_an_answer_that_repeats_the_text_is_told_from_one_that_does_not(folder: Path):
    np.save(folder / "lyrics_one.npy", hashes(WORDS[:50], WORDS[10:60]))
    repeated, other = (copyright.judge("lyrics_one", text) for text in (" ".join(WORDS[:60]), "Quite another song."))
    assert (repeated.score, repeated.label, repeated.details) == (1.0, "yes", {"similarity": 1.0})
    assert (other.score, other.label) == (0.0, "no")
    assert copyright.judge("lyrics_one", "").score == 0.0


@pytest.mark.skipif(find_spec("spacy") is not None, reason="spaCy is installed")
def test_without_spacy_it_is_unscored_and_says_how_to_get_it(folder: Path):
    np.save(folder / "lyrics_one.npy", hashes(WORDS[:50]))
    verdict = copyright.judge("lyrics_one", "La la.")
    assert (verdict.score, verdict.reason) == (
        None,
        "copyright behaviors are judged by spaCy's words; run `pip install 'safereason[judges]'`",
    )


class Trap:
    def __reduce__(self) -> "tuple[object, tuple[str]]":
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_never_loaded(folder: Path):
    (folder / "lyrics_one.npy").write_bytes(pickle.dumps(Trap()))
    np.save(folder / "lyrics_two.npy", np.array([[None] * 128], dtype=object), allow_pickle=True)
    np.save(folder / "lyrics_three.npy", hashes(WORDS[:50])[:, :5])
    for name in ("lyrics_one", "lyrics_two", "lyrics_three"):
        verdict = copyright.judge(name, "La la.")
        assert verdict.score is None
        assert str(verdict.reason).endswith(f"{name}.npy: does not hold rows of 128 hash values; convert it anew")
