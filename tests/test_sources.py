"""Sources: every format gives the same examples, and every broken file says what, where, found and what to do."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from tiny_tables import load, message, rows

from finetune.data import store
from finetune.data.encodings import TableFile
from finetune.data.examples import examples
from finetune.data.sources import READING_CODE, ColumnMap
from finetune.data.store import code_version
from finetune.data.tables import FORMATS
from finetune.errors import DataError, EnvironmentFault, FinetuneError

EXAMPLES = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "arrow", "xml", "h5"])
def test_every_format_gives_the_same_examples(suffix: str) -> None:
    columns = ColumnMap(group="author")
    loaded = load(EXAMPLES, f"reviews.{suffix}", columns=columns)
    reference = load(EXAMPLES, "reviews.csv", columns=columns)
    assert [row[1:4] for row in rows(loaded)] == [row[1:4] for row in rows(reference)]
    assert loaded.splits["all"].column_names == ["id", "text", "label", "group", "origin"]
    assert all(feature.dtype == "string" for feature in loaded.splits["all"].features.values())
    (file,) = loaded.files
    assert (file.name, file.rows, file.bytes) == (f"reviews.{suffix}", 26, os.path.getsize(EXAMPLES / file.name))
    assert not loaded.notes
    assert not loaded.warnings


def test_the_nested_example_holds_the_same_reviews() -> None:
    nested = load(EXAMPLES, "reviews-nested.json", columns=ColumnMap(text="review.body", group="author"))
    plain = load(EXAMPLES, "reviews.csv", columns=ColumnMap(group="author"))
    assert [row[1:4] for row in rows(nested)] == [row[1:4] for row in rows(plain)]


def test_every_format_has_an_example_file() -> None:
    shown = {path.suffix for path in EXAMPLES.iterdir()} | {".ndjson", ".hdf5"}
    assert set(FORMATS) <= shown


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na\n")
    (tmp_path / "b.jsonl").write_text('{"text": 3, "label": 1}\nx\n')
    (tmp_path / "c.csv").write_text("")
    told = message(tmp_path, ["a.csv", "b.jsonl", "c.csv"])
    for part in ("a.csv:2: 1 field", "b.jsonl:1: 'text' is a number", "b.jsonl:2: not valid JSON", "c.csv: the file"):
        assert part in told


def test_no_such_file(tmp_path: Path) -> None:  # A34
    (tmp_path / "reviews.csv").write_text("text,label\na,x\n")
    assert message(tmp_path, "review.csv") == "review.csv: no such file. Did you mean 'reviews.csv'?"
    assert "no such file" in message(tmp_path, "nowhere/reviews.csv")
    assert "no table matches" in message(tmp_path, "*.jsonl")
    (tmp_path / "empty").mkdir()
    assert "empty: no table in this folder. Found: no files" in message(tmp_path, "empty")
    assert "is an address" in message(tmp_path, "https://example.org/reviews.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "pipe.csv: is not a regular file" in message(tmp_path, "pipe.csv")
    assert "nothing is named" in message(tmp_path, [])


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A35
    (tmp_path / "d.csv").write_text("text,label\na,x\n")
    really_open = Path.open

    def refusing(self: Path, *args: object, **options: object) -> object:
        if self.name == "d.csv":
            raise PermissionError(13, "Permission denied")
        return really_open(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    assert "cannot read d.csv: permission denied" in message(tmp_path)


def test_ids_are_unique_over_all_splits(tmp_path: Path) -> None:  # A39
    (tmp_path / "a.csv").write_text("text,label,key\na,x,1\nb,y,2\n")
    (tmp_path / "b.csv").write_text("text,label,key\na,x,3\nb,y,2\n")
    columns = ColumnMap(id="key")
    assert [row[0] for row in rows(load(tmp_path, "a.csv", columns=columns))] == ["1", "2"]
    told = message(tmp_path, {"train": "a.csv", "test": "b.csv"}, columns=columns)
    assert "b.csv:3: id '2' is already in a.csv:3" in told
    (tmp_path / "a.csv").write_text("text,label,key\na,x,\n")
    assert "a.csv:2: 'key' is empty" in message(tmp_path, "a.csv", columns=columns)


def test_folders_globs_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "评论 data" / "子"
    folder.mkdir(parents=True)
    (folder / "b.csv").write_text("text,label\nb,x\n")
    (folder.parent / "a [1].jsonl").write_text('{"text": "a", "label": "y"}\n')
    (folder.parent / ".hidden.csv").write_text("nothing")
    (folder.parent / "notes.txt").write_text("nothing")
    loaded = load(tmp_path, "评论 data")
    assert [row[4] for row in rows(loaded)] == ["评论 data/a [1].jsonl:1", "评论 data/子/b.csv:2"]
    assert loaded.notes == ["评论 data: 1 files that are no tables ignored"]
    assert [row[1] for row in rows(load(tmp_path, "评论 data/**/*.*"))] == ["a", "b"]
    assert [row[1] for row in rows(load(tmp_path, "评论 data/a [1].jsonl"))] == ["a"]
    assert rows(load(folder, "../a [1].jsonl"))[0][0] == "a [1].jsonl:1"  # the folder is not part of an id
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/评论 data", str(folder.parent)):
        assert {file.name for file in load(Path("/"), name).files} == {"评论 data/a [1].jsonl", "评论 data/子/b.csv"}
    assert [file.name for file in load(Path("/"), str(folder / "b.csv")).files] == ["b.csv"]


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")).write_text("text,label\na,x\n")
    assert ": its name, or that of a text in it, is not UTF-8. Rename it." in message(tmp_path, "*.csv")


def test_a_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    loaded = load(tmp_path, ["*.csv", "a.csv"])
    assert len(rows(loaded)) == 1
    assert loaded.warnings == ["a.csv: named twice, read once"]
    told = message(tmp_path, {"train": "a.csv", "test": "a.csv"})
    assert "a.csv: is named for train and for test" in told


def test_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.csv").write_text(f"text,label\n{name},x\n")
    loaded = load(Path("/"), [str(tmp_path / "one/d.csv"), str(tmp_path / "two/d.csv")])
    assert [row[0] for row in rows(loaded)] == ["d.csv:2", "two/d.csv:2"]


def test_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    loaded = load(tmp_path, {"test": "test.csv", "train": ["train.csv"], "validation": "dev.csv"})
    assert {split: rows(loaded, split)[0][1] for split in loaded.splits} == {
        "train": "train", "validation": "dev", "test": "test"}  # fmt: skip
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert "no split is called 'tests'. Did you mean 'test'?" in message(tmp_path, {"tests": "test.csv"})
    assert "are read as one" in load(tmp_path, str(tmp_path)).warnings[0]


def test_prediction_input_needs_no_label(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text\na\nb\n")
    assert [row[1:4] for row in rows(load(tmp_path, labelled=False))] == [("a", None, None), ("b", None, None)]
    assert "no column 'label'" in message(tmp_path)
    assert "no column 'review'" in message(tmp_path, labelled=False, columns=ColumnMap(text="review"))


def test_limit_is_a_seeded_sample_in_order(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"{number},x\n" for number in range(25_000)))
    picked = [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=1))]
    assert len(picked) == 500
    assert picked == sorted(set(picked))
    assert picked == [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=1))]
    assert picked != [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=2))]
    assert 11_000 < sum(picked) / 500 < 14_000  # the mean of a uniform sample is 12,500 within 323 or so
    assert len(rows(load(tmp_path, limit=10**6))) == 25_000
    assert load(tmp_path, limit=5).notes == ["all: 5 of 25000 rows sampled"]


def test_new_content_of_the_same_age_is_seen(tmp_path: Path) -> None:  # A36
    path = tmp_path / "d.csv"
    fingerprints = []
    for text in ("a", "b"):
        path.write_text(f"text,label\n{text},x\n")
        os.utime(path, ns=(10**18, 10**18))
        loaded = load(tmp_path)
        assert rows(loaded)[0][1] == text
        fingerprints.append(loaded.splits["all"]._fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_built_in_corpora(tmp_path: Path) -> None:
    corpora = {"docs": lambda: [{"text": "a", "area": "x", "file": "os"}, {"text": "b", "area": "y", "file": "re"}]}
    columns = ColumnMap(label="area", group="file")
    loaded = load(tmp_path, "builtin:docs", columns=columns, corpora=corpora)
    assert rows(loaded)[1] == ("builtin:docs:2", "b", "y", "re", "builtin:docs:2")
    assert loaded.files[0].rows == 2
    assert loaded.files[0].bytes > 0
    told = message(tmp_path, "builtin:doc", columns=columns, corpora=corpora)
    assert "no built-in corpus 'doc'. Found: docs. Did you mean 'docs'?" in told
    assert "Columns found: 'text', 'area', 'file'" in message(tmp_path, "builtin:docs", corpora=corpora)


def _hub(answer: object) -> Callable[..., object]:
    def load_dataset(name: str, **options: object) -> object:
        assert options == {"streaming": False}  # above all, no trust_remote_code
        if isinstance(answer, Exception):
            raise answer
        return answer

    return load_dataset


def test_a_hub_dataset_brings_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", _hub({"train": part, "dev": part, "test": part, "extra": part}))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = load(tmp_path, "owner/name")
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert rows(loaded, "validation")[0] == ("owner/name/dev:1", "a", "pos", None, "owner/name/dev:1")
    assert loaded.notes == ["owner/name: split 'extra' is not used"]
    assert list(load(tmp_path, {"train": "owner/name"}).splits) == ["train"]
    monkeypatch.setattr(datasets, "load_dataset", _hub({"train": part}))
    assert list(load(tmp_path, "owner/name").splits) == ["all"]
    several = datasets.Features(features | {"label": datasets.List(features["label"])})
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [[1, 0], []]}, features=several)
    monkeypatch.setattr(datasets, "load_dataset", _hub({"train": part}))
    assert [row[2] for row in rows(load(tmp_path, "owner/name", multi_label=True))] == [["pos", "neg"], []]


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(EnvironmentFault, match=r"nobody-x/nothing: cannot reach the Hub.*Give a local file"):
        load(tmp_path, "nobody-x/nothing")
    assert datasets.config.HF_HUB_OFFLINE is False
    monkeypatch.setattr(datasets, "load_dataset", _hub(datasets.exceptions.DatasetNotFoundError("none")))
    assert "no such dataset on the Hub" in message(tmp_path, "nobody-x/nothing")
    monkeypatch.setattr(datasets, "load_dataset", _hub(ValueError("Config name is missing.\nPick one")))
    assert "cannot be loaded from the Hub (Config name is missing.)" in message(tmp_path, "nobody-x/nothing")


@pytest.mark.parametrize("name", ["reviews/train.csv", "here/nothing", "./a/b", "a/b/c", "~/a", "../a", "a/b.txt", "a"])
def test_a_local_looking_name_is_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", _hub(AssertionError("the Hub was asked")))
    with pytest.raises(FinetuneError, match="no such file"):
        load(tmp_path, name)


def test_rows_are_mapped_from_the_cache_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text("text;label\na;x\n;y\n")
    options = {"multi_label": True, "most_characters": 10}
    first = load(tmp_path, **options)
    (cached,) = first.splits["all"].cache_files
    assert first.splits["all"].map(lambda row: row, new_fingerprint="f00").cache_files  # later steps are on disk too
    monkeypatch.setattr("finetune.data.sources.examples", None)  # not called: the file is not read again
    again = load(tmp_path, **options)
    assert again.splits["all"].cache_files == [cached]
    assert again.splits["all"]._fingerprint == first.splits["all"]._fingerprint
    assert rows(again) == rows(first)
    assert (again.notes, again.warnings, again.files) == (first.notes, first.warnings, first.files)
    assert first.notes == ["d.csv: fields are separated by ';'"]


CHANGES: dict[str, dict[str, object]] = {
    "columns": {"columns": ColumnMap(group="label")},
    "labelled": {"labelled": False},
    "multi_label": {"multi_label": True},
    "encoding": {"encoding": "ascii"},
    "most_characters": {"most_characters": 99},
    "numeric": {"numeric": ["n"]},
}


@pytest.mark.parametrize("change", [*CHANGES, "code", "bytes", "name", "damage"])
def test_any_change_is_read_again(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A36, A37
    path = tmp_path / "d.csv"
    path.write_text(f"text,label,n\n{change},x,1\n")
    first = load(tmp_path)
    reads = []

    def counted(*arguments: object, **options: object) -> object:
        reads.append(1)
        return examples(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("finetune.data.sources.examples", counted)
    if change == "code":
        monkeypatch.setattr("finetune.data.sources.code_version", lambda *files: "another")
    elif change == "bytes":
        path.write_text(f"text,label,n\n{change},y,1\n")
        os.utime(path, ns=(10**18, 10**18))
    elif change == "name":
        path = path.rename(tmp_path / "other.csv")
    elif change == "damage":
        os.truncate(first.splits["all"].cache_files[0]["filename"], 100)
    again = load(tmp_path, path.name, **CHANGES.get(change, {}))
    assert reads == [1]
    assert (again.splits["all"]._fingerprint == first.splits["all"]._fingerprint) == (change == "damage")
    load(tmp_path, path.name, **CHANGES.get(change, {}))
    assert reads == [1]


def test_the_version_of_code_is_that_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READING_CODE:
        (tmp_path / name).write_text("first")
    monkeypatch.setattr("finetune.data.store.__file__", str(tmp_path / "store.py"))
    versions = {code_version(*READING_CODE)}
    for name in READING_CODE:
        (tmp_path / name).write_text("second")
        versions.add(code_version(*READING_CODE))
    assert len(versions) == 1 + len(READING_CODE)


def test_all_reading_code_is_in_its_version() -> None:
    """Every file of the data floor that reading imports, directly or not."""
    folder, found, waiting = Path(store.__file__).parent, set(), ["sources.py"]
    while waiting:
        name = waiting.pop()
        if name not in found and (folder / name).exists():
            found.add(name)
            waiting += [f"{each}.py" for each in re.findall(r"from finetune\.data\.(\w+)", (folder / name).read_text())]
    assert found == set(READING_CODE)


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\nonly here,x\n")

    def changing(file: TableFile, **options: object) -> Iterator[object]:
        yield from examples(file, **options)  # type: ignore[arg-type]
        path.write_text("text,label\nb,x\n" * 2)

    monkeypatch.setattr("finetune.data.sources.examples", changing)
    assert message(tmp_path) == "d.csv: was changed while it was read. Start again."

    def vanishing(file: TableFile, **options: object) -> Iterator[object]:
        yield from examples(file, **options)  # type: ignore[arg-type]
        path.unlink()

    monkeypatch.setattr("finetune.data.sources.examples", vanishing)
    assert message(tmp_path) == "d.csv: was changed while it was read. Start again."


def test_a_refused_source_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    before = set(store.cache_folder().iterdir())
    (tmp_path / "d.csv").write_text("text,label\na refused row\n")
    message(tmp_path)
    assert set(store.cache_folder().iterdir()) == before


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text("text,label\nnever seen before,x\n")
    monkeypatch.setattr("finetune.data.store.tempfile.mkdtemp", _no_space)
    with pytest.raises(EnvironmentFault, match=r"the cache cannot be written \(No space left.*HF_DATASETS_CACHE"):
        load(tmp_path)


def _no_space(**options: object) -> str:
    raise OSError(28, "No space left on device")


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Thirty megabytes pass through a few: what counts is a batch, not the file."""
    with (tmp_path / "d.jsonl").open("w") as stream:
        for row in range(15_000):
            stream.write(json.dumps({"text": f"{row} " * 400, "label": "x", "key": f"k{row}"}) + "\n")
    assert os.path.getsize(tmp_path / "d.jsonl") > 30e6
    store.cache_folder()  # importing the datasets library is not what is measured
    tracemalloc.start()
    try:
        loaded = load(tmp_path, "d.jsonl", columns=ColumnMap(id="key"), limit=14_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(loaded.splits["all"]) == 14_000
    assert peak < 15e6


def test_many_repeated_ids_show_the_first_twenty(tmp_path: Path) -> None:
    lines = [f"{row},x,{row % 1000}\n" for row in range(1500)]
    (tmp_path / "d.csv").write_text("text,label,key\n" + "".join(lines))
    with pytest.raises(DataError) as caught:
        load(tmp_path, columns=ColumnMap(id="key"))
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 21
    assert told[0].startswith("d.csv:1002: id '0' is already in d.csv:2.")
    assert told[19].startswith("d.csv:1021: id '19' is already in d.csv:21.")
    assert told[20] == "data.columns.id: 500 rows repeat an id."
