"""The built-in corpora: real text that is on every machine, so that a first run needs no download.

`python-docs` is the documentation inside the running Python's own standard library. Its files are read and parsed,
never imported. It shows why groups matter: docstrings of one file resemble each other, so a random split flatters.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.data.store import code_version
from finetune.errors import DataError

SHORTEST_TEXT_CHARACTERS = 41  # "over 40 characters": shorter docstrings name a thing without describing it

# Area of the library -> its top-level modules, over Python 3.11 to 3.14 (a name a version lacks costs nothing). Left
# out are programs and jokes rather than library (lib2to3, turtledemo, antigravity, this, __hello__, __phello__) and
# whatever is not named here. The package `test` exists only where the installer kept it: without it the area `testing`
# still has unittest, doctest, the debuggers and the profilers.
_MODULES_BY_AREA = {
    "networking": "asynchat asyncore cgi email ftplib http imaplib ipaddress mailbox mailcap mimetypes netrc nntplib "
    "nturl2path poplib smtpd smtplib socket socketserver ssl telnetlib urllib uuid webbrowser wsgiref xmlrpc",
    "concurrency": "_bootsubprocess _threading_local asyncio concurrent contextvars multiprocessing pty queue sched "
    "selectors signal subprocess threading",
    "files": "_compression _pyio aifc bz2 chunk compression configparser copyreg csv dbm filecmp fileinput fnmatch "
    "genericpath glob gzip imghdr io linecache logging lzma ntpath os pathlib pickle pickletools pipes plistlib "
    "posixpath shelve shutil sndhdr sqlite3 stat sunau tarfile tempfile tomllib uu wave xdrlib zipapp zipfile",
    "text": "_markupbase base64 codecs difflib encodings gettext html json locale pprint quopri re reprlib shlex "
    "sre_compile sre_constants sre_parse string stringprep textwrap xml",
    "numbers": "_pydatetime _pydecimal _pylong _strptime bisect calendar colorsys datetime decimal fractions graphlib "
    "hashlib heapq hmac numbers operator random secrets statistics zoneinfo",
    "testing": "bdb cProfile cgitb doctest pdb profile profiling pstats test timeit trace traceback tracemalloc "
    "unittest",
    "interfaces": "_colorize _pyrepl argparse cmd code codeop curses getopt getpass idlelib optparse rlcompleter "
    "tkinter turtle",
    "language": "__future__ _aix_support _android_support _apple_support _collections_abc _ios_support "
    "_opcode_metadata _osx_support _py_abc _py_warnings _sitebuiltins _weakrefset abc annotationlib ast collections "
    "compileall contextlib copy ctypes dataclasses dis distutils ensurepip enum functools imp importlib inspect "
    "keyword modulefinder opcode pkgutil platform py_compile pyclbr pydoc pydoc_data runpy site symtable sysconfig "
    "tabnanny token tokenize types typing venv warnings weakref zipimport",
}
AREA_OF_MODULE = {module: area for area, modules in _MODULES_BY_AREA.items() for module in modules.split()}

_PACKAGES_OF_OTHERS = frozenset({"site-packages", "dist-packages"})
_TESTS_OF_A_PACKAGE = frozenset({"test", "tests", "idle_test"})


def python_docs(library: Path | None = None) -> Iterator[dict[str, str]]:
    """Every distinct docstring over 40 characters of the standard library, with its area and file.

    Yields rows `text` (as `inspect.cleandoc` leaves it), `area` (one of eight), `file` (relative to the library,
    with slashes), sorted by file and then in source order; of equal texts the first is kept. `library` is the folder
    of the standard library, the running Python's own by default. Raises DataError where that folder has no sources.
    """
    folder = library or Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    for name, area in _files(folder):
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
    folder = library or Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256(code_version("corpora.py").encode())
    for name, _ in _files(folder):
        digest.update(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """The library's files that have an area, and that area; sorted by name."""
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        area = _area(name)
        if area is not None:
            yield name, area


def _area(name: str) -> str | None:
    parts = name.split("/")
    # A package's own tests are no documentation of its area; the top-level package `test` is an area's subject.
    if _PACKAGES_OF_OTHERS.intersection(parts) or _TESTS_OF_A_PACKAGE.intersection(parts[1:-1]):
        return None
    return AREA_OF_MODULE.get(parts[0].removesuffix(".py"))


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of the module, its classes and functions, methods and inner functions too, in source order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old files are not the user's concern
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return  # the library keeps a few deliberately broken files for its own tests
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)
        # Only statements can hold a definition: going through expressions too would take several times as long.
        inner = [
            child
            for field in ("body", "handlers", "orelse", "finalbody", "cases")
            for child in (getattr(node, field, None) or [])
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
        ]
        waiting.extend(reversed(inner))


CORPORA: dict[str, Callable[[], Iterator[dict[str, str]]]] = {"python-docs": python_docs}
CORPUS_STAMPS: dict[str, Callable[[], str]] = {"python-docs": python_docs_stamp}
