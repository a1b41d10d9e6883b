"""What a person sees while waiting: sentences and bars on stderr, or nothing with --quiet.

stdout is for results. Texts that the terminal cannot show are escaped instead of ending the run.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any, TextIO

UNITS = ("B", "kB", "MB", "GB", "TB")
WARNING = "warning: "  # begins a note that is shown even when quiet
QUIET_SECONDS = 1.0
# A log file keeps every state of a bar as a line of its own.
SECONDS_BETWEEN_LOG_LINES = 30.0
# What would colour, clear or reorder a terminal: a label or a text of the data may hold it.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Progress:
    """`say` prints a line; `bar` gives a tqdm bar that appears when its work takes over a second.

    Where stderr is no terminal, a bar is a line every half minute.
    """

    quiet: bool = False

    def say(self, text: str) -> None:
        if not self.quiet:
            write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """A warning is shown even when quiet: nothing is silent."""
        write(sys.stderr, WARNING + text)

    def bar(self, **settings: Any) -> Any:
        from tqdm import tqdm

        chosen: dict[str, Any] = {"delay": QUIET_SECONDS, "disable": self.quiet}
        if sys.stderr.isatty():
            chosen |= {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.5}
        else:
            seconds = SECONDS_BETWEEN_LOG_LINES
            chosen |= {"file": _LogLines(sys.stderr), "mininterval": seconds, "maxinterval": seconds}
        return tqdm(**settings, **chosen)


SILENT = Progress(quiet=True)


class _LogLines:
    """What tqdm draws over and over, as lines: without carriage returns and moves of the cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        drawn = text.replace("\x1b[A", "").strip()
        if drawn:
            write(self._stream, drawn)

    def flush(self) -> None:
        self._stream.flush()


def write(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """A line. Control characters, and what the stream's encoding lacks, are shown as escapes that JSON reads too."""
    encoding = stream.encoding or "utf-8"
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if not _fits(text, encoding):
        text = "".join(each if _fits(each, encoding) else json.dumps(each)[1:-1] for each in text)
    stream.write(text + end)
    stream.flush()


def size_text(size: float) -> str:
    """Bytes in units of a thousand, as the Hub counts: `90.9 MB`."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
