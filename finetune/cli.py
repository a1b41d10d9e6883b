"""The command line: parse, run one verb, and turn what went wrong into a line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from finetune.arguments import parsed
from finetune.errors import FinetuneError, RecipeError, Stopped
from finetune.processes import TOLD, process_count, tell_launcher
from finetune.progress import write

EXIT_INTERRUPTED = 130
EXIT_OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h
VERBS_OF_SEVERAL = ("train", "doctor", "schema", "crossval", "search")  # the last two refuse with advice of their own
SECONDS_FOR_THE_WRITER = 5.0


def console() -> NoReturn:
    """The installed `finetune` command."""
    if "WORLD_SIZE" in os.environ:
        # Else torch's C++ side warns, in every process, of what our messages tell or nobody can change.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
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
    debug = False
    try:
        with _quiet_beside_the_writer():
            arguments = parsed(sys.argv[1:] if argv is None else argv)
            debug = arguments.debug
            _refuse_processes(arguments.parser.prog.split()[-1])
            return int(arguments.verb(arguments))
    except FinetuneError as error:
        if debug:
            raise
        _complain(error)
        return error.exit_status if isinstance(error, Stopped) else error.exit_code
    except KeyboardInterrupt:
        write(sys.stderr, "error: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextlib.contextmanager
def _quiet_beside_the_writer() -> Iterator[None]:
    """One process shows progress and warnings; the others would say the same."""
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        yield


def _refuse_processes(verb: str) -> None:
    count = process_count()
    if count > 1 and verb not in VERBS_OF_SEVERAL:
        what = f"{verb} runs in one process, and was launched in {count}"
        raise RecipeError("command line", what, "Start it without the launcher; train alone shares its work.")


def _complain(error: FinetuneError) -> None:
    """Once: what is wrong for all processes the writer says, and then the launcher ends the others."""
    tell_launcher(str(error))
    if os.environ.get("RANK", "0") == "0":
        write(sys.stderr, error.render())
    elif TOLD not in getattr(error, "__notes__", ()):
        time.sleep(SECONDS_FOR_THE_WRITER)
        write(sys.stderr, f"process {os.environ['RANK']}: {error.render()}")
