"""Duplicates and overlap: what is found against brute force, what is not, and how fast the index fills memory."""

import itertools
import os
import random
import subprocess
import sys
import tracemalloc
import unicodedata

import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import clusters, text_index
from safereason.data import grams as gram_sets
from safereason.data.example import Example
from safereason.data.overlap import Hit, build_indexes, compare_rows, compared_text
from safereason.data.postings import Postings
from safereason.data.sampling import fold
from safereason.data.text_index import Index, Match
from safereason.recipe.schema import Hygiene

SENTENCE = "Explain to a beginner how the tides of the sea follow the moon and why there are two of them a day."
PASSAGE = (
    "every winter the river rises over its lower bank and leaves a band of grey silt on the meadows where the "
    "geese of the far north rest before they fly on to the south"
)
CHINESE = "潮汐是由月球和太阳的引力以及地球自转共同引起的海水周期性涨落现象，沿海的人们很早就注意到它与月相之间的联系。"


def index_of(*texts: str, near: float | None = 0.8, words: int | None = 13) -> Index:
    index = Index(near, words)
    for number, text in enumerate(texts):
        index.add(f"t/{number}", text)
    return index


def grams(text: str) -> set[str]:
    """Written apart from the code under test, from the definition."""
    return {"".join(gram) for gram in zip(*(text[i:] for i in range(5)), strict=False)} or {text}


def jaccard(one: str, other: str) -> float:
    a, b = grams(fold(one)), grams(fold(other))
    return len(a & b) / len(a | b)


def runs(text: str, length: int) -> set[str]:
    kept = "".join(c if c.isalnum() or c == "_" else " " for c in text.casefold()).split()
    return {" ".join(kept[i : i + length]) for i in range(len(kept) - length + 1)}


@pytest.mark.parametrize("copy", [SENTENCE.upper(), SENTENCE.replace(" ", "\n\t"), f"  {SENTENCE} "])
def test_case_and_white_space_make_no_other_text(copy):
    assert index_of("something else", SENTENCE).find(copy) == Match("t/1", "exact", 1.0, None)


@pytest.mark.parametrize(
    "copy",
    [
        SENTENCE.rstrip("."),
        SENTENCE.replace(" and why", ", and why").replace("day.", "day?!"),
        SENTENCE.replace("a day", "each day"),
        "Please. " + SENTENCE.lower(),
    ],
)
def test_a_copy_with_other_punctuation_or_another_word_is_near(copy):
    match = index_of("something else", SENTENCE).find(copy)
    assert match == Match("t/1", "near", jaccard(copy, SENTENCE), None)
    assert 0.8 <= match.similarity < 1


def test_a_long_word_changed_counts_for_more_in_a_short_text():
    copy = SENTENCE.replace("beginner", "pupil")
    assert 0.7 < jaccard(copy, SENTENCE) < 0.8
    assert index_of(SENTENCE).find(copy).how == "words"
    assert index_of(SENTENCE, words=None).find(copy) is None
    assert index_of(SENTENCE + PASSAGE).find(copy + PASSAGE).how == "near"


def test_a_paragraph_shared_by_long_texts_is_found_by_its_words():
    long = (
        f"{SENTENCE} {PASSAGE.capitalize()}! It was said at the harbour. " + "Nets dry on the wall, nobody asks. " * 9
    )
    other = " ".join(f"Line {n} is of another matter." for n in range(40)) + f' He wrote, "{PASSAGE}".'
    match = index_of("something else", long).find(other)
    assert (match.key, match.how, match.similarity) == ("t/1", "words", None)
    assert match.shared == " ".join(PASSAGE.split()[:13])
    assert index_of(long, words=None).find(other) is None
    assert index_of(long, words=35).find(other) is None


def test_words_count_from_the_thirteenth_in_a_row():
    words = PASSAGE.split()
    assert index_of(PASSAGE).find(" ".join(words[3:15])) is None
    assert index_of(PASSAGE).find(" ".join(words[3:16])).shared == " ".join(words[3:16])
    assert index_of(PASSAGE).find(" ".join([*words[3:9], "and", *words[9:16]])) is None


def test_a_paraphrase_is_not_found():
    assert index_of(SENTENCE).find("Why does the ocean rise and fall twice daily because of our satellite?") is None


def test_other_scripts_are_compared_by_their_characters():
    accented = "Où est la bibliothèque où l’élève a laissé ses clés, près du café à côté de l’hôtel de ville ?"
    index = index_of(CHINESE, accented, "🙂 " * 20)
    assert index.find(accented.replace("élève", "ÉLÈVE")).how == "exact"
    assert index.find(accented.replace("ses clés", "les clés")).key == "t/1"
    assert index.find(CHINESE.replace("很", "极")).how == "near"
    assert index.find("🙃 " * 20) is None


def test_a_language_without_spaces_has_no_words_to_share():
    other = "".join(map(chr, range(0x4E00, 0x4E60))) + CHINESE
    assert index_of(CHINESE).find(other) is None
    assert index_of(CHINESE, near=0.3).find(other).how == "near"


def test_the_strongest_match_wins_and_then_the_first_added():
    close, closer = SENTENCE.replace("a day", "each day"), SENTENCE.replace("day.", "day")
    texts = ["something else", close, closer, SENTENCE, SENTENCE.upper()]
    assert index_of(*texts).find(SENTENCE) == Match("t/3", "exact", 1.0, None)
    assert index_of(*texts[:3]).find(SENTENCE).key == "t/2"
    assert index_of(*reversed(texts[:3])).find(SENTENCE).key == "t/0"
    assert index_of(*texts[:2]).find(f"{SENTENCE} {PASSAGE}" * 3).how == "words"
    same = [SENTENCE.replace("tides", "tide!"), SENTENCE.replace("tides", "tide?")]
    assert jaccard(same[0], SENTENCE) == jaccard(same[1], SENTENCE)
    assert index_of(*same).find(SENTENCE).key == index_of(*reversed(same)).find(SENTENCE).key == "t/0"


def test_a_repeated_text_stays_under_its_first_key():
    index = index_of(SENTENCE, SENTENCE.upper(), PASSAGE)
    assert len(index) == 2
    assert index.find(SENTENCE).key == "t/0"


def test_without_a_threshold_only_the_letter_counts():
    index = index_of(SENTENCE, near=None, words=None)
    assert index.find(SENTENCE.rstrip(".")) is None
    assert index.find(SENTENCE.lower()).how == "exact"


@pytest.mark.parametrize("near", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_equal_grams_are_near_at_every_threshold(near):
    match = index_of("na" * 20, near=near).find("na" * 30)
    assert match == Match("t/0", "near", 1.0, None)


@pytest.mark.parametrize("text", ["", "a", "abc", "ab c", "abcde", "\ud800", "\ud800 lone halves \udfff of a pair"])
def test_short_and_broken_texts_are_only_themselves(text):
    assert index_of("abd", "abcdf", "q", near=0.3).find(text) is None
    assert index_of("abd", text, "abcdf", near=0.3).find(text).key == "t/1"


def edited(text: str, edits: list[tuple[int, str]]) -> str:
    for place, character in edits:
        text = f"{text[: place % (len(text) + 1)]}{character}{text[place % (len(text) + 1) + 1 :]}"
    return text


TEXTS = st.text("abcdef é中\n", max_size=60)
EDITS = st.lists(st.tuples(st.integers(0, 60), st.text("abxy", max_size=3)), max_size=4)


@given(st.lists(st.tuples(TEXTS, EDITS), min_size=1, max_size=12), TEXTS)
def test_what_is_near_is_what_brute_force_says(pairs, alone):
    texts, queries = [text for text, _ in pairs], [*(edited(*pair) for pair in pairs), alone]
    index = index_of(*texts, near=0.5, words=None)
    for query in queries:
        true = [jaccard(query, text) for text in texts]
        match = index.find(query)
        if match is None:
            assert max(true) < 0.7  # the index misses 5 in 10^8 from here on, and up to one in a thousand below
            continue
        place = int(match.key.removeprefix("t/"))
        assert match.similarity == true[place] >= 0.5
        assert match.how == ("exact" if fold(query) in map(fold, texts) else "near")
        if max(true) >= 0.7:
            assert place == true.index(max(true)) or match.how == "exact"


WORDS = st.lists(st.sampled_from(["a", "b", "Çé", "don't", "e-mail", "中文", "x_1", "—"]), max_size=25).map(" ".join)


@given(st.lists(WORDS, max_size=20), WORDS)
def test_shared_words_are_those_of_a_naive_search(texts, query):
    match = index_of(*texts, near=None, words=5).find(query)
    having = [number for number, text in enumerate(texts) if runs(text, 5) & runs(query, 5)]
    if match is None or match.how == "exact":
        assert match or not having
    else:
        assert int(match.key.removeprefix("t/")) in having
        assert match.shared in runs(query, 5) & runs(texts[int(match.key.removeprefix("t/"))], 5)


def pairs_of_similarity(low: float, high: float, count: int) -> list[tuple[str, str]]:
    chance, pairs = random.Random(0), []
    while len(pairs) < count:
        text = "".join(chance.choices("abcdefghijklmnop", k=150))
        changed = list(text)
        for place in chance.sample(range(150), chance.randint(1, 8)):
            changed[place] = "z"
        if low <= jaccard(text, "".join(changed)) < high:
            pairs.append((text, "".join(changed)))
    return pairs


def test_hardly_a_pair_at_the_threshold_is_missed():
    pairs = pairs_of_similarity(0.8, 0.83, 1500)
    index = index_of(*(text for text, _ in pairs))
    missed = sum(index.find(changed) is None for _, changed in pairs)
    assert missed <= 4  # one is expected, at most one in a thousand promised


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999999])
def test_bands_keep_their_promise_at_every_threshold(threshold):
    bands, rows = gram_sets.band_shape(threshold)
    assert 1 - (1 - threshold**rows) ** bands >= 0.999
    assert bands == 1 or 1 - (1 - threshold**rows) ** (bands - 1) < 0.999


def test_signatures_agree_as_often_as_the_texts_are_alike():
    for low, high in ((0.55, 0.6), (0.75, 0.8), (0.9, 0.95)):
        pairs = pairs_of_similarity(low, high, 60)
        keys = [[gram_sets.band_keys(text, 100, 1) for text in pair] for pair in pairs]
        agreeing = sum(int((one == other).sum()) for one, other in keys) / 6000
        assert agreeing == pytest.approx(sum(jaccard(*pair) for pair in pairs) / 60, abs=0.02)


@pytest.mark.parametrize("text", ["a", SENTENCE, PASSAGE * 3, CHINESE])
def test_signatures_are_those_of_datasketch(text):
    hashes = gram_sets.gram_hashes(fold(text))
    theirs = MinHash(56, seed=1, hashfunc=int, scheme="affine32")
    theirs.update_batch((hashes >> 32).tolist())
    assert gram_sets.minhash(hashes, 56).tolist() == theirs.hashvalues.tolist()


TEMPLATE = (
    "Write a report for the committee of the harbour town about the following, and name the year it was first seen: "
)


def templated(count: int, words: int) -> list[str]:
    """Texts of one template that differ in words that no other has."""
    chance = random.Random(count + words)
    return [
        TEMPLATE + " ".join("".join(chance.choices("abcdefghijklmnopqrst", k=6)) for _ in range(words))
        for _ in range(count)
    ]


@pytest.mark.parametrize("words", [1, 2, 4])
def test_the_texts_of_a_template_have_the_neighbour_that_brute_force_finds(words):
    texts = templated(90, words)
    queries = [f"{text}!" for text in texts[::9]] + templated(20, words + 1) + [TEMPLATE, SENTENCE]
    index = index_of(*texts, words=None)
    for query in queries:
        true = [jaccard(query, text) for text in texts]
        match = index.find(query)
        if max(true) < 0.8:
            assert match is None
        else:
            assert match == Match(f"t/{true.index(max(true))}", "near", max(true), None)


@given(st.lists(st.tuples(TEXTS, EDITS), min_size=4, max_size=12), st.integers(0, 3), EDITS)
def test_clusters_of_any_texts_say_what_brute_force_says(pairs, repeated, edits):
    base = pairs[repeated][0]
    texts = list(dict.fromkeys(fold(edited(base, more)) for _, more in pairs))
    sets = [gram_sets.gram_hashes(text) for text in texts]
    cluster = clusters.Cluster(clusters.centre_of(sets), 0.6)
    for number, hashes in enumerate(sets):
        cluster.add(hashes, number)
    query = gram_sets.gram_hashes(fold(edited(base, edits)))
    true = [gram_sets.jaccard(query, hashes) for hashes in sets]
    if max(true) < 0.6:
        assert cluster.find(query) is None
    else:
        assert cluster.find(query) == (max(true), true.index(max(true)))


def test_the_work_of_a_template_just_under_the_threshold_grows_with_its_texts(monkeypatch):
    work = 0

    def counted(call):
        def run(*arguments):
            nonlocal work
            result = call(*arguments)
            work += len(result[0]) if isinstance(result, tuple) else 1
            return result

        return run

    monkeypatch.setattr(text_index, "jaccard", counted(gram_sets.jaccard))
    monkeypatch.setattr(Postings, "find", counted(Postings.find))
    texts = templated(800, 3)
    assert 0.7 < jaccard(texts[0], texts[1]) < 0.8
    index = Index(0.8, None)
    done = []
    for number, text in enumerate(texts):
        assert index.find(text) is None
        index.add(str(number), text)
        done.append(work)
    # A comparison of all pairs would make it four times as much.
    assert done[799] - done[399] < 2.2 * (done[399] - done[199])


def test_an_index_of_many_texts_finds_each_again():
    chance = random.Random(1)
    texts = [" ".join(f"w{chance.randrange(3000)}" for _ in range(chance.randint(6, 40))) for _ in range(700)]
    index = index_of(*texts)
    for number, text in enumerate(texts):
        words = text.split()
        assert index.find(" ".join([*words, "more"]) if len(words) > 30 else text).key == f"t/{number}"
        if len(words) >= 13:
            match = index.find(" ".join([*map(str, range(200)), *words[-13:]]))
            assert (match.key, match.how, match.shared) == (f"t/{number}", "words", " ".join(words[-13:]))


def test_a_text_takes_less_than_ten_thousand_bytes():
    chance = random.Random(2)
    texts = [" ".join("".join(chance.choices("etaoinshrd", k=5)) for _ in range(200)) for _ in range(400)]
    index = index_of(*texts[:100])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, text in enumerate(texts[100:]):
            index.add(f"more/{number}", text)
        gram_sets.gram_hashes.cache_clear()
        memory = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memory / 300 < 10_000  # so that 20 000 such texts take less than 200 MB


SCRIPT = """
from safereason.data.text_index import Index
index = Index(0.6, 5)
for number in range(60):
    index.add(str(number), " ".join(f"{number * place % 17}x{place % 5}" for place in range(20 + number % 7)))
for number in range(60):
    print(index.find(" ".join(f"{number * place % 19}x{place % 5}" for place in range(25))))
"""


def test_every_process_finds_the_same():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "'words'" in outputs.pop()


def test_the_subject_is_the_prompt_and_the_response_after_it():
    example = Example("o/1", "Hi", "harmless", "o", answer="no part of it")
    assert compared_text(example) == "Hi"
    assert compared_text(Example("o/1", "Hi", "harmless", "o", response="Hello")) == "Hi\nHello"


def test_rows_are_compared_one_by_one_with_every_set():
    def example(name: str, prompt: str) -> Example:
        return Example(name, prompt, "harmless", "o")

    def rows():
        yield example("r/1", "nothing like it")
        yield example("r/2", SENTENCE)
        raise AssertionError("nobody asked for a third row")

    sets = {
        "one": [example("s/1", SENTENCE), example("s/2", SENTENCE.rstrip("."))],
        "two": iter([example("t/1", SENTENCE.rstrip("."))]),
        "three": [],
    }
    compared = list(itertools.islice(compare_rows(rows(), build_indexes(sets, Hygiene())), 2))
    assert [(row.id, [(hit.test_set, hit.match.how) for hit in hits]) for row, hits in compared] == [
        ("r/1", []),
        ("r/2", [("one", "exact"), ("two", "near")]),
    ]
    assert compared[1][1][0] == Hit("r/2", Match("s/1", "exact", 1.0, None), "one")


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKD"])
def test_the_same_text_in_another_unicode_form_is_an_exact_match(form):
    text = "열쇠 없이 이웃집 창고의 자물쇠를 여는 방법을 설명해 주세요"
    index = Index(0.8, 4)
    index.add("test/1", text)
    match = index.find(unicodedata.normalize(form, text).replace(" ", "\u200b\u00a0"))
    assert match is not None
    assert (match.how, match.key) == ("exact", "test/1")
    near = index.find(unicodedata.normalize(form, text + " 꼭"))
    assert near is not None
    assert near.how == "near"
