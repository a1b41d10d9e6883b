"""Zip and tar archives of images, read in place: nothing is unpacked to the disk, whatever the archive says.

An archive that names a path outside itself, holds a link or a device, or unpacks to far more than it weighs was not
made to carry images; it is refused as a whole, and the entry is named.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from finetune.errors import Collector, DataError

ZIP, TAR = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MOST_ENTRIES = 2_000_000
MOST_ENTRY_BYTES = 256 << 20
MOST_UNPACKED_BYTES = 64 << 30
# Images are compressed already. Plain bitmaps shrink tenfold; a thousandfold is what a bomb is made of.
MOST_RATIO = 100
LEAST_BYTES_OF_A_BOMB = 64 << 20
MOST_PROBLEMS = 5
OPENERS: dict[bytes, Callable[[Path], object]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
           NotImplementedError)  # fmt: skip


@dataclass
class Listing:
    """The paths inside an archive, in its order, with slashes."""

    files: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    def add(self, path: str, *, is_folder: bool) -> None:
        if not is_folder:
            self.files.append(path)
        parts = path.split("/")
        self.folders.update("/".join(parts[:end]) for end in range(1, len(parts) + is_folder))


def is_archive(path: Path) -> bool:
    """Whether the name ends like a zip or a tar archive."""
    return path.name.lower().endswith((*ZIP, *TAR))


def list_archive(path: Path, *, name: str) -> Listing:
    """What is in an archive. Raises DataError for anything that an archive of images does not hold."""
    listing, check = Listing(), _Check(name, path.stat().st_size)
    with _reading(name):
        for entry, size in _zip_entries(path, check) if _is_zip(path) else _tar_entries(path, check):
            is_folder = entry.endswith("/")
            inner = entry.rstrip("/").removeprefix("./")
            if inner in ("", "."):
                continue
            check.add(inner, size)
            listing.add(inner, is_folder=is_folder)
    check.problems.raise_if_any()
    if len(set(listing.files)) < len(listing.files):
        raise DataError(name, "an entry stands in it twice", "Make the archive again.")
    return listing


def archive_contents(path: Path, entries: Sequence[str], *, name: str) -> Iterator[bytes]:
    """The bytes of these entries; they must be in the order of `list_archive`. Raises DataError."""
    with _reading(name):
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                # zipfile gives no more than the size that the entry announced, which was checked.
                yield from (archive.read(_own_name(archive, entry)) for entry in entries)
            return
        wanted = iter(entries)
        entry = next(wanted, None)
        with _tar(path, name) as tar:
            for member in tar:
                if entry is None:
                    return
                if member.isfile() and member.name.removeprefix("./") == entry:
                    yield cast(IO[bytes], tar.extractfile(member)).read()
                    entry = next(wanted, None)


@dataclass
class _Check:
    """What is wrong with the entries so far, and what they add up to."""

    name: str
    packed_bytes: int
    entries: int = 0
    unpacked_bytes: int = 0
    problems: Collector = field(default_factory=lambda: Collector(DataError))

    def refuse(self, entry: str, what: str, do: str = "Make the archive again, of images alone.") -> None:
        self.problems.add(f"{self.name}: {entry!r}", what, do)
        if len(self.problems.problems) >= MOST_PROBLEMS:
            self.problems.raise_if_any()

    def add(self, entry: str, size: int) -> None:
        if entry.startswith(("/", "\\")) or (len(entry) > 1 and entry[1] == ":"):
            self.refuse(entry, "an absolute name, which leads out of the archive")
        elif ".." in entry.replace("\\", "/").split("/"):
            self.refuse(entry, "'..' in its name leads out of the archive")
        self.entries += 1
        self.unpacked_bytes += size
        if size > MOST_ENTRY_BYTES:
            what = f"unpacks to {_megabytes(size)}, and an image takes at most {_megabytes(MOST_ENTRY_BYTES)}"
            self.refuse(entry, what)
        do = "Unpack it yourself if you trust it, and name the folder."
        if self.entries > MOST_ENTRIES:
            raise DataError(self.name, f"has more than {MOST_ENTRIES:,} entries", do)
        if self.unpacked_bytes > MOST_UNPACKED_BYTES:
            raise DataError(self.name, f"unpacks to more than {_megabytes(MOST_UNPACKED_BYTES)}", do)
        allowed = max(LEAST_BYTES_OF_A_BOMB, MOST_RATIO * self.packed_bytes)
        if self.unpacked_bytes > allowed:
            what = f"unpacks to over {_megabytes(allowed)}, {MOST_RATIO} times its own size or more, as a zip bomb does"
            raise DataError(self.name, what, do)


def _zip_entries(path: Path, check: _Check) -> Iterator[tuple[str, int]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.flag_bits & 1:
                raise DataError(check.name, f"is encrypted (entry {entry.filename!r})", "Make it without a password.")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                check.refuse(entry.filename, f"is {_kind(kind)}, not a file")
            # Some archivers write backslashes; what they mean is a folder.
            yield entry.filename.replace("\\", "/"), entry.file_size


def _own_name(archive: zipfile.ZipFile, entry: str) -> str:
    for written in (entry, f"./{entry}", entry.replace("/", "\\")):
        if written in archive.NameToInfo:
            return written
    return entry


def _tar_entries(path: Path, check: _Check) -> Iterator[tuple[str, int]]:
    with _tar(path, check.name) as archive:
        for member in archive:
            if member.issym() or member.islnk():
                check.refuse(member.name, f"is a link to {member.linkname!r}, not a file")
            elif not (member.isdir() or member.isreg()) or member.issparse():
                check.refuse(member.name, f"is {_tar_kind(member)}, not a file")
            yield member.name + ("/" if member.isdir() else ""), member.size


@contextmanager
def _tar(path: Path, name: str) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        head = file.read(6)
    opener = next((each for mark, each in OPENERS.items() if head.startswith(mark)), None)
    with path.open("rb") if opener is None else cast(IO[bytes], opener(path)) as stream:
        watched = cast(IO[bytes], _Watched(stream, name))
        with tarfile.open(fileobj=watched, mode="r:") as archive:
            yield archive


class _Watched:
    """A stream that refuses to hand out more at once than an image takes: headers of a tar may announce anything."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_ENTRY_BYTES:
            what = f"has a header of {_megabytes(size)}, which no archive of images needs"
            raise DataError(self._name, what, "Make the archive again, of images alone.")
        return self._stream.read(size)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise DataError(name, "cannot be read: permission denied") from None
    except (*DAMAGED, OSError) as error:
        # bz2's fault has no number; a place before the start of the file is EINVAL.
        if not isinstance(error, DAMAGED) and error.errno not in (None, errno.EINVAL):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        what = f"the archive is damaged or incomplete ({reason})"
        raise DataError(name, what, "Make or fetch it again.") from None


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(ZIP)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe"}
    return kinds.get(mode, "a special file")


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.ischr() or member.isblk():
        return "a device"
    return "a pipe" if member.isfifo() else "a special file"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
