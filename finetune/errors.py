"""What can go wrong, as one family, and "did you mean".

    FinetuneError            exit  meaning
    ├── GateFailed             1   a leak or a quality bar: the run is fine, the answer is no
    ├── InputError             2   the user's input is wrong; several problems are shown together
    │   ├── RecipeError            the recipe or the command line
    │   ├── DataError              a table, a text, a label
    │   ├── ModelError             a model folder or a model name
    │   └── CheckpointError        a run folder or its checkpoints
    ├── EnvironmentFault       5   disk, network, memory
    ├── TrainingFailed         6   the loss is not finite
    └── Stopped               75   a signal ended the run; it can go on (130 for Ctrl-C)

Every message has the same four parts, in one line: where, what is wrong, what was found, what to do.
Anything that is not of this family is our bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

MOST_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `<where>: <what>. <do>`.

    `where` is a file with its 1-based line (`reviews.csv:3`), a recipe key, or a folder.
    `what` says what is wrong and what was found; `do` says the remedy, and may be empty.
    """

    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        if not message.endswith((".", "?", "!")):
            message += "."
        return f"{message} {self.do}".rstrip()


class FinetuneError(Exception):
    """The root of the family; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, what: str, do: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(where=where, what=what, do=do),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> FinetuneError:
        """One error that shows several problems, in their order."""
        if not problems:
            raise ValueError("an error needs at least one problem")
        error = cls(problems[0].where, problems[0].what, problems[0].do)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error

    def render(self) -> str:
        """The lines for stderr: one `error:` line a problem, the first twenty."""
        # A label or a name of the data may hold a line break, which must not begin a line of ours.
        lines = [f"error: {problem}".replace("\n", "\\n") for problem in self.problems[:MOST_PROBLEMS_SHOWN]]
        hidden = len(self.problems) - MOST_PROBLEMS_SHOWN
        if hidden > 0:
            lines.append(f"error: and {hidden} more problems of this kind")
        return "\n".join(lines)


class GateFailed(FinetuneError):
    exit_code = 1


class InputError(FinetuneError):
    exit_code = 2


class RecipeError(InputError):
    pass


class DataError(InputError):
    pass


class ModelError(InputError):
    pass


class CheckpointError(InputError):
    pass


class EnvironmentFault(FinetuneError):
    exit_code = 5


class OutOfMemory(EnvironmentFault):
    """What the settings ask for does not fit into the memory of this machine or its GPU."""


class TrainingFailed(FinetuneError):
    exit_code = 6


class Stopped(FinetuneError):
    """A signal ended the run after its state was saved. `by_user` tells Ctrl-C (130) from SIGTERM (75)."""

    exit_code = 75

    def __init__(self, where: str, what: str, do: str = "", *, by_user: bool = False) -> None:
        super().__init__(where, what, do)
        self.exit_status = 130 if by_user else 75


class Collector:
    """Gathers problems so that the user sees all of them at once."""

    def __init__(self, error: type[FinetuneError]) -> None:
        self._error = error
        self.problems: list[Problem] = []

    def add(self, where: str, what: str, do: str = "") -> None:
        self.problems.append(Problem(where=where, what=what, do=do))

    def raise_if_any(self) -> None:
        if self.problems:
            raise self._error.of(self.problems)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'stars'?`, or an empty text when nothing known is close."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f"Did you mean '{folded[close[0]]}'?" if close else ""


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for a message, shortened: `review, stars, hotel`."""
    shown = [str(name) for name in names]
    text = ", ".join(shown[:most])
    return text + (f" and {len(shown) - most} more" if len(shown) > most else "")
