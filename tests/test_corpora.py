"""The built-in corpus: what counts as a docstring, and that this machine's library gives the real thing."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from finetune.data.corpora import CORPORA, python_docs
from finetune.data.python_library import AREA_OF_MODULE
from finetune.errors import DataError

LONG = "This docstring has certainly more than forty characters"


def write(folder: Path, name: str, source: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def test_finds_modules_classes_methods_and_inner_functions_in_source_order(tmp_path: Path) -> None:
    source = (
        f'"""{LONG}: module.\n\n    Indented."""\n'
        f'class A:\n    """{LONG}: class."""\n    async def m(self):\n        """{LONG}: method."""\n'
        f'        def inner():\n            """{LONG}: inner."""\n'
        f'if True:\n    def f():\n        """{LONG}: under if."""\n'
        f'try:\n    pass\nexcept OSError:\n    def g():\n        """{LONG}: handler."""\n'
        'def short():\n    """Too short."""\n'
    )
    write(tmp_path, "socket.py", source)
    rows = list(python_docs(tmp_path))
    endings = [row["text"].removeprefix(LONG) for row in rows]
    assert endings == [": module.\n\nIndented.", ": class.", ": method.", ": inner.", ": under if.", ": handler."]
    assert {(row["area"], row["file"]) for row in rows} == {("networking", "socket.py")}


def test_forty_characters_are_too_few_and_forty_one_enough(tmp_path: Path) -> None:
    write(tmp_path, "os.py", f'"""{"a" * 40}"""\ndef f():\n    """{"b" * 41}"""\n')
    assert [row["text"] for row in python_docs(tmp_path)] == ["b" * 41]


def test_equal_texts_come_once_from_the_first_file(tmp_path: Path) -> None:
    for name in ("xml/b.py", "ast.py"):
        write(tmp_path, name, f'"""{LONG}."""\n')
    assert [row["file"] for row in python_docs(tmp_path)] == ["ast.py"]


def test_leaves_out_tests_of_packages_unknown_modules_and_installed_packages(tmp_path: Path) -> None:
    write(tmp_path, "json/decoder.py", f'"""{LONG}."""\n')
    for number, name in enumerate(("json/tests/t.py", "idlelib/idle_test/t.py", "site-packages/json/d.py", "zzz.py")):
        write(tmp_path, name, f'"""{LONG} {number}."""\n')
    assert [row["file"] for row in python_docs(tmp_path)] == ["json/decoder.py"]


def test_a_file_that_does_not_parse_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "test/badsyntax.py", "def (:\n")
    write(tmp_path, "test/nul.py", "x = '\x00'\n")
    write(tmp_path, "test/good.py", f'"""{LONG}."""\n')
    assert [row["file"] for row in python_docs(tmp_path)] == ["test/good.py"]


def test_a_library_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="builtin:python-docs: this Python keeps no library sources"):
        list(python_docs(tmp_path))


def test_the_running_library_begins_with_real_rows() -> None:
    rows = list(islice(CORPORA["python-docs"](), 300))
    assert rows == list(islice(CORPORA["python-docs"](), 300))
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert len({row["text"] for row in rows}) == 300


@pytest.mark.slow
def test_the_running_library_has_eight_areas_none_tiny() -> None:
    rows = list(CORPORA["python-docs"]())
    areas = Counter(row["area"] for row in rows)
    assert set(areas) == set(AREA_OF_MODULE.values())
    assert len(areas) == 8
    assert min(areas.values()) >= 200
    assert 5_000 < len(rows) < 12_000
    assert len({row["text"] for row in rows}) == len(rows)
