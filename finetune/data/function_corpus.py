"""`builtin:python-functions`: functions of the running Python's standard library, each with what it does in one line.

A prompt and a completion that are on every machine: the source of a function without its docstring, and the first
sentence of that docstring, which a person wrote and a model can be asked to write.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from finetune.data.python_library import definitions, library_digest, library_files, library_folder
from finetune.data.store import code_version
from finetune.errors import DataError

MOST_CODE_CHARACTERS = 2000
FEWEST_WORDS, MOST_WORDS = 3, 30
# What a docstring begins with where it does not say what the function does.
NO_SENTENCE = re.compile(r">>>|[:@.]|deprecat|obsolete|todo\b|fixme\b|xxx\b|see |internal\b", re.IGNORECASE)
SIGNATURE = re.compile(r"->|^[\w.]+\(|^[\w.]+\s*=|\bdeprecated\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_functions(library: Path | None = None) -> Iterator[dict[str, str]]:
    """Functions and methods of the standard library with one line of documentation each, sorted by file and line.

    Yields rows `code` (the source without the docstring, dedented, decorators included), `doc` (one sentence of 3 to
    30 words that ends with a full stop), `name` (qualified, as in `Random.choice`) and `file` (relative to the
    library, with slashes). Left out are functions over 2,000 characters, those with nothing but a docstring, and
    docstrings that begin with a signature, a doctest or a deprecation. Repetitions are left to cleaning. `library` is
    the folder of the standard library, the running Python's own by default. Raises DataError where it has no sources.
    """
    folder = library or library_folder()
    found = False
    # What a test shows is seldom said in one line, and many installations leave the folder out.
    for file in (name for name, _ in library_files(folder) if not name.startswith("test/")):
        content = (folder / file).read_bytes()
        lines: list[str] = []
        for name, node in definitions(content):
            if not isinstance(node, Function) or not (doc := one_sentence(ast.get_docstring(node) or "")):
                continue
            lines = lines or _lines(content)
            code = _code(node, lines)
            if code and len(code) <= MOST_CODE_CHARACTERS:
                found = True
                yield {"code": code, "doc": doc, "name": name, "file": file}
    if not found:
        what = f"this Python keeps no library sources in {folder}"
        remedy = "Use a Python installed with its .py files, or a source of your own."
        raise DataError("builtin:python-functions", what, remedy)


def python_functions_stamp(library: Path | None = None) -> str:
    """A digest of all that decides the rows of `python_functions`. Takes no parsing."""
    version = code_version("function_corpus.py", "python_library.py")
    return library_digest(library or library_folder(), version=version)


def one_sentence(docstring: str) -> str:
    """The summary of a docstring (PEP 257) with its full stop; empty where its first line is no such sentence."""
    first, _, rest = docstring.strip().partition("\n")
    line = " ".join(first.split())
    # A sentence that goes on in the next line has no end here, and half of it is no documentation.
    goes_on = bool(rest.partition("\n")[0].strip()) or not (line[-1:].isalnum() or line[-1:] in tuple(")'`\""))
    if goes_on and not line.endswith("."):
        return ""
    if NO_SENTENCE.match(line) or SIGNATURE.search(line) or line.endswith(".."):
        return ""
    if not FEWEST_WORDS <= len(line.split()) <= MOST_WORDS:
        return ""
    return line if line.endswith(".") else f"{line}."


def _lines(content: bytes) -> list[str]:
    """The lines as the parser counts them."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read().split("\n")


def _code(node: Function, lines: list[str]) -> str:
    """The source of a function without its docstring; empty where nothing would be left to read."""
    docstring, *body = node.body
    first = min(each.lineno for each in (node, *node.decorator_list))
    before, after = lines[first - 1 : docstring.lineno - 1], lines[docstring.end_lineno : node.end_lineno]
    stands_alone = not lines[docstring.lineno - 1][: docstring.col_offset].strip() and after
    if all(map(_says_nothing, body)) or not stands_alone or body[0].lineno == docstring.end_lineno:
        return ""
    while not after[0].strip():
        after.pop(0)
    # Not textwrap.dedent: a text in the source may have lines that are indented less.
    indent = " " * node.col_offset
    return "\n".join(line.removeprefix(indent).rstrip() for line in before + after)


def _says_nothing(statement: ast.stmt) -> bool:
    """`pass`, `...` and `raise NotImplementedError`: the body of a function that others write."""
    if isinstance(statement, ast.Raise):
        return any(isinstance(node, ast.Name) and node.id == "NotImplementedError" for node in ast.walk(statement))
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)
