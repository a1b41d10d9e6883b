"""What a person sees while waiting: sentences and bars on stderr, or nothing with --quiet.

stdout is for results. Texts that the terminal cannot show are escaped instead of ending the run.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

QUIET_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """`say` prints a line, `bar` gives a tqdm bar that appears when its work takes over a second."""

    quiet: bool = False
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        if not self.quiet:
            write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """A warning is shown even when quiet: nothing is silent."""
        write(sys.stderr, f"warning: {text}")

    def bar(self, **settings: Any) -> Any:
        from tqdm import tqdm

        chosen = {"file": sys.stderr, "delay": QUIET_SECONDS, "dynamic_ncols": True, "mininterval": 0.5}
        return tqdm(**{**chosen, **settings, "disable": self.quiet})


SILENT = Progress(quiet=True)


def write(stream: TextIO, text: str) -> None:
    """A line, with what the stream's encoding lacks shown as \\u escapes (LANG=C and Chinese labels)."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding) + "\n")
    stream.flush()
