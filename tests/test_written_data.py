"""Text to write, from the recipe to its splits: the four forms, what is refused, and what may not be torn apart."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.corpora import CORPORA, CORPUS_STAMPS
from finetune.data.duplicates import content_hash
from finetune.data.example_families import compared_rows, find_example_families
from finetune.data.examples import WRITTEN_COLUMNS
from finetune.data.exports import read_back
from finetune.data.prepare import Prepared, prepare
from finetune.data.written_examples import asked_text, chat_messages, chat_text, in_messages
from finetune.dataset_folder import prepare_folder, render_prepared
from finetune.errors import DataError, GateFailed, RecipeError
from finetune.progress import SILENT
from finetune.recipe_file import LoadedRecipe, load_recipe

Row = dict[str, Any]
SCRATCH = {"from_scratch": {"vocab_size": 300}}


def recipe(folder: Path, rows: list[Row] | None = None, *, task: str = "text-generation", **data: Any) -> LoadedRecipe:
    """A recipe over `rows.jsonl`; sections but `data` are given in `sections`."""
    if rows is not None:
        write(folder / "rows.jsonl", rows)
    sections = data.pop("sections", {})
    values = {"task": task, "model": SCRATCH, "data": {"source": "rows.jsonl"} | data} | sections
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


def prepared(folder: Path, rows: list[Row] | None = None, **options: Any) -> Prepared:
    return prepare(recipe(folder, rows, **options), progress=SILENT)


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def message(folder: Path, rows: list[Row] | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(folder, rows, **options)
    assert str(folder) not in str(caught.value)
    return str(caught.value)


def all_rows(done: Prepared) -> list[Row]:
    return [row for rows in done.splits.values() for row in rows.to_list()]


def by_id(done: Prepared) -> dict[str, Row]:
    return {row["id"]: row for row in all_rows(done)}


def home_of(done: Prepared) -> dict[str, str]:
    return {row["id"]: name for name, rows in done.splits.items() for row in rows.to_list()}


def words(number: int, count: int = 12) -> str:
    return " ".join(f"w{number}x{place}" for place in range(count))


def turns(*contents: str, system: str | None = None) -> list[Row]:
    roles = ["user", "assistant"]
    chat = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + chat


PAIRS: Row = {"columns": {"prompt": "q", "completion": "a"}}
CHAT: Row = {"columns": {"messages": "messages"}}
GERMAN: Row = {"task": "seq2seq", "columns": {"source": "en", "target": "de"}}


# ---- the four forms ----


def test_plain_text_has_no_target(tmp_path: Path) -> None:
    done = prepared(tmp_path, [{"text": words(row)} for row in range(20)])
    assert done.form == "text" and done.labels.names == () and done.encoded == {}
    assert {name: len(rows) for name, rows in done.splits.items()} == {"train": 14, "validation": 3, "test": 3}
    for rows in done.splits.values():
        assert tuple(rows.column_names) == WRITTEN_COLUMNS
        assert set(rows["target"]) == set(rows["label"]) == set(rows["group"]) == {None}
    assert by_id(done)["rows.jsonl:3"]["text"] == words(2)
    report = done.report
    assert report["form"] == "text" and not {"labels", "label_counts", "multi_label"} & report.keys()
    assert "target_characters" not in report and report["characters"]["train"]["max"] >= 12 * 4
    json.dumps(report, allow_nan=False)
    table = done.split_table()
    assert table["content_hash"].to_pylist() == [content_hash(row["text"]) for row in all_rows(done)]


def test_pairs_and_sources_with_targets(tmp_path: Path) -> None:
    rows = [{"en": words(row), "de": words(100 + row, 5), "film": f"f{row // 2}", "n": row} for row in range(20)]
    options = GERMAN | {"columns": GERMAN["columns"] | {"group": "film", "id": "n"}}
    done = prepared(tmp_path, rows, **options)
    assert done.form == "seq2seq"
    row = by_id(done)["7"]
    assert row == {"id": "7", "text": words(7), "target": words(107, 5), "label": None, "group": "f3",
                   "origin": "rows.jsonl:8"}  # fmt: skip
    assert all(home_of(done)[str(n)] == home_of(done)[str(n + 1)] for n in range(0, 20, 2)), "groups stay together"
    assert done.report["target_characters"]["train"]["max"] < done.report["characters"]["train"]["median"]
    assert done.split_table()["content_hash"].to_pylist() == [
        content_hash(f"{row['text']}\n{row['target']}") for row in all_rows(done)
    ]
    pairs = prepared(tmp_path, columns={"prompt": "en", "completion": "de"})
    assert pairs.form == "pairs" and by_id(pairs)["rows.jsonl:8"]["target"] == words(107, 5)


def test_a_prompt_may_be_empty_and_a_completion_may_not(tmp_path: Path) -> None:
    rows: list[Row] = [{"q": words(row), "a": words(50 + row)} for row in range(40)]
    rows[3]["q"], rows[4]["q"] = None, " "
    rows[8]["a"] = None
    done = prepared(tmp_path, rows, **PAIRS)
    found = by_id(done)
    assert found["rows.jsonl:4"]["text"] == "" and found["rows.jsonl:5"]["text"] == " "
    assert "rows.jsonl:9" not in found and done.warnings[0] == "warning: all: 1 empty texts dropped"
    [step] = [step for step in done.report["cleaning"] if step["name"] == "drop_empty"]
    assert step["examples"][0]["after"] == "dropped: no completion"
    told = message(tmp_path, **PAIRS, sections={"cleaning": []})
    assert told == (
        "rows.jsonl:9: the completion is empty. Found: 1 such rows (rows.jsonl:9). "
        "Fill them in, or add drop_empty to cleaning."
    )


def test_a_source_may_not_be_empty(tmp_path: Path) -> None:
    rows = [{"en": words(row), "de": words(50 + row)} for row in range(10)]
    rows[2]["en"], rows[6]["de"] = " ", ""
    assert "rows.jsonl:3: the source is empty. Found: 2" in message(tmp_path, rows, **GERMAN, sections={"cleaning": []})
    told = message(tmp_path, **GERMAN)
    assert "2 of 10 texts are empty, more than 5%" in told
    assert "Is data.columns.source or data.columns.target the right column?" in told


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv"])
def test_chats_are_lists_or_their_json(format: str, tmp_path: Path) -> None:
    chats = [turns(words(row), words(20 + row), f"and {row}?", words(40 + row), system="Be brief.") for row in range(9)]
    chats += [turns('Grüß \u2028 "Gott"', "dir\n"), [{"role": "assistant", "content": "I speak first."}]]
    if format == "jsonl":
        write(tmp_path / "rows.jsonl", [{"messages": chat} for chat in chats])
    elif format == "parquet":
        pq.write_table(pa.table({"messages": chats}), tmp_path / "rows.parquet")
    else:
        with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([["messages"], *([json.dumps(chat)] for chat in chats)])
    done = prepared(tmp_path, **CHAT, source=f"rows.{format}")
    assert done.form == "chat" and len(all_rows(done)) == 11
    assert sorted(map(str, (chat_messages(row["text"], row["target"]) for row in all_rows(done)))) == sorted(
        map(str, chats)
    )
    first = next(row for row in all_rows(done) if "w0x0" in row["text"])
    assert first["target"] == words(40) and json.loads(first["text"]) == chats[0][:-1]
    assert {row["text"] for row in all_rows(done) if row["target"] == "I speak first."} == {"[]"}
    longest = max(sum(len(each["content"]) for each in chat[:-1]) for chat in chats)
    assert max(split["max"] for split in done.report["characters"].values()) == longest


def test_an_absent_chat_counts_as_empty(tmp_path: Path) -> None:
    rows: list[Row] = [{"messages": turns(words(row), words(30 + row))} for row in range(30)]
    rows[5]["messages"] = None
    done = prepared(tmp_path, rows, **CHAT)
    assert len(all_rows(done)) == 29 and done.warnings[0] == "warning: all: 1 empty texts dropped"
    assert "rows.jsonl:6: the chat is empty" in message(tmp_path, **CHAT, sections={"cleaning": []})


# ---- plain text out of files ----


def texts(folder: Path, names: dict[str, str]) -> None:
    for name, text in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_a_folder_of_texts_at_any_depth(tmp_path: Path) -> None:
    texts(tmp_path, {f"books/{'deep/er/' if n % 2 else ''}{n}.txt": f"{words(n)}\n\n  {n}\n" for n in range(8)})
    texts(tmp_path, {"books/notes.md": "x"})
    done = prepared(tmp_path, source="books")
    found = by_id(done)
    assert set(found) == {f"books/{'deep/er/' if n % 2 else ''}{n}.txt" for n in range(8)}
    assert found["books/deep/er/3.txt"]["text"] == f"{words(3)}\n\n  3\n", "as it stands"
    assert {row["group"] for row in found.values()} == {None}
    assert done.report["notes"] == ["books: 1 files that are no .txt files ignored: notes.md"]


def test_split_folders_and_globs_of_texts(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        texts(tmp_path, {f"books/{split}/{n}.txt": words(10 * number + n) for n in (1, 2, 3)})
    done = prepared(tmp_path, source="books")
    assert set(done.splits["test"]["id"]) == {f"books/test/{n}.txt" for n in (1, 2, 3)}
    globbed = prepared(tmp_path, source={"train": "books/train/*.txt", "validation": "books/test/1.txt",
                                         "test": "books/test/[23].txt"})  # fmt: skip
    assert [len(rows) for rows in globbed.splits.values()] == [3, 1, 2]


def test_one_text_file_is_cut_into_passages_and_divided_by_position(tmp_path: Path) -> None:
    text = "\n".join(words(line, 10) for line in range(300)) + "\n"
    texts(tmp_path, {"input.txt": text})
    assert message(tmp_path, source="input.txt") == (
        "data.split: 1 document cannot be divided into train, validation and test. "
        "Set data.passage_characters, or name a file for every split."
    )
    told = message(tmp_path, source="input.txt", passage_characters=400)
    assert "passages are of 1 document, and a document stays in one split. Set data.split.contiguous: true" in told
    options: Row = {"source": "input.txt", "passage_characters": 400, "split": {"contiguous": True}}
    done = prepared(tmp_path, **options)
    assert "".join(row["text"] for row in all_rows(done)) == text, "in order, nothing lost"
    sizes = [sum(map(len, rows["text"])) / len(text) for rows in done.splits.values()]
    assert np.allclose(sizes, [0.7, 0.15, 0.15], atol=0.03)
    assert all_rows(done)[0]["id"] == "input.txt#1"
    assert {row["group"] for row in all_rows(done)} == {None}, "a document on both sides of a border is no group"
    assert any("1 documents cut into" in note for note in done.report["notes"])
    assert sum(each["leaking"] for each in done.report["leaks"]["left"]) == 0
    assert done.fingerprint == prepared(tmp_path, **options).fingerprint


def test_a_text_of_any_length_may_be_cut_and_no_other(tmp_path: Path) -> None:
    texts(tmp_path, {"input.txt": "word " * 1000})
    told = message(tmp_path, source="input.txt", most_characters=4000)
    assert "'text' has 5,000 characters, more than data.most_characters (4,000). Cut it with data.passage_" in told
    options: Row = {"source": "input.txt", "most_characters": 4000, "passage_characters": 500, "leaks": "warn"}
    done = prepared(tmp_path, **options, split={"contiguous": True}, sections={"cleaning": []})
    assert sum(len(row["text"]) for row in all_rows(done)) == 5000


def test_passages_of_several_documents_stay_together_but_at_the_borders(tmp_path: Path) -> None:
    texts(tmp_path, {f"books/{n}.txt": "\n".join(words(100 * n + line, 10) for line in range(30)) for n in range(10)})
    options: Row = {"source": "books", "passage_characters": 300}
    homes: dict[str, set[str]] = {}
    for row_id, home in home_of(prepared(tmp_path, **options)).items():
        homes.setdefault(row_id.split("#")[0], set()).add(home)
    assert len(homes) == 10 and all(len(each) == 1 for each in homes.values())
    done = prepared(tmp_path, **options, split={"contiguous": True, "train": 0.65, "validation": 0.1, "test": 0.25})
    groups = {name: set(rows["group"]) - {None} for name, rows in done.splits.items()}
    assert not groups["train"] & groups["test"] and len(groups["train"]) == 6
    without = {row["id"].split("#")[0] for row in all_rows(done) if row["group"] is None}
    assert without == {"books/6.txt", "books/7.txt"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "input.txt: the file is empty"),
        (b"%PDF-1.7 and so on", "input.txt: looks like a PDF"),
        ("schlüssig".encode("latin-1"), "input.txt:1: byte 0xFC at column 5 is not UTF-8"),
        (b"   \n", "1 of 1 texts are empty"),
    ],
)
def test_a_text_file_that_is_none(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(content)
    assert told in message(tmp_path, source="input.txt")


def test_a_text_file_holds_no_pairs_and_labels_are_not_read_from_one(tmp_path: Path) -> None:
    texts(tmp_path, {"input.txt": "text", "books/1.txt": "x"})
    assert "input.txt: unknown format '.txt'" in message(tmp_path, source="input.txt", **PAIRS)
    assert "data.columns.prompt: no column 'q' in books" in message(tmp_path, source="books", **PAIRS)
    assert "unknown format '.txt'" in message(tmp_path, source="input.txt", task="text-classification",
                                              sections={"model": {}})  # fmt: skip


# ---- what is wrong with rows ----


@pytest.mark.parametrize(
    ("options", "row", "told"),
    [
        (PAIRS, {"question": "x", "a": "y"},
         "data.columns.prompt: no column 'q' in rows.jsonl. Columns found: 'question', 'a'"),
        (PAIRS, {"q": "x", "answer": "y"},
         "data.columns.completion: no column 'a' in rows.jsonl. Columns found: 'q', 'answer'"),
        (GERMAN, {"en": "x", "fr": "y"}, "data.columns.target: no column 'de' in rows.jsonl"),
        (GERMAN, {"text": "x", "de": "y"}, "data.columns.source: no column 'en' in rows.jsonl"),
        (CHAT, {"chat": []}, "data.columns.messages: no column 'messages' in rows.jsonl"),
        ({}, {"body": "x"}, "data.columns.text: no column 'text' in rows.jsonl"),
        (PAIRS, {"q": 3, "a": "y"}, "rows.jsonl:1: 'q' is a number. Write it as text"),
        (PAIRS, {"q": "x", "a": ["y"]}, "rows.jsonl:1: 'a' is a list"),
        (GERMAN, {"en": True, "de": "y"}, "rows.jsonl:1: 'en' is true/false. Write it as text"),
        (GERMAN, {"en": "x", "de": "half \ud800"}, "rows.jsonl:1: 'de' has half of a character (\\ud800"),
        (CHAT, {"messages": turns("half \ud800", "x")}, "'messages[0].content' has half of a character (\\ud800"),
        (CHAT, {"messages": turns("x", "half \udfff")}, "'messages[1].content' has half of a character (\\udfff"),
        (CHAT, {"messages": "once upon a time"}, "rows.jsonl:1: 'messages': not a chat. Found: 'once upon a time'"),
        (CHAT, {"messages": [{"role": "human", "content": "x"}]},
         "rows.jsonl:1: 'messages': messages[0].role: 'human' is not known. Known: system, user, assistant. "
         "Did you mean 'user'?"),
        (CHAT, {"messages": turns("x", "y", "z")}, "rows.jsonl:1: 'messages': messages[2].role: the last message"),
        (CHAT, {"messages": turns("x", " ")}, "messages[1].content: is empty"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": 4}]},
         "messages[1].content: is no text. Found: 4"),
        (CHAT, {"messages": 4}, "rows.jsonl:1: 'messages': not a chat. Found: 4"),
        (GERMAN | {"columns": {"source": "en", "target": "en"}}, {"en": "x"},
         "data.columns.target: 'en' is the source too, so there is nothing to learn"),
    ],
)  # fmt: skip
def test_rows_that_are_refused(options: Row, row: Row, told: str, tmp_path: Path) -> None:
    assert told in message(tmp_path, [row], **options)


def test_a_broken_chat_of_a_table_has_its_line(tmp_path: Path) -> None:
    good = json.dumps(turns("x", "y")).replace('"', '""')
    (tmp_path / "rows.csv").write_text(f'messages\n"{good}"\n"[{{""role"": ""user"""\n', encoding="utf-8")
    assert "rows.csv:3: 'messages': not a chat. Found: '[{" in message(tmp_path, source="rows.csv", **CHAT)


@pytest.mark.parametrize("where", ["q", "a"])
def test_many_nul_bytes_are_a_binary_file_and_few_are_removed(where: str, tmp_path: Path) -> None:
    rows = [{"q": words(row), "a": words(60 + row)} for row in range(30)]
    rows[4][where] += "\0x"
    done = prepared(tmp_path, rows, **PAIRS, sections={"cleaning": ["strip_control"]})
    assert not any("\0" in row["text"] + row["target"] for row in all_rows(done))
    assert done.report["cleaning"][0]["changed"] == 1
    assert "NUL bytes removed from 1 rows" in done.report["cleaning"][0]["notes"]
    for row in rows[:4]:
        row[where] += "\0"
    assert "NUL bytes in 5 of 30 rows" in message(tmp_path, rows, **PAIRS)


@pytest.mark.parametrize("step", ["drop_conflicts", {"drop_conflicts": "drop"}, {"fill_missing": "none"}])
def test_steps_about_labels_are_refused(step: Any, tmp_path: Path) -> None:
    name = step if isinstance(step, str) else next(iter(step))
    with pytest.raises(RecipeError, match=f"cleaning.{name}"):
        prepared(tmp_path, [{"text": words(row)} for row in range(9)], sections={"cleaning": [step]})


# ---- cleaning ----


def test_text_steps_go_over_both_texts_and_every_message(tmp_path: Path) -> None:
    rows = [{"q": f"ASK {words(row)}", "a": f"SAY {words(30 + row)}"} for row in range(9)]
    rows[4] = {"q": f"ask {words(4)}", "a": f"say {words(34)}"}
    rows[5]["a"] = rows[5]["a"].lower()
    done = prepared(tmp_path, rows, **PAIRS, sections={"cleaning": ["lowercase"]})
    assert {(row["text"][:4], row["target"][:4]) for row in all_rows(done)} == {("ask ", "say ")}
    [step] = done.report["cleaning"]
    assert step["changed"] == 8, "a row counts once"
    chats = [{"messages": turns(f"ASK {words(row)}", "OH", words(row), f"SAY {words(50 + row)}")} for row in range(9)]
    done = prepared(tmp_path, chats, **CHAT, sections={"cleaning": ["lowercase"]})
    assert not any("OH" in row["text"] or "ASK" in row["text"] or "SAY" in row["target"] for row in all_rows(done))
    assert {message["role"] for row in all_rows(done) for message in chat_messages(row["text"], row["target"])} == {
        "user", "assistant",
    }  # fmt: skip
    assert done.report["cleaning"][0]["changed"] == 9


def test_an_example_of_a_step_comes_from_the_text_that_it_changed(tmp_path: Path) -> None:
    rows = [{"q": words(row), "a": f"{words(30 + row)}{' SHOUT' if row == 3 else ''}"} for row in range(9)]
    done = prepared(tmp_path, rows, **PAIRS, sections={"cleaning": ["lowercase"]})
    [example] = done.report["cleaning"][0]["examples"]
    assert example["origin"] == "rows.jsonl:4" and example["before"].endswith("SHOUT")
    assert example["after"].endswith("shout")


def test_a_message_that_cleaning_empties_makes_the_row_empty(tmp_path: Path) -> None:
    rows = [{"messages": turns(words(row), words(50 + row))} for row in range(40)]
    rows[6]["messages"] = turns("<br/>", "well")
    rows[7]["messages"] = turns("x", words(7), system="<br/>")
    done = prepared(tmp_path, rows, **CHAT, sections={"cleaning": ["strip_html", "drop_empty"]})
    assert set(by_id(done)) == {f"rows.jsonl:{row + 1}" for row in range(40)} - {"rows.jsonl:7"}


def test_own_functions_and_processes_see_both_texts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def shout(text): return text.upper()", encoding="utf-8")
    rows = [{"en": f"en {row} {words(row)}", "de": f"de {row} {words(row + 90)}"} for row in range(30)]
    done = prepared(tmp_path, rows, **GERMAN, num_proc=2, sections={"cleaning": ["mine:shout"]})
    assert all(row["text"].isupper() and row["target"].isupper() for row in all_rows(done))


def test_duplicates_are_dropped_by_source_and_target(tmp_path: Path) -> None:
    rows = [{"en": words(row), "de": words(50 + row)} for row in range(12)]
    rows += [{"en": words(1).upper(), "de": words(51)}, {"en": words(2), "de": words(99)}]
    done = prepared(tmp_path, rows, **GERMAN)
    assert "rows.jsonl:13" not in by_id(done) and "rows.jsonl:14" in by_id(done)
    assert home_of(done)["rows.jsonl:3"] == home_of(done)["rows.jsonl:14"], "one source, two targets, one split"
    assert "1 source has several targets; each stays in one split with all of them" in done.warnings


@pytest.mark.parametrize(
    ("step", "kept"),
    [({"drop_short": 5}, [0, 1, 3]), ({"drop_long": 60}, [0, 2, 3]), ({"keep_language": ["de"]}, [1, 2, 3])],
)
def test_length_and_language_are_those_of_what_is_written(step: Row, kept: list[int], tmp_path: Path) -> None:
    german = "Der alte Mann sitzt am Fenster und liest ein Buch."
    rows = [{"en": "It is cold.", "de": "The old man sits at the window and reads a book."},
            {"en": "a", "de": german + " Draußen schneit es seit heute Morgen."}, {"en": german * 2, "de": "Ja."},
            {"en": "An old man reads.", "de": german}]  # fmt: skip
    more = [{"en": words(row), "de": f"{german[:-1]} {row}."} for row in range(20)]
    done = prepared(tmp_path, rows + more, **GERMAN, sections={"cleaning": [step]}, near_duplicates=None)
    found = {int(row["id"].split(":")[1]) - 1 for row in all_rows(done)}
    assert found & {0, 1, 2, 3} == set(kept) and len(found) == 20 + len(kept)


# ---- families, leaks, division ----


def families_of(folder: Path, pairs: list[tuple[str, str]]) -> tuple[list[int], list[int], list[str]]:
    texts, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    origins = [f"o{number}" for number in range(len(pairs))]
    rows = Dataset.from_dict({"text": texts, "target": targets, "origin": origins})
    found, notes = find_example_families(rows, compared_rows(rows, "pairs"), "pairs", similarity=0.7)
    return found.family.tolist(), found.exact.tolist(), notes


def test_families_go_by_source_and_target_together_and_by_equal_sources(tmp_path: Path) -> None:
    long = words(0, 20)
    pairs = [
        (f"The title of it {long}", words(1, 20)),  # 0
        (f"The title of it {long}", words(2, 20)),  # 1: the same source
        (f"THE title of  it {long}", words(3, 20)),  # 2: the same source, folded
        ("Series of poems, the first one of them", words(4, 60)),  # 3
        ("Series of poems, the second one of them", words(5, 20)),  # 4: a near source, and another poem
        ("A poem", words(4, 60) + " end"),  # 5: another title, and nearly the poem of 3
        ("", words(6, 20)),  # 6
        ("", words(7, 20)),  # 7: no source ties no rows
    ]
    family, exact, notes = families_of(tmp_path, pairs)
    assert family == [0, 0, 0, 3, 4, 3, 6, 7]
    assert exact == [0, 0, 0, 3, 4, 5, 6, 7]
    assert notes == ["1 source has several targets; each stays in one split with all of them"]


def test_an_instruction_that_many_rows_share_ties_nothing(tmp_path: Path) -> None:
    pairs = [("Write a poem.", words(row, 20)) for row in range(40)] + [("Write prose.", words(90, 20))]
    pairs += [("Write a poem.", words(3, 20) + " more"), ("Write a poem.", words(4, 20))]
    family, exact, notes = families_of(tmp_path, pairs)
    assert family == [*range(41), 3, 4] and exact == [*range(42), 4]
    assert len(notes) == 1 and notes[0].startswith("42 of 43 rows share one prompt (Write a poem.): it is taken for")
    done = prepared(tmp_path, [{"q": one, "a": two} for one, two in pairs], **PAIRS)
    assert len(done.splits["test"]) in (6, 7) and notes[0].split(" rows")[1] in " ".join(done.warnings)


def test_a_template_that_fills_the_examples_is_warned_of(tmp_path: Path) -> None:
    rows = [{"q": f"{words(0, 40)} {row}", "a": f"short {row}"} for row in range(30)]
    done = prepared(tmp_path, rows + [{"q": words(row), "a": "x"} for row in range(2, 40)], **PAIRS)
    assert any("30 of 68 rows (44%) are one family of duplicates, like rows.jsonl:1" in each for each in done.warnings)


def test_chats_are_compared_by_what_is_said(tmp_path: Path) -> None:
    chats = [turns(words(row), "Oh?", "Go on.", words(40 + row), system=words(99, 50)) for row in range(20)]
    chats.append(turns(words(3), "Oh!", "Go on.", words(90), system="Another."))
    done = prepared(tmp_path, [{"messages": chat} for chat in chats], **CHAT)
    assert home_of(done)["rows.jsonl:4"] == home_of(done)["rows.jsonl:21"]
    assert done.report["duplicate_families"]["rows_in_families"] == 2, "a system message makes no family"
    assert asked_text(chat_text(chats[0]), form="chat") == f"{words(0)}\nGo on."  # type: ignore[arg-type]


def test_leaks_between_brought_parts_are_told_by_source_and_target(tmp_path: Path) -> None:
    rows = [{"en": words(row, 20), "de": words(50 + row, 20)} for row in range(20)]
    test = [{"en": words(70 + row, 20), "de": words(90 + row, 20)} for row in range(4)]
    test[1]["en"] = rows[4]["en"]
    test[2] = {"en": rows[6]["en"] + " more", "de": rows[6]["de"]}
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", test)
    source = {"train": "train.jsonl", "test": "test.jsonl"}
    with pytest.raises(GateFailed) as caught:
        prepared(tmp_path, **GERMAN, source=source)
    assert "1 of 4 rows (25.0 %) is an exact duplicate of train rows; for example: test.jsonl:2" in str(caught.value)
    assert "is a near duplicate of train rows; worst: test.jsonl:3 and train.jsonl:7 (.95)" in str(caught.value)
    moved = prepared(tmp_path, **GERMAN, source=source, leaks="move")
    assert len(moved.splits["test"]) == 2 and home_of(moved)["test.jsonl:3"] != "test"


def test_leaks_over_the_border_of_a_contiguous_division(tmp_path: Path) -> None:
    rows = [{"text": words(row, 20)} for row in range(40)]
    rows[38]["text"] = rows[3]["text"] + " more"
    options: Row = {"split": {"contiguous": True}}
    with pytest.raises(GateFailed) as caught:
        prepared(tmp_path, rows, **options)
    assert str(caught.value).startswith(
        "data.split.contiguous: test: 1 of 6 rows (16.7 %) is a near duplicate of train"
    )
    moved = prepared(tmp_path, **options, leaks="move")
    assert home_of(moved)["rows.jsonl:39"] == "train" and len(moved.splits["test"]) == 5
    order = [int(row["id"].split(":")[1]) for row in all_rows(moved)]
    assert sorted(order) == list(range(1, 41)) and order[:28] == list(range(1, 29))
    grouped = [row | {"who": f"g{number // 12}"} for number, row in enumerate(rows)]
    with pytest.raises(GateFailed, match=r"test: .* in a group that .* has too"):
        prepared(tmp_path, grouped, **options, columns={"group": "who"}, near_duplicates=None)


def test_contiguous_divides_one_source_and_needs_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": words(row)} for row in range(9)])
    write(tmp_path / "b.jsonl", [{"text": words(20 + row)} for row in range(9)])
    with pytest.raises(RecipeError, match=r"data\.split\.contiguous: divides one source by position"):
        prepared(tmp_path, source={"train": "a.jsonl", "test": "b.jsonl"}, split={"contiguous": True})
    told = message(tmp_path, [{"text": words(1)}, {"text": words(2)}], split={"contiguous": True})
    assert told.startswith("data.split: 2 documents cannot be divided")
    assert "too few to split into train, validation, test" in message(
        tmp_path, [{"q": words(row), "a": words(9 + row)} for row in range(2)], **PAIRS
    )


# ---- fingerprints and files ----


def test_the_fingerprint_covers_the_target(tmp_path: Path) -> None:
    rows = [{"en": words(row), "de": words(50 + row)} for row in range(12)]
    first = prepared(tmp_path, rows, **GERMAN).fingerprint
    assert first == prepared(tmp_path, rows, **GERMAN).fingerprint
    rows[5]["de"] += "!"
    assert first != prepared(tmp_path, rows, **GERMAN).fingerprint


def test_the_fingerprint_of_labelled_rows_has_no_target(tmp_path: Path) -> None:
    """A run that began before there were targets goes on: the bytes that its fingerprint is of are the same."""
    rows = [{"text": words(row), "label": "ab"[row % 2]} for row in range(20)]
    done = prepared(tmp_path, rows, task="text-classification", sections={"model": {}})
    assert done.form is None
    digest = hashlib.sha256()
    for name, part in done.splits.items():
        digest.update(f"{name} ['id', 'text', 'label', 'group']".encode())
        for row in part.to_list():
            digest.update(repr((row["id"], row["text"], row["label"], row["group"])).encode() + b"\x1e")
    assert done.fingerprint == digest.hexdigest()


FORMS: dict[str, tuple[Row, Callable[[int], Row]]] = {
    "text": ({}, lambda row: {"text": f" {words(row)}\n\n“{row}”"}),
    "pairs": (PAIRS, lambda row: {"q": words(row) if row else "", "a": words(30 + row)}),
    "chat": (CHAT, lambda row: {"messages": turns(words(row), "Oh\n?", f"{row},", words(60 + row), system="Be brief.")}),  # noqa: E501
    "seq2seq": (GERMAN, lambda row: {"en": words(row), "de": words(30 + row)}),
}  # fmt: skip


@pytest.mark.parametrize("format", ["parquet", "csv", "json", "jsonl", "arrow", "hdf5", "tfrecord"])
@pytest.mark.parametrize("form", FORMS)
def test_every_format_holds_the_columns_of_the_recipe(form: str, format: Any, tmp_path: Path) -> None:
    if format in ("hdf5", "tfrecord"):
        pytest.importorskip({"hdf5": "h5py", "tfrecord": "tfrecord"}[format])
    options, make = FORMS[form]
    loaded = recipe(tmp_path, [make(row) for row in range(12)], **options)
    done = prepare_folder(loaded, tmp_path / "out", format=format, progress=SILENT)
    names = [name for name in make(0)]
    rows = [row for path in done.files for row in read_back(path, format)]
    assert len(rows) == 12 and set(rows[0]) | {"group"} == {"id", "group", "family", *names}
    if format == "tfrecord":
        rows = [{name: row[name][0] for name in ("id", *names) if row.get(name)} for row in rows]
    expected = {f"rows.jsonl:{row + 1}": make(row) for row in range(12)}
    for row in rows:
        given = {name: row.get(name) or "" for name in names}
        if isinstance(given.get("messages"), str):
            given["messages"] = json.loads(given["messages"])
        assert given == expected[row["id"]]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "- text-generation\n" in card and "labels" not in card.split("## Sources")[0]
    assert ("Lengths of targets" in card) == (form != "text")
    screen = render_prepared(done, examples=1)
    assert screen[0].startswith("train: 8 rows; characters: median") and ("of targets" in screen[0]) == (form != "text")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_what_was_written_is_prepared_again_and_loaded_by_the_datasets_library(
    form: str, format: Any, tmp_path: Path
) -> None:
    options, make = FORMS[form]
    loaded = recipe(tmp_path, [make(row) for row in range(12)], **options)
    first = prepare_folder(loaded, tmp_path / "out", format=format, progress=SILENT).prepared
    columns = options.get("columns", {}) | {"id": "id"}
    source = {name: f"out/{name}.{format}" for name in first.splits}
    again = prepared(tmp_path, **(options | {"columns": columns, "source": source}))
    for name, rows in first.splits.items():
        kept = ("id", "text", "target", "label", "group")
        assert again.splits[name].select_columns(kept).to_list() == rows.select_columns(kept).to_list()
    written = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert written["id"][:] == first.splits["train"]["id"][:]
    if form == "chat" and format != "csv":
        assert written[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_column_that_is_called_like_another_of_the_files_gives_way(tmp_path: Path) -> None:
    rows = [{"group": words(row), "family": words(30 + row)} for row in range(9)]
    loaded = recipe(tmp_path, rows, columns={"prompt": "group", "completion": "family"})
    done = prepare_folder(loaded, tmp_path / "out", format="jsonl", progress=SILENT)
    row = next(iter(read_back(done.files[0], "jsonl")))
    assert set(row) == {"id", "prompt", "completion", "group", "family"} and row["group"] is None
    assert row["prompt"].startswith("w") and isinstance(row["family"], int)


def test_folds_of_text_to_write_are_a_column(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, [{"text": words(row)} for row in range(20)])
    done = prepare_folder(loaded, tmp_path / "out", format="jsonl", folds=4, progress=SILENT)
    folds = [row["fold"] for path in done.files for row in read_back(path, "jsonl")]
    assert sorted(folds) == sorted([0, 1, 2, 3] * 5)


@pytest.mark.parametrize("task", ["text-generation", "seq2seq"])
def test_the_python_functions_are_prompts_or_sources(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"code": words(row), "doc": f"Doc {row}.", "name": f"f{row}", "file": f"m{row // 3}.py"} for row in range(30)
    ]
    monkeypatch.setitem(CORPORA, "python-functions", lambda: iter(rows))
    monkeypatch.setitem(CORPUS_STAMPS, "python-functions", lambda: "stamp of a test")
    names = ("source", "target") if task == "seq2seq" else ("prompt", "completion")
    columns = dict(zip(names, ("code", "doc"), strict=True)) | {"group": "file"}
    done = prepared(tmp_path, task=task, source="builtin:python-functions", columns=columns)
    assert {row["target"] for row in all_rows(done)} == {row["doc"] for row in rows}
    assert done.report["groups"]["train"] == 7


# ---- what holds whatever the words are ----

CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), CONTENT), max_size=4), CONTENT)
def test_a_chat_survives_its_json(chat: list[tuple[str, str]], answer: str) -> None:
    messages: list[Any] = [{"role": role, "content": content} for role, content in chat]
    text = chat_text(messages)
    assert chat_messages(text, answer) == [*messages, {"role": "assistant", "content": answer}]
    assert in_messages(lambda content: content, text) == text
    turned = chat_messages(in_messages(lambda content: content[::-1], text))
    assert [message["content"] for message in turned] == [content[::-1] for _, content in chat]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("uvwxy")), min_size=1, max_size=30))
def test_families_are_closed_under_equal_sources(pairs: list[tuple[str, str]]) -> None:
    family, exact, _ = families_of(Path(), pairs)
    sources = [one for one, _ in pairs]
    for one in range(len(pairs)):
        assert family[family[one]] == family[one] <= one and exact[exact[one]] == exact[one] <= one
        assert family[exact[one]] == family[one], "an exact number is of one family"
        for other in range(one):
            instruction = sources.count(sources[one]) > 10
            if sources[one] == sources[other] and (not instruction or pairs[one] == pairs[other]):
                assert exact[one] == exact[other]
