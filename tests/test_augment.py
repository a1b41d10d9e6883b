"""Augmentation: copies that differ, in their original's family, drawn by seed and id alone, about as much as asked."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.augment import Augmented, augment, changed_copy, split_words
from finetune.data.lexicon import Lexicon, load_lexicon
from finetune.errors import DataError
from finetune.recipe import Augmentation

LINES = "good,fine,decent\nroom,chamber\n房间,屋子\n干净,整洁\n"
NOUNS = [f"noun{number}" for number in range(400)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache for each test: what one wrote must not answer for another."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    (tmp_path / "words.csv").write_text(LINES, encoding="utf-8")
    return load_lexicon("words.csv", base=tmp_path)


def table(texts: Sequence[str], **more: list[Any]) -> Dataset:
    rows = range(len(texts))
    columns = {
        "id": [f"a.csv:{row}" for row in rows],
        "text": list(texts),
        "label": [str(row % 2) for row in rows],
        "group": [None if row % 3 else f"g{row}" for row in rows],
        "origin": [f"a.csv:{row + 2}" for row in rows],
    }
    return Dataset.from_dict(columns | more)


def long_texts(rows: int = 40, words: int = 50) -> list[str]:
    chance = random.Random(5)
    return [" ".join(chance.sample(NOUNS, words)) + "." for _ in range(rows)]


def augmented(rows: Dataset, *, seed: int = 1, base: Path = Path(), **shares: Any) -> Augmented:
    return augment(rows, np.arange(len(rows)) // 2, settings=Augmentation(**shares), seed=seed, base=base)


def copy_of(text: str, lexicon: Lexicon, *, seed: int = 1, **shares: float) -> str:
    needs = {"lexicon": "words.csv"} if "synonym" in shares or "insert" in shares else {}
    asked = Augmentation(**shares, **needs)  # type: ignore[arg-type]
    return changed_copy(text, settings=asked, lexicon=lexicon, draw=random.Random(seed))[0]


def test_copies_follow_the_originals_and_stay_in_their_family() -> None:
    rows = table(long_texts(), stars=[float(row) for row in range(40)])
    result = augmented(rows, copies=2, delete=0.1)
    assert result.rows.column_names == rows.column_names and result.rows.features == rows.features
    assert [dict(row) for row in result.rows.select(range(40))] == [dict(row) for row in rows]
    assert len(result.rows) == len(result.families) == 120
    for place in range(40, 120):
        number, row = (place - 40) % 2 + 1, (place - 40) // 2
        copy, original = result.rows[place], rows[row]
        assert copy["id"] == f"{original['id']}#copy{number}"
        assert copy["origin"] == f"{original['origin']} (copy {number})"
        assert {key: copy[key] for key in ("label", "group", "stars")} == {
            key: original[key] for key in ("label", "group", "stars")
        }
        assert result.families[place] == result.families[row] == row // 2
        assert copy["text"] != original["text"]


def test_several_labels_and_a_selection_of_rows_are_kept() -> None:
    rows = table(long_texts(6), label=[["a", "b"], [], ["a"], ["b"], ["a"], ["b"]]).select([4, 0, 1])
    result = augmented(rows, delete=0.1)
    assert result.rows["label"][:] == [["a"], ["a", "b"], []] * 2


def test_neither_order_nor_company_nor_processes_change_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nouns.csv").write_text("".join(f"{noun},{noun}s\n" for noun in NOUNS[::3]))
    shares: dict[str, Any] = {"delete": 0.1, "swap": 0.1, "insert": 0.1, "synonym": 0.1, "lexicon": "nouns.csv"}
    rows = table(long_texts(450, words=12))  # more than two batches

    def texts(given: Dataset, **more: Any) -> dict[str, str]:
        wanted = Augmentation(copies=2, **shares)
        result = augment(given, np.zeros(len(given), np.int64), settings=wanted, seed=1, base=tmp_path, **more).rows
        return dict(zip(result["id"], result["text"], strict=True))

    whole = texts(rows)
    turned = rows.select(range(449, -1, -1))
    assert texts(turned) == whole
    few = texts(rows.select([7, 333]))
    assert few == {id: whole[id] for id in few} and len(few) == 6
    other = augment(rows, np.zeros(450, np.int64), settings=Augmentation(copies=2, **shares), seed=2, base=tmp_path)
    assert other.rows["text"][450:] != list(whole.values())[450:]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "another-cache")
    assert texts(rows, num_proc=2) == whole


def test_the_second_run_reads_what_the_first_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.csv").write_text("noun1,word\nnoun2,word\n")
    rows = table(long_texts())
    shares: dict[str, Any] = {"delete": 0.1, "synonym": 0.1, "lexicon": "words.csv"}
    first = augmented(rows, base=tmp_path, **shares)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr("finetune.data.augment.changed_copy", refused)
        again = augmented(rows, base=tmp_path, **shares)
        assert again.rows["text"][:] == first.rows["text"][:] and again.report == first.report
        assert again.rows._fingerprint == first.rows._fingerprint
        for changed in ({"delete": 0.2}, {"copies": 2}):
            with pytest.raises(AssertionError, match="made again"):
                augmented(rows, base=tmp_path, **shares | changed)
        (tmp_path / "words.csv").write_text("noun1,word\nnoun2,words\n")
        with pytest.raises(AssertionError, match="made again"):
            augmented(rows, base=tmp_path, **shares)


@pytest.mark.parametrize(("words", "share"), [(50, 0.1), (7, 0.1), (5, 0.3)])
def test_as_many_words_change_as_were_asked_for(tmp_path: Path, words: int, share: float) -> None:
    (tmp_path / "nouns.csv").write_text("".join(f"{noun},other-{noun}\n" for noun in NOUNS))
    every = dict.fromkeys(("delete", "swap", "insert", "synonym"), share)
    copies = [
        changed_copy(
            text,
            settings=Augmentation(**every, lexicon="nouns.csv"),  # type: ignore[arg-type]
            lexicon=load_lexicon("nouns.csv", base=tmp_path),
            draw=random.Random(number),
        )[1]
        for number, text in enumerate(long_texts(300, words=words))
    ]
    for operation in every:
        mean = np.mean([touched[operation] for touched in copies]) / words
        # Rounding by chance has a standard deviation of at most half a word (one word for pairs) in each text.
        assert abs(mean - share) < 4 * 1.0 / words / 300**0.5, operation


def test_the_counts_say_what_happened(tmp_path: Path) -> None:
    (tmp_path / "nouns.csv").write_text("".join(f"{noun},other-{noun}\n" for noun in NOUNS))
    rows = table(long_texts(30, words=20))
    for operation in ("delete", "swap", "insert", "synonym"):
        needs = {"lexicon": "nouns.csv"} if operation in ("insert", "synonym") else {}
        result = augmented(rows, base=tmp_path, **{operation: 0.2}, **needs)
        assert result.report.words == 600
        assert result.report.words_changed == dict.fromkeys(("delete", "swap", "insert", "synonym"), 0) | {
            operation: 120
        }
        for row in range(30):
            before = rows[row]["text"].rstrip(".").split()
            after = result.rows[30 + row]["text"].rstrip(".").split()
            moved = sum(one != other for one, other in zip(before, after, strict=False))
            assert {
                "delete": len(after) == 16 and set(after) < set(before),
                "swap": sorted(after) == sorted(before) and moved == 4,
                "insert": len(after) == 24 and [word for word in after if word in before] == before,
                "synonym": len(after) == 20 and moved == 4,
            }[operation]


def test_the_report_tells_coverage_and_examples(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text(LINES, encoding="utf-8")
    rows = table(["a good room", "one two three", "four five", "房间干净", "six"])
    report = augmented(rows, base=tmp_path, synonym=0.999, lexicon="words.csv").report
    assert (report.originals, report.copies, report.unchanged_copies_left_out) == (5, 2, 3)
    assert report.coverage == pytest.approx(4 / 11) and report.lexicon_words == 4
    assert report.notes == [
        "augmentation: 36.4% of the words have a synonym, fewer than the share of 0.999 that was to be replaced",
        "augmentation: 3 of 5 copies came out unchanged and were left out",
    ]
    assert [example["origin"] for example in report.examples] == ["a.csv:2 (copy 1)", "a.csv:5 (copy 1)"]
    assert report.examples[1] == {"origin": "a.csv:5 (copy 1)", "before": "房间干净", "after": "屋子整洁"}
    assert not report.warnings and augmented(rows, delete=0.9).report.coverage is None


def test_a_lexicon_of_another_language_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text(LINES, encoding="utf-8")
    result = augmented(table(long_texts()), base=tmp_path, synonym=0.5, delete=0.1, lexicon="words.csv")
    assert result.report.warnings == [
        "augmentation: words.csv has synonyms for 0.00% of the words of train; is it in the language of the texts?"
    ]
    with pytest.raises(DataError, match=r"none of the 40 copies differs from its original"):
        augmented(table(long_texts()), base=tmp_path, synonym=0.5, lexicon="words.csv")


def test_an_empty_lexicon_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("")
    with pytest.raises(DataError, match="holds no synonyms"):
        augmented(table(["a good room"]), base=tmp_path, synonym=0.5, lexicon="words.csv")


def test_equal_copies_are_left_out() -> None:
    result = augmented(table(["one two", "!!!"]), copies=5, swap=0.99)
    assert result.rows["text"][:] == ["one two", "!!!", "two one"]
    assert result.families.tolist() == [0, 0, 0]
    assert result.report.unchanged_copies_left_out == 9


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a good-looking, clean room", {"a good-looking, clean", "a good-looking, room", "a, clean room",
                                        "good-looking, clean room"}),
        ("first line\nsecond line", {"line\nsecond line", "first\nsecond line", "first line\nline",
                                     "first line\nsecond"}),
        ("Yes, it is (very) good.", {", it is (very) good.", "Yes, is (very) good.", "Yes, it (very) good.",
                                     "Yes, it is () good.", "Yes, it is (very)."}),
        ("房间很好。", {"很好。", "房间好。", "房间很。"}),
        ("我love你ok", {"love你ok", "我你ok", "我love ok", "我love你"}),
    ],
)  # fmt: skip
def test_the_text_stays_readable_when_a_word_goes(before: str, after: set[str], lexicon: Lexicon) -> None:
    count = len(split_words(before, lexicon)[0])
    seen = {copy_of(before, lexicon, seed=seed, delete=1 / count) for seed in range(120)}
    assert seen == after


def test_inserted_words_stand_apart_where_words_do(lexicon: Lexicon) -> None:
    seen = {copy_of("room 3.", lexicon, seed=seed, insert=0.5) for seed in range(60)}
    assert seen == {"chamber room 3.", "room chamber 3.", "room 3 chamber."}
    seen = {copy_of("房间大。", lexicon, seed=seed, insert=0.5) for seed in range(60)}
    assert seen == {"屋子房间大。", "房间屋子大。", "房间大屋子。"}


def test_a_synonym_keeps_the_capital(lexicon: Lexicon) -> None:
    assert copy_of("Room ROOM room", lexicon, synonym=0.999) == "Chamber Chamber chamber"


def test_chinese_is_cut_by_the_longest_known_word_and_else_by_character(lexicon: Lexicon) -> None:
    assert split_words("房间很干净！OK的3.5分", lexicon) == (
        ["房间", "很", "干净", "OK", "的", "3.5", "分"], ["", "", "", "！", "", "", "", ""],
    )  # fmt: skip
    assert split_words("房间", Lexicon())[0] == ["房", "间"]
    assert split_words("हिन्दी में, don't", Lexicon())[0] == ["हिन्दी", "में", "don't"]


PIECES = st.sampled_from(
    [
        "good",
        "Room",
        "don't",
        "well-known",
        "3.5",
        "房间",
        "很干净",
        "的",
        " ",
        "  ",
        "\n",
        ", ",
        ".",
        "。",
        "(",
        ") ",
        "!",
        "é",
    ]
)
SHARES = st.floats(0, 0.99)


@given(
    st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=30),
    st.tuples(SHARES, SHARES, SHARES, SHARES).filter(any),
    st.integers(0, 2**31),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_is_never_empty_and_has_no_words_from_elsewhere(
    lexicon: Lexicon, text: str, shares: tuple[float, float, float, float], seed: int
) -> None:
    names = ("delete", "swap", "insert", "synonym")
    asked = Augmentation(**dict(zip(names, shares, strict=True)) | {"lexicon": "words.csv"}) if any(
        shares[2:]
    ) else Augmentation(delete=shares[0], swap=shares[1])  # type: ignore[arg-type]  # fmt: skip
    words, gaps = split_words(text, lexicon)
    assert len(gaps) == len(words) + 1
    assert "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True)) == text
    copy, _ = changed_copy(text, settings=asked, lexicon=lexicon, draw=random.Random(seed))
    if not words:
        assert copy == text
        return
    assert split_words(copy, lexicon)[0]
    known = {
        part for word in (*words, *(other for word in words for other in lexicon.of(word))) for part in parts(word)
    }
    assert {part.lower() for part in parts(copy)} <= {part.lower() for part in known}
    signs = sorted(sign for gap in gaps for sign in gap if not sign.isspace())
    assert sorted(sign for gap in split_words(copy, lexicon)[1] for sign in gap if not sign.isspace()) == signs


def parts(text: str) -> list[str]:
    """Characters of Chinese, and else what stands between signs: neighbours may meet over a point or a hyphen."""
    return [part for word in split_words(text, Lexicon())[0] for part in re.split("[-'’.]", word)]
