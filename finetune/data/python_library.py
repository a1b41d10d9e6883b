"""The running Python's own standard library as text: its source files, and the definitions in them.

Files are read and parsed, never imported, so nothing in them runs.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

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


def library_folder() -> Path:
    """Where the running Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def library_files(folder: Path) -> Iterator[tuple[str, str]]:
    """The library's files that have an area, relative to the folder and with slashes, and that area; sorted by name."""
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        area = _area(name)
        if area is not None:
            yield name, area


def library_digest(folder: Path, *, version: str) -> str:
    """A digest of the bytes of these files and of `version`, that of the code which reads them. Takes no parsing."""
    digest = hashlib.sha256(version.encode())
    for name, _ in library_files(folder):
        digest.update(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def definitions(content: bytes) -> Iterator[tuple[str, Definition]]:
    """The module, its classes and functions, methods and inner functions too, in source order, by qualified name.

    A module's name is empty. A file that does not parse has none: the library keeps a few for its own tests.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old files are not the user's concern
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, Definition):
            name = name if isinstance(node, ast.Module) else f"{name}.{node.name}".removeprefix(".")
            yield name, node
        # Only statements can hold a definition: going through expressions too would take several times as long.
        inner = [
            child
            for field in ("body", "handlers", "orelse", "finalbody", "cases")
            for child in (getattr(node, field, None) or [])
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
        ]
        waiting.extend((name, child) for child in reversed(inner))


def _area(name: str) -> str | None:
    parts = name.split("/")
    # A package's own tests are no documentation of its area; the top-level package `test` is an area's subject.
    if _PACKAGES_OF_OTHERS.intersection(parts) or _TESTS_OF_A_PACKAGE.intersection(parts[1:-1]):
        return None
    return AREA_OF_MODULE.get(parts[0].removesuffix(".py"))
