"""Cleaning: every step counts what it did, does it once, and is never answered by a cache that is out of date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
from datasets import Dataset

from finetune.cleaning_steps import DEFAULT_CLEANING, CleaningName, CleaningStep
from finetune.data import cleaning
from finetune.data.cleaning import STEPS, StepReport, check_texts, clean_text
from finetune.errors import DataError, EnvironmentFault, RecipeError


def steps(*written: object) -> list[CleaningStep]:
    return [CleaningStep.model_validate(each) for each in written]


def clean(
    splits: dict[str, Dataset], chain: list[CleaningStep], *, base: Path = Path(), **settings: Any
) -> tuple[dict[str, Dataset], list[StepReport]]:
    return cleaning.clean(splits, chain, base=base, **settings)


DEFAULT = steps(*DEFAULT_CLEANING)


def table(texts: Sequence[str | None], labels: list[Any] | None = None, name: str = "a.csv") -> Dataset:
    rows = range(len(texts))
    return Dataset.from_dict(
        {
            "id": [f"{name}-{i}" for i in rows],
            "text": list(texts),
            "label": labels or ["x"] * len(texts),
            "group": [None] * len(texts),
            "origin": [f"{name}:{i + 2}" for i in rows],
        }
    )


@pytest.fixture
def on_disk(tmp_path: Path) -> Any:
    def save(rows: Dataset, name: str = "rows") -> Dataset:
        rows.save_to_disk(tmp_path / name)
        return datasets.load_from_disk(tmp_path / name)

    return save


@pytest.fixture
def texts_seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that the pass rewrites in this process, so that an answer from the cache leaves none."""
    seen: list[str] = []
    rewrite = cleaning._Pass.rewrite

    def watched(self: Any, text: str) -> tuple[str, int]:
        seen.append(text)
        return rewrite(self, text)

    monkeypatch.setattr(cleaning._Pass, "rewrite", watched)
    return seen


def test_the_steps_are_those_of_the_recipe() -> None:
    assert list(STEPS) == list(get_args(CleaningName))


def test_every_step_is_counted_and_repeating_all_changes_nothing() -> None:
    texts = [f"row {i}" for i in range(40)] + ["ok\x00 then", "two  spaces", "  ", "row 1", "ROW 2"]
    cleaned, reports = clean({"train": table(texts)}, DEFAULT)
    assert [(r.name, r.changed, r.dropped, r.rows_before, r.rows_after) for r in reports] == [
        ("fix_unicode", 1, 0, 45, 45),
        ("normalize_whitespace", 2, 0, 45, 45),
        ("drop_empty", 0, 1, 45, 44),
        ("drop_duplicates", 0, 2, 44, 42),
    ]
    assert reports[0].notes == ["NUL bytes removed from 1 rows"]
    assert reports[0].examples == [{"origin": "a.csv:42", "before": "ok\\x00 then", "after": "ok then"}]
    assert reports[3].examples[0] == {"origin": "a.csv:45", "before": "row 1", "after": "dropped: repeats a.csv:3"}
    assert cleaned["train"]["text"][40:] == ["ok then", "two spaces"]
    assert cleaned["train"].column_names == ["id", "text", "label", "group", "origin"]
    again, reports = clean(cleaned, DEFAULT)
    assert again["train"].to_dict() == cleaned["train"].to_dict()
    assert again["train"]._fingerprint == cleaned["train"]._fingerprint
    assert all(r.changed == r.dropped == 0 and not r.notes for r in reports)


def test_each_step_of_a_pass_is_counted_by_itself_with_its_own_examples() -> None:
    texts = ["<b>A</b>  b", "plain", "C  d", "<i>e</i>", "x " * 30 + "<u>END</u>"]
    chain = steps("strip_html", "lowercase", "normalize_whitespace")
    cleaned, reports = clean({"train": table(texts[:3]), "test": table(texts[3:], name="b.csv")}, chain, examples=2)
    assert [(r.name, r.changed) for r in reports] == [("strip_html", 3), ("lowercase", 3), ("normalize_whitespace", 2)]
    assert reports[0].examples == [
        {"origin": "a.csv:2", "before": "<b>A</b>  b", "after": "A  b"},
        {"origin": "b.csv:2", "before": "<i>e</i>", "after": "e"},
    ]
    assert reports[1].examples[0] == {"origin": "a.csv:2", "before": "A  b", "after": "a  b"}
    assert reports[2].examples[0] == {"origin": "a.csv:2", "before": "a  b", "after": "a b"}
    assert cleaned["train"]["text"][:] + cleaned["test"]["text"][:] == ["a b", "plain", "c d", "e", "x " * 30 + "end"]
    assert clean({"train": table(texts[4:])}, chain)[1][0].examples[0]["before"] == "…" + "x " * 10 + "<u>END</u>"


def test_the_rows_come_out_as_clean_text_makes_them_with_several_processes_too(on_disk: Any) -> None:
    texts = [f"<p>Row&nbsp;{i}</p>  mail a{i}@b.org {i}" for i in range(2500)]
    chain = steps("strip_html", "mask_emails", "mask_numbers", "normalize_whitespace", {"drop_short": 3})
    expected = [clean_text(text, chain) for text in texts]
    assert expected[0] == "Row [number]\nmail [email] [number]"
    for num_proc, rows in ((1, table(texts)), (2, table(texts)), (2, on_disk(table(texts)))):
        cleaned, reports = clean({"train": rows}, chain, num_proc=num_proc)
        assert cleaned["train"]["text"][:] == expected
        assert [r.changed for r in reports] == [2500, 2500, 2500, 2500, 0]


def test_a_null_text_stays_null_until_it_is_dropped() -> None:
    rows = table([None] + [f"row {i}" for i in range(30)])
    assert clean({"train": rows}, DEFAULT[:2])[0]["train"]["text"][0] is None
    assert len(clean({"train": rows}, DEFAULT)[0]["train"]) == 30


def test_a_split_with_no_row_passes_and_one_with_none_left_is_refused() -> None:
    with pytest.raises(DataError, match=r"no row of test is left after lowercase, drop_short: 3. Found: 1 rows before"):
        clean({"train": table(["abc"]), "test": table(["b"])}, steps("lowercase", {"drop_short": 3}))
    with pytest.raises(DataError, match=r"no row of test is left after lowercase. Found: 0 rows before"):
        clean({"train": table(["abc"]), "test": table([])}, steps("lowercase"))


def test_a_binary_file_is_refused_by_the_first_step_that_removes_nul_bytes() -> None:
    rows = table(["\x00"] * 4 + ["a"] * 16)
    for chain, where in ((DEFAULT, "fix_unicode"), (steps("strip_control", "fix_unicode"), "strip_control")):
        with pytest.raises(DataError, match=rf"^cleaning.{where}: NUL bytes in the text of 4 of 20 rows"):
            clean({"train": rows}, chain)


def test_check_texts_names_the_rows() -> None:
    check_texts({"train": table(["a"])})
    with pytest.raises(DataError, match=r"^b.csv:3: the text is empty. Found: 2 such rows \(b.csv:3, b.csv:4\). Fill"):
        check_texts({"train": table(["a"]), "test": table(["b", " ", None], name="b.csv")})


def test_row_steps_say_nothing_about_one_text() -> None:
    chain = steps("lowercase", "drop_empty", {"fill_missing": "x"}, "normalize_whitespace")
    assert clean_text("A  b", chain) == "a b"
    assert clean_text("", chain) == ""


# The cache


def test_a_second_run_on_rows_on_disk_reuses_the_first_with_its_counts(on_disk: Any, texts_seen: list[str]) -> None:
    rows = on_disk(table(["A  b", "c"]))
    first, reports = clean({"train": rows}, DEFAULT[:2])
    assert texts_seen == ["A  b", "c"]
    second, again = clean({"train": rows}, DEFAULT[:2])
    assert texts_seen == ["A  b", "c"]
    assert again == reports
    assert second["train"].to_dict() == first["train"].to_dict()
    assert second["train"]._fingerprint == first["train"]._fingerprint


def test_other_rows_other_steps_and_edited_code_are_never_answered_from_the_cache(
    on_disk: Any, texts_seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = on_disk(table(["A  b"]))
    clean({"train": rows}, steps("normalize_whitespace"))
    assert clean({"train": rows}, steps("lowercase"))[0]["train"]["text"][:] == ["a  b"]
    other = clean({"train": on_disk(table(["C  d"]), "other")}, steps("normalize_whitespace"))[0]
    assert other["train"]["text"][:] == ["C d"]
    assert len(texts_seen) == 3
    monkeypatch.setattr(cleaning, "_code_version", lambda: ("after an edit",))
    monkeypatch.setitem(cleaning.TEXT_STEPS, "normalize_whitespace", str.upper)
    assert clean({"train": rows}, steps("normalize_whitespace"))[0]["train"]["text"][:] == ["A  B"]


def test_rows_in_memory_are_cleaned_anew_even_under_the_same_fingerprint() -> None:
    first, second = table(["a  b"]), table(["c  d"])
    second._fingerprint = first._fingerprint
    for rows, expected in ((first, "a b"), (second, "c d")):
        assert clean({"train": rows}, steps("normalize_whitespace"))[0]["train"]["text"][:] == [expected]


def test_the_fingerprint_follows_the_rows_that_are_left() -> None:
    rows = table(["a", "bb", "cc", "cc"])
    prints = {
        clean({"train": rows}, steps(*chain))[0]["train"]._fingerprint
        for chain in ([], [{"drop_short": 2}], [{"drop_long": 1}], ["drop_duplicates"], ["strip_urls"])
    }
    assert len(prints) == 4  # strip_urls has changed nothing: the rows are those of before


def test_a_cache_that_cannot_be_written_is_an_environment_fault(on_disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    rows = on_disk(table(["A"]))
    monkeypatch.setattr(Dataset, "map", full)
    with pytest.raises(EnvironmentFault, match="rows cannot be written"):
        clean({"train": rows}, steps("lowercase"))


# Own functions


OWN = "def shout(text): return text.upper()\ndef more(text): return text + '!'\ndef bad(text): return len(text)\n"


def test_an_own_function_runs_at_its_place_in_one_or_more_processes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN + "def name(text): return text.title()")
    rows = table(["Ab  c"] * 1500)
    chain = steps("lowercase", "mine:name", "normalize_whitespace")
    for num_proc in (1, 2):
        cleaned, reports = clean({"train": rows}, chain, base=tmp_path, num_proc=num_proc)
        assert set(cleaned["train"]["text"][:]) == {"Ab C"}
        assert [(r.name, r.changed) for r in reports] == [
            ("lowercase", 1500), ("mine:name", 1500), ("normalize_whitespace", 1500),
        ]  # fmt: skip
        assert reports[1].examples[0] == {"origin": "a.csv:2", "before": "ab  c", "after": "Ab  C"}
        assert not reports[1].notes
    assert clean_text("Ab  c", chain, folders=[tmp_path]) == "Ab C"


def test_an_own_function_is_called_once_and_a_change_at_a_second_call_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    cleaned, (report, _) = clean({"train": table(["a", "b", None])}, steps("mine:more", "lowercase"), base=tmp_path)
    assert cleaned["train"]["text"][:] == ["a!", "b!", None]
    assert report.notes == ["warning: mine:more: applied twice, it changes 2 of the first 2 texts again"]
    assert clean_text("a", steps("mine:more", "lowercase"), folders=[tmp_path]) == "a!"


def test_an_own_function_is_never_answered_from_the_cache(on_disk: Any, tmp_path: Path) -> None:
    """Not even when it reads a file that nobody knows of; the steps after it are not either."""
    (tmp_path / "word.txt").write_text("one")
    (tmp_path / "mine.py").write_text(f"def f(text): return open({str(tmp_path / 'word.txt')!r}).read() + '  1'")
    rows = on_disk(table(["a"]))
    chain = steps("mine:f", {"fill_missing": "x"}, "normalize_whitespace")
    first = clean({"train": rows}, chain, base=tmp_path)[0]["train"]
    (tmp_path / "word.txt").write_text("two")
    second = clean({"train": rows}, chain, base=tmp_path)[0]["train"]
    assert (first["text"][:], second["text"][:]) == (["one 1"], ["two 1"])
    assert first._fingerprint != second._fingerprint


ONLY = "def only(text):\n    if '7' in text: raise ValueError('no 7')\n    return text"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_failing_own_function_names_the_row(tmp_path: Path, num_proc: int) -> None:
    (tmp_path / "mine.py").write_text(
        OWN + "def only(text):\n    if '7' in text: raise ValueError('no 7')\n    return text"
    )
    rows = table([f"row {i}" for i in range(7)] + ["8"] * 1500 + ["7"])
    with pytest.raises(
        DataError, match=r"^a.csv:1509: cleaning.mine:only: raised ValueError: no 7. A function of your"
    ):
        clean({"train": rows}, steps("mine:only"), base=tmp_path, num_proc=num_proc)
    with pytest.raises(DataError, match=r"^a.csv:\d+: cleaning.mine:bad: returned int where a text was expected"):
        clean({"train": rows}, steps("mine:bad"), base=tmp_path, num_proc=num_proc)
    with pytest.raises(DataError, match=r"^cleaning.mine:bad: returned int"):
        clean_text("a", steps("mine:bad"), folders=[tmp_path])
    with pytest.raises(RecipeError, match=r"no file other\.py"):
        clean({"train": rows}, steps("other:f"), base=tmp_path)


# Bars


def test_bars_show_only_when_asked_and_the_setting_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = datasets.are_progress_bars_disabled()
    clean({"train": table(["a  b"])}, steps("normalize_whitespace"))
    assert capfd.readouterr().err == ""
    clean({"train": table(["a  b"])}, DEFAULT[:2], progress=True)
    assert "fix_unicode, normalize_whitespace (train)" in capfd.readouterr().err
    assert datasets.are_progress_bars_disabled() == before
