"""The cache between runs: unchanged work is found again, in another process too, and nothing stale is ever served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from finetune.cli import main
from finetune.data import augment, cleaning, corpora, near_duplicates, row_streams, sources, text_steps
from finetune.data.prepare import Prepared, prepare
from finetune.data.sources import ColumnMap, load_examples
from finetune.progress import SILENT
from finetune.recipe_file import load_recipe

ROWS = 120
RECIPE: dict[str, Any] = {
    "task": "text-classification",
    "model": {
        "from_scratch": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 200,
        }
    },
    "data": {"source": "rows.csv"},
    "windows": {"max_tokens": 16, "stride": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder, word="lovely")
    return folder


def write_rows(folder: Path, *, word: str) -> None:
    said = [f"Room {row} was {word if row % 2 else 'dirty '} on  day {row * 7}" for row in range(ROWS)]
    rows = [f"{text},{row % 2},{row // 5}" for row, text in enumerate(said)]
    (folder / "rows.csv").write_text("\n".join(["text,label,floor", *rows]), encoding="utf-8")


def run(folder: Path, *, examples: int = 0, **sections: Any) -> Prepared:
    """Prepared by the recipe with these sections; `examples` are worked out again at every run, so there are none."""
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE | sections), encoding="utf-8")
    return prepare(load_recipe(folder / "recipe.yaml"), progress=SILENT, examples=examples)


def files(cache: Path) -> dict[str, int]:
    return {path.relative_to(cache).as_posix(): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def texts(prepared: Prepared) -> list[str]:
    return sorted(text for rows in prepared.splits.values() for text in rows["text"])


EVERYTHING: dict[str, Any] = {
    "data": {"source": "rows.csv", "limit": 100},
    "cleaning": ["normalize_whitespace", "lowercase", "drop_empty", {"fill_missing": "none"}, "drop_duplicates"],
    "augmentation": {"delete": 0.2},
}


def test_a_second_run_makes_nothing_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(text: str) -> str:
        calls.append(text)
        return text.lower()

    monkeypatch.setitem(text_steps.TEXT_STEPS, "lowercase", counted)
    first = run(folder, **EVERYTHING)
    assert len(calls) >= 100
    made, calls[:] = files(cache), []
    assert made
    second = run(folder, **EVERYTHING)
    assert calls == []
    assert files(cache) == made
    assert second.fingerprint == first.fingerprint and second.report == first.report


def test_another_process_finds_it_too(folder: Path, cache: Path) -> None:
    run(folder, **EVERYTHING)
    made = files(cache)
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE | EVERYTHING), encoding="utf-8")
    command = [sys.executable, "-m", "finetune", "prepare", str(folder / "recipe.yaml"), "--json"]
    outside = {**os.environ, "HF_DATASETS_CACHE": str(cache), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert files(cache) == made


def test_check_and_train_cut_windows_once(folder: Path, cache: Path) -> None:
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    assert main(["check", str(folder / "recipe.yaml"), "--quiet"]) == 0
    made = files(cache)
    assert sum("windows-" in name for name in made) == 3
    assert main(["check", str(folder / "recipe.yaml"), "--quiet"]) == 0
    assert files(cache) == made
    words = ["training.num_train_epochs=1", "evaluation={baselines: [], bootstrap: 0}", "--quiet"]
    assert main(["train", str(folder / "recipe.yaml"), "--run", str(folder / "run"), *words]) == 0
    assert files(cache) == made


def test_a_file_rewritten_with_the_same_size_and_time_is_read_again(folder: Path) -> None:
    path = folder / "rows.csv"
    first, status = run(folder), path.stat()
    write_rows(folder, word="greasy")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    second = run(folder)
    assert any("greasy" in text for text in texts(second)) and not any("lovely" in text for text in texts(second))
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"cleaning": ["lowercase"]},
        {"cleaning": ["lowercase", "normalize_whitespace"]},
        {"cleaning": [{"drop_long": 28}]},
        {"data": {"source": "rows.csv", "limit": 90}},
        {"data": {"source": "rows.csv", "columns": {"group": "floor"}}},
        {"augmentation": {"delete": 0.5}},
        {"seed": 14},
    ],
    ids=str,
)
def test_a_changed_setting_gives_what_a_fresh_cache_gives(
    changed: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: dict[str, Any] = {"augmentation": {"delete": 0.2}, "cleaning": ["strip_control"]}
    changed = usual | changed
    before = run(folder, **usual)
    after = run(folder, **changed)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "fresh")
    fresh = run(folder, **changed)
    assert after.fingerprint == fresh.fingerprint != before.fingerprint
    assert after.report == fresh.report


@pytest.mark.parametrize(
    ("module", "name", "value", "kind"),
    [
        (sources, "code_version", lambda *files: "edited", "rows-"),
        (cleaning, "_code_version", lambda: ("edited",), "rows-"),
        (near_duplicates, "_versions", lambda: ("edited", "1"), "families-"),
        (augment, "AUGMENT_VERSION", 999, "augment-"),
    ],
    ids=["reading", "cleaning", "duplicates", "augmentation"],
)
def test_changed_code_makes_it_again(
    module: Any, name: str, value: Any, kind: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, before = run(folder, **EVERYTHING), files(cache)
    monkeypatch.setattr(module, name, value)
    second = run(folder, **EVERYTHING)
    assert any(made.split("/")[-1].startswith(kind) for made in set(files(cache)) - set(before))
    assert second.fingerprint == first.fingerprint


def test_an_own_function_is_always_called_and_what_follows_goes_by_its_texts(folder: Path, cache: Path) -> None:
    own, steps = folder / "mine.py", ["mine:change", "normalize_whitespace", "drop_empty"]
    own.write_text("def change(text): return text.upper()", encoding="utf-8")
    first = run(folder, cleaning=steps)
    made = {name for name in files(cache) if "once-" not in name}
    assert any("families-" in name for name in made)
    again = run(folder, cleaning=steps)
    assert again.fingerprint == first.fingerprint
    assert {name for name in files(cache) if "once-" not in name} == made, "the same texts are the same work"

    status = own.stat()
    own.write_text("def change(text): return text.title()", encoding="utf-8")
    os.utime(own, ns=(status.st_atime_ns, status.st_mtime_ns))
    edited = run(folder, cleaning=steps)
    assert texts(edited)[0].startswith("Room 0 Was Dirty") and texts(first)[0].startswith("ROOM 0 WAS DIRTY")

    # What the function reads besides its text is not known to anybody; its result is what counts.
    own.write_text(
        "from pathlib import Path\ndef change(text): return text + Path(__file__).with_name('ending.txt').read_text()",
        encoding="utf-8",
    )
    (folder / "ending.txt").write_text("!", encoding="utf-8")
    assert texts(run(folder, cleaning=steps))[0].endswith("!")
    (folder / "ending.txt").write_text("?", encoding="utf-8")
    assert texts(run(folder, cleaning=steps))[0].endswith("?")


def test_one_process_and_two_give_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_streams, "MOST_ROWS_AT_ONCE", 40)
    monkeypatch.setattr(near_duplicates, "ROWS_IN_A_BATCH", 40)
    results = []
    for processes in (1, 2):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"cache of {processes}")
        data = {"source": "rows.csv", "num_proc": processes}
        results.append(run(folder, **(EVERYTHING | {"data": data}), examples=3))
    one, two = results
    assert one.fingerprint == two.fingerprint and one.report == two.report
    assert all((one.families[name] == two.families[name]).all() for name in one.families)


def test_a_corpus_is_parsed_once_and_again_when_a_source_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    docstring = "A docstring of certainly more than forty characters, for {}."
    for name in ("socket", "json"):
        (library / f"{name}.py").write_text(f'"""{docstring.format(name)}"""\n', encoding="utf-8")
    parsed: list[Path] = []
    really = corpora._docstrings

    def noted(path: Path) -> Iterator[str]:
        parsed.append(path)
        return really(path)

    monkeypatch.setattr(corpora, "_docstrings", noted)

    def load() -> tuple[Any, list[tuple[Any, ...]]]:
        loaded = load_examples(
            "builtin:docs",
            columns=ColumnMap(label="area", group="file"),
            base=tmp_path,
            corpora={"docs": lambda: corpora.python_docs(library)},
            stamps={"docs": lambda: corpora.python_docs_stamp(library)},
        )
        rows = loaded.splits["all"]
        return loaded, list(zip(rows["id"], rows["text"], rows["group"], strict=True))

    first, rows = load()
    assert len(parsed) == 2 and len(rows) == 2
    second, again = load()
    assert len(parsed) == 2, "nothing is parsed again"
    assert again == rows and second.files == first.files
    assert second.splits["all"]._fingerprint == first.splits["all"]._fingerprint

    path = library / "json.py"
    status = path.stat()
    path.write_text(path.read_text().replace("certainly", "CERTAINLY"), encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed, other = load()
    assert any("CERTAINLY" in text for _, text, _ in other)
    assert changed.files[0].sha256 != first.files[0].sha256

    (library / "zzz_no_area.py").write_text('"""A docstring of a module that has no area in the table at all."""')
    parsed.clear()
    load()
    assert parsed == []


def test_a_corpus_read_with_a_stamp_has_the_same_ids_rows_and_digest_as_without(tmp_path: Path) -> None:
    rows = [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(5)]
    arguments: dict[str, Any] = {"columns": ColumnMap(), "base": tmp_path, "corpora": {"c": lambda: rows}}
    bare = load_examples("builtin:c", **arguments)
    stamped = load_examples("builtin:c", **arguments, stamps={"c": lambda: "1"})
    assert stamped.files == bare.files
    assert stamped.splits["all"].to_list() == bare.splits["all"].to_list()


def test_a_damaged_file_of_the_cache_is_made_again(folder: Path, cache: Path) -> None:
    first = run(folder)
    [kept] = cache.rglob("all.arrow")
    kept.write_bytes(kept.read_bytes()[:-7])
    assert run(folder).fingerprint == first.fingerprint
