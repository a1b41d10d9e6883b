"""Near duplicates: planted copies are found, families hold only texts like their first one, and work is reused."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import datasets
import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import near_duplicates
from finetune.data.duplicates import exact_families
from finetune.data.family_notes import large_family_notes, near_conflict_notes
from finetune.data.near_duplicates import (
    find_families,
    rows_in_a_band,
    shingles,
    text_similarity,
    tokens,
)
from finetune.errors import EnvironmentFault

ENGLISH = tuple(f"word{number}" for number in range(900))
CHINESE = tuple(chr(0x4E00 + number) for number in range(900))
PANGRAM = "the quick brown fox jumps over the lazy dog while seven old men look on"
SENTENCE = tuple(PANGRAM.split())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "finetune"


def rows_of(texts: list[str | None]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "origin": datasets.Value("string")})
    return datasets.Dataset.from_dict(
        {"text": texts, "origin": [f"file.csv:{row + 2}" for row in range(len(texts))]}, features=features
    )


def random_texts(vocabulary: tuple[str, ...], joint: str, *, count: int, length: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [joint.join(draw.choices(vocabulary, k=length)) for _ in range(count)]


# ---- what is found ----


@pytest.mark.parametrize(("vocabulary", "joint"), [(ENGLISH, " "), (CHINESE, "")], ids=["English", "Chinese"])
def test_copies_with_one_edit_in_twenty_are_found_and_nothing_else(vocabulary: tuple[str, ...], joint: str) -> None:
    originals = random_texts(vocabulary, joint, count=150, length=60)
    draw = random.Random(1)
    copies = []
    for text in originals:
        edited = tokens(text)
        edited[draw.randrange(20)] = draw.choice(vocabulary)
        edited.insert(20 + draw.randrange(20), draw.choice(vocabulary))
        del edited[45 + draw.randrange(15)]
        copies.append(joint.join(edited))
    found = find_families(rows_of([*originals, *copies]), similarity=0.65)
    own = np.arange(len(originals))
    assert (found.family[: len(originals)] == own).all()
    assert (found.family[len(originals) :] == own).mean() >= 0.95
    assert set(np.unique(found.family[len(originals) :] - own)) <= {0, len(originals)}  # the original, or alone


def test_a_row_joins_the_most_similar_earlier_representative() -> None:
    far = [*SENTENCE[:-2], "new", "words"]
    near = ["one", *SENTENCE[1:]]
    assert text_similarity(" ".join(far), " ".join(near)) < 0.7
    alike = [text_similarity(PANGRAM, " ".join(other)) for other in (far, near)]
    assert 0.7 <= alike[0] < alike[1]
    found = find_families(rows_of([" ".join(far), " ".join(near), PANGRAM]), similarity=0.7)
    assert found.family.tolist() == [0, 1, 1]
    assert found.similarity[2] == np.float32(alike[1])


def test_families_are_not_chained() -> None:
    chain = [" ".join([*SENTENCE[:stop], *(f"new{number}" for number in range(stop, 14))]) for stop in (14, 11, 8)]
    links = [text_similarity(one, other) for one, other in ((chain[0], chain[1]), (chain[1], chain[2]))]
    assert min(links) >= 0.55 > text_similarity(chain[0], chain[2])
    assert find_families(rows_of(list(chain)), similarity=0.55).family.tolist() == [0, 0, 2]


def test_a_repeated_text_goes_where_its_first_copy_went() -> None:
    near = " ".join([*SENTENCE[:-1], "off"])
    found = find_families(rows_of([PANGRAM, near, near.upper(), "something else"]), similarity=0.65)
    assert found.exact.tolist() == [0, 1, 1, 3]
    assert found.family.tolist() == [0, 0, 0, 3]
    assert found.similarity[1] == found.similarity[2] < 1
    assert (found.near_families, found.exact_families, found.largest) == (1, 1, 3)
    assert found.sizes.tolist() == [3, 0, 0, 1]


def test_without_a_similarity_only_exact_duplicates_count() -> None:
    texts = [PANGRAM, " ".join([*SENTENCE, "today"]), PANGRAM]
    found = find_families(rows_of(texts), similarity=None)
    assert found.family.tolist() == found.exact.tolist() == [0, 1, 0]
    assert (found.near_families, found.short) == (0, 0)


def test_short_and_missing_texts_are_compared_exactly_only() -> None:
    found = find_families(rows_of([None, "", "very nice", "very nice!", "Very  nice", "???", None]), similarity=0.3)
    assert found.family.tolist() == [0, 1, 2, 3, 2, 5, 6]
    assert found.short == 7


def test_no_rows_give_no_families() -> None:
    found = find_families(rows_of([]), similarity=0.65)
    assert found.family.shape == found.exact.shape == found.similarity.shape == (0,)
    assert found.largest == 0


def test_rows_that_were_chosen_and_reordered_are_read_in_their_order() -> None:
    texts = random_texts(ENGLISH, " ", count=40, length=30)
    rows = rows_of([*texts, *(f"{text} more" for text in texts)])
    order = np.random.default_rng(3).permutation(80)
    found = find_families(rows.select(order), similarity=0.65)
    expected = [min(np.flatnonzero(order % 40 == place % 40)) for place in order]
    assert found.family.tolist() == expected


WORDS = st.sampled_from("甲乙丙丁") | st.sampled_from(["red", "green", "blue", "black", "red"])
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=14)


@settings(max_examples=60)
@given(TEXTS, st.sampled_from([0.3, 0.5, 0.65, 1.0]))
def test_every_member_is_similar_to_its_representative(texts: list[str], similarity: float) -> None:
    found = find_families(rows_of(list(texts)), similarity=similarity)
    assert found.exact.tolist() == exact_families(texts).tolist()
    assert (found.family <= np.arange(len(texts))).all()
    assert (found.family[found.family] == found.family).all()
    assert (found.family[found.exact] == found.family).all()
    for row, representative in enumerate(found.family):
        alike = text_similarity(texts[row], texts[representative]) if found.exact[row] != representative else 1.0
        assert found.similarity[row] == np.float32(alike)
        assert alike >= similarity


# ---- similarity ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP, me!", ["don", "t", "stop", "me"]),
        ("我爱Python编程。", ["我", "爱", "python", "编", "程"]),
        ("東京タワーへ 行く", list("東京タワーへ行く")),
        ("안녕 세상", ["안녕", "세상"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("ไทย", list("ไทย")),
        ("ＦＵＬＬ width", ["full", "width"]),
        ("?! …\ud800", []),
    ],
)
def test_tokens_are_words_or_characters_by_script(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_similarity_is_the_share_of_common_words_and_pairs() -> None:
    # a, b, c, d, ab, bc, cd and a, b, c, e, ab, bc, ce: five of nine.
    assert text_similarity("a b c d", "A b, c e") == 5 / 9
    assert text_similarity("甲乙丙丁", "甲乙丙戊") == 5 / 9
    assert text_similarity("a b", "b a") == 2 / 4
    assert (text_similarity("!", "?"), text_similarity("!", " ! "), text_similarity("a", "")) == (0, 1, 0)


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_a_share(one: str, other: str) -> None:
    assert 0 <= text_similarity(one, other) == text_similarity(other, one) <= 1
    assert text_similarity(one, one) == 1


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.6, 0.65, 0.8, 0.95, 1.0])
def test_texts_at_the_threshold_nearly_always_meet(similarity: float) -> None:
    size = rows_in_a_band(similarity)
    bands = near_duplicates.HASHES_IN_SIGNATURE // size
    assert 1 - (1 - similarity**size) ** bands >= 0.95


# ---- cost ----


def test_the_number_of_processes_changes_nothing(cache: Path) -> None:
    texts = random_texts(ENGLISH[:60], " ", count=700, length=12)
    rows = rows_of([*texts, *(f"{text} indeed" for text in texts[::3])])
    alone = find_families(rows, similarity=0.5)
    for file in cache.iterdir():
        file.unlink()
    together = find_families(rows, similarity=0.5, num_proc=3)
    assert alone.near_families > 100
    for name in ("family", "exact", "similarity"):
        assert np.array_equal(getattr(alone, name), getattr(together, name))


def test_a_second_run_reads_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(CHINESE, "", count=30, length=20)
    first = find_families(rows_of([*texts, texts[0] + "好"]), similarity=0.65)
    monkeypatch.setattr(near_duplicates, "_find", None)
    again = find_families(rows_of([*texts, texts[0] + "好"]), similarity=0.65)
    assert again.family.tolist() == first.family.tolist()
    assert again.family[30] == 0
    with pytest.raises(TypeError):  # another threshold is other work
        find_families(rows_of([*texts, texts[0] + "好"]), similarity=0.7)


def test_signatures_are_reused_for_another_threshold_but_not_by_other_code(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    rows = rows_of(list(random_texts(ENGLISH, " ", count=5, length=20)))
    assert rows_in_a_band(0.66) == rows_in_a_band(0.67)
    find_families(rows, similarity=0.66)
    find_families(rows, similarity=0.67)
    assert len(list(cache.glob("signatures-*"))) == 1
    monkeypatch.setattr(near_duplicates, "_versions", lambda: ("changed", "1"))
    find_families(rows, similarity=0.66)
    assert len(list(cache.glob("signatures-*"))) == 2
    assert len(list(cache.glob("families-*"))) == 3


def test_little_memory_gives_the_same_families(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    texts = random_texts(ENGLISH[:12], " ", count=80, length=15)
    expected = find_families(rows_of(list(texts)), similarity=0.3).family.tolist()
    for file in cache.iterdir():
        file.unlink()
    monkeypatch.setattr(near_duplicates, "SHINGLES_REMEMBERED", 1)
    monkeypatch.setattr(near_duplicates, "SHINGLES_SIGNED_AT_ONCE", 3)
    assert find_families(rows_of(list(texts)), similarity=0.3).family.tolist() == expected
    assert len(set(expected)) < 80


def test_a_signature_is_that_of_the_library() -> None:
    found = shingles(PANGRAM)
    whole = datasketch.MinHash(num_perm=128, hashfunc=int)
    for value in found.tolist():
        whole.update(value >> 32)
    blank = datasketch.MinHash(num_perm=128, hashfunc=int)
    assert near_duplicates._signature(found, blank).tolist() == whole.hashvalues.tolist()


def test_a_template_costs_each_row_a_bounded_number_of_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "dear {} your order of {} has left our house on {} and should be with you in {} days or {} weeks"
    draw = random.Random(5)
    texts: list[str | None] = [template.format(*draw.sample(ENGLISH, 5)) for _ in range(300)]
    texts.append(f"{texts[-1]} please")
    compared = 0
    real = near_duplicates._jaccard

    def counted(one: Any, other: Any) -> float:
        nonlocal compared
        compared += 1
        return real(one, other)

    monkeypatch.setattr(near_duplicates, "_jaccard", counted)
    monkeypatch.setattr(near_duplicates, "MOST_ENTRIES_READ", 64)
    monkeypatch.setattr(near_duplicates, "MOST_TEXTS_COMPARED", 4)
    found = find_families(rows_of(texts), similarity=0.75)
    assert 300 < compared <= 4 * len(texts)
    assert found.family[300] == 299


# ---- what is told ----


def test_a_family_above_a_twentieth_of_the_rows_is_told() -> None:
    texts: list[str | None] = [f"file {word} is empty and was skipped by this program\n today" for word in "abcd"]
    texts += random_texts(ENGLISH, " ", count=36, length=20)
    rows = rows_of(texts)
    found = find_families(rows, similarity=0.65)
    notes = large_family_notes(found, rows)
    assert len(notes) == 1
    assert notes[0].startswith("4 of 40 rows (10%) are one family of duplicates, like file.csv:2: 'file a is empty")
    assert "program today'" in notes[0]


def test_a_family_of_a_twentieth_or_less_is_not_told() -> None:
    rows = rows_of(["same words in here again"] * 2 + random_texts(ENGLISH, " ", count=38, length=20))
    found = find_families(rows, similarity=0.65)
    assert found.largest == 2
    assert large_family_notes(found, rows) == []


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    class Dying:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, *_: Any) -> Iterator[int]:
            raise BrokenProcessPool

    monkeypatch.setattr(near_duplicates, "ProcessPoolExecutor", Dying)
    rows = rows_of(list(random_texts(ENGLISH, " ", count=251, length=8)))
    with pytest.raises(EnvironmentFault, match="was the memory used up"):
        find_families(rows, similarity=0.65, num_proc=2)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(near_duplicates._SigningJob, "sign", full)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        find_families(rows_of([PANGRAM]), similarity=0.65)
    assert list(cache.iterdir()) == []


def test_families_are_plain_arrays() -> None:
    found = find_families(rows_of([PANGRAM]), similarity=0.65)
    assert (found.family.dtype, found.exact.dtype, found.similarity.dtype) == (np.int64, np.int64, np.float32)


def test_near_duplicates_with_different_labels_are_told_of() -> None:
    text = "the river rose in the night and the old bridge below the mill was carried away by morning"
    rows = datasets.Dataset.from_dict(
        {
            "text": [text, f"{text} too", text, "something else altogether was said about the weather in spring"],
            "label": ["a", "b", "b", "b"],
            "origin": [f"d.csv:{line}" for line in range(2, 6)],
        }
    )
    found = find_families(rows, similarity=0.7)
    # The third row is an exact repeat, which drop_conflicts and its own warning speak of.
    assert near_conflict_notes(found, rows) == [
        "1 family of near duplicates carries different labels: see d.csv:3 and d.csv:2"
    ]
    same = rows.remove_columns("label").add_column("label", ["a"] * 4)
    assert near_conflict_notes(found, same) == []
