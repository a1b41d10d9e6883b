"""The built-in corpora: real text that is on every machine, so that a first run needs no download.

`python-docs` is the documentation inside the running Python's own standard library, `python-functions` its functions
with a line of documentation each. It shows why groups matter: docstrings of one file resemble each other, so a random
split flatters.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.data.function_corpus import python_functions, python_functions_stamp
from finetune.data.python_library import definitions, library_digest, library_files, library_folder
from finetune.data.store import code_version
from finetune.errors import DataError

SHORTEST_TEXT_CHARACTERS = 41  # "over 40 characters": shorter docstrings name a thing without describing it


def python_docs(library: Path | None = None) -> Iterator[dict[str, str]]:
    """Every distinct docstring over 40 characters of the standard library, with its area and file.

    Yields rows `text` (as `inspect.cleandoc` leaves it), `area` (one of eight), `file` (relative to the library,
    with slashes), sorted by file and then in source order; of equal texts the first is kept. `library` is the folder
    of the standard library, the running Python's own by default. Raises DataError where that folder has no sources.
    """
    folder = library or library_folder()
    seen: set[str] = set()
    for name, area in library_files(folder):
        for text in _docstrings(folder / name):
            if len(text) >= SHORTEST_TEXT_CHARACTERS and text not in seen:
                seen.add(text)
                yield {"text": text, "area": area, "file": name}
    if not seen:
        raise DataError(
            "builtin:python-docs",
            f"this Python keeps no library sources in {folder}",
            "Use a Python installed with its .py files, or a source of your own.",
        )


def python_docs_stamp(library: Path | None = None) -> str:
    """A digest of all that decides the rows of `python_docs`: the sources' bytes and this code. Takes no parsing."""
    return library_digest(library or library_folder(), version=code_version("corpora.py", "python_library.py"))


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of the module, its classes and functions, methods and inner functions too, in source order."""
    for _, node in definitions(path.read_bytes()):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield inspect.cleandoc(text)


CORPORA: dict[str, Callable[[], Iterator[dict[str, str]]]] = {
    "python-docs": python_docs,
    "python-functions": python_functions,
}
CORPUS_STAMPS: dict[str, Callable[[], str]] = {
    "python-docs": python_docs_stamp,
    "python-functions": python_functions_stamp,
}
