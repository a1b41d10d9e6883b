"""The corpus of functions: what counts as documentation in one line, and what is left of a function without it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from finetune.data.corpora import CORPORA, CORPUS_STAMPS
from finetune.data.function_corpus import (
    MOST_CODE_CHARACTERS,
    one_sentence,
    python_functions,
    python_functions_stamp,
)
from finetune.errors import DataError


def library(folder: Path, **sources: str) -> Path:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the number of words.", "Return the number of words."),
        ("\n    Return the   number of words.\n\n    And more.\n    ", "Return the number of words."),
        ("Return the number of words", "Return the number of words."),
        ("Return the number (of words)\n\nMore.", "Return the number (of words)."),
        ("Return the number of words. Or none.\nMore of it.", "Return the number of words. Or none."),
        ("Return the number of all the\nwords.", ""),
        ("Return the number of words:", ""),
        ("Return words.", ""),
        (" ".join(["word"] * 30), " ".join(["word"] * 30) + "."),
        (" ".join(["word"] * 31), ""),
        (">>> words(1) is the number", ""),
        ("words(text) -> the number of words", ""),
        ("count(text[, start]) counts all words.", ""),
        ("Deprecated since the first version.", ""),
        ("This old name is deprecated now.", ""),
        ("Wait for it and then...", ""),
        ("", ""),
    ],
)
def test_one_sentence(docstring: str, sentence: str) -> None:
    assert one_sentence(docstring) == sentence


def test_methods_and_inner_functions_lose_their_own_docstring_and_their_indentation(tmp_path: Path) -> None:
    source = (
        '"""A module is no function of anybody."""\n'
        "class A:\n"
        '    """A class is no function either."""\n'
        "    @property\n"
        "    def words(self, *, most=3):\n"
        '        """Return the words of the text.\n\n        All of them.\n        """\n'
        "\n"
        "        # the first ones\n"
        '        text = """\n'
        "  as it stands\n"
        '"""\n'
        "        return text[:most]\n"
        "async def run():\n"
        '    "Run one thing after another"\n'
        "    def inner():\n"
        "        '''Do the inner thing here.'''\n"
        "        return 1\n"
        "    return inner\n"
    )
    rows = list(python_functions(library(tmp_path, socket=source)))
    assert [(row["name"], row["doc"], row["file"]) for row in rows] == [
        ("A.words", "Return the words of the text.", "socket.py"),
        ("run", "Run one thing after another.", "socket.py"),
        ("run.inner", "Do the inner thing here.", "socket.py"),
    ]
    assert rows[0]["code"] == (
        "@property\ndef words(self, *, most=3):\n    # the first ones\n"
        '    text = """\n  as it stands\n"""\n    return text[:most]'
    )
    assert rows[2]["code"] == "def inner():\n    return 1"
    assert list(rows[0]) == ["code", "doc", "name", "file"]


@pytest.mark.parametrize(
    "body",
    ["", "    pass\n", "    ...\n", "    raise NotImplementedError\n", "    raise NotImplementedError('later')\n",
     "    x = " + "1 + " * MOST_CODE_CHARACTERS + "1\n"],
)  # fmt: skip
def test_a_function_with_nothing_to_read_or_far_too_much_is_left_out(body: str, tmp_path: Path) -> None:
    documented = '    """Return the number of words."""\n'
    source = f"def stub():\n{documented}{body}def f():\n{documented}    return 1\n"
    assert [row["name"] for row in python_functions(library(tmp_path, os=source))] == ["f"]


def test_functions_on_one_line_and_other_line_ends(tmp_path: Path) -> None:
    source = (
        b"# -*- coding: latin-1 -*-\r\ndef f(): 'Return the number of words.'; return 1\r\n"
        b"def g():\r\n    '''Return the number of w\xf6rds.'''; x = 1\r\n    return x\r\n"
        b"def h():\r\n    '''Return the number of w\xf6rds.'''\r\n    return '\xe9'\r\n"
    )
    (tmp_path / "os.py").write_bytes(source)
    rows = list(python_functions(tmp_path))
    assert [(row["name"], row["doc"], row["code"]) for row in rows] == [
        ("h", "Return the number of wörds.", "def h():\n    return 'é'")
    ]


def test_the_stamp_follows_the_sources_and_no_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="builtin:python-functions: this Python keeps no library sources"):
        list(python_functions(tmp_path))
    first = python_functions_stamp(library(tmp_path, os="x = 1\n"))
    assert first == python_functions_stamp(tmp_path)
    assert first != python_functions_stamp(library(tmp_path, os="x = 2\n"))
    assert CORPUS_STAMPS.keys() == CORPORA.keys()


@pytest.mark.slow
def test_the_running_library() -> None:
    rows = list(CORPORA["python-functions"]())
    assert 3_000 < len(rows) < 8_000
    assert rows == list(CORPORA["python-functions"]())
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        assert row["doc"].endswith(".") and "\n" not in row["doc"] and 3 <= len(row["doc"].split()) <= 30
        assert 0 < len(row["code"]) <= MOST_CODE_CHARACTERS
        [function] = ast.parse(row["code"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert row["name"].split(".")[-1] == function.name
