"""The command line: parse, run one verb, and turn what went wrong into a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from finetune.arguments import parsed
from finetune.errors import FinetuneError, Stopped
from finetune.progress import write

EXIT_INTERRUPTED = 130
EXIT_OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h


def console() -> NoReturn:
    """The installed `finetune` command."""
    try:
        code = main(sys.argv[1:])
    except Exception:  # our own fault; python's exit code 1 would read as a gate that failed
        traceback.print_exc()
        code = EXIT_OWN_FAULT
    sys.stdout.flush()
    sys.stderr.flush()
    if "WORLD_SIZE" in os.environ:
        os._exit(code)  # gloo sometimes hangs in its own clean-up; everything of ours is written and flushed
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; only our own bugs leave a traceback."""
    arguments = parsed(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.verb(arguments))
    except FinetuneError as error:
        if arguments.debug:
            raise
        write(sys.stderr, error.render())
        return error.exit_status if isinstance(error, Stopped) else error.exit_code
    except KeyboardInterrupt:
        write(sys.stderr, "error: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
